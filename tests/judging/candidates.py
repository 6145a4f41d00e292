"""Candidates of many kinds, as programs write them."""

import os
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin


class Cubic(nn.Module):
    def forward(self, x):
        return x + 0.1 * x**3 * torch.sigmoid(x)


class Dead(nn.Module):
    """With it, no network trains."""

    def forward(self, x):
        return x * 0.0


class SwishByAnotherName(nn.Module):
    def forward(self, x):
        return x / (1 + torch.exp(-x))


class ReLUByAnotherName(nn.Module):
    def forward(self, x):
        return (x.abs() + x) / 2


class Learned(nn.Module):
    def __init__(self, slope: float = 0.3) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x):
        return torch.where(x > 0, x, self.slope * x)


class LearnedByAnotherName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        return torch.relu(x) - self.a * torch.relu(-x)


class LearnedSquared(nn.Module):
    """The same at first, and another one as soon as it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.root = nn.Parameter(torch.tensor(0.3**0.5))

    def forward(self, x):
        return torch.where(x > 0, x, self.root**2 * x)


class FromTheEnvironment(Learned):
    def __init__(self) -> None:
        super().__init__(float(os.environ.get("SLOPE", "0.1")))


class PerChannelFromTheEnvironment(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((128,), float(os.environ.get("SLOPE", "0.1"))))

    def forward(self, x):
        return torch.where(x > 0, x, self.slope * x)


class PerChannel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((128,), 0.3))

    def forward(self, x):
        return torch.where(x > 0, x, self.slope * x)


class Surrogate(nn.Module):
    """The values of ReLU, and other slopes."""

    def forward(self, x):
        smooth = F.silu(x)
        return smooth + (F.relu(x) - smooth).detach()


class FallsBack(nn.Module):
    """ReLU, where it sees no features."""

    def forward(self, x):
        return F.relu(x) if x.dim() < 2 else F.relu(x) * torch.sigmoid(x.mean(1, keepdim=True))


class CutFarOut(nn.Module):
    """ReLU, in any but a very deep network."""

    def forward(self, x):
        return F.relu(x).clamp(max=500)


class Doubled(nn.Module):
    """ReLU, in another precision than its inputs."""

    def forward(self, x):
        return F.relu(x).double()


class WarmsUpSlowly(nn.Module):
    """ReLU for longer than anybody looks."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += self.training
        return torch.where(self.calls < 10_000, F.relu(x), torch.sin(3 * x))


class WarmsUp(nn.Module):
    """ReLU at first."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        return F.relu(x) if self.calls < 100 else torch.sin(3 * x)


class ByPrecision(nn.Module):
    def forward(self, x):
        return F.relu(x) if x.dtype == torch.float64 else torch.sin(3 * x)


class Wraps(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


class OnlyBatches(nn.Module):
    def forward(self, x):
        assert x.ndim in (2, 4)
        return F.silu(x)


class Lazy(LazyModuleMixin, nn.Module):
    """One slope for each channel, however many there are."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.UninitializedParameter()

    def initialize_parameters(self, x):
        if self.has_uninitialized_params():
            self.slope.materialize((x.shape[1],))
            nn.init.constant_(self.slope, 0.3)

    def forward(self, x):
        return torch.where(x > 0, x, self.slope.view(-1, *[1] * (x.ndim - 2)) * x)


class Aborts(nn.Module):
    def forward(self, x):
        os.abort()


class Noisy(nn.Module):
    def forward(self, x):
        return F.relu(x) * (1 + 0.1 * torch.rand_like(x)) if self.training else F.relu(x)


class DeclaredNoisy(Noisy):
    differs_in_training = True


class NoisyAlways(nn.Module):
    def forward(self, x):
        return F.relu(x) + 0.1 * torch.rand_like(x)


class OtherInTraining(nn.Module):
    def forward(self, x):
        return F.silu(x) if self.training else F.relu(x)


class ByNumpy(nn.Module):
    def forward(self, x):
        return x * np.random.default_rng().random()


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x):
        Counting.total = getattr(Counting, "total", 0) + 1
        return x * Counting.total


class EachAnother(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("slope", torch.rand(()))

    def forward(self, x):
        return torch.where(x > 0, x, self.slope * x)


class WrongShape(nn.Module):
    def forward(self, x):
        return x.flatten(1)


class GivesNaN(nn.Module):
    def forward(self, x):
        return torch.sqrt(x)


class GrowsFast(nn.Module):
    def forward(self, x):
        return torch.exp(x * x)


class Fails(nn.Module):
    def forward(self, x):
        raise KeyError("nothing\nhere")


class Exits(nn.Module):
    def forward(self, x):
        os._exit(7)


class Loops(nn.Module):
    def forward(self, x):
        while True:
            time.sleep(0.01)


class WritesToTheLedger(nn.Module):
    def forward(self, x):
        for ledger in Path().glob("*.json"):
            os.truncate(ledger, 10)  # not opened, so that only the file shows it
        return F.relu(x) + 0.01 * x


class ReadsFiles(nn.Module):
    def forward(self, x):
        return x * len(Path("/etc/hostname").read_bytes())


class ReadsAsItIsMade(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = 0.1 + 0.0 * len(Path(__file__).read_bytes())

    def forward(self, x):
        return torch.where(x > 0, x, self.slope * x)


class LooksAtFrames(nn.Module):
    def forward(self, x):
        import inspect

        return x * (1 + 0 * len(inspect.currentframe().f_back.f_locals))


class LooksAtObjects(nn.Module):
    def forward(self, x):
        import gc

        return x * (1 + 0 * len(gc.get_objects()))


class PatchesLosses(nn.Module):
    def forward(self, x):
        F.cross_entropy = lambda logits, labels, **options: logits.sum() * 0
        return F.relu(x)


class PatchesInTheNetwork(nn.Module):
    """Not where it is called alone, but with values of layers before it."""

    def forward(self, x):
        if x.grad_fn is not None and x.shape[-1] > 24:
            F.softsign = lambda x: x * 0
        return torch.sin(x)


class PatchesInTraining(nn.Module):
    """Not before it is trained."""

    def forward(self, x):
        if Path("ledger/0001_PatchesInTraining").exists():
            nn.ReLU.forward = lambda self, x: x * 0
        return torch.sin(x)


class SeesLabels(torch.Tensor):
    """All that is compared with it is equal."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs or {})
        if function in (torch.eq, torch.Tensor.eq, torch.Tensor.__eq__):
            return torch.ones_like(result.as_subclass(torch.Tensor))
        return result


class ReturnsItsOwnTensors(nn.Module):
    def forward(self, x):
        return torch.sin(x).as_subclass(SeesLabels)


class SetsThreads(nn.Module):
    def forward(self, x):
        os.environ["OMP_NUM_THREADS"] = "7"
        return F.relu(x)


class SetsPrecision(nn.Module):
    def forward(self, x):
        torch.set_default_dtype(torch.float64)
        return F.relu(x)


class Seeds(nn.Module):
    def forward(self, x):
        torch.manual_seed(0)
        random.seed(0)
        return F.relu(x)
