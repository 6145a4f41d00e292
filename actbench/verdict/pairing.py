"""Proof that pairs are pairs."""

import polars as pl


def pairing_faults(table: pl.DataFrame, baseline: str) -> list[str]:
    """What is wrong with the pairing: arms whose weights or order are not the baseline's for the same seed.

    Weights are compared where both have as many parameters; an activation's own do not count.
    """
    wrong = []
    keys = ["dataset_name", "network_name", "seed"]
    base = table.filter(arm=baseline).select(*keys, "init_fingerprint", "order_fingerprint")
    for (arm,), own in table.filter(pl.col("arm") != baseline).group_by("arm", maintain_order=True):
        joined = own.join(base, on=keys, suffix="_base")
        for what, column in (("initial weights", "init_fingerprint"), ("batch order", "order_fingerprint")):
            differ = joined.filter(pl.col(column).ne_missing(pl.col(f"{column}_base")) | pl.col(column).is_null())
            if len(differ):
                wrong.append(f"{arm}: {len(differ)} seeds have another {what} than {baseline}, or an unknown one")
    return wrong
