"""Laws of scores in which the truth is known, and studies that are drawn from them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

FAILED = 0.5  # accuracy below which a run has failed

Shape = tuple[int, ...]
Scores = Float[np.ndarray, "studies arms pairs"]
ScoresAndFailures = tuple[Scores, Bool[np.ndarray, "studies arms pairs 2"]]
Law = Callable[[np.random.Generator, Shape], Float[np.ndarray, "..."]]


def normal(rng: np.random.Generator, shape: Shape) -> Float[np.ndarray, "..."]:
    """About what is seen on digits."""
    return rng.normal(0.967, 0.005, shape)


def skewed(rng: np.random.Generator, shape: Shape) -> Float[np.ndarray, "..."]:
    """A lognormal share of errors."""
    return 1 - 0.03 * rng.lognormal(sigma=0.8, size=shape)


def heavy_tailed(rng: np.random.Generator, shape: Shape) -> Float[np.ndarray, "..."]:
    """Student's t with 2 degrees of freedom, whose variance is infinite."""
    return 0.967 + 0.005 * rng.standard_t(2, shape)


def on_270_images(rng: np.random.Generator, shape: Shape) -> Float[np.ndarray, "..."]:
    """Accuracies on the digits' test set."""
    return rng.binomial(270, np.clip(normal(rng, shape), 0, 1)) / 270


def on_10_000_images(rng: np.random.Generator, shape: Shape) -> Float[np.ndarray, "..."]:
    """Accuracies on MNIST's."""
    return rng.binomial(10_000, np.clip(rng.normal(0.985, 0.001, shape), 0, 1)) / 10_000


def failing(rng: np.random.Generator, shape: Shape) -> Float[np.ndarray, "..."]:
    """One run in ten ends at chance."""
    return np.where(rng.random(shape) < 0.1, 0.1, normal(rng, shape))


def skewed_arm(rng: np.random.Generator, shape: Shape) -> Float[np.ndarray, "..."]:
    """Exponential errors of the arm, hardly any spread of the baseline."""
    scores = 0.977 - rng.exponential(0.01, shape)
    scores[:, 0] = rng.normal(0.967, 0.001, scores[:, 0].shape)
    return scores


def failing_arm(rng: np.random.Generator, shape: Shape) -> Float[np.ndarray, "..."]:
    """One run of the arm in ten ends at chance; the baseline never does, but is worse by that elsewhere."""
    scores = failing(rng, shape)
    scores[:, 0] = rng.normal(0.9 * 0.967 + 0.1 * 0.1, 0.005, scores[:, 0].shape)
    return scores


def often_failing(rng: np.random.Generator, shape: Shape) -> Float[np.ndarray, "..."]:
    """Three runs in ten end at chance, as on the digits."""
    return np.where(rng.random(shape) < 0.3, 0.1, normal(rng, shape))


def only_failing_arm(rng: np.random.Generator, shape: Shape) -> Float[np.ndarray, "..."]:
    """One run of the arm in ten ends at chance; otherwise, arm and baseline are alike."""
    scores = normal(rng, shape)
    scores[:, 1:] = failing(rng, scores[:, 1:].shape)
    return scores


LAWS: dict[str, Law] = {
    "normal": normal,
    "skewed": skewed,
    "heavy-tailed": heavy_tailed,
    "accuracy on 270 images": on_270_images,
    "accuracy on 10,000 images": on_10_000_images,
    "one run in ten fails": failing,
}
UNEVEN: dict[str, Law] = {"arm skewed, baseline not": skewed_arm, "arm fails, baseline does not": failing_arm}
# Laws of which some runs fail: of both arms alike, so that the scores of a pair are exchangeable, or of one arm.
FAILING: dict[str, Law] = {"one run in ten fails": failing, "three runs in ten fail": often_failing}
ONE_FAILS: dict[str, Law] = {
    "arm fails, baseline does not": failing_arm,
    "arm fails, equal where both train": only_failing_arm,
}
MIXED = ("normal", "accuracy on 270 images", "one run in ten fails")  # where other families are tried
PLAIN = ("normal", "accuracy on 270 images", "accuracy on 10,000 images")  # where the t interval has to hold


def exponential(rng: np.random.Generator, shape: Shape) -> Float[np.ndarray, "..."]:
    """Skewed effects, of mean 0 and variance 1."""
    return rng.exponential(size=shape) - 1


def rarely_failing(rng: np.random.Generator, shape: Shape) -> Float[np.ndarray, "..."]:
    """Effects of mean 0 and variance 1, of which one in ten is far off."""
    return ((rng.random(shape) < 0.1) - 0.1) / 0.3


class Effects(NamedTuple):
    """Variances of the effects of crossed sources, beside a rest of variance 1, and the laws of effects and rest."""

    variances: Sequence[float]
    law: Law = lambda rng, shape: rng.normal(size=shape)
    rest: Law = lambda rng, shape: rng.normal(size=shape)


EFFECTS: dict[str, Effects] = {
    "2 sources: 0, 0": Effects((0, 0)),
    "3 sources: 0, 0, 0": Effects((0, 0, 0)),
    "3 sources: 1, 0, 0": Effects((1, 0, 0)),
    "3 sources: 5, 1, 0": Effects((5, 1, 0)),
    "3 sources: .1, .1, .1": Effects((0.1,) * 3),
    "4 sources: 1, 1, 0, 0": Effects((1, 1, 0, 0)),
    "5 sources: 0, 0, 0, 0, 0": Effects((0,) * 5),
    "5 sources: 1, 1, 1, 1, 1": Effects((1,) * 5),
}
UNUSUAL_EFFECTS: dict[str, Effects] = {
    "3 sources: 1, 1, 0, exponential effects": Effects((1, 1, 0), exponential),
    "3 sources: 1, 0, 0, one replicate in ten fails": Effects((1, 0, 0), rest=rarely_failing),
}


def differences(name: str, rng: np.random.Generator, *, studies: int, arms: int, pairs: int) -> Scores:
    """Scores of arms minus those of the one baseline of their study."""
    scores = (LAWS | UNEVEN)[name](rng, (studies, 1 + arms, pairs))
    return scores[:, 1:] - scores[:, :1]


def all_pairs(name: str, rng: np.random.Generator, *, studies: int, arms: int, pairs: int) -> Scores:
    """Differences of every two arms, the baseline among them."""
    scores = (LAWS | UNEVEN)[name](rng, (studies, 1 + arms, pairs))
    one, other = np.triu_indices(1 + arms, k=1)
    return scores[:, other] - scores[:, one]


def two_datasets(name: str, rng: np.random.Generator, *, studies: int, arms: int, pairs: int) -> Scores:
    """Differences on two datasets, and their means."""
    one, other = (differences(name, rng, studies=studies, arms=arms, pairs=pairs) for _ in range(2))
    return np.concatenate([one, other, (one + other) / 2], axis=1)


FAMILIES = {"": differences, "all pairs": all_pairs, "two datasets and their mean": two_datasets}


def generator(*key: object) -> np.random.Generator:
    """Random numbers of a simulation, which do not depend on what else is simulated."""
    return np.random.default_rng(list("/".join(map(str, key)).encode()))


def with_failures(name: str, rng: np.random.Generator, *, studies: int, arms: int, pairs: int) -> ScoresAndFailures:
    """Differences from the baseline, and which replicates of each pair failed."""
    scores = (FAILING | ONE_FAILS)[name](rng, (studies, 1 + arms, pairs))
    failed = scores < FAILED
    baseline = np.broadcast_to(failed[:, :1], failed[:, 1:].shape)
    return scores[:, 1:] - scores[:, :1], np.stack([failed[:, 1:], baseline], axis=3)
