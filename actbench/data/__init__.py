"""Datasets, their split, and the batches that a network is trained on."""

from actbench.data.batches import SEED as SEED
from actbench.data.batches import read_batch as read_batch
from actbench.data.datasets import CIFAR10 as CIFAR10
from actbench.data.datasets import CIFAR100 as CIFAR100
from actbench.data.datasets import DATASETS as DATASETS
from actbench.data.datasets import EMNIST as EMNIST
from actbench.data.datasets import KMNIST as KMNIST
from actbench.data.datasets import MNIST as MNIST
from actbench.data.datasets import QMNIST as QMNIST
from actbench.data.datasets import SVHN as SVHN
from actbench.data.datasets import USPS as USPS
from actbench.data.datasets import Digits as Digits
from actbench.data.datasets import FakeImages as FakeImages
from actbench.data.datasets import FashionMNIST as FashionMNIST
from actbench.data.foreign import ForeignData as ForeignData
from actbench.data.foreign import adopt as adopt
from actbench.data.image_folder import ImageFolder as ImageFolder
from actbench.data.images import DataError as DataError
from actbench.data.images import ImageData as ImageData
from actbench.data.rows import Batch as Batch
from actbench.data.rows import RowBatches as RowBatches
from actbench.data.rows import Rows as Rows
from actbench.data.rows import stratified_split as stratified_split
from actbench.data.sequences import MNIST1D as MNIST1D
