"""Activations on data of your own, in a LightningDataModule: ``python examples/own_datamodule.py``.

The same study from the command line, in this folder:
``python ../main.py compare --data own_datamodule.Moons --model.network MLP``.
"""

import torch
from pytorch_lightning import LightningDataModule
from sklearn.datasets import make_moons
from torch.utils.data import DataLoader, TensorDataset, random_split

from actbench.studies import compare


class Moons(LightningDataModule):
    """Two interleaved half circles with noise: points of two features, two classes.

    Args:
        points: Number of points; val and test get a fifth each.
        noise: Standard deviation of the noise.
        batch_size: Points of an optimiser step.
    """

    def __init__(self, points: int = 500, noise: float = 0.3, batch_size: int = 50) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        features, labels = make_moons(self.hparams.points, noise=self.hparams.noise, random_state=0)
        dataset = TensorDataset(torch.from_numpy(features).float(), torch.from_numpy(labels))
        generator = torch.Generator().manual_seed(0)
        self.train, self.val, self.test = random_split(dataset, [0.6, 0.2, 0.2], generator)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, self.batch_size)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test, self.batch_size)


STUDY = {
    "model": {"network": "MLP"},
    "data": "own_datamodule.Moons",
    "trainer": {"max_epochs": 20, "accelerator": "cpu"},
    "study": {"name": "own_datamodule", "activations": ["relu", "swish", "tanh"], "replicates": 12},
}

if __name__ == "__main__":
    print(compare(STUDY))
