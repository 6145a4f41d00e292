"""Records and questions that no training made, for what follows from them."""

from itertools import product

import polars as pl
from made_studies import BARE

from actbench import records
from actbench.inference.verdict import PlannedArm, Question


def rows(arm, accuracies, *, dataset="Digits", network="MLP", first_seed=0, **columns):
    """Records of an arm, one seed after another; a score of None is a replicate that diverged."""
    made = []
    for seed, accuracy in enumerate(accuracies, first_seed):
        row = BARE | {
            "cell": records.fingerprint([dataset, network, arm]),
            "diverged_epoch": None,
            "seed": seed,
            "test_accuracy": 0.02 if accuracy is None else accuracy,
            "test_loss": 1 - (accuracy or 0),
            "test_ece": 0.1,
            "val_accuracy": accuracy,
            "val_loss": 1 - (accuracy or 0),
            "diverged": accuracy is None,
            "classes": 10,
            "epochs": 50,
            "epoch_time_s": 0.01,
            "peak_memory_mb": 900.0,
            "started": arm,
            "busy": False,
            "parameters": 100,
            "init_fingerprint": str(seed),
            "order_fingerprint": str(seed),
        }
        made.append(row | columns)
    table = records.to_frame(made)
    labels = {"arm": arm, "dataset_name": dataset, "network_name": network}
    return table.select(*(pl.lit(value).alias(name) for name, value in labels.items()), pl.all())


def question(arms=("relu", "swish"), datasets=("Digits",), networks=("MLP",), **settings):
    asked = [PlannedArm(*key, records.fingerprint([*key])) for key in product(datasets, networks, arms)]
    return Question(asked, "relu", **{"replicates": 8, **settings})


def tuning_table(scores):
    """Records of a tuning: by arm, val accuracies of two seeds at each value."""
    return pl.concat(
        [
            rows(arm, of).with_columns(pl.lit(value).alias("value"))
            for arm, by_value in scores.items()
            for value, of in by_value.items()
        ]
    )


SCORES = {
    "relu": {0.001: [0.90, 0.92], 0.01: [0.94, 0.94], 0.1: [0.1, 0.1]},
    "tanh": {0.001: [0.95, 0.95], 0.01: [0.90, 0.92], 0.1: [0.2, 0.2]},
}
