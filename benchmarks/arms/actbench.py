"""actbench: what ``main.py fit --model.replicates N`` does, and then the test of the trained stack.

The command line is parsed before the clock starts. What a fit does by itself is
on it: reading the images, making networks, logs and checkpoints.
"""

from collections.abc import Sequence

import sklearn.datasets  # noqa: F401  # imports are not on the clock

from actbench.cli.lightning import CommandCLI, quieten
from actbench.specs import compose
from workload import Fit, Task, main


def options(task: Task) -> list[str]:
    """The command line of `main.py fit`."""
    arguments = {**task.data_arguments, "batch_size": task.batch_size}
    return [
        f"--data={task.of.dataset}",
        *(f"--data.{name}={value}" for name, value in arguments.items()),
        "--model.activation=swish",
        f"--model.network={task.of.network}",
        f"--model.replicates={task.replicates}",
        "--model.optimizer=torch.optim.Adam",
        f"--model.optimizer.lr={task.of.lr}",
        f"--trainer.max_epochs={task.epochs}",
        f"--trainer.accelerator={task.accelerator}",
        "--trainer.devices=1",
    ]


def prepare(task: Task, *more: str) -> Fit:
    """Read the command line, with more options, once; everything else is done in each fit."""
    quieten()
    given = compose([*options(task), *more])

    def run() -> Sequence[float]:
        cli = CommandCLI("fit", given)
        cli.execute()
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
        return cli.model.evaluated["test/acc"].tolist()

    return Fit(run)


if __name__ == "__main__":
    main(prepare)
