import hashlib
import os
import stat
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from actbench.records import (
    COLUMNS,
    MECHANISM,
    RESULTS,
    RecordError,
    Store,
    files_by_seed,
    fingerprint,
    from_bytes,
    merge,
    read_records,
    same_results,
    to_bytes,
    to_frame,
    write_records,
)

EXAMPLES = {
    pl.String: "some text",
    pl.Int64: 7,
    pl.Float64: 0.1 + 0.2,
    pl.Boolean: False,
    pl.List(pl.Float64): [0.5, float("nan"), 0.25],
}


C0FFEE, DECAF = "c0ffee" * 5 + "c0", "decaf" * 6 + "de"  # hashes of cells


def records(seeds, cell=C0FFEE, **values):
    row = {name: EXAMPLES[column.type] for name, column in COLUMNS.items() if name not in MECHANISM}
    row |= {"epochs": 3, "factors": "{}"}
    row |= {key: [0.5, 0.25] for key in ("curve_x", "curve_y", "curve_slope")}
    row |= {"config": "{}", "swap": None, "cell": cell, **values}
    return to_frame({**row, "seed": seed} for seed in seeds)


def test_records_come_back_bit_for_bit(tmp_path):
    table = records(range(3), diverged_epoch=None)

    write_records(tmp_path / "records.parquet", table)

    assert read_records(tmp_path / "records.parquet").equals(table)
    assert pl.read_parquet(tmp_path / "records.parquet").equals(table)  # a plain Parquet file for everyone else
    assert [path.name for path in tmp_path.iterdir()] == ["records.parquet"]


def test_every_flipped_byte_is_noticed():
    content = to_bytes(records(range(6)))
    rng = np.random.default_rng(0)
    # A hundred places at random, and all of the checksum's neighbourhood.
    places = {*rng.choice(len(content), 100, replace=False).tolist(), *range(len(content) - 300, len(content))}

    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(RecordError):
            from_bytes(bytes(damaged))


@pytest.mark.parametrize("kept", [0, 4, 0.5, -1])
def test_a_shortened_file_is_noticed(kept):
    content = to_bytes(records(range(2)))
    kept = int(kept * len(content)) if isinstance(kept, float) else kept

    with pytest.raises(RecordError):
        from_bytes(content[:kept])


def test_a_foreign_file_is_refused(tmp_path):
    records(range(2)).write_parquet(tmp_path / "foreign.parquet")

    with pytest.raises(RecordError, match=r"foreign\.parquet: not written by actbench"):
        read_records(tmp_path / "foreign.parquet")


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "records.parquet"
    write_records(path, records([0]))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_records(path, records([1]))

    assert read_records(path)["seed"].to_list() == [0]
    assert [file.name for file in tmp_path.iterdir()] == ["records.parquet"]


def test_a_store_knows_its_seeds_without_reading(tmp_path):
    store = Store(tmp_path / "cells")
    first, second = store.write(records(range(6))), store.write(records(range(6, 8)))
    store.write(records(range(3), cell=DECAF))
    (tmp_path / "cells" / f".unfinished.x.{C0FFEE}_8-9.parquet").write_bytes(b"")

    files = store.files()
    assert files == {C0FFEE: [first, second], DECAF: [store.folder / f"{DECAF}_0-2.parquet"]}
    assert files_by_seed(files[C0FFEE], range(4, 20)) == {4: first, 5: first, 6: second, 7: second}


def test_the_first_of_the_files_that_have_a_seed_counts(tmp_path):
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    mine, theirs = here.write(records(range(2))), there.write(records(range(4)))

    found = Store(here.folder, there.folder).files()[C0FFEE]

    assert files_by_seed(found, range(4)) == {0: mine, 1: mine, 2: theirs, 3: theirs}


def test_a_file_under_another_cells_name_is_refused_and_set_aside(tmp_path):
    store = Store(tmp_path)
    path = store.write(records(range(3)))
    wrong = path.rename(tmp_path / f"{DECAF}_0-2.parquet")

    with pytest.raises(RecordError, match="belongs to other records"):
        store.read(wrong)
    aside = [store.set_aside(wrong).name]
    store.write(records(range(3), cell=DECAF))
    aside.append(store.set_aside(wrong).name)

    assert aside == [f"{DECAF}_0-2.damaged", f"{DECAF}_0-2.damaged1"]
    assert store.files() == {}


def test_files_have_the_permissions_that_the_user_lets_them_have(tmp_path):
    before = os.umask(0o027)
    try:
        path = Store(tmp_path).write(records(range(3)))
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("also", ["it", "itself by another path", "one folder twice"])
def test_merging_a_folder_with_itself_adds_nothing_twice(tmp_path, also):
    store = Store(tmp_path / "cells")
    for seed in range(3):
        store.write(records([seed]))
    others = {
        "it": [store],
        "itself by another path": [Store(tmp_path / "x" / ".." / "cells")],
        "one folder twice": [Store(tmp_path / "cells"), store],
    }[also]
    into = Store(tmp_path / "joined") if also == "one folder twice" else store

    added = merge(others, into)

    assert added == (3 if also == "one folder twice" else 0)
    names = sorted(path.name.partition("_")[2] for path in into.folder.iterdir())
    assert names == (["0-2.parquet"] if added else ["0-0.parquet", "1-1.parquet", "2-2.parquet"])


def test_fingerprints_follow_from_values_alone():
    text = '{"a":[1,2.5,null],"b":{"c":true,"d":"x"}}'  # keys sorted, no spaces

    assert (
        fingerprint({"b": {"d": "x", "c": True}, "a": [1, 2.5, None]})
        == (hashlib.sha256(text.encode()).hexdigest()[:32])
    )


def test_records_of_before_do_not_know_the_size_of_val():
    old = records(range(2)).drop("val_rows", "val_guess")

    read = from_bytes(to_bytes(old))

    assert read.columns == list(COLUMNS)
    assert read["val_rows"].null_count() == read["val_guess"].null_count() == 2
    assert same_results(read, records(range(2)))  # the size is the data's, not a result


@pytest.mark.parametrize("values", [{"val_rows": 0}, {"val_guess": 1.5}])
def test_a_val_that_no_data_have_is_refused(values):
    with pytest.raises(RecordError, match=f"{next(iter(values))} has a value outside"):
        from_bytes(to_bytes(records(range(2), **values)))


def test_results_are_the_same_whatever_they_cost(tmp_path):
    assert same_results(records([1]), records([1], epoch_time_s=99.0, device="another"))
    assert not same_results(records([1]), records([1], test_accuracy=0.3))
    assert {"seed", "test_accuracy", "init_fingerprint"} <= set(RESULTS)
    assert not {"epoch_time_s", "started", "threads", "config"} & set(RESULTS)


def test_merging_joins_stores(tmp_path):
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    here.write(records(range(3)))
    there.write(records(range(3), epoch_time_s=5.0))
    there.write(records(range(3, 6)))

    assert merge([there], here) == 1
    assert sorted(files_by_seed(here.files()[C0FFEE], range(100))) == list(range(6))
    assert merge([there], here) == 0


def test_merging_joins_files_of_seeds_that_follow_one_another(tmp_path, monkeypatch):
    monkeypatch.setattr("actbench.records.store.JOINED", 5)
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    here.write(records(range(2)))
    for seeds in (range(4), range(4, 6), range(6, 9), range(10, 12)):
        there.write(records(seeds))

    assert merge([there], here) == 4

    assert [path.stem.rpartition("_")[2] for path in sorted(here.folder.glob("*.parquet"))] == [
        "0-1",
        "10-11",
        "2-6",
        "7-8",
    ]
    seeds = {seed for path in here.folder.glob("*.parquet") for seed in here.read(path)["seed"]}
    assert sorted(seeds) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11]
    assert same_results(here.read(here.folder / f"{C0FFEE}_2-6.parquet"), records(range(2, 7)))


def test_merging_refuses_other_results_and_names_both(tmp_path):
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    mine, theirs = here.write(records(range(3))), there.write(records(range(2), test_accuracy=0.5))
    there.write(records(range(3, 6)))

    with pytest.raises(RecordError, match=f"{mine} and {theirs} have different results for seed 0"):
        merge([there], here)

    assert sorted(files_by_seed(here.files()[C0FFEE], range(100))) == [0, 1, 2]


def test_records_are_read_without_torch():
    code = "import sys, actbench.records; sys.exit(bool({'torch', 'pytorch_lightning'} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
