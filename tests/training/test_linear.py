"""Linear layers of a stack against torch's own."""

import pytest
import torch
from stacks import OPTIMIZERS, batches, networks, stack, train, train_alone
from torch import nn
from torch.func import vmap
from torch.nn import functional as F

from actbench.training.engines.stack.linear import StackedLinear, linear

SHAPES = {"batch": (5, 4), "sequences": (2, 3, 4), "vector": (4,), "empty": (0, 4)}


@pytest.mark.parametrize("stacked", [(0, 0, 0), (None, 0, 0), (0, None, None), (0, 0, None)], ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients_are_those_of_torch(shape, stacked, biased):
    torch.manual_seed(0)
    sizes = [shape, (3, 4), (3,)][: 2 + biased]
    tensors = [
        torch.randn(*([6] if dim == 0 else []), *size, dtype=torch.float64, requires_grad=True)
        for size, dim in zip(sizes, stacked, strict=False)
    ]
    dims = stacked[: len(sizes)]

    ours = vmap(linear, dims)(*tensors)

    theirs = vmap(F.linear, dims)(*tensors)
    assert torch.allclose(ours, theirs, rtol=1e-12)
    weights = torch.randn_like(ours)
    gradients, expected = (torch.autograd.grad((out * weights).sum(), tensors) for out in (ours, theirs))
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(gradients, expected, strict=True))


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1, 1)], ids=["linear", "convolution"])
def test_complex_weights_have_the_gradients_of_torch(shape):
    class Complex(nn.Module):
        def __init__(self, activation, input_shape, num_classes):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(*shape, 2))
            self.head, self.activation = nn.Linear(3, num_classes), activation()

        def forward(self, x):
            weight, x = torch.view_as_complex(self.weight), torch.complex(x, x.flip(1))
            x = F.linear(x.flatten(1), weight) if weight.ndim == 2 else F.conv2d(x, weight).flatten(1)
            return self.head(self.activation(x.abs()))

    trained = stack(Complex, shape=(4, 1, 1)).double()
    images, labels = batches(range(4), 1, shape=(4, 1, 1))[0]

    losses = trained.losses(images.double(), labels, scaled=False)
    losses.sum().backward()

    alone = trained.replicate(2)
    expected = F.cross_entropy(alone(images[2].double()), labels[2])
    expected.backward()
    assert torch.allclose(losses[2], expected, rtol=1e-12)
    assert torch.allclose(trained.network.weight.grad[2], alone.weight.grad, rtol=1e-9)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, w, b: F.linear(input=x, weight=w, bias=b[0]),
        lambda x, w, b: F.linear(x, w, b[:1]),
        lambda x, w, b: F.linear(x, w, b[0, 0]),
        lambda x, w, b: F.relu_(F.linear(x, w, b[0])),
        lambda x, w, b: F.linear(w[0], w).squeeze_(0) + F.linear(x, w),
    ],
)
def test_every_form_of_the_call_trains_and_is_replayed(call, early_replay):
    class Called(nn.Module):
        def __init__(self, activation, input_shape, num_classes):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(64, 64) / 8), nn.Parameter(torch.randn(2, 64))
            self.head, self.activation = nn.Linear(64, num_classes), activation()

        def forward(self, x):
            return self.head(self.activation(call(x.flatten(1), self.weight, self.bias)))

    trained, steps = stack(Called), batches(range(4), 10)
    losses, _ = train(trained, steps)

    alone = networks(Called, nn.SiLU, [2])[0]
    expected, _ = train_alone(alone, [(images[2], labels[2]) for images, labels in steps], OPTIMIZERS["Adam"])
    assert torch.allclose(losses[2], expected, rtol=1e-3)
    assert trained.replay.recordings


def test_gradients_of_gradients_are_right():
    tensors = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((6, 5, 4), (6, 3, 4), (6, 3))]

    assert torch.autograd.gradgradcheck(StackedLinear.apply, tensors)


def test_gradients_of_weights_are_in_their_layout():
    tensors = [torch.randn(*shape, requires_grad=True) for shape in ((6, 5, 4), (6, 3, 4), (6, 3))]

    vmap(linear)(*tensors).sum().backward()

    assert tensors[1].grad.is_contiguous()
