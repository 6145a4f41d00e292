from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import FROM_FILES, Site, publish, serve, write_idx, write_mnist

from actbench import data


@pytest.mark.parametrize("name", FROM_FILES)
def test_a_folder_that_is_not_there_is_named(tmp_path, name):
    root = tmp_path / "nowhere"

    with pytest.raises(data.DataError) as error:
        getattr(data, name)(root=str(root)).prepare_data()

    assert f"the folder {root} was not found" in str(error.value)
    assert f"main.py fit --data {name} --data.root {root} --data.download true" in str(error.value)


def files_of(datamodule):
    return [Path(datamodule.root, file) for file in datamodule.files()]


@pytest.mark.parametrize("name", FROM_FILES)
def test_a_missing_file_is_named(make_data, name):
    datamodule = make_data(name)
    for path in files_of(datamodule):
        path.rename(path.with_suffix(".away"))

        with pytest.raises(data.DataError) as error:
            type(datamodule)(root=datamodule.root).prepare_data()

        assert f"{path} is missing; to fetch it: python main.py fit --data {name}" in str(error.value)
        assert "\n" not in str(error.value)
        path.with_suffix(".away").rename(path)


@pytest.mark.parametrize("name", ["CIFAR10", "SVHN"])
def test_an_archive_is_no_file_where_no_archives_are_read(make_data, name):
    datamodule = make_data(name)
    path = files_of(datamodule)[0]
    path.rename(f"{path}.gz")

    with pytest.raises(data.DataError, match=f"{path.name} is missing; to fetch it: "):
        type(datamodule)(root=datamodule.root).prepare_data()


DAMAGES = {
    "truncated": lambda content: content[:-7],
    "half": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "header only": lambda content: content[:6],
    "longer": lambda content: content + b"more",
    "garbage": lambda content: bytes(len(content)),
    "first byte": lambda content: bytes([content[0] ^ 255]) + content[1:],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FROM_FILES)
def test_a_damaged_file_is_named(make_data, name, damage):
    datamodule = make_data(name)
    for path in files_of(datamodule):
        content = path.read_bytes()
        path.write_bytes(DAMAGES[damage](content))

        with pytest.raises(data.DataError) as error:
            type(datamodule)(root=datamodule.root).prepare_data()

        assert f"{path} is damaged" in str(error.value)
        assert "\n" not in str(error.value)
        path.write_bytes(content)


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "SVHN"])
def test_one_wrong_pixel_is_found_where_a_sum_is_known(make_data, name):
    datamodule = make_data(name)
    path = files_of(datamodule)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    with pytest.raises(data.DataError, match=f"{path.name} is damaged: its MD5 sum is not"):
        type(datamodule)(root=datamodule.root).prepare_data()


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        ("train-labels-idx1-ubyte", np.arange(199) % 10, "train part has 200 images and 199 labels"),
        ("t10k-labels-idx1-ubyte", np.arange(50) % 11, "test part has labels from 0 to 10, not 0 to 9"),
        ("t10k-images-idx3-ubyte", np.zeros((50, 27, 28)), r"shape \(1, 27, 28\), not \(1, 28, 28\)"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(tmp_path, file, array, message):
    write_mnist(tmp_path)
    write_idx(tmp_path / "MNIST" / "raw" / file, array)

    with pytest.raises(data.DataError, match=f"MNIST in {tmp_path} is damaged: its .*{message}"):
        data.MNIST(root=str(tmp_path)).prepare_data()


def test_an_empty_dataset_is_refused(tmp_path):
    write_mnist(tmp_path, rows=0)

    with pytest.raises(data.DataError, match="train-images-idx3-ubyte is damaged: its header says that it is empty"):
        data.MNIST(root=str(tmp_path)).prepare_data()


def test_a_file_that_may_not_be_read_is_named(make_data, monkeypatch):
    def refuse(self, root, part):
        raise PermissionError(13, "Permission denied", str(root / part))

    datamodule = make_data("CIFAR10")
    monkeypatch.setattr(data.CIFAR10, "read_part", refuse)

    with pytest.raises(data.DataError, match=r"CIFAR10 in .* cannot be read: .*Permission denied: '.*train'"):
        data.CIFAR10(root=datamodule.root).prepare_data()


def test_old_files_of_torchvision_are_not_taken_for_the_dataset(make_data):
    datamodule = make_data("MNIST")
    processed = Path(datamodule.root, "MNIST", "processed")
    processed.mkdir()
    for file in ("training.pt", "test.pt"):
        torch.save((torch.zeros(1, 28, 28, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)), processed / file)

    assert len(make_data("MNIST").tables[0].labels) == 200


# --- download ---


@pytest.mark.parametrize("name", FROM_FILES)
def test_a_download_that_breaks_off_leaves_nothing_and_the_next_succeeds(make_data, tmp_path, monkeypatch, name):
    original = make_data(name)
    root, site = tmp_path / "root", tmp_path / "site"
    site.mkdir()
    with serve(site) as url:
        names = publish(name, Path(original.root), site, url, monkeypatch)
        datamodule = getattr(data, name)(root=str(root), download=True)

        monkeypatch.setattr(Site, "broken", names[-1:])
        with pytest.raises(data.DataError) as error:
            datamodule.prepare_data()
        left = list(root.iterdir())
        monkeypatch.setattr(Site, "broken", ())
        datamodule.prepare_data()

    assert f"{name} could not be downloaded to {root}: " in str(error.value)
    assert "\n" not in str(error.value)
    assert left == []
    assert {path for path in root.rglob("*") if path.is_file()} == set(files_of(datamodule))
    getattr(data, name)(root=str(root), download=True).prepare_data()  # the site is gone: nothing is fetched
    for ours, theirs in zip(datamodule.tables, original.tables, strict=True):
        assert ours.images.equal(theirs.images)
        assert ours.labels.equal(theirs.labels)


@pytest.mark.parametrize("name", ["MNIST", "CIFAR10", "SVHN"])
def test_download_mends_a_damaged_file(make_data, tmp_path, monkeypatch, name):
    datamodule, site = make_data(name), tmp_path / "site"
    site.mkdir()
    with serve(site) as url:
        publish(name, Path(datamodule.root), site, url, monkeypatch)
        files_of(datamodule)[1].write_bytes(b"damaged")

        mended = type(datamodule)(root=datamodule.root, download=True)
        mended.prepare_data()

    assert mended.tables[0].images.equal(datamodule.tables[0].images)
    assert len(make_data(name).tables) == 2


def test_a_site_that_cannot_be_reached_is_said_in_one_line(make_data, tmp_path, monkeypatch):
    original, site = make_data("CIFAR10"), tmp_path / "site"
    site.mkdir()
    with serve(site) as url:
        publish("CIFAR10", Path(original.root), site, url, monkeypatch)

    with pytest.raises(data.DataError, match=r"CIFAR10 could not be downloaded to .*Connection refused"):
        data.CIFAR10(root=str(tmp_path / "root"), download=True).prepare_data()


def test_an_interrupted_download_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(self, folder):
        Path(folder, "part").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(data.MNIST, "fetch", interrupted)

    with pytest.raises(KeyboardInterrupt):
        data.MNIST(root=str(tmp_path), download=True).prepare_data()

    assert list(tmp_path.iterdir()) == []


def test_files_are_read_once(make_data, monkeypatch):
    datamodule = make_data("MNIST")
    monkeypatch.setattr(data.MNIST, "read", lambda self: pytest.fail("read again"))

    datamodule.prepare_data()
    datamodule.setup("test")


def test_a_process_that_prepared_nothing_reads_for_itself(make_data):
    prepared = make_data("MNIST")
    other = data.MNIST(root=prepared.root)

    other.setup("fit")

    assert other.parts["val"].rows.equal(prepared.parts["val"].rows)
