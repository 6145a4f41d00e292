"""An activation of your own against ReLU and Swish: ``python examples/own_activation.py``.

The same study from the command line, in this folder:
``python ../main.py compare --study.activations '[relu, swish, own_activation.Cubic]'``.
"""

import torch
from torch import Tensor, nn

from actbench.studies import compare


class Cubic(nn.Module):
    """Swish with a cubic term: x·σ(x) + c·x³, c trained."""

    def __init__(self, c: float = 0.01) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.tensor(c))

    def forward(self, x: Tensor) -> Tensor:
        return x * x.sigmoid() + self.c * x**3


STUDY = {
    "model": {"network": "MLP"},
    "trainer": {"max_epochs": 20, "accelerator": "cpu"},
    "study": {"name": "own_activation", "activations": ["relu", "swish", "own_activation.Cubic"], "replicates": 12},
}

if __name__ == "__main__":
    print(compare(STUDY))
