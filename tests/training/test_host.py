"""Within an epoch, nothing waits for the device: no value of a tensor is read by the host."""

from collections import Counter

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch.utils._python_dispatch import TorchDispatchMode

from actbench.data import FakeImages
from actbench.training.classifier import Classifier
from actbench.training.engines.stack import replay

READS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
}


FIRST = 6  # batch that is watched, after the step has been recorded once


class CountReads(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.reads = Counter()
        self.calls = 0
        self.steps = set()  # addresses of the optimiser's counts, which torch keeps on the CPU

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        boolean_index = func is torch.ops.aten.index.Tensor and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        step = func is torch.ops.aten._local_scalar_dense.default and args[0].data_ptr() in self.steps
        if (func in READS or boolean_index) and not step:
            self.reads[str(func)] += 1
        return func(*args, **(kwargs or {}))


class Watch(Callback):
    """Counts reads from the fetch of a batch to the optimiser's step."""

    def __init__(self):
        self.mode = CountReads()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx < FIRST:
            return
        for optimizer in getattr(trainer.optimizers[0], "optimizers", trainer.optimizers):
            self.mode.steps |= {state["step"].data_ptr() for state in optimizer.state.values()}
        self.mode.__enter__()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx >= FIRST:
            self.mode.__exit__(None, None, None)


@pytest.mark.parametrize("stopped", [pytest.param(False, marks=pytest.mark.slow), True], ids=["all", "one stopped"])
@pytest.mark.parametrize(
    ("engine", "replicates", "options"),
    [
        pytest.param("stack", 3, {}, marks=pytest.mark.slow),
        ("stack", 3, {"gradient_clip_val": 1.0}),
        ("sequence", 3, {}),
        ("sequence", 1, {}),
    ],
)
def test_no_step_waits_for_the_device(tmp_path, monkeypatch, engine, replicates, options, stopped):
    monkeypatch.setattr(replay, "CALLS", 4)
    model = Classifier("swish_trainable", engine=engine, replicates=replicates, input_shape=(1, 8, 8), num_classes=10)
    if stopped and replicates > 1:
        model.active = torch.arange(replicates) != 1
    watch, methods = Watch(), Counter()
    for name in ("tolist", "item", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__"):
        original = getattr(torch.Tensor, name)

        def counted(self, *args, name=name, original=original, **kwargs):
            mode = torch.utils._python_dispatch._get_current_dispatch_mode()
            if mode is watch.mode and self.data_ptr() not in mode.steps:
                methods[name] += 1
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=[watch], **options,
    )  # fmt: skip

    trainer.fit(model, FakeImages(rows=1200, replicates=replicates, batch_size=64))

    assert watch.mode.calls > 100
    assert not watch.mode.reads
    assert not methods
