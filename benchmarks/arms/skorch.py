"""skorch's NeuralNetClassifier as its documentation shows it, one seed after another.

skorch and not Keras: it wraps the very network that the other arms train, and
who runs scikit-learn's digits with PyTorch finds it first.
"""

import torch
from skorch import NeuralNetClassifier
from skorch.dataset import Dataset
from skorch.helper import predefined_split

from workload import Fit, Images, Task, forget_lightning, main


def fit_replicate(task: Task, images: Images, replicate: int) -> float:
    """Train and score one replicate; returns its accuracy on test."""
    torch.manual_seed(replicate)
    train, val, test = ([*map(torch.Tensor.cpu, images.part(name, replicate))] for name in ("train", "val", "test"))
    net = NeuralNetClassifier(
        images.network(task, replicate),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=task.of.lr,
        max_epochs=task.epochs,
        batch_size=task.batch_size,
        iterator_train__shuffle=True,
        train_split=predefined_split(Dataset(*val)),  # scored each epoch: valid_loss and valid_acc
        device=str(task.device),
    )
    net.fit(*train)
    return float(net.score(test[0], test[1].numpy()))


def prepare(task: Task) -> Fit:
    """Read the images."""
    forget_lightning()
    images = Images(task)
    return Fit(lambda: [fit_replicate(task, images, replicate) for replicate in range(task.replicates)])


if __name__ == "__main__":
    main(prepare)
