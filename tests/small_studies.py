"""Studies that train in seconds, and what watches them."""

from actbench.cli.lightning import CommandCLI
from actbench.specs import compose
from actbench.studies import compare, train
from actbench.studies.cells.run import unchanged_process
from actbench.studies.progress import Progress


def study(root, **section):
    defaults = {"activations": ["relu", "swish"], "replicates": 3, "root": str(root), "name": "s", "timing_s": 0}
    return {
        "model": {"network": "MLP"},
        "data": {"class_path": "FakeImages", "init_args": {"rows": 300}},
        "trainer": {"max_epochs": 2, "accelerator": "cpu"},
        "study": {**defaults, **section},
    }


class Ran(list):
    """Trains cells, and remembers which."""

    def __call__(self, task):
        self.append((task[0].factors["activation"]["class_path"].split(".")[-1], list(task[0].seeds)))
        return train(task)


def run(root, **section):
    ran, lines = Ran(), Lines()
    table = compare(study(root, **section), work=ran, progress=lines).table
    return table, ran, lines.said


class Lines(Progress):
    """Keeps what is said."""

    def __init__(self):
        super().__init__()
        self.said = []

    def say(self, line):
        self.said.append(line)


def scores_of(command, *words):
    """Every replicate's scores of a command that is run here."""
    with unchanged_process(0):
        cli = CommandCLI(command, compose(list(map(str, words))))
        assert cli.execute() == 0
    return cli.model.replicate_scores()
