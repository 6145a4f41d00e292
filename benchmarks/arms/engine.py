"""actbench's engine in a plain loop: what the command does, without Lightning, logs and checkpoints."""

from collections.abc import Sequence
from types import SimpleNamespace

import torch

from actbench import data
from actbench.training.classifier import Classifier
from actbench.training.device import choose_engine
from actbench.training.metrics import Scores
from actbench.training.threads import fitting_threads, prepare_process
from workload import Fit, Task, main


def fit(task: Task) -> Sequence[float]:
    """Train and score all replicates; returns their accuracies on test."""
    datamodule = getattr(data, task.of.dataset)(
        batch_size=task.batch_size, replicates=task.replicates, **task.data_arguments
    )
    datamodule.setup()
    model = Classifier(
        "swish",
        task.of.network,
        {"class_path": "torch.optim.Adam", "init_args": {"lr": task.of.lr}},
        replicates=task.replicates,
        input_shape=datamodule.input_shape,
        num_classes=datamodule.num_classes,
    )
    choose_engine(model, task.device, task.batch_size)
    engine = model.engine.to(task.device)
    if task.device.type == "cpu":
        torch.set_num_threads(fitting_threads(engine, task.batch_size))
    optimizer = model.configure_optimizers()

    def accuracies(part: str) -> list[float]:
        engine.eval()
        scores = Scores(task.replicates, datamodule.num_classes).to(task.device)
        for batch in getattr(datamodule, f"{part}_dataloader")():
            images, labels, _ = datamodule.transfer_batch_to_device(batch, task.device, 0)
            scores.update(engine(images), labels)
        return scores.compute()["acc"].view(-1).tolist()  # torchmetrics makes one value a scalar

    for epoch in range(task.epochs):
        engine.train()
        # What the batches ask the Trainer for.
        datamodule.trainer = SimpleNamespace(current_epoch=epoch, global_rank=0, world_size=1, overfit_batches=0)
        for index, batch in enumerate(datamodule.train_dataloader()):
            images, labels, _ = datamodule.transfer_batch_to_device(batch, task.device, 0)
            optimizer.zero_grad()
            engine.losses(images, labels, key=(epoch, index), scaled=False).sum().backward()
            optimizer.step()
        accuracies("val")
    return accuracies("test")


def prepare(task: Task) -> Fit:
    """Let freed memory be kept, as the command does."""
    prepare_process()
    return Fit(lambda: fit(task))


if __name__ == "__main__":
    main(prepare)
