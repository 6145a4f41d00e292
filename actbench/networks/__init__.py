"""Networks: what an activation is put into.

A network that is written for actbench is a class whose constructor takes the keywords ``activation``, a
factory that makes a fresh module at each call, ``input_shape``, such as
(channels, height, width), and ``num_classes``. Its ``forward`` maps inputs
(batch, *input_shape) to logits (batch, classes). A network calls the factory
once for every site, so that a trainable activation has its own parameters in
every layer. Activations are swapped into any other network, whose calls of its own
activations are intercepted while it runs (`SwappedNetwork`).
"""

from actbench.networks.build import Activation as Activation
from actbench.networks.build import build_network as build_network
from actbench.networks.build import common_certificate as common_certificate
from actbench.networks.build import compared_modules as compared_modules
from actbench.networks.build import list_sites as list_sites
from actbench.networks.build import with_new_head as with_new_head
from actbench.networks.calls import SwapError as SwapError
from actbench.networks.catalogue import MLP as MLP
from actbench.networks.catalogue import NETWORKS as NETWORKS
from actbench.networks.catalogue import ConvNet as ConvNet
from actbench.networks.catalogue import ConvNet1d as ConvNet1d
from actbench.networks.catalogue import ResNet20 as ResNet20
from actbench.networks.catalogue import TutorialCNN as TutorialCNN
from actbench.networks.certificate import Swap as Swap
from actbench.networks.certificate import SwapCertificate as SwapCertificate
from actbench.networks.copies import MODULE_ATTRIBUTES as MODULE_ATTRIBUTES
from actbench.networks.copies import copy_network as copy_network
from actbench.networks.copies import kept_tensors as kept_tensors
from actbench.networks.copies import no_kept_tensors as no_kept_tensors
from actbench.networks.freezing import HELD as HELD
from actbench.networks.freezing import freeze_parameters as freeze_parameters
from actbench.networks.freezing import hold_statistics as hold_statistics
from actbench.networks.freezing import idle_parameters as idle_parameters
from actbench.networks.freezing import plain_name as plain_name
from actbench.networks.freezing import site_paths as site_paths
from actbench.networks.initialization import Init as Init
from actbench.networks.initialization import scale_by_data as scale_by_data
from actbench.networks.initialization import scale_by_gain as scale_by_gain
from actbench.networks.swap import SwappedNetwork as SwappedNetwork
from actbench.networks.swap import network_name as network_name
