"""What measuring the mechanism adds to a fit: its share of the time of the rest, as medians over whole fits.

    python benchmarks/mechanism.py                                # TutorialCNN on the digits, a minute on two cores

The measurements are timed inside of each fit, so that both sides meet whatever else the machine does.
"""

import argparse
import statistics
import time
from typing import Any

from pytorch_lightning import Trainer

from actbench import data
from actbench.training.classifier import Classifier
from actbench.training.mechanism import Mechanism
from actbench.training.threads import choose_threads, prepare_process


class TimedMechanism(Mechanism):
    """A mechanism that adds up the seconds that it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.times_s: list[float] = []

    def _measure(self, trainer: Trainer, classifier: Any, epoch: int) -> None:
        start = time.perf_counter()
        super()._measure(trainer, classifier, epoch)
        self.times_s.append(time.perf_counter() - start)


def timed_fit(activation: str, replicates: int, epochs: int, engine: Any) -> tuple[float, list[float]]:
    """Seconds of a fit without its measurements, and of each of these."""
    images = data.Digits(replicates=replicates)
    images.setup()
    model = Classifier(activation, replicates=replicates, engine=engine, input_shape=(1, 8, 8), num_classes=10)
    model.mechanism = timed = TimedMechanism()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    prepare_process()
    choose_threads(trainer, model, images)
    start = time.perf_counter()
    trainer.fit(model, images)
    return time.perf_counter() - start - sum(timed.times_s), timed.times_s


def main() -> None:
    """Time fits, and print what measuring adds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activation", default="relu")
    parser.add_argument("--replicates", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--engine", default="auto")
    chosen = parser.parse_args()
    fits = [
        timed_fit(chosen.activation, chosen.replicates, chosen.epochs, chosen.engine) for _ in range(chosen.repetitions)
    ]
    shares = sorted(100 * sum(times_s) / rest_s for rest_s, times_s in fits)
    each = statistics.median(1000 * value for _, times_s in fits for value in times_s)
    rest = statistics.median(rest_s for rest_s, _ in fits)
    print(
        f"{len(fits[0][1])} measurements of {each:.1f} ms (median) in a fit of {rest:.2f} s: "
        f"{statistics.median(shares):.1f} % ({shares[0]:.1f} to {shares[-1]:.1f}) more time"
    )


if __name__ == "__main__":
    main()
