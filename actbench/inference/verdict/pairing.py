"""Proof that pairs are pairs."""

import polars as pl

from actbench.inference.verdict.question import Question

NETWORK = pl.col("factors").str.json_path_match("$.network")  # with its arguments


def pairing_faults(table: pl.DataFrame, baseline: str) -> list[str]:
    """What is wrong with the pairing: arms whose weights or order are not the baseline's for the same seed.

    Weights are compared where both have the same network, with the same
    arguments; an activation's own do not count. `other_networks` are the arms
    that are left out.
    """
    wrong = []
    for (arm,), joined in with_baseline(table, baseline):
        same = pl.col("network_spec").eq_missing(pl.col("network_spec_base"))
        compared = {"initial weights": ("init_fingerprint", same), "batch order": ("order_fingerprint", pl.lit(True))}
        for what, (column, counts) in compared.items():
            differ = pl.col(column).ne_missing(pl.col(f"{column}_base")) | pl.col(column).is_null()
            seeds = len(joined.filter(counts & differ))
            if seeds:
                wrong.append(f"{arm}: {seeds} seeds have another {what} than {baseline}, or an unknown one")
    return wrong


def planning_faults(table: pl.DataFrame, question: Question) -> list[str]:
    """Arms with records of other cells than were planned. What tuning has chosen is no part of the plan."""
    keys = ["dataset_name", "network_name", "arm", "cell"]
    planned = pl.DataFrame(list(question.asked), schema=keys, orient="row")
    foreign = table.join(planned, on=keys, how="anti")
    arms = [] if question.tune else foreign["arm"].unique(maintain_order=True).to_list()
    return [f"{arm}: {len(foreign.filter(arm=arm))} records are not of what was planned" for arm in arms]


def other_networks(table: pl.DataFrame, baseline: str) -> list[str]:
    """Arms with another network than the baseline's, whose weights cannot be the same."""
    other = pl.col("network_spec").ne_missing(pl.col("network_spec_base"))
    return [str(arm) for (arm,), joined in with_baseline(table, baseline) if len(joined.filter(other))]


def verified(table: pl.DataFrame, baseline: str) -> str:
    """What the fingerprints prove where nothing is wrong with them."""
    others = other_networks(table, baseline)
    left_out = f"; weights of their own, in another network: {', '.join(others)}" if others else ""
    return f"verified: same initial weights, split and batch order as {baseline}{left_out}"


def with_baseline(table: pl.DataFrame, baseline: str) -> "pl.dataframe.group_by.GroupBy":
    """Every other arm's records beside the baseline's of the same dataset, network and seed, by arm."""
    keys = ["dataset_name", "network_name", "seed"]
    known = table.with_columns(network_spec=NETWORK)
    base = known.filter(arm=baseline).select(*keys, "network_spec", "init_fingerprint", "order_fingerprint")
    joined = known.filter(pl.col("arm") != baseline).join(base, on=keys, suffix="_base", maintain_order="left")
    return joined.group_by("arm", maintain_order=True)
