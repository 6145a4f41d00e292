"""Lightning as users write it: a module, DataLoaders over tensors and default flags, one seed after another."""

from pytorch_lightning import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Accuracy

from workload import Fit, Images, Task, main


class Net(LightningModule):
    """A classifier that logs its loss and accuracy."""

    def __init__(self, network: nn.Module, lr: float, classes: int) -> None:
        super().__init__()
        self.network = network
        self.lr = lr
        self.val_acc = Accuracy(task="multiclass", num_classes=classes)
        self.test_acc = Accuracy(task="multiclass", num_classes=classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = cross_entropy(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self(images)
        self.val_acc(logits, labels)
        self.log("val_loss", cross_entropy(logits, labels), prog_bar=True)
        self.log("val_acc", self.val_acc, prog_bar=True)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.test_acc(self(images), labels)
        self.log("test_acc", self.test_acc)

    def configure_optimizers(self) -> Adam:
        return Adam(self.parameters(), lr=self.lr)


def fit_replicate(task: Task, images: Images, replicate: int) -> float:
    """Train and score one replicate; returns its accuracy on test."""
    seed_everything(replicate)
    train, val, test = (TensorDataset(*images.part(name, replicate)) for name in ("train", "val", "test"))
    model = Net(images.network(task, replicate), task.of.lr, images.classes)
    trainer = Trainer(max_epochs=task.epochs, accelerator=task.accelerator, devices=1)
    trainer.fit(
        model,
        DataLoader(train, batch_size=task.batch_size, shuffle=True),
        DataLoader(val, batch_size=task.batch_size),
    )
    return trainer.test(model, DataLoader(test, batch_size=task.batch_size))[0]["test_acc"]


def prepare(task: Task) -> Fit:
    """Read the images."""
    images = Images(task)
    return Fit(lambda: [fit_replicate(task, images, replicate) for replicate in range(task.replicates)])


if __name__ == "__main__":
    main(prepare)
