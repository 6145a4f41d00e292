import inspect
import math
import re
import shutil
import zlib

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.modules import activation as torch_activations

from actbench import activations
from actbench.activations import CATALOGUE, trainable_parameters

NOT_ELEMENTWISE = {"GLU", "MultiheadAttention", "Softmax", "Softmax2d", "Softmin", "LogSoftmax"}
OURS = {entry.cls for entry in CATALOGUE.values() if entry.cls.__module__.startswith("actbench.")}

sigmoid, erf = special.expit, special.erf


def softplus(x):
    return np.logaddexp(0, x)


def pade(x):  # the initial coefficients are our fit; see test_pade_starts_as_a_leaky_relu
    above = [0.03358, 0.50501, 1.65136, 2.00457, 0.92797, 0.15154]
    below = [0, 0.00008, 3.96934, 0.00006, 0.30007]
    return np.polyval(above[::-1], x) / (1 + np.abs(np.polyval(below[::-1], x)))


# Definitions, written down from the papers, in float64; where a branch overflows, NumPy takes the other one.
REFERENCES = {
    "acon_c": lambda x: x * sigmoid(x),
    "arctan": np.arctan,
    "bent_identity": lambda x: (np.sqrt(x**2 + 1) - 1) / 2 + x,
    "celu": lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
    "elish": lambda x: np.where(x >= 0, x, np.exp(np.minimum(x, 0)) - 1) * sigmoid(x),
    "elu": lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
    "eswish": lambda x: 1.5 * x * sigmoid(x),
    "gaussian": lambda x: np.exp(-(x**2)),
    "gcu": lambda x: x * np.cos(x),
    "gelu": lambda x: x * stats.norm.cdf(x),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "golu": lambda x: x * np.exp(-np.exp(-np.maximum(x, -500))),
    "hardshrink": lambda x: np.where(np.abs(x) > 0.5, x, 0),
    "hardsigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hardtanh": lambda x: np.clip(x, -1, 1),
    "identity": lambda x: x,
    "isrlu": lambda x: np.where(x >= 0, x, x / np.sqrt(1 + x**2)),
    "isru": lambda x: x / np.sqrt(1 + x**2),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "lecun_tanh": lambda x: 1.7159 * np.tanh(2 * x / 3),
    "lisht": lambda x: x * np.tanh(x),
    "log_sigmoid": lambda x: -softplus(-x),
    "logish": lambda x: x * np.log(1 + sigmoid(x)),
    "mish": lambda x: x * np.tanh(softplus(x)),
    "nlrelu": lambda x: np.log(1 + np.maximum(x, 0)),
    "pade": pade,
    "pelu": lambda x: np.where(x >= 0, x, np.exp(np.minimum(x, 0)) - 1),
    "phish": lambda x: x * np.tanh(x * stats.norm.cdf(x)),
    "prelu": lambda x: np.where(x > 0, x, 0.25 * x),
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "rrelu": lambda x: np.where(x > 0, x, x * (1 / 8 + 1 / 3) / 2),
    "selu": lambda x: (
        1.0507009873554804934193349852946
        * np.where(x > 0, x, 1.6732632423543772848170429916717 * (np.exp(np.minimum(x, 0)) - 1))
    ),
    "serf": lambda x: x * erf(softplus(x)),
    "sigmoid": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "sine": np.sin,
    "sinlu": lambda x: (x + np.sin(x)) * sigmoid(x),
    "smelu": lambda x: np.where(x <= -1, 0, np.where(x >= 1, x, (x + 1) ** 2 / 4)),
    "smish": lambda x: x * np.tanh(np.log(1 + sigmoid(x))),
    "snake": lambda x: x + np.sin(x) ** 2,
    "snake_trainable": lambda x: x + np.sin(x) ** 2,
    "softplus": softplus,
    "softshrink": lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "squared_relu": lambda x: np.maximum(x, 0) ** 2,
    "squareplus": lambda x: (x + np.sqrt(x**2 + 4)) / 2,
    "srelu": lambda x: np.where(x <= 0, 0.2 * x, x),
    "star_relu": lambda x: 0.8944 * np.maximum(x, 0) ** 2 - 0.4472,
    "swish": lambda x: x * sigmoid(x),
    "swish_trainable": lambda x: x * sigmoid(x),
    "tanh": np.tanh,
    "tanhexp": lambda x: x * np.tanh(np.exp(np.minimum(x, 700))),
    "tanhshrink": lambda x: x - np.tanh(x),
    "telu": lambda x: x * np.tanh(np.exp(np.minimum(x, 700))),
    "threshold": lambda x: np.where(x > 1, x, 0),
    "xielu": lambda x: np.where(
        x > 0, 0.8 * x**2 + x / 2, 0.8 * (np.exp(np.minimum(x, 0)) - 1) - 0.8 * np.minimum(x, 0) + x / 2
    ),
}

# Arguments other than the defaults, and the definition with them.
WITH_ARGUMENTS = [
    (activations.Swish(beta=2.5), lambda x: x * sigmoid(2.5 * x)),
    (activations.Swish(beta=-1.5, trainable=True), lambda x: x * sigmoid(-1.5 * x)),
    (activations.ESwish(beta=1.25), lambda x: 1.25 * x * sigmoid(x)),
    (activations.Squareplus(b=0.25), lambda x: (x + np.sqrt(x**2 + 0.25)) / 2),
    (activations.SmeLU(beta=0.5), lambda x: np.where(x <= -0.5, 0, np.where(x >= 0.5, x, (x + 0.5) ** 2 / 2))),
    (activations.ISRU(alpha=3.0), lambda x: x / np.sqrt(1 + 3 * x**2)),
    (activations.ISRLU(alpha=3.0), lambda x: np.where(x >= 0, x, x / np.sqrt(1 + 3 * x**2))),
    (activations.Sine(omega=3.0), lambda x: np.sin(3 * x)),
    (activations.NLReLU(beta=0.7), lambda x: np.log(1 + 0.7 * np.maximum(x, 0))),
    (activations.StarReLU(scale=2.0, bias=1.0, trainable=False), lambda x: 2 * np.maximum(x, 0) ** 2 + 1),
    (activations.AconC(p1=1.5, p2=0.25, beta=2.0), lambda x: 1.25 * x * sigmoid(2.5 * x) + 0.25 * x),
    (activations.Snake(a=5.0, trainable=True), lambda x: x + np.sin(5 * x) ** 2 / 5),
    (activations.PELU(a=2.0, b=0.5), lambda x: np.where(x >= 0, 4 * x, 2 * (np.exp(np.minimum(x, 0) / 0.5) - 1))),
    (
        activations.SReLU(left=-1.0, left_slope=0.1, right=2.0, right_slope=0.5),
        lambda x: np.where(x <= -1, -1 + 0.1 * (x + 1), np.where(x >= 2, 2 + 0.5 * (x - 2), x)),
    ),
    (activations.SinLU(a=0.5, b=3.0), lambda x: (x + 0.5 * np.sin(3 * x)) * sigmoid(x)),
    (
        activations.XIELU(alpha_p=0.3, alpha_n=0.9),
        lambda x: np.where(
            x > 0, 0.3 * x**2 + x / 2, 0.9 * np.expm1(np.minimum(x, 0)) - 0.9 * np.minimum(x, 0) + x / 2
        ),
    ),
]

# Where left and right slope differ, among -1, 0 and 1, at which formulas are joined.
KINKS = {"hardtanh": (-1, 1), "threshold": (1,)} | dict.fromkeys(
    ["leaky_relu", "nlrelu", "prelu", "relu", "relu6", "rrelu", "selu", "srelu"], (0,)
)

every_entry = pytest.mark.parametrize("name", CATALOGUE)
# torch has no batching rule for rrelu; test_stack.py trains it in a stack.
every_batched_entry = pytest.mark.parametrize("name", [name for name in CATALOGUE if name != "rrelu"])


def build(name):
    entry = CATALOGUE[name]
    return entry.cls(**entry.init_args)


def grid(*, dtype=torch.float64):
    """Numbers of every size and both signs, none at a kink."""
    generator = np.random.default_rng(0)
    sizes = np.concatenate([10.0 ** np.arange(-3, 2), generator.uniform(0.01, 9, 60)])
    return torch.tensor(np.concatenate([-sizes, sizes]) + 1e-4, dtype=dtype)


def every_bfloat16():
    """Every bfloat16 number from -1e4 to 1e4."""
    largest = torch.tensor(1e4, dtype=torch.bfloat16).view(torch.int16).item()
    positive = torch.arange(largest + 1, dtype=torch.int16).view(torch.bfloat16)
    return torch.cat([-positive, positive])


def test_there_are_more_than_forty_with_names_and_formulas_of_their_own():
    assert len(CATALOGUE) > 40
    assert len({(entry.cls, *entry.init_args.items()) for entry in CATALOGUE.values()}) > 40
    assert set(REFERENCES) == set(CATALOGUE)


def test_no_elementwise_activation_of_torch_is_missing():
    theirs = {name for name in torch_activations.__all__ if name not in NOT_ELEMENTWISE} | {"Identity"}

    named = {entry.cls.__name__ for entry in CATALOGUE.values()}
    assert theirs <= named
    assert {entry.cls for entry in CATALOGUE.values()} >= {getattr(nn, name) for name in theirs}


def test_every_activation_of_ours_is_in_the_catalogue():
    public = {value for value in vars(activations).values() if inspect.isclass(value) and issubclass(value, nn.Module)}

    assert public == OURS


@every_entry
def test_values_are_those_of_the_definition(name):
    x = torch.cat([grid(), torch.tensor([0, 1e-9, 30, 1e3, 1e4, -1e-9, -30, -1e3, -1e4], dtype=torch.float64)])

    values = build(name).double().eval()(x).detach().numpy()

    # Parameters are made in float32.
    np.testing.assert_allclose(values, REFERENCES[name](x.numpy()), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(("module", "reference"), WITH_ARGUMENTS, ids=lambda value: type(value).__name__)
def test_values_with_arguments_are_those_of_the_definition(module, reference):
    x = grid()

    values = module.double()(x).detach().numpy()

    np.testing.assert_allclose(values, reference(x.numpy()), rtol=2e-6, atol=1e-7)


@every_entry
def test_gradients_are_those_of_finite_differences(name):
    joints = torch.tensor([joint for joint in (-1, 0, 1) if joint not in KINKS.get(name, ())])
    module, x, step = build(name).double().eval(), torch.cat([joints, grid()]).requires_grad_(), 1e-6

    (gradient,) = torch.autograd.grad(module(x).sum(), x)

    with torch.no_grad():
        differences = (module(x + step) - module(x - step)) / (2 * step)
    torch.testing.assert_close(gradient, differences, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, entry in CATALOGUE.items() if trainable_parameters(entry)])
def test_gradients_of_parameters_are_those_of_finite_differences(name):
    module = build(name).double()
    names, values = zip(*module.named_parameters(), strict=True)

    def output(*parameters):
        return functional_call(module, dict(zip(names, parameters, strict=True)), grid())

    assert torch.autograd.gradcheck(output, values, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_entry
def test_large_numbers_give_finite_values_and_gradients(name, dtype):
    x = torch.cat([every_bfloat16(), torch.tensor([-1e4, 1e4])]).to(dtype).requires_grad_()
    module = build(name).to(dtype)

    values = module(x)
    gradients = torch.autograd.grad(values.sum(), [x, *module.parameters()])

    assert values.dtype == dtype
    assert values.shape == x.shape
    assert values.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_entry
def test_the_dtype_is_kept_in_mixed_precision(name):
    module, x = build(name), torch.randn(3, 4, dtype=torch.bfloat16)

    with torch.autocast("cpu", torch.bfloat16):
        values = module(x)

    assert values.dtype == torch.bfloat16


@every_entry
def test_nothing_is_written_in_place(name):
    x = torch.randn(3, 4)
    kept, version = x.clone(), x._version
    module = build(name)
    state = {key: value.clone() for key, value in module.state_dict().items()}

    module(x)
    module(torch.ones(1).expand(5))  # one number seen five times, which cannot be written to

    assert torch.equal(x, kept)
    assert x._version == version
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


@every_batched_entry
def test_a_stack_under_vmap_is_the_modules_one_by_one(name):
    modules = [build(name).double().eval() for _ in range(3)]
    for number, module in enumerate(modules):
        for parameter in module.parameters():
            parameter.data += 0.1 * number
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    parameters, buffers = stack_module_state(modules)

    def loss(state, x):
        return functional_call(modules[0], state, (x,)).sum()

    stacked = vmap(lambda state, x: functional_call(modules[0], state, (x,)), randomness="different")(
        {**parameters, **buffers}, x
    )
    gradients = vmap(grad(loss), randomness="different")(parameters, x) if parameters else {}

    for number, module in enumerate(modules):
        torch.testing.assert_close(stacked[number], module(x[number]))
        if parameters:
            module(x[number]).sum().backward()
        for key, parameter in module.named_parameters():
            torch.testing.assert_close(gradients[key][number], parameter.grad)


@every_batched_entry
def test_training_under_vmap_works(name):
    module, x = build(name).train(), torch.randn(3, 2, 4)

    values = vmap(module, randomness="different")(x)

    assert values.shape == x.shape


@every_entry
def test_a_compiled_activation_is_the_same(name):
    torch._dynamo.reset()
    module, x = build(name).eval(), torch.randn(4, 5, requires_grad=True)

    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)(x)

    torch.testing.assert_close(compiled, module(x))
    expected = torch.autograd.grad(module(x).sum(), x)
    torch.testing.assert_close(torch.autograd.grad(compiled.sum(), x), expected)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="there is no C++ compiler")
@every_entry
def test_an_activation_compiled_to_machine_code_is_the_same(name):
    torch._dynamo.reset()
    module, x = build(name).eval(), torch.randn(4, 5, requires_grad=True)

    compiled = torch.compile(module, fullgraph=True)(x)

    torch.testing.assert_close(compiled, module(x))
    expected = torch.autograd.grad(module(x).sum(), x)
    torch.testing.assert_close(torch.autograd.grad(compiled.sum(), x), expected)


@every_entry
def test_every_entry_has_formula_and_source(name):
    entry = CATALOGUE[name]

    assert len(entry.formula) > 0
    assert len(entry.source) > 10
    assert "\n" not in entry.formula + entry.source


@pytest.mark.parametrize("cls", sorted(OURS, key=lambda cls: cls.__name__), ids=lambda cls: cls.__name__)
def test_every_argument_is_explained(cls):
    text = inspect.getdoc(cls)

    assert re.fullmatch(r"[^:]+: .+[^.]\.", text.splitlines()[0])  # name: formula.
    assert "Source:\n" in text
    assert all(f"    {name}: " in text for name in inspect.signature(cls).parameters if name not in ("args", "kwargs"))


@every_entry
def test_making_an_activation_draws_nothing(name):
    torch.manual_seed(zlib.crc32(name.encode()))
    before = torch.get_rng_state()

    build(name)

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (activations.Squareplus, {"b": 0.0}, "b must be positive and finite, got 0.0"),
        (activations.SmeLU, {"beta": -1.0}, "beta must be positive and finite, got -1.0"),
        (activations.ISRU, {"alpha": 0.0}, "alpha must be positive"),
        (activations.ISRLU, {"alpha": math.nan}, "alpha must be positive and finite, got nan"),
        (activations.ISRLU, {"alpha": math.inf}, "alpha must be positive and finite, got inf"),
        (activations.NLReLU, {"beta": 0.0}, "beta must be positive"),
        (activations.Snake, {"a": 0.0}, "a must be positive"),
        (activations.PELU, {"a": 0.1}, "must be above 0.1, got 0.1 and 1.0"),
        (activations.PELU, {"b": math.nan}, "must be above 0.1, got 1.0 and nan"),
        (activations.SReLU, {"left": math.nan}, "left must not be above right, got nan and 1.0"),
        (activations.SReLU, {"left": 2.0}, "left must not be above right, got 2.0 and 1.0"),
        (activations.XIELU, {"alpha_n": 0.5}, "alpha_n above 0.5"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)


def test_tanhexp_and_telu_are_one_with_both_sources():
    tanhexp, telu = CATALOGUE["tanhexp"], CATALOGUE["telu"]

    assert tanhexp == telu
    assert "2003.09855" in telu.source
    assert "2412.20269" in telu.source


def test_pade_starts_as_a_leaky_relu():
    x = torch.linspace(-3, 3, 6001)

    values = activations.PadeUnit()(x)

    assert (values - nn.functional.leaky_relu(x)).abs().max() < 0.034


def test_xielu_starts_from_large_numbers_too():
    values = activations.XIELU(alpha_p=1e3, alpha_n=1e3)(torch.tensor([-1.0, 1.0]))

    torch.testing.assert_close(values, torch.tensor([1e3 / math.e - 0.5, 1e3 + 0.5]))


def test_swish_with_beta_one_is_silu():
    x = torch.randn(100)

    torch.testing.assert_close(activations.Swish()(x), nn.SiLU()(x))


def test_star_relu_normalises_a_standard_normal():
    x = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    values = activations.StarReLU(trainable=False)(x)

    assert abs(values.mean()) < 0.01
    assert abs(values.var() - 1) < 0.02
