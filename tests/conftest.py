"""Fixtures for the whole suite."""

import contextlib
import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hostile import FIT

from actbench.cli.main import (
    SPINS,
    main,
)  # what imports torch is imported in fixtures: the process that hands out tests runs none

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 300
CHROMIUM = "/usr/bin/chromium"
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
collect_ignore = ["imported.py"]  # for the process that commands are forked from; it has no doctests
count_frozen = gc.get_freeze_count
os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # as commands set it, for the processes that they are forked from


def pytest_collectstart(collector):
    """In a module whose shapes are checked, libraries would be compiled anew, which takes 10 s: import them before."""
    import pytorch_lightning  # noqa: F401
    import scipy.stats  # noqa: F401
    import torchvision  # noqa: F401


def pytest_collection_finish():
    """What was imported stays: every fit collects garbage, and would go through all of it."""
    gc.freeze()
    gc.get_freeze_count = lambda: 1  # every study asks whether there is any; to count them takes .04 s


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    """What a file's tests have imported stays, too: ``timm`` alone makes a collection .03 s longer."""
    yield
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def one_thread():
    """Tests run side by side; threads that wait for one another would only slow them down."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def forked():
    """Starts processes that have imported already what every command does, which takes 5 s."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["imported", "conftest"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT / "tests"), prepend=os.pathsep)
        ensure_running()
    first = context.Process(target=check_imported)  # a preload that fails is passed over without a word
    first.start()
    first.join()
    assert first.exitcode == 0
    return context


def check_imported() -> None:
    """In a process of its own: exit with 0 if that has imported what commands need."""
    sys.exit("imported" not in sys.modules)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Debian's chromium, which `.ci/run` installs, with the fonts that matplotlib brings and no other."""
    import matplotlib
    from playwright.sync_api import sync_playwright

    folder = tmp_path_factory.mktemp("fonts")
    (folder / "fonts.conf").write_text(
        f"<fontconfig><dir>{matplotlib.get_data_path()}/fonts/ttf</dir><cachedir>{folder}</cachedir></fontconfig>"
    )
    with sync_playwright() as playwright:
        fonts = {**os.environ, "FONTCONFIG_FILE": str(folder / "fonts.conf")}
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS, env=fonts)
        yield found
        found.close()


@pytest.fixture
def silent_page(browser):
    """Opens a file; its page must say nothing in the console, and ask for nothing but itself."""
    contexts, troubles = [], []

    def opened(path, *, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        address = path.as_uri()
        page.on("request", lambda of: of.url == address or of.url.startswith("blob:") or troubles.append(of.url))
        page.on("console", lambda of: troubles.append(of.text))
        page.on("pageerror", lambda of: troubles.append(str(of)))
        page.on("dialog", lambda of: troubles.append(of.message))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture
def quick_workers(forked, monkeypatch):
    """Workers of studies that are forked like commands; a spawned one takes 5 s to start."""
    from actbench.studies.executors import local

    monkeypatch.setattr(local, "CONTEXT", forked)


def run_main(args: Sequence[str], folder: Path, variables: Mapping[str, str], outputs: Sequence[Path | None]) -> None:
    """In a process of its own: ``python main.py ...`` in a folder, whose two outputs go to files; nobody reads None."""
    sys.modules["imported"].draw_nothing()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    for descriptor, path in enumerate(outputs, start=1):
        reader, file = os.pipe() if path is None else (None, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        os.dup2(file, descriptor)
        if reader is not None:
            os.close(reader)
    encoding = variables.get("PYTHONIOENCODING")
    sys.stdout, sys.stderr = (open(fd, "w", buffering=1, closefd=False, encoding=encoding) for fd in (1, 2))  # noqa: SIM115
    main = str(ROOT / "main.py")
    sys.argv = [main, *args]
    sys.path[:] = [str(ROOT), *(path for path in sys.path if path and not path.startswith(str(ROOT / "tests")))]
    runpy.run_path(main, run_name="__main__")


class Command:
    """``python main.py ...``, which has started in a folder."""

    def __init__(self, context: ForkServerContext, words: Sequence[str], folder: Path, *, unread: bool) -> None:
        number = len(list(folder.parent.glob(f"{folder.name}.*.stdout")))
        self.words = words
        self.outputs = [folder.with_name(f"{folder.name}.{number}.{name}") for name in ("stdout", "stderr")]
        for path in self.outputs:
            path.touch()
        outputs = [None if unread else self.outputs[0], self.outputs[1]]
        self.process = context.Process(target=run_main, args=(words, folder, chosen_by_itself(), outputs))
        self.process.start()

    def ended(self, timeout_s: float = TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        """It, when it has ended."""
        self.process.join(timeout_s)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise subprocess.TimeoutExpired(self.words, timeout_s)
        said = [path.read_text() for path in self.outputs]
        return subprocess.CompletedProcess(self.words, cast(int, self.process.exitcode), *said)


@pytest.fixture(scope="session")
def ended_in(forked) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``python main.py ...`` as a process in a folder that several tests share."""

    def run(folder: Path, *args: object) -> subprocess.CompletedProcess[str]:
        result = Command(forked, list(map(str, args)), folder, unread=False).ended()
        assert result.returncode == 0, result.stderr
        return result

    return run


@pytest.fixture
def start(tmp_path, forked) -> Iterator[Callable[..., Command]]:
    """Starts ``python main.py ...`` as a process in an empty folder; its output can be a pipe that nobody reads."""
    started: list[Command] = []

    def run(*args: object, unread: bool = False) -> Command:
        started.append(Command(forked, list(map(str, args)), tmp_path, unread=unread))
        return started[-1]

    yield run
    for command in started:
        if command.process.is_alive():
            command.process.kill()
            command.process.join()


@pytest.fixture
def actbench(start) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``python main.py ...`` as a process in an empty folder, and returns it when it has ended."""
    return lambda *args: start(*args).ended()


def chosen_by_itself() -> dict[str, str]:
    """The environment, in which the program chooses the number of threads, as it does for a user."""
    return {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


@pytest.fixture(scope="session")
def honest_checkpoint(tmp_path_factory):
    """A checkpoint that a fit has written."""
    path = tmp_path_factory.mktemp("fit") / "last.ckpt"
    from pytorch_lightning import Trainer

    from actbench.data import FakeImages
    from actbench.training import Classifier

    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    data = FakeImages(rows=200)
    trainer.fit(Classifier("prelu", "MLP", input_shape=(1, 8, 8), num_classes=10), data)
    trainer.save_checkpoint(path)
    return path


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """The folder of a run, as a fit leaves it."""
    folder = tmp_path_factory.mktemp("run")
    words = (
        "--trainer.max_epochs 1 --model.replicates 2 --model.lr_scheduler ExponentialLR --model.lr_scheduler.gamma .9"
    )
    with contextlib.chdir(folder):
        assert main(["fit", *FIT, *words.split()]) == 0
    return folder / "lightning_logs" / "version_0"


@pytest.fixture
def early_replay(monkeypatch):
    """Steps of stacks are recorded early, so that tests of a few steps also cover recorded ones."""
    from actbench.training.engines.stack import replay

    monkeypatch.setattr(replay, "CALLS", 5)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def caches(tmp_path_factory, monkeypatch):
    """An empty folder for caches of pictures."""
    folder = tmp_path_factory.mktemp("caches")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def said(monkeypatch):
    """Lines that are shown of pictures in folders."""
    from actbench.data import decoding, image_folder

    lines = []
    for module in (image_folder, decoding):
        monkeypatch.setattr(module, "rank_zero_info", lines.append)
    return lines


@pytest.fixture(scope="session")
def fitted(tmp_path_factory, ended_in) -> Path:
    """Folder of a run of two epochs with other settings than the defaults, made by a process."""
    folder = tmp_path_factory.mktemp("fitted")
    options = "--trainer.max_epochs 2 --seed_everything 5 --data.val_fraction 0.2 --data.batch_size 50"
    result = ended_in(folder, "fit", "--config", ROOT / "configs" / "digits_swish.yaml", *options.split())
    (folder / "output").write_text(result.stderr + result.stdout)
    return folder


@pytest.fixture
def checkpoint(fitted) -> Path:
    """The last checkpoint of `fitted`."""
    return fitted / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"


@pytest.fixture
def make_data(tmp_path, monkeypatch):
    """Makes a DataModule by name and sets it up, with generated files where it needs files."""
    from datasets import FROM_FILES, write_dataset

    from actbench import data

    written = set()

    def make_data(name, **options):
        if name in FROM_FILES:
            options.setdefault("root", str(tmp_path / name))
            if name not in written:
                write_dataset(name, Path(options["root"]), monkeypatch)
                written.add(name)
        datamodule = getattr(data, name)(**options)
        datamodule.prepare_data()
        datamodule.setup("fit")
        return datamodule

    return make_data
