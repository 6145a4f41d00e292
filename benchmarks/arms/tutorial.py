"""The script of the tutorial that actbench grew from, with its hooks ported to Lightning 2.

As there: batch size 1, not shuffled, Adam with learning rate 3e-4, pixels from
0 to 16, one activation object for all sites, accuracy through NumPy at every
step, validation outputs gathered in lists. Not as there: the split, and that
there is a test part, which is scored once.

Source:
    KDnuggets / Exxact (2021), Getting Started with PyTorch Lightning.
"""

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from workload import Fit, Images, Part, Task, main


class Swish(nn.Module):
    """Swish: x times its sigmoid."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


def accuracy(labels: Tensor, logits: Tensor) -> float:
    """Share of the labels that the largest logit names."""
    predicted = np.argmax(logits.detach().cpu().numpy(), axis=1)
    return float(np.mean(predicted == labels.detach().cpu().numpy()))


class TutorialNet(LightningModule):
    """The tutorial's classifier."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        activation = Swish()
        self.model = nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1),
            activation,
            nn.Conv2d(4, 4, 3, padding=1),
            activation,
            nn.Conv2d(4, 1, 3, padding=1),
            activation,
            nn.Flatten(),
            nn.Linear(height * width, 128),
            activation,
            nn.Linear(128, 128),
            activation,
            nn.Linear(128, classes),
        )
        self.loss = nn.CrossEntropyLoss()
        self.outputs: list[tuple[Tensor, Tensor]] = []
        self.test_acc = 0.0

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = self.loss(logits, labels)
        self.log("train loss", loss)
        self.log("train accuracy", accuracy(labels, logits))
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.outputs.append((labels, self(images)))

    def on_validation_epoch_end(self) -> None:
        loss, share = self.summarise()
        self.log("val loss", loss)
        self.log("val accuracy", share)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        _, self.test_acc = self.summarise()

    def summarise(self) -> tuple[Tensor, float]:
        """Loss and accuracy of the outputs so far, which are then forgotten."""
        labels, logits = self.outputs[0]
        for more_labels, more_logits in self.outputs[1:]:
            labels = torch.cat([labels, more_labels])
            logits = torch.cat([logits, more_logits])
        self.outputs = []
        return self.loss(logits, labels), accuracy(labels, logits)

    def configure_optimizers(self) -> torch.optim.Adam:
        return torch.optim.Adam(self.parameters(), lr=3e-4)


def loader(part: Part) -> DataLoader:
    """Images one by one, in the order they are in."""
    return DataLoader(TensorDataset(part.images * 16, part.labels))


def fit_replicate(task: Task, images: Images, replicate: int) -> float:
    """Train and score one replicate; returns its accuracy on test."""
    torch.manual_seed(replicate)
    train, val, test = (loader(images.part(name, replicate)) for name in ("train", "val", "test"))
    model = TutorialNet(images.shape, images.classes)
    trainer = Trainer(max_epochs=task.epochs, accelerator=task.accelerator, devices=1)
    trainer.fit(model, train, val)
    trainer.test(model, test)
    return model.test_acc


def prepare(task: Task) -> Fit:
    """Read the images."""
    images = Images(task)
    return Fit(lambda: [fit_replicate(task, images, i) for i in range(task.replicates)])


if __name__ == "__main__":
    main(prepare)
