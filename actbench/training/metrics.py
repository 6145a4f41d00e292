"""What is measured: loss, accuracy and calibration of each replicate, and of all as an ensemble."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from pytorch_lightning import Trainer
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torchmetrics import Metric
from typing_extensions import override

BINS = 15  # of confidence, for the calibration error


class MeanLoss(Metric):
    """Mean of the losses of each replicate's rows, in nats."""

    full_state_update = False
    total: Tensor
    rows: Tensor

    def __init__(self, replicates: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(replicates), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros(replicates), dist_reduce_fx="sum")

    @override
    def update(self, means: Float[Tensor, " replicates"], rows: int, active: Bool[Tensor, " replicates"]) -> None:
        """Add a batch of so many rows: the mean of each replicate that is active."""
        self.total += torch.where(active, means * rows, 0)
        self.rows += active * rows

    @override
    def compute(self) -> Float[Tensor, " replicates"]:
        return self.total / self.rows


class Scores(Metric):
    """Mean loss in nats, accuracy, and expected calibration error over 15 bins of confidence, of each replicate.

    Source:
        Guo, Pleiss, Sun and Weinberger (2017), On calibration of modern neural networks, ICML, equation 3.
    """

    full_state_update = False
    rows: Tensor
    loss: Tensor
    confidence: Tensor
    correct: Tensor

    def __init__(self, replicates: int) -> None:
        super().__init__()
        self.add_state("rows", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("loss", torch.zeros(replicates), dist_reduce_fx="sum")
        self.add_state("confidence", torch.zeros(replicates, BINS), dist_reduce_fx="sum")
        self.add_state("correct", torch.zeros(replicates, BINS), dist_reduce_fx="sum")

    @override
    def update(
        self,
        logits: Float[Tensor, "replicates batch classes"],
        labels: Int64[Tensor, "*replicates batch"],
    ) -> None:
        labels = labels.expand(logits.shape[:2])
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        confidence, predicted = logits.softmax(2).max(2)
        boundaries = torch.linspace(0, 1, BINS + 1, device=logits.device, dtype=confidence.dtype)[1:-1]
        bins = one_hot(torch.bucketize(confidence, boundaries, right=True), BINS).to(confidence.dtype)
        self.rows += labels.shape[1]
        self.loss += loss.view(labels.shape).sum(1)
        self.confidence += torch.einsum("rbk,rb->rk", bins, confidence)
        self.correct += torch.einsum("rbk,rb->rk", bins, (predicted == labels).to(confidence.dtype))

    @override
    def compute(self) -> dict[str, Float[Tensor, " replicates"]]:
        return {
            "loss": self.loss / self.rows,
            "acc": self.correct.sum(1) / self.rows,
            "ece": (self.correct - self.confidence).abs().sum(1) / self.rows,
        }


class Ensemble:
    """Scores of the mean probability of all replicates that were not trained on an image.

    Where each replicate has a split of its own, an image is in the test part of
    some only: the mean is over those. A replicate that has diverged to NaN takes no part.
    ``device`` is the number of this device, among several.
    """

    def __init__(self, device: int = 0) -> None:
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []  # rows, labels, probabilities
        self.seen = device << 40  # images without a row number get one that no other device gives

    def update(
        self,
        logits: Float[Tensor, "replicates batch classes"],
        labels: Int64[Tensor, "*replicates batch"],
        rows: Int64[Tensor, "replicates batch"] | None,
    ) -> None:
        """Add a batch; without ``rows``, it is of new images, the same for all replicates."""
        if rows is None:
            rows = torch.arange(self.seen, self.seen + logits.shape[1], device=logits.device).expand(logits.shape[:2])
            self.seen += logits.shape[1]
        known = ~logits.isnan().any(2)
        labels = labels.expand(known.shape)
        self.parts.append((rows[known].cpu(), labels[known].cpu(), logits[known].softmax(1).cpu()))

    def compute(self) -> dict[str, float]:
        """Loss, accuracy and calibration error, and ``members``: how many replicates spoke of an image, on average."""
        rows, labels, probability = (torch.cat(column) for column in zip(*self.parts, strict=True))
        images, place, members = torch.unique(rows, return_inverse=True, return_counts=True)
        if not len(images):
            return dict.fromkeys(("loss", "acc", "ece"), torch.nan) | {"members": 0.0}
        mean = probability.new_zeros(len(images), probability.shape[1]).index_add_(0, place, probability)
        truth = labels.new_zeros(len(images)).index_copy_(0, place, labels)
        scores = Scores(1)
        scores.update((mean / members[:, None]).log()[None], truth)
        return {name: value.item() for name, value in scores.compute().items()} | {
            "members": members.float().mean().item()
        }


def gather(value: Any, trainer: Trainer) -> list[Any]:
    """The value that each device has."""
    values = [value] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(values, value)
    return values


def summary_statistics(values: Float[Tensor, " replicates"]) -> dict[str, float]:
    """Mean, standard deviation, least and largest of the values that are finite; NaN if there is none.

    The standard deviation is that of a sample, and 0 of one value.
    """
    finite = values[values.isfinite()].double()
    if not len(finite):
        return dict.fromkeys(("mean", "sd", "min", "max"), torch.nan)
    sd = finite.std().item() if len(finite) > 1 else 0.0
    return {"mean": finite.mean().item(), "sd": sd, "min": finite.min().item(), "max": finite.max().item()}
