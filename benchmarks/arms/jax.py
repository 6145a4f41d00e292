"""JAX with Equinox and optax: replicates under vmap, an epoch's steps under lax.scan, all of it one jitted call.

The layers are Equinox's own. The arm ``jax_tuned`` is the same in another
arrangement, found by trying what makes XLA fastest here.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from torch import nn

from workload import Fit, Images, Task, main

Convolution = Callable[[eqx.nn.Conv2d, Array], Array]


class Network(eqx.Module):
    """The digits' network, which is a row of 3x3 convolutions and then a row of linear layers."""

    convolutions: list[eqx.nn.Conv2d]
    linears: list[eqx.nn.Linear]

    def __init__(self, network: nn.Module) -> None:
        key = jax.random.key(0)  # its values are replaced at once
        self.convolutions, self.linears = [], []
        for layer in network.modules():
            if not isinstance(layer, nn.Conv2d | nn.Linear):
                continue
            weight, bias = (jnp.asarray(getattr(layer, name).detach().numpy()) for name in ("weight", "bias"))
            if isinstance(layer, nn.Conv2d):
                made = eqx.nn.Conv2d(layer.in_channels, layer.out_channels, 3, padding=1, key=key)
                bias = bias[:, None, None]
            else:
                made = eqx.nn.Linear(layer.in_features, layer.out_features, key=key)
            made = eqx.tree_at(lambda it: (it.weight, it.bias), made, (weight, bias))
            (self.convolutions if isinstance(layer, nn.Conv2d) else self.linears).append(made)

    def __call__(self, image: Array, convolve: Convolution) -> Array:
        """Logits of one image (channels, height, width)."""
        for layer in self.convolutions:
            image = jax.nn.silu(convolve(layer, image))
        x = image.ravel()
        for layer in self.linears[:-1]:
            x = jax.nn.silu(layer(x))
        return self.linears[-1](x)


def native(layer: eqx.nn.Conv2d, image: Array) -> Array:
    """Equinox's convolution, which is XLA's."""
    return layer(image)


def by_patches(layer: eqx.nn.Conv2d, image: Array) -> Array:
    """The same as a product of the kernel with the nine shifted images."""
    _, height, width = image.shape
    padded = jnp.pad(image, ((0, 0), (1, 1), (1, 1)))
    patches = jnp.stack([padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)], 1)
    return jnp.tensordot(layer.weight.reshape(len(layer.weight), -1, 9), patches, 2) + layer.bias


def replicate_epoch(
    own: tuple[Any, Any, Array, Array],
    shared: tuple[Array, Array, Array],
    *,
    static: Any,
    optimizer: optax.GradientTransformation,
    convolve: Convolution,
) -> tuple[Any, Any]:
    """Parameters and optimiser state of one replicate after an epoch.

    Args:
        own: Its parameters, optimiser state, training rows and key of the batch order.
        shared: All images and labels, and the weights (steps, batch) that fill up the last batch.
        static: What of the network is no parameter.
        optimizer: optax's.
        convolve: How.
    """
    parameters, state, rows, key = own
    images, labels, weights = shared
    order = jnp.pad(jax.random.permutation(key, rows), (0, weights.size - len(rows))).reshape(weights.shape)

    def mean_loss(parameters: Any, rows: Array, weights: Array) -> Array:
        logits = jax.vmap(partial(eqx.combine(parameters, static), convolve=convolve))(images[rows])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows])
        return (losses * weights).sum() / weights.sum()

    def step(carry: tuple[Any, Any], batch: tuple[Array, Array]) -> tuple[tuple[Any, Any], Array]:
        parameters, state = carry
        loss, gradients = jax.value_and_grad(mean_loss)(parameters, *batch)
        updates, state = optimizer.update(gradients, state)
        return (optax.apply_updates(parameters, updates), state), loss

    (parameters, state), _ = lax.scan(step, (parameters, state), (order, weights))
    return parameters, state


def prepare(task: Task, convolve: Convolution = native, together: int | None = None) -> Fit:
    """Read the images.

    Args:
        task: What to do; its network is that of the digits.
        convolve: How.
        together: How many replicates at once; None for all.
    """
    images = Images(task)
    pixels, labels = (jnp.asarray(values.numpy()) for values in images.tables[0])
    rows = {name: jnp.asarray(images.parts[name].rows.numpy()) for name in ("train", "val", "test")}
    steps = -(-rows["train"].shape[1] // task.batch_size)
    filled = np.arange(steps * task.batch_size) < rows["train"].shape[1]
    shared = (pixels, labels, jnp.asarray(filled.reshape(steps, -1), jnp.float32))
    static = eqx.partition(Network(images.network(task, 0)), eqx.is_array)[1]
    optimizer = optax.adam(task.of.lr)

    def each(one: Callable[[Any], Any], own: Any) -> Any:
        return lax.map(one, own, batch_size=together) if together else jax.vmap(one)(own)

    @jax.jit
    def train(parameters: Any, states: Any, keys: Array) -> tuple[Any, Any]:
        one = partial(replicate_epoch, shared=shared, static=static, optimizer=optimizer, convolve=convolve)
        return each(one, (parameters, states, rows["train"], keys))

    @jax.jit
    def score(parameters: Any, rows: Array) -> tuple[Array, Array]:
        def one(own: tuple[Any, Array]) -> tuple[Array, Array]:
            parameters, rows = own
            logits = jax.vmap(partial(eqx.combine(parameters, static), convolve=convolve))(pixels[rows])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows])
            return losses.mean(), (logits.argmax(1) == labels[rows]).mean()

        return each(one, (parameters, rows))

    def fit() -> Sequence[float]:
        networks = [Network(images.network(task, seed)) for seed in range(task.replicates)]
        parameters = jax.tree.map(lambda *values: jnp.stack(values), *(eqx.filter(n, eqx.is_array) for n in networks))
        states = jax.vmap(optimizer.init)(parameters)
        orders = jax.vmap(jax.random.key)(jnp.arange(task.replicates))
        for epoch in range(task.epochs):
            keys = jax.vmap(jax.random.fold_in, (0, None))(orders, epoch)
            parameters, states = train(parameters, states, keys)
            jax.block_until_ready(score(parameters, rows["val"]))
        return score(parameters, rows["test"])[1].tolist()

    return Fit(fit)


if __name__ == "__main__":
    main(prepare, ("cold", "warm"))
