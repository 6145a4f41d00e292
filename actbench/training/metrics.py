"""Metrics: loss, accuracy and calibration of each replicate, and of their ensemble."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from pytorch_lightning import Trainer
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import cross_entropy, one_hot
from torchmetrics import Metric
from typing_extensions import override

BINS = 15  # of confidence, for the calibration error
SCORES = ("loss", "acc", "ece")  # of val and test
SPREAD = ("sd", "min", "max")  # of a score over replicates, after its name


def at_least_single(values: Tensor) -> Tensor:
    """The values in single precision, unless they have more: in half of it, a sum over many rows stops growing."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


class SummedMetric(Metric):
    """A metric whose sums keep single precision at least, whatever precision the network has."""

    full_state_update = False

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Module:
        return super()._apply(lambda values: at_least_single(fn(values)), *args, **kwargs)


class MeanLoss(SummedMetric):
    """Mean loss of each replicate over its rows, in nats."""

    total: Tensor
    rows: Tensor

    def __init__(self, replicates: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(replicates), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros(replicates), dist_reduce_fx="sum")

    @override
    def update(self, means: Float[Tensor, " replicates"], rows: int, active: Bool[Tensor, " replicates"]) -> None:
        """Add the mean losses of a batch with this number of rows, for active replicates only."""
        self.total += torch.where(active, at_least_single(means) * rows, 0)
        self.rows += active * rows

    @override
    def compute(self) -> Float[Tensor, " replicates"]:
        return self.total / self.rows


class Scores(SummedMetric):
    """Mean loss in nats, accuracy, and expected calibration error over 15 bins of confidence, for each replicate.

    ``labels`` counts the rows of each class.

    Source:
        Guo, Pleiss, Sun and Weinberger (2017), On calibration of modern neural networks, ICML, equation 3.
    """

    rows: Tensor
    loss: Tensor
    confidence: Tensor
    correct: Tensor
    labels: Tensor

    def __init__(self, replicates: int, classes: int) -> None:
        super().__init__()
        self.add_state("rows", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("loss", torch.zeros(replicates), dist_reduce_fx="sum")
        self.add_state("confidence", torch.zeros(replicates, BINS), dist_reduce_fx="sum")
        self.add_state("correct", torch.zeros(replicates, BINS), dist_reduce_fx="sum")
        self.add_state("labels", torch.zeros(replicates, classes), dist_reduce_fx="sum")

    @override
    def update(
        self,
        logits: Float[Tensor, "replicates batch classes"],
        labels: Int64[Tensor, "*replicates batch"],
    ) -> None:
        logits, labels = at_least_single(logits), labels.expand(logits.shape[:2])
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        confidence, predicted = logits.softmax(2).max(2)
        boundaries = torch.linspace(0, 1, BINS + 1, device=logits.device, dtype=confidence.dtype)[1:-1]
        bins = one_hot(torch.bucketize(confidence, boundaries, right=True), BINS).to(confidence.dtype)
        self.rows += labels.shape[1]
        self.loss += loss.view(labels.shape).sum(1)
        self.confidence += torch.einsum("rbk,rb->rk", bins, confidence)
        self.correct += torch.einsum("rbk,rb->rk", bins, (predicted == labels).to(confidence.dtype))
        self.labels += one_hot(labels, self.labels.shape[1]).sum(1)

    @override
    def compute(self) -> dict[str, Float[Tensor, " replicates"]]:
        errors = (self.correct - self.confidence).abs()
        values = (self.loss / self.rows, self.correct.sum(1) / self.rows, errors.sum(1) / self.rows)
        return dict(zip(SCORES, values, strict=True))


class Ensemble:
    """Scores of the mean probability over replicates.

    If each replicate has its own split, an image is in the test part of some
    replicates, and the mean is over those. A replicate that has diverged to NaN
    is left out. ``device`` is the rank of this device among several.
    """

    def __init__(self, device: int = 0) -> None:
        self.batches: list[tuple[Tensor, Tensor, Tensor]] = []  # rows, labels, probabilities
        self.next_row = device * 2**40  # of images without a row number; no other device gives the same

    def update(
        self,
        logits: Float[Tensor, "replicates batch classes"],
        labels: Int64[Tensor, "*replicates batch"],
        rows: Int64[Tensor, "replicates batch"] | None,
    ) -> None:
        """Add a batch; without ``rows``, its images are new, and all replicates share them."""
        if rows is None:
            rows = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[:2]) + self.next_row
            self.next_row += logits.shape[1]
        logits = at_least_single(logits)
        valid = ~logits.isnan().any(2)
        labels = labels.expand(valid.shape)
        self.batches.append((rows[valid].cpu(), labels[valid].cpu(), logits[valid].softmax(1).cpu()))

    def compute(self) -> dict[str, float]:
        """Loss, accuracy, calibration error, and ``members``, the mean number of replicates for an image."""
        rows, labels, probability = (torch.cat(column) for column in zip(*self.batches, strict=True))
        images, index, members = torch.unique(rows, return_inverse=True, return_counts=True)
        if not len(images):
            return dict.fromkeys(("loss", "acc", "ece"), torch.nan) | {"members": 0.0}
        mean = probability.new_zeros(len(images), probability.shape[1]).index_add_(0, index, probability)
        truth = labels.new_zeros(len(images)).index_copy_(0, index, labels)
        scores = Scores(1, mean.shape[1])
        scores.update((mean / members[:, None]).log()[None], truth)
        results = {name: value.item() for name, value in scores.compute().items()}
        return results | {"members": members.float().mean().item()}


def gather(value: Any, trainer: Trainer) -> list[Any]:
    """The values of all devices."""
    values = [value] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(values, value)
    return values


def summary_statistics(values: Float[Tensor, " replicates"]) -> dict[str, float]:
    """Mean, standard deviation, minimum and maximum of the finite values; NaN if there are none.

    The standard deviation is that of a sample, and 0 for one value.
    """
    finite = values[values.isfinite()].double()
    if not len(finite):
        return dict.fromkeys(("mean", *SPREAD), torch.nan)
    sd = finite.std().item() if len(finite) > 1 else 0.0
    return {"mean": finite.mean().item(), "sd": sd, "min": finite.min().item(), "max": finite.max().item()}
