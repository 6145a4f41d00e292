"""Nothing leaks from one cell into the next, and Lightning says only what has gone wrong."""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from pytorch_lightning import seed_everything

from actbench.seeding import unchanged_generators


@contextmanager
def unchanged_process(seed: int) -> Iterator[None]:
    """Let what is set for one cell be set back: seeds, determinism, threads, environment variables, and the like."""
    threads = torch.get_num_threads()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}  # Lightning's stay
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)  # a study has lines of its own
        with patch.dict(os.environ), unchanged_generators(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*")
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            seed_everything(seed, verbose=False)
            yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        logger.setLevel(level)
