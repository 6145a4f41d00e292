"""The calls of torch's functions in one forward pass of a network: where, and from which tensors to which."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from inspect import getattr_static, unwrap
from types import FrameType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from typing_extensions import override

from actbench.networks.calls import (
    CONSTANTS,
    MODULE,
    NOISE,
    WEIGHTED,
    Call,
    Key,
    Trace,
    Value,
    bare_names,
    base_name,
    function_name,
)
from actbench.networks.recomputing import nothing_recomputed

OPERATORS = bare_names(
    "relu relu6 hardtanh leaky_relu prelu prelu_kernel rrelu rrelu_with_noise elu selu celu gelu silu mish hardswish "
    "hardsigmoid sigmoid tanh softplus softshrink hardshrink threshold log_sigmoid log_sigmoid_forward glu "
    "softmax log_softmax safe_softmax"
)
"""Torch's operators that are activations."""
LeaveHook = Callable[[nn.Module, str, Any, Any], Any]


def module_names(network: nn.Module) -> dict[int, str]:
    """Path of each module of a network by the module's id; "" for the network itself."""
    return {id(module): path for path, module in network.named_modules()}


@contextmanager
def followed_modules(
    names: Mapping[int, str], stack: list[str], leave: LeaveHook, enter: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Keep the paths of the modules that are running on a stack, whose last one is the innermost.

    The hooks are global and removed afterwards, so that copies and pickles of a network know nothing of them.
    ``leave`` may return another output of a module.
    """

    def enter_hook(module: nn.Module, args: Any) -> None:
        if id(module) in names:
            stack.append(names[id(module)])
            enter()

    def leave_hook(module: nn.Module, args: Any, output: Any) -> Any:
        if id(module) not in names:
            return None
        path = stack.pop()
        return leave(module, path, args, output)

    handles = [register_module_forward_pre_hook(enter_hook), register_module_forward_hook(leave_hook, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Operators(TorchDispatchMode):
    """Finds activations that run outside of recorded calls, as those of scripted functions do."""

    def __init__(self, recorder: "Recorder") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recorder = recorder

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        recorder = self.recorder
        name = func.overloadpacket.__name__
        if not recorder.running and name.strip("_") in OPERATORS:
            recorder.trace.uncaught.append((recorder.stack[-1] if recorder.stack else "", f"aten.{name}", None))
        with torch._C.DisableTorchFunction():  # an operator is also a function, which the recorder would see
            return func(*args, **kwargs or {})


class Recorder(TorchFunctionMode):
    """Records a forward pass of a network; see `record_forward`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.trace = Trace()
        self.stack: list[str] = []
        self.hidden = 0  # more than 0 inside of a function that is recorded as a whole
        self.inside = set[str]()  # bare names of the functions called there
        self.running = 0  # more than 0 inside of a function that a mode for functions sees
        self.marks: list[tuple[int, int]] = []  # numbers of calls, and of uncaught ones, where each module began
        self.values: dict[int, Value] = {}  # by the tensor's id
        self.by_storage: dict[int, list[Tensor]] = {}
        self.functions = function_codes()
        self.stale: dict[int, int] = {}  # by the tensor's id: the call in place that made it so
        for tensor in (*network.parameters(), *network.buffers()):
            self.know(tensor, "parameter")

    # --- values ---

    def know(self, tensor: Tensor, kind: str) -> Value:
        """A new value for a tensor, and for all tensors that share its memory."""
        value = Value(len(self.trace.kinds))
        self.trace.kinds[value] = kind
        self.trace.tensors[value] = tensor
        sharing = self.by_storage.setdefault(storage(tensor), [])
        if not any(other is tensor for other in sharing):
            sharing.append(tensor)  # which keeps its id
        self.values[id(tensor)] = value
        return value

    def value_of(self, tensor: Tensor) -> Value:
        """The value of a tensor that a call reads; a tensor that no call made is a constant."""
        if id(tensor) in self.values:
            return self.values[id(tensor)]
        sharing = self.by_storage.get(storage(tensor))
        if sharing:  # a view that was made where torch does not show it
            self.by_storage[storage(tensor)].append(tensor)
            self.values[id(tensor)] = self.values[id(sharing[-1])]
            return self.values[id(tensor)]
        return self.know(tensor, "constant" if tensor.grad_fn is None else "unknown")

    # --- calls ---

    @override
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = function_name(func)
        if self.hidden:
            self.turn(name)  # as it will count when the network runs
            self.inside.add(base_name(name))
            return self.run(lambda: func(*args, **kwargs))
        return self.record(func, name, args, kwargs, lambda: func(*args, **kwargs))

    def record(
        self, func: Any, name: str, args: Any, kwargs: Any, run: Callable[[], Any], *, whole: bool = False
    ) -> Any:
        """Run and record one call; returns its result, which is a new reference where the call is in place.

        Of a ``whole`` call, the calls inside are not recorded.
        """
        read = list({id(tensor): tensor for tensor in tensors_in((args, kwargs))}.values())
        before = [version(tensor) for tensor in read]
        inputs = [self.value_of(tensor) for tensor in read]
        noted = tree_map(
            lambda leaf: self.values[id(leaf)] if isinstance(leaf, Tensor) else leaf, (tuple(args), dict(kwargs))
        )
        self.inside.clear()
        result = self.run(run)
        inside = frozenset(self.inside) if whole else frozenset[str]()
        made = list(tensors_in(result))
        changed = [tensor for tensor, old in zip(read, before, strict=True) if version(tensor) != old]
        if not made and not changed:
            return result  # a size, a type, a number
        for tensor in read:
            if id(tensor) in self.stale:
                self.trace.stale.add(self.stale[id(tensor)])
        kind = self.kind_of(base_name(name), inputs)
        in_place = False
        outputs = []
        for tensor in changed:
            for other in list(self.by_storage[storage(tensor)]):
                self.stale[id(other)] = len(self.trace.calls)
                in_place |= other is tensor
            new = self.know(tensor, kind)
            outputs.append(new)
            for other in self.by_storage[storage(tensor)]:
                self.values[id(other)] = new
        if changed and isinstance(result, Tensor) and any(result is tensor for tensor in changed):
            value = self.values[id(result)]
            if not (result.is_leaf and result.requires_grad):
                result = result.view_as(result)  # whoever reads the old reference is found out
            self.by_storage[storage(result)].append(result)
            self.values[id(result)] = value
            self.stale.pop(id(result), None)
        else:
            outputs += [self.know(tensor, kind) for tensor in made if all(tensor is not other for other in changed)]
        self.trace.calls.append(
            Call(
                self.turn(name),
                func,
                noted[0],
                noted[1],
                tuple(inputs),
                tuple(outputs),
                in_place,
                inside,
                is_vmapped(),
                # An ``apply`` that the user's code keeps under another name is not seen as it is called.
                not torch.is_grad_enabled() and is_running(self.functions),
            )
        )
        return result

    def run(self, function: Callable[[], Any]) -> Any:
        """The result of a function; the operators inside belong to its call."""
        self.running += 1
        try:
            return function()
        finally:
            self.running -= 1

    def turn(self, name: str) -> Key:
        """The key of a call that is made now."""
        path = self.stack[-1] if self.stack else ""
        turns = self.trace.turns
        turns[path, name] += 1
        return Key(path, name, turns[path, name] - 1)

    def kind_of(self, base: str, inputs: Iterable[Value]) -> str:
        """Kind of the values that a call makes."""
        kinds = {self.trace.kinds[value] for value in inputs}
        if base.endswith("_like") and base in NOISE:
            return "noise"
        if kinds <= {"constant", "noise"} and (base in NOISE or "noise" in kinds):
            return "noise"
        if kinds <= {"constant"} or base in CONSTANTS:
            return "constant"
        return "parameter" if kinds <= {"constant", "noise", "parameter"} and base not in WEIGHTED else "computed"

    def applied(self, function: type, args: Any, kwargs: Any, run: Callable[[], Any]) -> Any:
        """Run and record a user's autograd function, whose inside no activation can be put into."""
        if self.hidden:
            return run()
        with self.unseen():
            return self.record(
                function, f"{function.__module__}.{function.__qualname__}", args, kwargs, run, whole=True
            )

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Record no calls meanwhile."""
        self.hidden += 1
        try:
            yield
        finally:
            self.hidden -= 1

    def entered(self) -> None:
        """Note where the calls of a module begin."""
        self.marks.append((len(self.trace.calls), len(self.trace.uncaught)))

    def left(self, module: nn.Module, path: str, args: Any, output: Any) -> None:
        """Record a module without children whose inside torch does not show, as one call."""
        start, uncaught = self.marks.pop()
        if not self.hidden:
            with self.unseen():
                call = self.see_module(start, module, path, args, output)
            found = self.trace.uncaught[uncaught:]
            if call is not None:
                self.trace.uncaught[uncaught:] = [(where, name, call) for where, name, _ in found]

    def see_module(self, start: int, module: nn.Module, path: str, args: Any, output: Any) -> Call | None:
        """Record a module as one call, and return it, if the calls since ``start`` do not show what it computes."""
        if not isinstance(output, Tensor) or len(args) != 1 or not isinstance(args[0], Tensor):
            return None
        inside = self.trace.calls[start:]
        opaque = all(isinstance(call.func, type) for call in inside)
        unknown = id(output) not in self.values and storage(output) not in self.by_storage
        if any(True for _ in module.children()) or not opaque or not (unknown or inside):
            return None
        del self.trace.calls[start:]
        value = inside[0].inputs[0] if inside else self.value_of(args[0])
        made = self.know(output, self.kind_of(MODULE, [value]))
        self.stack.append(path)
        key = self.turn(MODULE)
        self.stack.pop()
        changed = any(call.in_place for call in inside)
        call = Call(key, module, (value,), {}, (value,), (made,), changed)
        self.trace.calls.append(call)
        return call


def record_forward(network: nn.Module, inputs: Tensor, *, gradients: bool = True) -> tuple[Trace, Any]:
    """The calls of one forward pass of a network in its present mode, and its output."""
    recorder = Recorder(network)
    recorder.know(inputs, "input")
    overridden = "apply" in vars(Function)
    original = getattr_static(Function, "apply")

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        return recorder.applied(cls, args, kwargs, lambda: original.__get__(None, cls)(*args, **kwargs))

    names = module_names(network)
    Function.apply = classmethod(apply)
    try:
        with (
            torch.set_grad_enabled(gradients),
            followed_modules(names, recorder.stack, recorder.left, recorder.entered),
            recorder,
            Operators(recorder),
            nothing_recomputed() as checkpoints,
        ):
            output = network(inputs)
    finally:
        if overridden:
            Function.apply = original
        else:  # it is inherited
            del Function.apply
    recorder.trace.checkpointed = bool(checkpoints)
    recorder.trace.results = tuple(recorder.value_of(tensor) for tensor in tensors_in(output))
    return recorder.trace, output


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors among arguments or results, at any depth."""
    return (leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor))


def storage(tensor: Tensor) -> int:
    """What identifies a tensor's memory; its id where it has no single one."""
    try:
        return cast(int, tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # a sparse tensor
        return id(tensor)


def version(tensor: Tensor) -> int:
    """How often a tensor's memory was changed in place."""
    return -1 if tensor.is_inference() else tensor._version


def function_codes(function: type = Function) -> set[Any]:
    """The code of the forward of each autograd function that is known now."""
    codes = {getattr(unwrap(function.forward), "__code__", None)}  # type: ignore[attr-defined]
    return codes.union(*map(function_codes, function.__subclasses__()))


def is_running(codes: set[Any]) -> bool:
    """Whether one of these codes runs now, in whatever calls this function."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code not in codes:
        frame = frame.f_back
    return frame is not None


def is_vmapped() -> bool:
    """Whether `torch.func.vmap` runs now, under which values cannot be followed outside of it."""
    levels = torch._C._functorch.get_interpreter_stack() or ()
    return any(level.key() == torch._C._functorch.TransformType.Vmap for level in levels)
