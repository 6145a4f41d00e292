"""A network in which other activations run in place of its own."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from actbench.networks.calls import MODULE, Key, SwapError, Trace, Value, base_name, function_name
from actbench.networks.flow import ACTIVATIONS, is_activation
from actbench.networks.recomputing import recomputed_as
from actbench.networks.sites import Site
from actbench.networks.tracing import followed_modules, module_names


class Action(NamedTuple):
    """What happens at a call.

    Args:
        site: Index of the site among those that are swapped.
        argument: Position or name of the argument that is the activation's input; None where it is not needed.
        ends: Whether the call gives the site's output, so that the activation runs in its place.
        kept: Whether the input has to be copied, because it is changed before or after it is used.
        copied: Whether the output has to be copied, because it is changed later on.
        written: Whether the output is written into the input's memory, which is read afterwards.
    """

    site: int
    argument: int | str | None
    ends: bool
    kept: bool
    copied: bool
    written: bool

    def joined(self, other: "Action") -> "Action":
        """What is safe in two passes of which each asks for one of the actions, which differ in what they copy."""
        return self._replace(
            kept=self.kept or other.kept, copied=self.copied or other.copied, written=self.written or other.written
        )


class ModePlan(NamedTuple):
    """What happens in training or in evaluation.

    Args:
        actions: What happens at which calls.
        turns: How often each module calls each function, if it is not skipped.
        skips: Whether all sites may be skipped in one pass.
    """

    actions: dict[Key, Action]
    turns: dict[tuple[str, str], int]
    skips: bool


class SwapPlan(NamedTuple):
    """What happens in training and in evaluation, and the names of the functions that are intercepted."""

    train: ModePlan
    eval: ModePlan
    names: frozenset[str]


def swap_plan(passes: Sequence[tuple[str, Trace, Mapping[int, Site]]], *, skips: bool = False) -> SwapPlan:
    """The plan that swaps the activations of numbered sites.

    Args:
        passes: Mode, trace and sites of recorded passes; several of training if some sites are skipped at random.
        skips: Whether all sites may be skipped in one pass of training.
    """
    calls = [call for *_, sites in passes for site in sites.values() for call in site.calls]
    names = frozenset(call.key.name for call in calls if call.base != "clone")  # which activations may call, too
    plans = {mode: ModePlan({}, {}, skips and mode == "train") for mode in ("train", "eval")}
    for mode, trace, sites in passes:
        plan = plans[mode]
        actions = {key: action for index, site in sites.items() for key, action in site_actions(index, site)}
        for key, action in actions.items():
            plan.actions[key] = action.joined(plan.actions.get(key, action))
        turns = {key: number for key, number in trace.turns.items() if is_counted(key[1], names)}
        plan.turns.update({key: number for key, number in turns.items() if number > plan.turns.get(key, 0)})
    return SwapPlan(**plans, names=names)


def site_actions(index: int, site: Site) -> Iterator[tuple[Key, Action]]:
    """What happens at the first and the last call of a site, which may be the same."""
    first = next(call for call in site.calls if site.root in call.inputs and call.base != "clone")
    last = site.calls[-1]
    kept = site.written or site.input_changes or any(call.in_place for call in site.calls[:-1])
    argument: int | str | None = argument_of(site.root, first.args, first.kwargs)
    if first is not last:
        yield first.key, Action(index, argument, ends=False, kept=kept, copied=False, written=False)
        argument = None
    yield last.key, Action(index, argument, True, kept, copied=site.output_changes, written=site.written)


def argument_of(value: Value, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | str:
    """Position or name of the argument that is a value."""
    arguments: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    return next(key for key, given in arguments if isinstance(given, Value) and given == value)


class SwappedNetwork(nn.Module):
    """A network that calls other activations in place of some of its own.

    The network itself is not changed. While it runs, the calls of its plan are
    intercepted. Each activation is applied out of place.

    Args:
        network: Someone's network.
        activations: One for each site that is swapped.
        plan: Which calls are intercepted.
        certificate: What was swapped and proved; see `actbench.networks.SwapCertificate`.
    """

    def __init__(
        self, network: nn.Module, activations: Iterable[nn.Module], plan: SwapPlan, certificate: Any = None
    ) -> None:
        super().__init__()
        self.network = network
        self.activations = nn.ModuleList(activations)
        self.plan = plan
        self.certificate = certificate

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        interception = Interception(self)
        with interception.running():
            output: Tensor = self.network(inputs)
        if self.activations and not interception.reached and not interception.plan.skips:
            raise SwapError(f"{type(self.network).__name__} reached none of its swapped activations: it ran elsewhere")
        interception.check_turns()
        return output


def network_name(network: nn.Module) -> str:
    """The class of a network, or of that which activations are swapped into, as messages name it."""
    return type(network.network if isinstance(network, SwappedNetwork) else network).__name__


class Interception(TorchFunctionMode):
    """Runs activations in place of a network's own, for one forward pass, or for a part that is run again."""

    def __init__(self, swapped: SwappedNetwork) -> None:
        super().__init__()
        self.swapped = swapped
        self.names = swapped.plan.names
        self.plan = swapped.plan.train if swapped.network.training else swapped.plan.eval
        self.activations = swapped.activations
        self.title = type(swapped.network).__name__
        self.stack: list[str] = []
        self.turns = Counter[tuple[str, str]]()
        self.inputs: dict[int, Tensor] = {}  # of sites that were begun
        self.paused = False
        self.reached = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Intercept calls meanwhile."""
        names = module_names(self.swapped.network)
        with followed_modules(names, self.stack, self.left), recomputed_as(self.again), self:
            yield

    def again(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function as it runs in the backward pass: with the same activations as if it ran now."""
        plan, stack, turns, inputs = self.plan, [*self.stack], self.turns.copy(), dict(self.inputs)

        def run(*args: Any, **kwargs: Any) -> Any:
            interception = Interception(self.swapped)
            interception.plan, interception.stack = plan, [*stack]
            interception.turns, interception.inputs = turns.copy(), dict(inputs)
            with interception.running():
                return function(*args, **kwargs)

        return function if self.paused else run

    @override
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = function_name(func)
        if self.paused or not is_counted(name, self.names):
            return func(*args, **kwargs)
        key = self.key(name)
        action = self.plan.actions.get(key)
        if action is None:
            if is_activation(name, args, kwargs) and key.turn >= self.plan.turns.get((key.path, name), 0):
                raise SwapError(
                    f"{self.title} calls {name} in {key.path or 'its forward'} more often than when it was examined: "
                    "calls that change from pass to pass, with values or the size of the batch, cannot be swapped"
                )
            return func(*args, **kwargs)
        if action.argument is not None:
            value = args[action.argument] if isinstance(action.argument, int) else kwargs[action.argument]
            self.inputs[action.site] = value.clone() if action.kept else value
        if not action.ends:
            return func(*args, **kwargs)
        output = self.activate(action)
        return args[0].copy_(output) if action.written else output

    def key(self, name: str) -> Key:
        """The key of a call that is made now."""
        path = self.stack[-1] if self.stack else ""
        self.turns[path, name] += 1
        return Key(path, name, self.turns[path, name] - 1)

    def activate(self, action: Action) -> Tensor:
        """The output of a site's activation."""
        self.reached += 1
        if action.site not in self.inputs:
            raise SwapError(
                f"{self.title} did not begin an activation that it ends: its calls change from pass to pass"
            )
        output: Tensor = self.activations[action.site](self.inputs.pop(action.site))
        return output.clone() if action.copied else output

    def check_turns(self) -> None:
        """Raise SwapError if a module left out some of the calls by whose turns its sites are known."""
        for path, name in {(key.path, key.name) for key in self.plan.actions}:
            ran, examined = self.turns[path, name], self.plan.turns[path, name]
            if ran not in (0, examined):  # a module that is skipped as a whole shifts no turn
                raise SwapError(
                    f"{self.title} calls {name} in {path or 'its forward'} {ran} times, and {examined} times when it "
                    "was examined: calls that change from pass to pass cannot be swapped"
                )
        if self.inputs:
            raise SwapError(f"{self.title} left an activation unfinished: its calls change from pass to pass")

    def left(self, module: nn.Module, path: str, args: Any, output: Any) -> Any:
        """The output of a module that is swapped as a whole; None leaves the module's own."""
        if self.paused or output is None or (path, MODULE) not in self.plan.turns:
            return None
        self.stack.append(path)
        key = self.key(MODULE)
        self.stack.pop()
        action = self.plan.actions.get(key)
        if action is None:
            return None
        self.inputs[action.site] = args[0].clone() if action.kept else args[0]
        self.paused = True
        try:
            return self.activate(action)
        finally:
            self.paused = False


def is_counted(name: str, names: frozenset[str]) -> bool:
    """Whether the calls of a function are counted while a network runs."""
    return name in names or base_name(name) in ACTIVATIONS
