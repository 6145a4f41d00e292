"""Where networks start: from weights in a file, or from drawn weights that are scaled."""

from actbench.training.transfer.scaling import Scaling as Scaling
from actbench.training.transfer.scaling import scale_weights as scale_weights
from actbench.training.transfer.start import Start as Start
from actbench.training.transfer.start import digest_beside as digest_beside
from actbench.training.transfer.start import load_weights as load_weights
from actbench.training.transfer.start import weights_digest as weights_digest
