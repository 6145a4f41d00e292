"""The JAX arm with convolutions as products and eight replicates at a time, so that their values stay in the cache."""

from functools import partial

from arms import jax
from workload import main

if __name__ == "__main__":
    main(partial(jax.prepare, convolve=jax.by_patches, together=8), ("cold", "warm"))
