"""What the columns of a published table may be called."""

import re

COLUMNS = {
    "name": "name of the row, each once in a dataset; by default the first column",
    "dataset": "name of the dataset, if the table has several",
    "mean": "mean score over the runs; decimals count, since 87.5 and 87.50 imply different rounding",
    "sd": "standard deviation over the runs; without any spread, a row is a fixed number, as from the literature",
    "se": "instead of sd, the standard error of the mean",
    "ci": "instead of sd, the half-width of the mean's interval",
    "n": "number of runs, that is, seeds",
    "ci_low": "lower bound of the interval of the difference between the row and the baseline",
    "ci_high": "upper bound",
    "p": "p-value of an unpaired t test against the baseline, before any correction; may be <0.001",
    "effect": "Cohen's d or Hedges' g against the baseline",
}
ALIASES = {
    "name": ("activation", "activation function", "model", "method", "algorithm", "network", "function"),
    "dataset": ("data", "data set", "task", "benchmark"),
    "mean": ("accuracy", "acc", "score", "mean accuracy", "test accuracy", "test acc"),
    "sd": ("std", "stdev", "stddev", "std dev", "st dev", "standard deviation", "σ"),
    "se": ("sem", "stderr", "std err", "std error", "standard error"),
    "ci": ("half width", "ci half width"),
    "n": ("runs", "seeds", "trials", "replicates"),
    "ci low": (),  # lower and upper bounds under other names are mostly those of the mean
    "ci high": (),
    "p": ("p value", "pvalue"),
    "effect": ("effect size", "cohens d", "hedges g"),
}
MEANINGS = {alias: name.replace(" ", "_") for name, aliases in ALIASES.items() for alias in (name, *aliases)}


def column_name(cell: str) -> str:
    """The name of a column in lower case, without punctuation and per cent sign."""
    return " ".join(re.sub(r"[_.\-]", " ", re.sub(r"[(\[]?%[)\]]?|['’]", "", cell.lower())).split())
