"""Proof that pairs are pairs: the same initial weights, split and batch order for the same seed."""

import polars as pl

from actbench.inference.verdict.question import Question

NETWORK = pl.concat_str(  # with its arguments, and the digest of the file from which it starts
    pl.col("factors").str.json_path_match("$.network"),
    pl.col("factors").str.json_path_match("$.initial_weights").fill_null(""),
    separator=" ",
)


def pairing_faults(table: pl.DataFrame, baseline: str) -> list[str]:
    """Arms whose initial weights or batch order are not the baseline's for the same seed, a line for each fault.

    Weights are compared where both arms have the same network with the same
    arguments, and start from the same file if from any, apart from those of the
    activation; `other_networks` gives the arms without such a comparison.
    """
    faults = []
    for (arm,), joined in with_baseline(table, baseline):
        same = pl.col("network_spec").eq_missing(pl.col("network_spec_base"))
        checks = {"initial weights": ("init_fingerprint", same), "batch order": ("order_fingerprint", pl.lit(True))}
        for quantity, (column, counts) in checks.items():
            differ = pl.col(column).ne_missing(pl.col(f"{column}_base")) | pl.col(column).is_null()
            seeds = len(joined.filter(counts & differ))
            if seeds:
                faults.append(f"{arm}: {seeds} seeds have another {quantity} than {baseline}, or an unknown one")
    return faults


def planning_faults(table: pl.DataFrame, question: Question) -> list[str]:
    """Arms with records of cells that were not planned. Values chosen by tuning are not part of the plan."""
    keys = ["dataset_name", "network_name", "arm", "cell"]
    planned = pl.DataFrame(list(question.asked), schema=keys, orient="row")
    foreign = table.join(planned, on=keys, how="anti")
    arms = [] if question.tune else foreign["arm"].unique(maintain_order=True).to_list()
    return [f"{arm}: {len(foreign.filter(arm=arm))} records are not of what was planned" for arm in arms]


def other_networks(table: pl.DataFrame, baseline: str) -> list[str]:
    """Arms with another network than the baseline's, or another file of initial weights, which cannot be the same."""
    other = pl.col("network_spec").ne_missing(pl.col("network_spec_base"))
    return [str(arm) for (arm,), joined in with_baseline(table, baseline) if len(joined.filter(other))]


def pairing_sentence(table: pl.DataFrame, baseline: str) -> str:
    """A sentence on what the fingerprints prove, where `pairing_faults` are none."""
    others = other_networks(table, baseline)
    left_out = f"; weights of their own, in another network or from another file: {', '.join(others)}" if others else ""
    return f"verified: same initial weights, split and batch order as {baseline}{left_out}"


def with_baseline(table: pl.DataFrame, baseline: str) -> "pl.dataframe.group_by.GroupBy":
    """Records of every other arm, grouped by arm, beside the baseline's of the same dataset, network and seed."""
    keys = ["dataset_name", "network_name", "seed"]
    records = table.with_columns(network_spec=NETWORK)
    base = records.filter(arm=baseline).select(*keys, "network_spec", "init_fingerprint", "order_fingerprint")
    joined = records.filter(pl.col("arm") != baseline).join(base, on=keys, suffix="_base", maintain_order="left")
    return joined.group_by("arm", maintain_order=True)
