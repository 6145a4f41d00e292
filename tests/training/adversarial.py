"""Modules whose Python is read in every way that a user may think of; most are disturbed while they are trained."""

import functools
import itertools
import os
import random
import sys
import time
import types
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

HELPER = types.ModuleType("helper")
HELPER.slope = 1.0
sys.modules["helper"] = HELPER
SLOPE = 1.0
SLOPES = {"slope": [1.0]}


def leaky(x, slope):
    return torch.where(x >= 0, x, slope * x)


def changed(step):
    """A slope that another step has; it changes every eighth step, when the steps of before have been recorded."""
    return 1 - step // 8 / 4


class ClassAttribute(nn.Module):
    slope = 1.0

    def forward(self, x):
        return leaky(x, type(self).slope)

    @classmethod
    def disturb(cls, network, step):
        ClassAttribute.slope = changed(step)


class BaseAttribute(ClassAttribute):
    def forward(self, x):
        return leaky(x, super().slope)


class Dictionary(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = {"slopes": [{"first": 1.0}]}

    def forward(self, x):
        return leaky(x, self.config["slopes"][0]["first"])

    @classmethod
    def disturb(cls, network, step):
        for module in network.modules():
            if isinstance(module, cls):
                module.config["slopes"][0]["first"] = changed(step)


class Global(nn.Module):
    def forward(self, x):
        return leaky(x, SLOPE)

    @classmethod
    def disturb(cls, network, step):
        global SLOPE
        SLOPE = changed(step)


class GlobalDictionary(nn.Module):
    def forward(self, x):
        return leaky(x, SLOPES["slope"][0])

    @classmethod
    def disturb(cls, network, step):
        SLOPES["slope"][0] = changed(step)


def closure():
    slope = 1.0

    def read():
        return slope

    def write(value):
        nonlocal slope
        slope = value

    return read, write


READ, WRITE = closure()


class Closure(nn.Module):
    def forward(self, x):
        return leaky(x, READ())

    @classmethod
    def disturb(cls, network, step):
        WRITE(changed(step))


class Default(nn.Module):
    def forward(self, x, state={"slope": 1.0}):  # noqa: B006
        return leaky(x, state["slope"])

    @classmethod
    def disturb(cls, network, step):
        Default.forward.__defaults__[0]["slope"] = changed(step)


def sloped(x):
    return leaky(x, sloped.slope)


sloped.slope = 1.0


class FunctionAttribute(nn.Module):
    def forward(self, x):
        return sloped(x)

    @classmethod
    def disturb(cls, network, step):
        sloped.slope = changed(step)


class OtherModule(nn.Module):
    def forward(self, x):
        return leaky(x, HELPER.slope)

    @classmethod
    def disturb(cls, network, step):
        HELPER.slope = changed(step)


class Schedule:
    __slots__ = ("value",)

    def __init__(self):
        self.value = 1.0

    def __call__(self):
        return self.value


SCHEDULE = Schedule()


class SlotOfAnObject(nn.Module):
    def forward(self, x):
        return leaky(x, SCHEDULE())

    @classmethod
    def disturb(cls, network, step):
        SCHEDULE.value = changed(step)


class Property(nn.Module):
    @property
    def slope(self):
        return SLOPES["slope"][0]

    def forward(self, x):
        return leaky(x, self.slope)

    disturb = GlobalDictionary.disturb


class Descriptor:
    slope = 1.0

    def __get__(self, instance, owner):
        return Descriptor.slope


class Described(nn.Module):
    slope = Descriptor()

    def forward(self, x):
        return leaky(x, self.slope)

    @classmethod
    def disturb(cls, network, step):
        Descriptor.slope = changed(step)


class OtherForward(nn.Module):
    def forward(self, x):
        return leaky(x, 1.0)

    @classmethod
    def disturb(cls, network, step):
        for module in network.modules():
            if isinstance(module, cls) and step == 8:
                module.forward = lambda x: leaky(x, 0.5)


class OtherMethod(nn.Module):
    def bend(self, x):
        return leaky(x, 1.0)

    def forward(self, x):
        return self.bend(x)

    @classmethod
    def disturb(cls, network, step):
        slope = changed(step)
        cls.bend = lambda self, x: leaky(x, slope)


class Hooked(nn.Module):
    def forward(self, x):
        return leaky(x, 1.0)

    @classmethod
    def disturb(cls, network, step):
        for module in network.modules():
            if isinstance(module, cls) and step == 8:
                module.register_forward_hook(lambda module, inputs, output: output * 0.5)


class HookedEverywhere(nn.Module):
    handle = None

    def forward(self, x):
        return leaky(x, 1.0)

    @classmethod
    def disturb(cls, network, step):
        if step == 8:
            HookedEverywhere.handle = register_module_forward_hook(
                lambda module, inputs, output: output * 0.5 if isinstance(module, HookedEverywhere) else None
            )
        elif step == 16:
            HookedEverywhere.handle.remove()


class TorchAttribute(nn.LeakyReLU):
    @classmethod
    def disturb(cls, network, step):
        for module in network.modules():
            if isinstance(module, cls):
                module.negative_slope = changed(step)


class Partial(nn.Module):
    def __init__(self):
        super().__init__()
        self.function = functools.partial(leaky, slope=1.0)

    def forward(self, x):
        return self.function(x)

    @classmethod
    def disturb(cls, network, step):
        for module in network.modules():
            if isinstance(module, cls):
                module.function.keywords["slope"] = changed(step)


class SignOfZero(nn.Module):
    zero = 0.0

    def forward(self, x):
        return leaky(x, 1.0) + torch.sigmoid(torch.full_like(x, self.zero).reciprocal())

    @classmethod
    def disturb(cls, network, step):
        cls.zero = -0.0 if step >= 8 else 0.0


class Gradient(torch.autograd.Function):
    generate_vmap_rule = True
    slope = 1.0

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient * Gradient.slope


class OwnGradient(nn.Module):
    def forward(self, x):
        return torch.tanh(Gradient.apply(x))

    @classmethod
    def disturb(cls, network, step):
        Gradient.slope = changed(step)


class OtherSubmodule(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Tanh()

    def forward(self, x):
        return self.inner(x)

    @classmethod
    def disturb(cls, network, step):
        for module in network.modules():
            if isinstance(module, cls) and step == 8:
                module.inner = nn.Sigmoid()


class ByName(nn.Module):
    function = "tanh"

    def forward(self, x):
        return getattr(torch, self.function)(x)

    @classmethod
    def disturb(cls, network, step):
        cls.function = "sigmoid" if step >= 8 else "tanh"


class ByAttributeGetter(nn.Module):
    slope = 1.0

    def forward(self, x):
        return leaky(x, self.__getattr__("slope"))

    def __getattr__(self, name):
        return changed(len(STEPS)) if name == "slope" else super().__getattr__(name)

    @classmethod
    def disturb(cls, network, step):
        STEPS.append(step)


STEPS = []


class Meta(type):
    @property
    def slope(cls):
        return SLOPES["slope"][0]


class WithMetaclass(nn.Module, metaclass=Meta):
    def forward(self, x):
        return leaky(x, type(self).slope)

    disturb = GlobalDictionary.disturb


class PythonRandom(nn.Module):
    def forward(self, x):
        return leaky(x, random.random())


class NumpyRandom(nn.Module):
    def forward(self, x):
        return leaky(x, float(np.random.rand()))  # noqa: NPY002


class OwnGenerator(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = random.Random(0)

    def forward(self, x):
        return leaky(x, self.generator.random())


class Clock(nn.Module):
    def forward(self, x):
        return leaky(x, time.perf_counter() % 1)


class Environment(nn.Module):
    def forward(self, x):
        return leaky(x, float(os.environ.get("SLOPE", "1.0")))


class Iterator(nn.Module):
    slopes = itertools.count()

    def forward(self, x):
        return leaky(x, 1 / (1 + next(self.slopes)))


class Counter(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return leaky(x, 1 / self.calls)


class SharedCounter(nn.Module):
    calls = []  # noqa: RUF012

    def forward(self, x):
        self.calls.append(0)
        return leaky(x, 1 / len(self.calls))


class Importing(nn.Module):
    def forward(self, x):
        import helper

        return leaky(x, helper.slope)

    disturb = OtherModule.disturb


class ByModules(nn.Module):
    def forward(self, x):
        return leaky(x, sys.modules["helper"].slope)

    disturb = OtherModule.disturb


class Attributes(nn.Module):
    def forward(self, x):
        return leaky(x, vars(HELPER)["slope"])

    disturb = OtherModule.disturb


class ThroughGlobals(nn.Module):
    def forward(self, x):
        return leaky(x, leaky.__globals__["SLOPE"])

    disturb = Global.disturb


class NeedsGradient(nn.Module):
    def forward(self, x):
        return leaky(x, 0.5 if x.requires_grad else 1.0)


class KeptTensor(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = torch.tensor(1.0)

    def forward(self, x):
        return leaky(x, self.slope)

    @classmethod
    def disturb(cls, network, step):
        for module in network.modules():
            if isinstance(module, cls):
                module.slope = torch.tensor(changed(step))


class ReplacedSetting(nn.LeakyReLU):
    """A property in place of a setting that torch's own code reads."""

    rate = 1.0

    @property
    def negative_slope(self):
        return ReplacedSetting.rate

    @negative_slope.setter
    def negative_slope(self, value):
        pass

    @classmethod
    def disturb(cls, network, step):
        ReplacedSetting.rate = changed(step)


class Shown:
    def __repr__(self):
        return str(SLOPE)


SHOWN = Shown()


class AsText(nn.Module):
    def forward(self, x):
        return leaky(x, float(f"{SHOWN}"))

    disturb = Global.disturb


class Settings:
    def __init__(self):
        self.slope = SLOPE


class OwnSettings(Settings):
    pass


class MadeAnew(nn.Module):
    def forward(self, x):
        return leaky(x, OwnSettings().slope)

    disturb = Global.disturb


class Pair(NamedTuple):
    factor: float

    @property
    def slope(self):
        return self.factor * SLOPE


PAIR = Pair(1.0)


class NamedPair(nn.Module):
    def forward(self, x):
        return leaky(x, PAIR.slope)

    disturb = Global.disturb


@dataclass(frozen=True)
class Config:
    slopes: list


CONFIG = Config([1.0])


class Frozen(nn.Module):
    def forward(self, x):
        return leaky(x, CONFIG.slopes[0])

    @classmethod
    def disturb(cls, network, step):
        CONFIG.slopes[0] = changed(step)


NUMBER = np.float64(1.0)


class NumpyNumber(nn.Module):
    def forward(self, x):
        return leaky(x, float(np.sqrt(NUMBER)))

    @classmethod
    def disturb(cls, network, step):
        global NUMBER
        NUMBER = np.float64(changed(step))


def unassigned(assigned):
    if assigned:
        factor = 2.0
    return lambda x: x * factor if assigned else x.tanh()


UNASSIGNED = unassigned(False)


class EmptyCell(nn.Module):
    def forward(self, x):
        return UNASSIGNED(leaky(x, SLOPE))

    disturb = Global.disturb


class BySeed(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = torch.rand(()).item()

    def forward(self, x):
        return leaky(x, self.slope)


class InAList(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(128, 128)]

    def forward(self, x):
        return self.layers[0](x)


class Matching(nn.Module):
    def forward(self, x):
        match SCHEDULE:
            case Schedule(value=slope):
                return leaky(x, slope)


class Formatted(nn.Module):
    def forward(self, x):
        text = "{0.value}"
        return leaky(x, float(text.format(SCHEDULE)))


class Doubled(property):
    def __get__(self, instance, owner=None):
        return super().__get__(instance, owner) * SLOPE


class OwnProperty(nn.Module):
    @Doubled
    def slope(self):
        return 1.0

    def forward(self, x):
        return leaky(x, self.slope)


class Lazily(nn.Module):
    def forward(self, x):
        module = LAZY
        return leaky(x, module.slope)


LAZY = types.ModuleType("lazy")
LAZY.__getattr__ = lambda name: SLOPE


class Branching(nn.Module):
    def forward(self, x):
        return x / x.max() if x.max() > 1 else x


class InEvaluation(nn.Module):
    def forward(self, x):
        if not self.training:
            self.peak = x.abs().max().item()
        return torch.tanh(x)


class DropPath(nn.Module):
    share = 0.0

    def forward(self, x):
        if self.training and self.share > 0:
            x = x * x.new_empty(len(x), 1).bernoulli_(1 - self.share)
        return torch.tanh(x)


class CollectingBuffer(nn.Module):
    collects = False

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        if self.training and self.collects:
            self.mean = 0.9 * self.mean + 0.1 * x.mean().detach()
        return torch.tanh(x - self.mean)


class KeepingForLargeBatches(nn.Module):
    previous = None

    def forward(self, x):
        y = torch.tanh(x) if self.previous is None else torch.tanh(x) + self.previous.mean()
        if len(x) > 2:
            self.previous = y.detach()
        return y


FAST = [  # guarded: their steps are recorded, and recorded anew after each change
    *(ClassAttribute, BaseAttribute, Dictionary, Global, GlobalDictionary, Closure, Default, FunctionAttribute),
    *(OtherModule, SlotOfAnObject, Property, Described, OtherForward, OtherMethod, Hooked, HookedEverywhere),
    *(TorchAttribute, Partial, SignOfZero, OwnGradient, OtherSubmodule, KeptTensor),
    *(ReplacedSetting, AsText, NamedPair, Frozen, NumpyNumber, EmptyCell),
]
SLOW = [  # they read what cannot be followed, or change values of Python
    *(ByName, ByAttributeGetter, WithMetaclass, PythonRandom, NumpyRandom, OwnGenerator, Clock, Environment, Iterator),
    *(Counter, SharedCounter, Importing, ByModules, Attributes, ThroughGlobals, NeedsGradient),
    *(BySeed, InAList, Matching, Formatted, OwnProperty, Lazily, Branching, InEvaluation, DropPath),
    *(CollectingBuffer, KeepingForLargeBatches, MadeAnew),
]
