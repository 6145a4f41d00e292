"""How values flow through a recorded forward pass: what an activation's output is used for."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from torch.utils._pytree import tree_flatten

from actbench.networks.calls import WEIGHTED, Call, Key, Trace, Value, bare_names, base_name

Role = Literal["hidden", "glu", "gate", "scale", "softmax", "head", "recurrent", "other"]
"""What a site is for.

hidden: it flows into a layer with weights. glu: it multiplies a second branch;
if it is bounded, one that is itself a gate, as the tanh of an LSTM or of WaveNet
does. gate: it is bounded and multiplies another tensor, or shifts the input of a
softmax. scale: it, or a sum of it, becomes a denominator, a root, or the argument
of a logarithm. softmax: it makes weights of a sum. head: no layer with weights follows.
recurrent: it is inside of a fused recurrent layer. other: a nonlinear map of
elements that is not known to be an activation, on the way to a layer with
weights, such as ``sin(x)`` or ``x ** 2``; it is swapped where a pattern names it.
"""
ROLES: tuple[Role, ...] = get_args(Role)

SOFTMAX = bare_names("softmax log_softmax softmin gumbel_softmax")
CLAMPS = bare_names("clamp clip clamp_min")  # activations if they cut off what is below 0
ACTIVATIONS = (
    SOFTMAX
    | CLAMPS
    | bare_names(
        "relu relu6 hardtanh leaky_relu prelu rrelu elu selu celu gelu silu mish hardswish hardsigmoid sigmoid expit "
        "tanh softplus softsign tanhshrink softshrink hardshrink threshold logsigmoid log_sigmoid glu"
    )
)
SIGMOIDS = bare_names("sigmoid expit hardsigmoid")
PARTS = bare_names(
    "erf exp abs where masked_fill maximum minimum gt lt ge le sign"
)  # of activations that are composed by hand
CASTS = bare_names("to type type_as float double half bfloat16")
ELEMENTWISE = (
    (ACTIVATIONS - SOFTMAX - {"glu"})
    | CASTS
    | bare_names(
        "add sub rsub rdiv mul multiply div divide true_divide pow square exp expm1 log log1p sqrt rsqrt reciprocal "
        "erf erfc neg abs sign maximum minimum where masked_fill sin cos atan arctan gt lt ge le logaddexp "
        "clamp_max logical_not logical_and logical_or logical_xor bitwise_not bitwise_and bitwise_or invert and or xor "
        "clone"
    )
)
PRODUCTS = bare_names("mul multiply addcmul addcdiv lerp")
MULTIPLIED = bare_names("matmul mm bmm mv addmm addbmm baddbmm einsum tensordot")  # also of computed values
ROOTS = bare_names("sqrt rsqrt reciprocal log log1p log2 log10")
DIVISIONS = bare_names("div divide true_divide")
KEEPS_SIGN = DIVISIONS | bare_names(  # element by element
    "add sub mul multiply view reshape flatten unflatten squeeze unsqueeze expand expand_as transpose permute "
    "contiguous to float double getitem chunk split unbind index_select repeat clone"
)
JOINS = MULTIPLIED | bare_names("sum mean cumsum amax")  # of positive elements are positive, too


class Flow:
    """Which calls of a trace read which values."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.readers = defaultdict[Value, list[Call]](list)
        self.maker: dict[Value, Call] = {}
        self.order = {id(call): index for index, call in enumerate(trace.calls)}
        for call in trace.calls:
            for value in call.inputs:
                self.readers[value].append(call)
            for value in call.outputs:
                self.maker[value] = call
        self.chains: dict[Value, tuple[Value, ...]] = {}
        for call in trace.calls:
            self._add_chain(call)

    def data(self, call: Call) -> list[Value]:
        """The inputs of a call that are neither constants nor parameters nor noise."""
        return [value for value in call.inputs if self.trace.kinds[value] not in ("constant", "parameter", "noise")]

    def leaks(self, calls: Sequence[Call]) -> bool:
        """Whether others read what is made between calls, before the last one."""
        inner = {value for call in calls[:-1] for value in call.outputs}
        read = any(reader not in calls for value in inner for reader in self.readers[value])
        return read or bool(inner & set(self.trace.results))

    def chain(self, value: Value) -> tuple[Value, ...]:
        """A value, and the values, nearest first, of which alone and element by element it was made."""
        return (value, *self.chains.get(value, ()))

    def _add_chain(self, call: Call) -> None:
        inputs = self.data(call)
        if call.base not in ELEMENTWISE or not inputs or len(call.outputs) != 1:
            return
        first, *others = map(self.chain, inputs)
        self.chains[call.outputs[0]] = tuple(value for value in first if all(value in other for other in others))

    def between(self, root: Value, end: Call) -> list[Call]:
        """The calls that make the end's output from a root, in order."""
        chosen, waiting = [end], [value for value in self.data(end) if value != root]
        while waiting:
            call = self.maker.get(waiting.pop())
            if call is not None and all(call is not other for other in chosen):
                chosen.append(call)
                waiting += [value for value in self.data(call) if value != root]
        return sorted(chosen, key=lambda call: self.order[id(call)])

    def sources(self, end: Value) -> frozenset[Key]:
        """The nearest calls with weights that a value depends on."""
        found, seen, waiting = set[Key](), {end}, [end]
        while waiting:
            call = self.maker.get(waiting.pop())
            if call is not None and is_weighted(call, self.trace):
                found.add(call.key)
            elif call is not None:
                new = set(call.inputs) - seen
                seen |= new
                waiting += new
        return frozenset(found)

    def reaches_output(self, start: Value) -> bool:
        """Whether the network's output depends on a value."""
        return any(value in self.trace.results for value in self.after(start))

    def after(self, start: Value) -> Iterator[Value]:
        """A value and all values that depend on it."""
        seen, waiting = {start}, [start]
        while waiting:
            value = waiting.pop()
            yield value
            for call in self.readers[value]:
                new = set(call.outputs) - seen
                seen |= new
                waiting += new

    def role(self, output: Value, *, bounded: bool, signed: bool, clamp: bool) -> Role:
        """What a value is for that an activation, or a clamp at 0, made; see `Role`.

        A bounded activation that has negative values, as tanh, is what is gated where it multiplies a gate without.
        """
        if self.is_scale(output, clamp=clamp):
            return "scale"
        after = set(self.after(output)) if bounded else set[Value]()
        found = set[Role]()
        seen, waiting = {output}, [output]
        while waiting:
            value = waiting.pop()
            for call in self.readers[value]:
                others = self.factors(call, value)
                apart = others - after
                if signed and apart and all(map(self.is_gate, apart)):
                    found.add("glu")
                    continue
                if bounded and (apart or call.base in SOFTMAX):
                    return "gate"
                if is_weighted(call, self.trace):
                    found.add("hidden")
                elif others and not bounded and call.base in PRODUCTS:
                    found.add("glu")
                else:
                    new = set(call.outputs) - seen
                    seen |= new
                    waiting += new
        return "hidden" if "hidden" in found else "glu" if "glu" in found else "head"

    def is_gate(self, value: Value) -> bool:
        """Whether a value lies between 0 and 1 because it was made from a sigmoid's by elements, as 1 - z."""
        call = self.maker.get(value)
        while call is not None and call.base not in SIGMOIDS:
            inputs = self.data(call)
            call = self.maker.get(inputs[0]) if len(inputs) == 1 and call.base in KEEPS_SIGN | {"rsub"} else None
        return call is not None and bool(self.data(call))

    def factors(self, call: Call, value: Value) -> set[Value]:
        """What a call multiplies a value with: data, or constants of several elements, as a recurrence begins with."""
        arguments = [list(tensors) for tensors in map(values_in, (*call.args, *call.kwargs.values()))]
        if call.base in ("addcmul", "addcdiv", "baddbmm", "addmm", "addbmm"):  # the first one is added
            arguments = arguments[1:]
        is_end = call.base == "lerp" and [value] not in arguments[2:3]
        if is_end or call.base not in PRODUCTS | MULTIPLIED:
            return set()
        given = [each for argument in arguments for each in argument]
        if value not in given:
            return set()
        kinds, tensors = self.trace.kinds, self.trace.tensors
        return {
            each
            for each in given
            if each != value
            and (
                kinds[each] not in ("constant", "parameter", "noise")
                or (kinds[each] == "constant" and tensors[each].numel() > 1)
            )
        }

    def is_scale(self, output: Value, *, clamp: bool, through: frozenset[str] = frozenset()) -> bool:
        """Whether a value, or a sum of it, becomes a denominator, a root, a logarithm's argument or a deviation.

        It has to be positive for that, unlike one of which squares are summed. A clamp at 0 is no activation either
        where it becomes, by elements, a power or a factor. The value is also followed ``through`` functions of these
        names.
        """
        by_elements = clamp and self.becomes_scale(output, KEEPS_SIGN | through, clamp=True)
        return by_elements or self.becomes_scale(output, KEEPS_SIGN | JOINS | through, clamp=False)

    def becomes_scale(self, output: Value, through: frozenset[str], *, clamp: bool) -> bool:
        """Whether a call uses as a scale what functions of these names make of a value; see `is_scale`."""
        seen, waiting = {output}, [output]
        while waiting:
            value = waiting.pop()
            for call in self.readers[value]:
                if self.scales(call, value, clamp=clamp):
                    return True
                arguments = [*values_in([*call.args, *call.kwargs.values()])]
                squares = call.base in PRODUCTS | MULTIPLIED and arguments.count(value) > 1
                weighted = call.base in MULTIPLIED and any(self.trace.kinds[each] == "parameter" for each in arguments)
                if call.base in through and not squares and not weighted:
                    new = set(call.outputs) - seen
                    seen |= new
                    waiting += new
        return False

    def scales(self, call: Call, value: Value, *, clamp: bool) -> bool:
        """Whether a call uses a value as a scale; see `is_scale`."""
        arguments = [*call.args, *call.kwargs.values()]
        exponent = arguments[1] if call.base == "pow" and len(arguments) > 1 else None
        divisor = arguments[2:3] if call.base == "addcdiv" else arguments[1:2] if call.base in DIVISIONS else []
        if call.base in ROOTS or call.base == "rdiv" or value in divisor:
            return True
        if isinstance(exponent, int | float) and (clamp or exponent < 1):
            return True
        if call.base in PRODUCTS and any(self.is_normal(other) for other in call.inputs):
            return True
        return clamp and bool(self.factors(call, value)) and not is_weighted(call, self.trace)

    def only_scales(self, output: Value) -> bool:
        """Whether all that a value is used for, before a layer with weights, is a scale or the input of a softmax."""
        seen, waiting = {output}, [output]
        while waiting:
            value = waiting.pop()
            if value in self.trace.results:
                return False
            for call in self.readers[value]:
                if call.base in SOFTMAX or self.scales(call, value, clamp=False):
                    continue
                if is_weighted(call, self.trace):
                    return False
                new = set(call.outputs) - seen
                seen |= new
                waiting += new
        return True

    def is_normal(self, value: Value) -> bool:
        """Whether a value was just drawn from a normal distribution, as what a standard deviation multiplies."""
        maker = self.maker.get(value)
        return maker is not None and maker.base in ("randn", "randn_like", "normal")


def values_in(argument: Any) -> Iterator[Value]:
    """The values in an argument, at any depth."""
    leaves = tree_flatten(argument, is_leaf=lambda leaf: isinstance(leaf, Value))[0]
    return (leaf for leaf in leaves if isinstance(leaf, Value))


def is_weighted(call: Call, trace: Trace) -> bool:
    """Whether a call computes with weights: it is a known layer, or reads parameters otherwise than by elements."""
    if call.base in WEIGHTED:
        return True
    return call.base not in ELEMENTWISE and any(
        trace.kinds[value] == "parameter" and trace.tensors[value].numel() > 1 for value in call.inputs
    )


def is_activation(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call of a function is one of an activation that torch has."""
    base = base_name(name)
    if base in CLAMPS:
        given = [*args[1:2], *(value for keyword, value in kwargs.items() if keyword == "min")]
        return bool(given) and isinstance(given[0], int | float) and given[0] == 0
    return base in ACTIVATIONS


def activates(call: Call) -> bool:
    """Whether a call is one of an activation that torch has; see `is_activation`."""
    return is_activation(call.key.name, call.args, call.kwargs)
