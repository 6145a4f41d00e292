"""One measurement of the mechanism, of all replicates of an engine."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from actbench.records import STATISTICS
from actbench.training.engines import Apply, Engine
from actbench.training.mechanism.recording import RecordedCall, RecordedPass
from actbench.training.mechanism.statistics import effective_rank, site_statistics


def measure(
    engine: Engine,
    images: Float[Tensor, "*replicates_batch_shape"],
    labels: Int64[Tensor, "*replicates batch"],
    recorded: RecordedPass,
) -> tuple[Sequence[RecordedCall], Float[Tensor, "statistics replicates calls"], Float[Tensor, " replicates"]]:
    """The calls of the activation, statistics of each, and effective ranks, on the CPU.

    Calls are those of the first replicates. Where others make more or fewer, as code
    that branches on values may, theirs are cut or filled up with NaN. Networks run
    in evaluation, and stay as they are. As many replicates run at once as in training.
    For each of them, memory holds the inputs and outputs of all calls, their slopes
    and gradients, and what autograd keeps.

    Args:
        engine: The replicates.
        images: A batch for each replicate, or one that all share.
        labels: Classes of the images.
        recorded: Gets the calls. Where it has those of an earlier measurement, the networks run once less.
    """
    parts = list[tuple[Sequence[RecordedCall], Tensor, Tensor]]()

    def run(apply: Apply, replicates: Sequence[int]) -> None:
        size, chosen = len(replicates), list(replicates)
        own_images = images.expand(size, *images.shape) if images.ndim == engine.ndim else images[chosen]
        own_labels = labels.expand(size, -1) if labels.ndim == 1 else labels[chosen]
        statistics, rank = measure_part(apply, own_images, own_labels, recorded)
        parts.append((recorded.calls, statistics, rank))

    engine.examine(run, images)
    calls, statistics, ranks = zip(*parts, strict=True)
    return calls[0], torch.cat([with_calls(values, len(calls[0])) for values in statistics], 1), torch.cat(ranks)


def with_calls(statistics: Float[Tensor, "statistics replicates _"], calls: int) -> Float[Tensor, "_ _ calls"]:
    """Statistics of so many calls: the others are cut, or filled up with NaN."""
    return pad(statistics, (0, calls - statistics.shape[2]), value=torch.nan)


def measure_part(
    apply: Apply,
    images: Float[Tensor, "replicates batch ..."],
    labels: Int64[Tensor, "replicates batch"],
    recorded: RecordedPass,
) -> tuple[Float[Tensor, "statistics replicates calls"], Float[Tensor, " replicates"]]:
    """The same for replicates that run together."""
    leaves = recorded.zeros(len(images), images.device)
    logits, last, *values = apply(recorded, images, *leaves)
    if [leaf.shape[1:] for leaf in leaves] != [call.shape for call in recorded.calls]:  # now they are known
        leaves = recorded.zeros(len(images), images.device)
        logits, last, *values = apply(recorded, images, *leaves)
    count = len(recorded.calls)
    inputs = [x.detach().requires_grad_() for x in values[:count]]
    outputs = apply(recorded.activate, *inputs) if inputs else []
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")  # of images that do not mix
    with torch.autocast(images.device.type, enabled=False):
        for result in (loss, *(y.sum() for y in outputs)):
            if result.requires_grad:
                result.backward()  # type: ignore[no-untyped-call]
    by_call = [
        site_statistics(
            x.detach(),
            y.detach(),
            torch.zeros_like(x) if x.grad is None else x.grad,  # of a function that is constant by pieces
            torch.full_like(x, torch.nan) if leaf.grad is None else leaf.grad,
            axis=call.axis,
        )
        for x, y, leaf, call in zip(inputs, values[count:], leaves, recorded.calls, strict=True)
    ]
    statistics = torch.stack(by_call, 2) if by_call else torch.zeros(len(STATISTICS), len(images), 0).double()
    return statistics.cpu(), rank_of_inputs(last.detach(), recorded.last).cpu()


def rank_of_inputs(inputs: Float[Tensor, "replicates batch ..."], layer: str) -> Float[Tensor, " replicates"]:
    """Effective rank of the inputs of a layer; a position of an image is a row of its own. NaN without a layer."""
    if not layer:
        return torch.full(inputs.shape[:1], torch.nan, dtype=torch.float64)
    rows = inputs if layer.startswith("linear") else inputs.movedim(2, -1)
    return effective_rank(rows.flatten(1, -2))
