"""Activations: what is compared.

Each is element-wise: it maps a tensor of any shape to one of the same shape
and dtype. ``CATALOGUE`` lists them by name.
"""

from actbench.activations.catalogue import CATALOGUE as CATALOGUE
from actbench.activations.catalogue import CatalogueEntry as CatalogueEntry
from actbench.activations.catalogue import trainable_parameters as trainable_parameters
from actbench.activations.fixed import GCU as GCU
from actbench.activations.fixed import ISRLU as ISRLU
from actbench.activations.fixed import ISRU as ISRU
from actbench.activations.fixed import Arctan as Arctan
from actbench.activations.fixed import BentIdentity as BentIdentity
from actbench.activations.fixed import ELiSH as ELiSH
from actbench.activations.fixed import ESwish as ESwish
from actbench.activations.fixed import Gaussian as Gaussian
from actbench.activations.fixed import GoLU as GoLU
from actbench.activations.fixed import LeCunTanh as LeCunTanh
from actbench.activations.fixed import LiSHT as LiSHT
from actbench.activations.fixed import Logish as Logish
from actbench.activations.fixed import NLReLU as NLReLU
from actbench.activations.fixed import Phish as Phish
from actbench.activations.fixed import QuickGELU as QuickGELU
from actbench.activations.fixed import Serf as Serf
from actbench.activations.fixed import Sine as Sine
from actbench.activations.fixed import SmeLU as SmeLU
from actbench.activations.fixed import Smish as Smish
from actbench.activations.fixed import SquaredReLU as SquaredReLU
from actbench.activations.fixed import Squareplus as Squareplus
from actbench.activations.fixed import TanhExp as TanhExp
from actbench.activations.gain import GaussianMoments as GaussianMoments
from actbench.activations.gain import gaussian_moments as gaussian_moments
from actbench.activations.trainable import PELU as PELU
from actbench.activations.trainable import XIELU as XIELU
from actbench.activations.trainable import AconC as AconC
from actbench.activations.trainable import PadeUnit as PadeUnit
from actbench.activations.trainable import SinLU as SinLU
from actbench.activations.trainable import Snake as Snake
from actbench.activations.trainable import SReLU as SReLU
from actbench.activations.trainable import StarReLU as StarReLU
from actbench.activations.trainable import Swish as Swish
