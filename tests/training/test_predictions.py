from types import SimpleNamespace

import polars as pl
import pytest
import torch

from actbench.training.predictions import Prediction, class_names, prediction_table, write_predictions

PROBABILITIES = torch.tensor([[0.2, 0.8], [0.9, 0.1], [0.4, 0.6]])


def batches(rows, labels):
    """Two batches, with two rows and with one."""
    parts = [slice(0, 2), slice(2, 3)]
    return [
        Prediction(
            None if rows is None else rows[None, p], None if labels is None else labels[None, p], PROBABILITIES[None, p]
        )
        for p in parts
    ]


def test_rows_are_in_the_datasets_order():
    table = prediction_table(batches(torch.tensor([7, 2, 5]), torch.tensor([1, 1, 0])), [7])

    assert table.columns == ["seed", "index", "label", "predicted", "probability_0", "probability_1"]
    assert table["index"].to_list() == [2, 5, 7]
    assert table["label"].to_list() == [1, 0, 1]
    assert table["predicted"].to_list() == [0, 1, 1]
    assert table["probability_1"].to_list() == pytest.approx([0.1, 0.6, 0.8])


def test_the_predicted_class_is_named():
    table = prediction_table(batches(torch.tensor([7, 2, 5]), torch.tensor([1, 1, 0])), [7], ["cat", "caf\udcff"])

    assert table.columns[2:5] == ["label", "predicted", "predicted_class"]
    assert table["predicted_class"].to_list() == ["cat", "caf\\udcff", "caf\\udcff"]


def test_a_row_has_the_file_of_its_index_in_every_replicate():
    predictions = [Prediction(torch.tensor([[1, 2], [2, 0]]), None, PROBABILITIES[:2].expand(2, 2, 2))]

    table = prediction_table(predictions, [7, 8], files=["a.png", "b.png", "c\udcff.png"])

    assert table.columns[:4] == ["seed", "index", "file", "predicted"]
    assert table["file"].to_list() == ["b.png", "c\\udcff.png", "a.png", "c\\udcff.png"]


@pytest.mark.parametrize(
    ("classes", "names"),
    [(["cat", "dog"], ["cat", "dog"]), (("a", "b"), ["a", "b"]), (["cat"], None), ([0, 1], None), ("ab", None)],
)
def test_names_are_those_of_the_datamodule_if_each_class_has_one(classes, names):
    assert class_names(SimpleNamespace(classes=classes), 2) == names
    assert class_names(SimpleNamespace(), 2) is None


def test_without_labels_there_is_no_label():
    table = prediction_table(batches(None, None), [7])

    assert table.columns == ["seed", "index", "predicted", "probability_0", "probability_1"]
    assert table["index"].to_list() == [0, 1, 2]


def test_both_formats_hold_the_same_table_and_nothing_else_is_left(tmp_path):
    predictions = batches(torch.tensor([0, 1, 2]), torch.tensor([1, 1, 0]))

    write_predictions(predictions, [7], tmp_path / "made" / "p.csv")
    write_predictions(predictions, [7], tmp_path / "made" / "p.parquet")

    csv, parquet = pl.read_csv(tmp_path / "made" / "p.csv"), pl.read_parquet(tmp_path / "made" / "p.parquet")
    assert csv["index"].to_list() == parquet["index"].to_list() == [0, 1, 2]
    assert (csv["probability_0"] - parquet["probability_0"]).abs().max() < 1e-6
    assert sorted(file.name for file in (tmp_path / "made").iterdir()) == ["p.csv", "p.parquet"]
