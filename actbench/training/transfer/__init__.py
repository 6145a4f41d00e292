"""Transfer learning: networks that start from the weights in a file."""

from actbench.training.transfer.start import Start as Start
from actbench.training.transfer.start import digest_beside as digest_beside
from actbench.training.transfer.start import load_weights as load_weights
from actbench.training.transfer.start import weights_digest as weights_digest
