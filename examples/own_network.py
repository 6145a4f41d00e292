"""Activations in a network of your own: ``python examples/own_network.py``.

The same study from the command line, in this folder:
``python ../main.py compare --model.network own_network.Branches``.
"""

from collections.abc import Callable

from torch import Tensor, nn

from actbench.studies import compare


class Branches(nn.Module):
    """Two linear branches, one of them squashed, whose sum is classified.

    Args:
        activation: Makes an activation; called once for each place that has one.
        input_shape: Shape of an input, without the batch.
        num_classes: Number of classes.
        width: Units of each branch.
    """

    def __init__(
        self, activation: Callable[[], nn.Module], input_shape: tuple[int, ...], num_classes: int, width: int = 32
    ) -> None:
        super().__init__()
        size = 1
        for length in input_shape:
            size *= length
        self.flatten = nn.Flatten()
        self.plain = nn.Linear(size, width)
        self.squashed = nn.Sequential(nn.Linear(size, width), activation())
        self.head = nn.Sequential(nn.LayerNorm(width), activation(), nn.Linear(width, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        flat = self.flatten(images)
        return self.head(self.plain(flat) + self.squashed(flat))


STUDY = {
    "model": {"network": "own_network.Branches"},
    "trainer": {"max_epochs": 20, "accelerator": "cpu"},
    "study": {"name": "own_network", "activations": ["relu", "gelu", "tanh"], "replicates": 12},
}

if __name__ == "__main__":
    print(compare(STUDY))
