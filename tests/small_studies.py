"""Studies that train in seconds, and what watches them."""

from actbench.studies import compare, train
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
