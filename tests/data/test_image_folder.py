import io
import os
import pty
import re
import select
import shutil
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from pytorch_lightning import Trainer
from torchvision import datasets, transforms

from actbench import data
from actbench.cli import main
from actbench.data import decoding, folders, image_folder
from actbench.seeding import stream
from actbench.training.classifier import Classifier

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def caches(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("caches")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def said(monkeypatch):
    """Lines that are shown."""
    lines = []
    for module in (image_folder, decoding):
        monkeypatch.setattr(module, "rank_zero_info", lines.append)
    return lines


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def write_picture(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def write_pictures(root, rng, count=12, classes=("cat", "dog"), shape=(8, 8, 3), suffix="png"):
    for name in classes:
        for number in range(count):
            write_picture(root / name / f"{number:02d}.{suffix}", rng.integers(0, 256, shape, dtype=np.uint8))


def read(root, **options):
    datamodule = data.ImageFolder(str(root), **options)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def first_picture(root, pixels, rng, *, name="aa.png", options=None, **save):
    """How ImageFolder reads one picture that is put among others."""
    write_pictures(root, rng)
    path = root / "cat" / name
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **save)
    datamodule = data.ImageFolder(str(root), **(options or {}))
    row = [picture.path for picture in datamodule.pictures].index(f"cat/{name}")
    datamodule.prepare_data()
    return datamodule.tables[0].images[row]


# --- pixels ---


@pytest.mark.parametrize("size", [32, 7, 50])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_torchvision(tmp_path, rng, size, channels):
    for number, (height, width) in enumerate([(40, 60), (61, 33), (32, 32), (9, 200), (1, 1), (31, 32)]):
        for name in ("cat", "dog"):
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            write_picture(tmp_path / name / "deep" / f"{number}.JPG", pixels, format="JPEG")
    for name in ("cat", "dog"):
        write_picture(tmp_path / name / "z.png", rng.integers(0, 256, (20, 30, 4), dtype=np.uint8))

    steps = [transforms.Resize(size), transforms.CenterCrop(size), transforms.PILToTensor()]
    expected = datasets.ImageFolder(
        str(tmp_path),
        transforms.Compose(steps),
        loader=lambda path: Image.open(path).convert("L" if channels == 1 else "RGB"),
    )
    (table,) = data.ImageFolder(str(tmp_path), image_size=size, channels=channels).read()

    assert table.labels.tolist() == expected.targets
    for ours, (theirs, _) in zip(table.images, expected, strict=True):
        assert ours.equal(theirs)


def test_height_and_width_are_covered_and_the_centre_is_kept(tmp_path, rng):
    pixels = rng.integers(0, 256, (20, 40, 3), dtype=np.uint8)

    image = first_picture(tmp_path, pixels, rng, options={"image_size": [10, 30]})

    covering = Image.fromarray(pixels).resize((30, 15), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(image.permute(1, 2, 0), np.asarray(covering)[2:12])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path, rng, orientation):
    upright = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    stored = {  # of the EXIF standard: where row 0 and column 0 of the file are
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation

    image = first_picture(tmp_path, np.ascontiguousarray(stored), rng, exif=exif)

    np.testing.assert_array_equal(image.permute(1, 2, 0), upright)


def test_a_picture_on_its_side_has_its_upright_size(tmp_path, rng):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("cat", "dog"):
        write_picture(tmp_path / name / "0.jpg", rng.integers(0, 256, (8, 12, 3), dtype=np.uint8), exif=exif)

    datamodule = data.ImageFolder(str(tmp_path))

    assert datamodule.input_shape == (3, 12, 8)
    assert datamodule.read()[0].images.shape == (2, 3, 12, 8)


@pytest.mark.parametrize("name", ["aa.png", "aa.tif", "aa.pgm"])
def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path, rng, name):
    pixels = rng.integers(0, 65536, (8, 8), dtype=np.uint16)
    pixels[0, :3] = 0, 65535, 256

    image = first_picture(tmp_path, pixels, rng, name=name, options={"channels": 1})

    np.testing.assert_array_equal(image[0], np.round(pixels / 65535 * 255))


def test_palettes_transparency_and_black_and_white_are_read_as_pillow_reads_them(tmp_path, rng):
    pixels = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    kinds = {f"{mode}.tif": pixels.convert(mode) for mode in ("P", "1", "L", "LA", "RGBA", "CMYK")}
    write_pictures(tmp_path, rng, count=1)
    for name, picture in kinds.items():
        picture.save(tmp_path / "cat" / name)

    datamodule = data.ImageFolder(str(tmp_path))
    (table,) = datamodule.read()

    rows = {picture.path: row for row, picture in enumerate(datamodule.pictures)}
    for name, picture in kinds.items():
        np.testing.assert_array_equal(table.images[rows[f"cat/{name}"]].permute(1, 2, 0), picture.convert("RGB"))


def test_an_animation_is_its_first_frame(tmp_path, rng):
    frames = [Image.fromarray(np.full((8, 8, 3), value, dtype=np.uint8)) for value in (10, 200)]

    image = first_picture(
        tmp_path, frames[0], rng, name="aa.webp", save_all=True, append_images=frames[1:], lossless=True
    )

    assert (image == 10).all()


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_known_white_are_refused(tmp_path, rng, mode):
    picture = Image.fromarray(np.full((8, 8), 70000, dtype=np.int32)).convert(mode)

    with pytest.raises(data.DataError, match=r"aa\.tif' cannot be read as a picture"):
        first_picture(tmp_path, picture, rng, name="aa.tif")


def test_the_extensions_are_those_of_torchvision():
    assert folders.EXTENSIONS == datasets.folder.IMG_EXTENSIONS


# --- parts ---


def test_without_parts_the_split_is_stratified_and_keyed_by_the_seed(tmp_path, rng):
    write_pictures(tmp_path, rng, count=20)

    one, same, other = (read(tmp_path, seed=seed) for seed in (1, 1, 2))

    for part, count in {"train": 14, "val": 3, "test": 3}.items():
        rows = one.parts[part].rows[0]
        assert one.tables[0].labels[rows].bincount().tolist() == [count, count]
        assert rows.equal(same.parts[part].rows[0])
    assert not one.parts["train"].rows.equal(other.parts["train"].rows)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_folders_of_parts_are_the_parts(tmp_path, rng, val):
    for part in ("train", val, "test"):
        write_pictures(tmp_path / part, rng, count={"train": 6, "test": 4}.get(part, 2))

    datamodule = read(tmp_path, replicates=2)

    for part, folder in {"train": "train", "val": val, "test": "test", "predict": "test"}.items():
        (batch,) = getattr(datamodule, f"{part}_dataloader")()
        images, labels, rows = datamodule.transfer_batch_to_device(batch, CPU, 0)
        expected = datasets.ImageFolder(str(tmp_path / folder), transforms.ToTensor())
        assert images.shape[1] == len(expected)
        for image, label, row in zip(images[1], labels[1], rows[1], strict=True):
            assert (image.equal(expected[row][0]), int(label)) == (True, expected[row][1])


def test_a_missing_val_is_split_off_train(tmp_path, rng):
    write_pictures(tmp_path / "train", rng, count=20)
    write_pictures(tmp_path / "test", rng, count=4)

    datamodule = read(tmp_path, val_fraction=0.25)

    assert [datamodule.parts[part].rows.shape[1] for part in ("train", "val", "test")] == [30, 10, 8]
    assert [datamodule.parts[part].table for part in ("train", "val", "test")] == [0, 0, 1]


def test_a_missing_test_is_split_off_train_and_said(tmp_path, rng):
    write_pictures(tmp_path / "train", rng, count=20)
    write_pictures(tmp_path / "val", rng, count=4)

    datamodule = read(tmp_path, test_fraction=0.25)

    assert "no folder test, so test_fraction 0.25" in datamodule.findings[0]
    assert [datamodule.parts[part].rows.shape[1] for part in ("train", "val", "test")] == [30, 8, 10]
    assert [datamodule.parts[part].table for part in ("train", "val", "test")] == [0, 1, 0]


def no_folder(root, rng):
    root.rmdir()


def one_class(root, rng):
    write_pictures(root, rng, classes=["cat"])


def pictures_alone(root, rng):
    write_picture(root / "a.png", np.zeros((8, 8, 3), dtype=np.uint8))


def two_vals(root, rng):
    for part in ("train", "val", "valid"):
        write_pictures(root / part, rng)


def class_in_test_alone(root, rng):
    write_pictures(root / "train", rng)
    write_pictures(root / "test", rng, classes=["cat", "cow"])


def class_without_pictures(root, rng):
    write_pictures(root, rng)
    (root / "cow").mkdir()
    (root / "cow" / "a.txt").touch()


def part_without_pictures(root, rng):
    write_pictures(root / "train", rng)
    (root / "test" / "cat").mkdir(parents=True)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (no_folder, "the folder .*pictures was not found"),
        (one_class, "must have folders for two or more classes, and has only cat"),
        (pictures_alone, "must have folders for two or more classes, and has none"),
        (two_vals, "val and .*valid are both the val part"),
        (class_in_test_alone, "class 'cow' is in .*test, but not in .*train"),
        (class_without_pictures, "cow has no picture; pictures end in .jpg"),
        (part_without_pictures, "test has no picture"),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_refused_at_once(tmp_path, rng, prepare, message):
    root = tmp_path / "pictures"
    root.mkdir()
    prepare(root, rng)

    with pytest.raises(data.DataError, match=message) as error:
        data.ImageFolder(str(root))

    assert "\n" not in str(error.value)


def test_a_class_that_is_not_tested_is_said(tmp_path, rng):
    write_pictures(tmp_path / "train", rng)
    write_pictures(tmp_path / "test", rng, classes=["dog"])

    assert read(tmp_path).findings == ["the test part has no picture of class 'cat'"]


def test_too_few_pictures_of_a_class_are_named(tmp_path, rng):
    write_pictures(tmp_path, rng)
    write_pictures(tmp_path, rng, count=1, classes=["cow"])

    with pytest.raises(data.DataError, match="the val part has no picture of class 'cow'"):
        read(tmp_path)


def test_equal_pictures_in_two_parts_are_counted_and_a_pair_is_named(tmp_path, rng):
    for part in ("train", "test"):
        write_pictures(tmp_path / part, rng)
    shutil.copy(tmp_path / "train/cat/03.png", tmp_path / "test/dog/x.png")
    shutil.copy(tmp_path / "train/cat/03.png", tmp_path / "train/cat/within.png")
    Image.open(tmp_path / "train/cat/04.png").save(tmp_path / "test/cat/x.bmp")

    for _ in range(2):  # also when the decoded pictures are read again
        (line,) = read(tmp_path).findings
        assert line == (
            "pictures in two parts that are equal in every pixel: 2, as 'train/cat/04.png' and 'test/cat/x.bmp'"
        )


# --- files ---


def test_other_files_are_left_out_and_counted(tmp_path, rng):
    write_pictures(tmp_path, rng)
    for name in ("cat/a.txt", "cat/b.TXT", "dog/Thumbs.db", "dog/.DS_Store", "cat/._00.png", "README"):
        (tmp_path / name).write_text("no picture")

    datamodule = read(tmp_path)

    assert len(datamodule.pictures) == 24
    message, _, counts = datamodule.findings[0].rpartition(": ")
    assert message == "what is no picture was left out"
    counts = counts.split(", ")
    assert sorted(counts) == ["1 .db", "1 without extension", "2 .txt", "2 hidden"]


def truncated(path):
    path.write_bytes(path.read_bytes()[:-40])


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("no picture")


def dangling(path):
    path.unlink()
    path.symlink_to("nowhere.png")


def bomb(path):
    Image.new("1", (20000, 20000)).save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "cannot be read as a picture"),
        (empty, "is empty"),
        (text, "cannot be read as a picture"),
        (dangling, "cannot be read as a picture"),
        (bomb, "exceeds limit of 178956970 pixels"),
    ],
)
def test_a_damaged_file_is_named_or_left_out(tmp_path, rng, damage, message):
    write_pictures(tmp_path, rng)
    before = read(tmp_path).tables[0].images.clone()
    path = tmp_path / "dog" / "03.png"
    damage(path)

    with pytest.raises(data.DataError, match=rf"dog/03\.png' .*{message}.*--data.skip_damaged true"):
        read(tmp_path)
    for _ in range(2):  # decoded, and read back
        datamodule = read(tmp_path, skip_damaged=True)
        assert datamodule.findings == ["damaged pictures left out: 1 of 24, the first 'dog/03.png'"]

    assert datamodule.tables[0].images.equal(torch.cat([before[:15], before[16:]]))
    assert datamodule.tables[0].labels.tolist() == [0] * 12 + [1] * 11


def test_a_damaged_first_file_is_named_by_the_constructor_or_left_out(tmp_path, rng):
    write_pictures(tmp_path, rng)
    empty(tmp_path / "cat" / "00.png")

    with pytest.raises(data.DataError, match=r"cat/00\.png' .*skip_damaged"):
        data.ImageFolder(str(tmp_path))

    assert data.ImageFolder(str(tmp_path), skip_damaged=True).input_shape == (3, 8, 8)


def test_two_sizes_are_named_unless_a_size_is_given(tmp_path, rng):
    write_pictures(tmp_path, rng)
    write_picture(tmp_path / "dog" / "z.png", np.zeros((9, 7, 3), dtype=np.uint8))

    with pytest.raises(data.DataError, match=r"several sizes, such as 8x8 and 9x7 .*dog/z\.png'.*--data.image_size"):
        read(tmp_path)

    assert read(tmp_path, image_size=8).input_shape == (3, 8, 8)


def test_names_may_be_strange_and_links_are_followed_once(tmp_path, rng):
    write_pictures(tmp_path / "r", rng, count=4, classes=["a b", "dög\n"])
    write_pictures(tmp_path / "elsewhere", rng, count=3, classes=["more"])
    (tmp_path / "r" / "a b" / "link").symlink_to(tmp_path / "elsewhere" / "more")
    (tmp_path / "r" / "a b" / "back").symlink_to(tmp_path / "r" / "a b")
    (tmp_path / "r" / ".hidden").mkdir()

    datamodule = read(tmp_path / "r", val_fraction=0.25, test_fraction=0.25)

    assert datamodule.classes == ["a b", "dög\n"]
    assert datamodule.tables[0].labels.tolist() == [0] * 7 + [1] * 4


# --- decoded once ---


def forbid(monkeypatch):
    monkeypatch.setattr(decoding, "read_picture", lambda *args: pytest.fail("decoded again"))


def test_pictures_are_decoded_once_and_mapped_into_memory(tmp_path, rng, monkeypatch, caches):
    write_pictures(tmp_path, rng)
    first = read(tmp_path)
    forbid(monkeypatch)

    again = read(tmp_path)

    assert again.tables[0].images.equal(first.tables[0].images)
    assert again.digest() == first.digest()
    (file,) = caches.rglob("*.npy")
    assert np.load(file, allow_pickle=False).shape == (24, 3, 8, 8)
    assert str(file) in Path("/proc/self/maps").read_text()


def touch(path):
    os.utime(path, ns=(1, 1))


def repaint(path):
    """Other pixels in a file of the same size and time."""
    stat = path.stat()
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "bmp")
    path.write_bytes(buffer.getvalue())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def add(path):
    shutil.copy(path, path.with_name("zz.bmp"))


def remove(path):
    path.unlink()


def rename(path):
    path.rename(path.with_name("zz.bmp"))


@pytest.mark.parametrize("change", [touch, repaint, add, remove, rename])
def test_a_change_is_noticed(tmp_path, rng, said, change):
    write_pictures(tmp_path, rng, suffix="bmp")
    read(tmp_path)
    change(tmp_path / "cat" / "05.bmp")

    (table,) = data.ImageFolder(str(tmp_path)).read()

    assert re.search("also has 4,736 bytes for earlier pictures .*may be deleted", said[-1])
    expected = datasets.ImageFolder(str(tmp_path), transforms.PILToTensor())
    assert table.labels.tolist() == expected.targets
    for ours, (theirs, _) in zip(table.images, expected, strict=True):
        assert ours.equal(theirs)


def test_other_options_do_not_share_a_file(tmp_path, rng, caches):
    write_pictures(tmp_path, rng)
    options = [{}, {"channels": 1}, {"image_size": 8}, {"image_size": [8, 6]}, {"skip_damaged": True}]

    for option in options:
        read(tmp_path, **option)

    assert len(list(caches.rglob("*.npy"))) == len(options)


def test_an_interrupted_start_leaves_nothing_and_the_next_succeeds(tmp_path, rng, monkeypatch, caches):
    write_pictures(tmp_path, rng)
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "progress_of", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            read(tmp_path)
    assert not [path for path in caches.rglob("*") if path.is_file() and path.suffix != ".lock"]

    assert len(read(tmp_path).tables[0].images) == 24


def test_two_that_start_at_once_decode_once(tmp_path, rng, monkeypatch):
    write_pictures(tmp_path, rng)
    calls = []
    decode = decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda *args, **options: calls.append(1) or decode(*args, **options))
    modules = [data.ImageFolder(str(tmp_path)) for _ in range(3)]
    threads = [threading.Thread(target=module.prepare_data) for module in modules]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(calls) == 1
    assert len({module.digest() for module in modules}) == 1


def test_the_folder_of_pictures_is_left_as_it_is(tmp_path, rng):
    write_pictures(tmp_path / "r", rng)
    before = sorted((tmp_path / "r").rglob("*"))

    read(tmp_path / "r")
    read(tmp_path / "r", cache=str(tmp_path / "own"))

    assert sorted((tmp_path / "r").rglob("*")) == before
    assert len(list((tmp_path / "own").rglob("*.npy"))) == 1


def test_a_cache_that_cannot_be_written_is_named(tmp_path, rng):
    write_pictures(tmp_path / "pictures", rng)
    (tmp_path / "file").touch()

    with pytest.raises(data.DataError, match=r"cannot be kept in .*file.*give --data\.cache"):
        read(tmp_path / "pictures", cache=str(tmp_path / "file"))


def test_too_large_for_memory_or_disk_is_said_beforehand_with_both_numbers(tmp_path, rng, monkeypatch, said):
    write_pictures(tmp_path, rng)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(5000, 1000, 4000))
        with pytest.raises(data.DataError, match=r"take 4,608 bytes, and .* has 4,000 left"):
            read(tmp_path)
    monkeypatch.setattr(decoding, "available_memory", lambda: 4607)

    read(tmp_path)

    assert "take 4,608 bytes, and 4,607 bytes of memory are available" in said[0]


V1, V2 = (
    ("memory/", "limit_in_bytes", "usage_in_bytes", "total_inactive_file"),
    ("", "max", "current", "inactive_file"),
)


def write_group(root, version, path, *, limit, used, cached=0):
    controller, limit_name, used_name, cached_name = version
    group = root / "sys/fs/cgroup" / controller / path
    group.mkdir(parents=True, exist_ok=True)
    (group / f"memory.{limit_name}").write_text(f"{limit}\n")
    (group / f"memory.{used_name}").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 1\n{cached_name} {cached}\nfile 3\n")


@pytest.mark.parametrize(
    ("version", "line", "unlimited"),
    [(V2, "0::/a/job", "max"), (V1, "4:memory:/a/job", 2**63 - 4096)],
    ids=["v2", "v1"],
)
def test_the_limit_of_memory_is_that_of_the_processs_groups(tmp_path, version, line, unlimited):
    (tmp_path / "proc/self").mkdir(parents=True)
    assert decoding.available_memory(tmp_path) is None
    (tmp_path / "proc/meminfo").write_text("MemTotal:  900 kB\nMemFree:  7 kB\nMemAvailable:  800 kB\n")
    assert decoding.available_memory(tmp_path) == 800 * 1024
    (tmp_path / "proc/self/cgroup").write_text(f"9:cpu,cpuacct:/other\n{line}\n1:name=systemd:/other\n")
    write_group(tmp_path, version, "other", limit=1, used=0)

    write_group(tmp_path, version, "a/job", limit=unlimited, used=10)
    assert decoding.available_memory(tmp_path) == 800 * 1024
    write_group(tmp_path, version, "a/job", limit=5000, used=3000, cached=700)
    assert decoding.available_memory(tmp_path) == 2700
    write_group(tmp_path, version, "a", limit=4000, used=3500)  # a group is also bound by those around it
    assert decoding.available_memory(tmp_path) == 500


def test_within_a_container_the_limit_is_at_the_top(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/docker/0123\n")  # the path outside of the container
    write_group(tmp_path, V1, "", limit=5000, used=1000)

    assert decoding.available_memory(tmp_path) == 4000


# --- processes and the terminal ---


def decode_slowly(root, cache, taken):
    """In a process of its own: read pictures, each of which takes a while, and say whether they were decoded here."""
    read_one = decoding.read_picture

    def read_slowly(*args):
        time.sleep(0.02)
        return read_one(*args)

    decoding.read_picture = read_slowly
    decode, calls = decoding.decode, []
    decoding.decode = lambda *args, **options: calls.append(1) or decode(*args, **options)
    datamodule = data.ImageFolder(root, cache=cache)
    datamodule.prepare_data()
    taken.put((len(calls), datamodule.digest()))


def test_of_two_processes_that_start_at_once_one_decodes(tmp_path, rng, forked, caches):
    write_pictures(tmp_path, rng, count=60)
    taken = forked.Queue()
    processes = [forked.Process(target=decode_slowly, args=(str(tmp_path), str(caches), taken)) for _ in range(2)]

    for process in processes:
        process.start()
    results = [taken.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)

    assert sorted(calls for calls, _ in results) == [0, 1]
    assert len({digest for _, digest in results}) == 1
    assert results[0][1] == read(tmp_path).digest()


def test_after_a_process_that_was_killed_the_next_decodes(tmp_path, rng, forked, caches):
    write_pictures(tmp_path, rng, count=500)
    taken = forked.Queue()
    killed = forked.Process(target=decode_slowly, args=(str(tmp_path), str(caches), taken))
    killed.start()
    deadline = time.monotonic() + 60
    while not list(caches.rglob(".unfinished.*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.kill()
    killed.join()
    assert list(caches.rglob(".unfinished.*"))

    (table,) = data.ImageFolder(str(tmp_path), cache=str(caches)).read()

    assert len(table.images) == 1000
    assert not list(caches.rglob(".unfinished.*"))


def test_on_a_terminal_decoding_has_a_bar_with_the_time_left(tmp_path, rng, forked, caches):
    write_pictures(tmp_path, rng, count=100)
    ours, theirs = pty.openpty()
    process = forked.Process(target=decode_on, args=(os.ttyname(theirs), str(tmp_path), str(caches)))
    process.start()
    shown = b""
    while b"200/200" not in shown and select.select([ours], [], [], 60)[0]:
        shown += os.read(ours, 4096)
    process.join(60)
    os.close(ours)
    os.close(theirs)

    assert process.exitcode == 0
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown.decode())
    assert re.search(r"Decoding pictures\s+\S+.*?200/200\s+\d+:\d\d:\d\d", text)
    assert "Decoding 200 pictures in" not in text  # the line for files and pipes


def decode_on(terminal, root, cache):
    """In a process of its own: read pictures, with the errors' stream on a terminal."""
    sys.stderr = Path(terminal).open("w")  # noqa: SIM115
    os.environ |= {"TERM": "xterm", "COLUMNS": "100"}
    data.ImageFolder(root, cache=cache).prepare_data()


# --- what is said ---


def test_what_was_found_is_said_once(tmp_path, rng, said):
    for part, count in {"train": 1200, "val": 2, "test": 3}.items():
        for number in range(count):
            write_picture(tmp_path / part / "cat" / f"{number}.png", rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        write_pictures(tmp_path / part, rng, count=2, classes=["dog"])
    (tmp_path / "train" / "README").touch()

    for _ in range(2):
        read(tmp_path)

    assert said == [
        f"{tmp_path}: 2 classes (cat, dog), pictures: 1,202 in train, 4 in val, 5 in test",
        f"{tmp_path}: what is no picture was left out: 1 without extension",
    ]


def test_of_many_classes_a_few_are_named(tmp_path, rng, said):
    write_pictures(tmp_path, rng, classes=[f"fold{number}" for number in range(1, 9)] + ["a\nb"])

    read(tmp_path)

    counts = "pictures: 72 in train, 18 in val, 18 in test"
    assert said == [f"{tmp_path}: 9 classes ('a\\nb', fold1, fold2, fold3, fold4, ..., fold8), {counts}"]


@pytest.mark.slow
def test_fit_and_a_study_say_once_what_was_found(tmp_path, rng, actbench):
    write_pictures(tmp_path / "pictures", rng)
    shutil.copy(tmp_path / "pictures/cat/00.png", tmp_path / "pictures/dog/x.png")
    (tmp_path / "pictures/cat/notes.txt").touch()
    options = ["--data", "ImageFolder", "--data.root", tmp_path / "pictures", "--trainer.max_epochs", 1]
    study = ["--study.name", "s", "--study.activations", "[relu, swish]", "--study.replicates", 4]

    for command in (["fit", *options], ["compare", *study, *options], ["compare", *study, *options]):
        run = actbench(*command)

        assert run.returncode == 0, run.stderr
        for line in ("2 classes (cat, dog), pictures: 17 in train", "1 .txt", "equal in every pixel: 1,"):
            assert (run.stdout + run.stderr).count(line) == 1
        assert "Warning" not in run.stdout + run.stderr


# --- normalisation and augmentation ---


@pytest.mark.parametrize("channels", [1, 3])
def test_imagenet_normalisation_is_torchvisions(tmp_path, rng, channels):
    write_pictures(tmp_path, rng)
    datamodule = read(tmp_path, normalize="imagenet", channels=channels)
    (batch,) = datamodule.test_dataloader()

    (images,), _, (rows,) = datamodule.transfer_batch_to_device(batch, CPU, 0)

    mean, deviation = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) if channels == 3 else ([0.449], [0.226])
    expected = transforms.Normalize(mean, deviation)(datamodule.tables[0].images[rows] / 255)
    torch.testing.assert_close(images, expected)


def test_normalisation_by_the_training_part_is_each_replicates_own(tmp_path, rng):
    write_pictures(tmp_path, rng, count=20)
    together = read(tmp_path, normalize="train", replicates=3, seed=4)

    for part in ("train", "val", "test"):
        batch = next(iter(getattr(together, f"{part}_dataloader")()))
        images, _, rows = together.transfer_batch_to_device(batch, CPU, 0)
        for replicate in range(3):
            alone = read(tmp_path, normalize="train", seed=4 + replicate)
            single = data.Rows(part, rows[replicate : replicate + 1])
            assert alone.transfer_batch_to_device(single, CPU, 0)[0][0].equal(images[replicate])
            train = together.tables[0].images[together.parts["train"].rows[replicate]].numpy() / 255
            mean, deviation = (
                value(train, axis=(0, 2, 3))[:, None, None].astype(np.float32) for value in (np.mean, np.std)
            )
            expected = (together.tables[0].images[rows[replicate]].numpy() / 255 - mean) / deviation
            np.testing.assert_allclose(images[replicate], expected, rtol=1e-4, atol=1e-5)


def test_a_channel_that_never_changes_becomes_zero(tmp_path, rng):
    for name in ("cat", "dog"):
        for number in range(8):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            pixels[..., 1] = 77
            write_picture(tmp_path / name / f"{number}.png", pixels)
    datamodule = read(tmp_path, normalize="train", val_fraction=0.25, test_fraction=0.25)

    images = datamodule.transfer_batch_to_device(next(iter(datamodule.train_dataloader())), CPU, 0)[0]

    assert images[:, :, 1].abs().max() < 1e-6


def test_training_pictures_are_augmented_with_black_before_they_are_normalised(tmp_path, rng):
    write_pictures(tmp_path, rng)
    options = {"seed": 3, "image_size": [8, 6]}
    augmented, plain = (read(tmp_path, augment=augment, normalize="imagenet", **options) for augment in (True, False))
    (rows,) = plain.parts["train"].rows

    images = augmented.transfer_batch_to_device(data.Rows("train", rows[None]), CPU, 0)[0][0].numpy()

    generator = stream(3, "augmentation", 0)
    edges = torch.randint(9, (24, 2), generator=generator).tolist()
    flips = torch.randint(2, (24, 1), generator=generator).tolist()
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    for row, ours in zip(rows.tolist(), images, strict=True):
        padded = np.pad(plain.tables[0].images[row].permute(1, 2, 0).numpy(), ((4, 4), (4, 4), (0, 0)))
        top, left = edges[row]
        expected = padded[top : top + 8, left : left + 6]
        expected = expected[:, ::-1] if flips[row][0] else expected
        np.testing.assert_allclose(ours.transpose(1, 2, 0), (expected / 255 - mean) / deviation, rtol=1e-4, atol=1e-5)


# --- options, and the command line ---


@pytest.mark.parametrize("size", [0, [8], [8, 8, 8], [8, 0], []])
def test_sizes_that_are_none_are_refused(tmp_path, rng, size):
    write_pictures(tmp_path, rng, count=1)

    with pytest.raises(ValueError, match="image_size must be"):
        data.ImageFolder(str(tmp_path), image_size=size)


def test_recorded_options_build_the_same_data_again(tmp_path, rng):
    write_pictures(tmp_path, rng)
    datamodule = read(tmp_path, image_size=[4, 6], channels=1, normalize="train", augment=True, val_fraction=0.3)

    again = data.ImageFolder(**datamodule.hparams)

    assert dict(again.hparams) == dict(datamodule.hparams)
    again.setup()
    assert again.digest() == datamodule.digest()


def test_a_folder_is_fitted_tested_and_resumed_bit_for_bit(tmp_path, rng, actbench):
    write_pictures(tmp_path / "pictures", rng)
    options = ["--data", "ImageFolder", "--data.root", tmp_path / "pictures", "--data.image_size", 8]
    options += [
        "--data.normalize",
        "train",
        "--data.augment",
        "true",
        "--model.replicates",
        2,
        "--model.network",
        "MLP",
    ]

    whole = actbench("fit", *options, "--trainer.max_epochs", 3)
    actbench("fit", *options, "--trainer.max_epochs", 2)
    last = "lightning_logs/version_1/checkpoints/last.ckpt"
    resumed = actbench("fit", *options, "--trainer.max_epochs", 3, "--ckpt_path", last)
    tested = actbench("test", "--ckpt_path", last)

    assert (whole.returncode, resumed.returncode, tested.returncode) == (0, 0, 0), resumed.stderr
    assert "Decoding 24 pictures" in whole.stderr
    assert "Decoding" not in resumed.stderr
    epochs = [next(line for line in run.stdout.splitlines() if "epoch 3/3" in line) for run in (whole, resumed)]
    assert len({line.split("replicate-epochs")[0] for line in epochs}) == 1
    assert "test/acc" in tested.stdout


@pytest.mark.slow
def test_a_study_of_a_folder_finds_its_cells_again_until_a_picture_changes(tmp_path, rng, actbench):
    write_pictures(tmp_path / "pictures", rng)
    study = ["compare", "--study.name", "s", "--study.activations", "[relu, swish]", "--study.replicates", 2]
    study += ["--data", "ImageFolder", "--data.root", tmp_path / "pictures", "--trainer.max_epochs", 1]

    first, second = actbench(*study), actbench(*study)
    write_picture(tmp_path / "pictures" / "cat" / "00.png", rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    third = actbench(*study)

    assert (first.returncode, second.returncode, third.returncode) == (0, 0, 0), first.stderr + third.stderr
    cells = [len(re.findall(r"^\d/\d ImageFolder/", run.stdout + run.stderr, re.M)) for run in (first, second, third)]
    assert cells == [2, 0, 2]


def test_a_checkpoint_is_not_scored_on_other_classes(tmp_path, rng, actbench):
    write_pictures(tmp_path / "one", rng)
    write_pictures(tmp_path / "other", rng, classes=["cat", "cow"])
    fit = ["fit", "--data", "ImageFolder", "--data.root", tmp_path / "one", "--trainer.max_epochs", 1]
    assert actbench(*fit).returncode == 0

    tested = actbench(
        "test", "--ckpt_path", "lightning_logs/version_0/checkpoints/last.ckpt", "--data.root", tmp_path / "other"
    )

    assert tested.returncode != 0
    assert "has the classes cat, cow; the checkpoint was trained on cat, dog" in tested.stderr


# --- normalisation, in checkpoints ---


@pytest.fixture
def trained_on_dark(tmp_path, rng, actbench):
    """A folder whose pictures are bright, and a checkpoint of two replicates that were trained on dark ones."""
    for name, least in (("dark", 0), ("bright", 156)):
        for cls in ("cat", "dog"):
            for number in range(12):
                pixels = rng.integers(least, least + 100, (8, 8, 3), dtype=np.uint8)
                write_picture(tmp_path / name / cls / f"{number:02d}.png", pixels)
    fit = ["fit", "--data", "ImageFolder", "--data.root", tmp_path / "dark", "--trainer.max_epochs", 1]
    fitted = actbench(*fit, "--data.normalize", "train", "--model.replicates", 2, "--model.network", "MLP")
    assert fitted.returncode == 0, fitted.stderr
    return tmp_path / "bright", tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"


def dark_scales(dark):
    """By NumPy, for each of two replicates."""
    datamodule = read(dark, replicates=2)
    train = [datamodule.tables[0].images[rows].numpy() / 255 for rows in datamodule.parts["train"].rows]
    return [np.stack([value(pixels, axis=(0, 2, 3)) for pixels in train]) for value in (np.mean, np.std)]


def bright_probabilities(folder, checkpoint):
    """Of the test part of bright pictures, normalised by hand as the dark ones were in training."""
    classifier = Classifier.load_from_checkpoint(str(checkpoint)).eval()
    datamodule = read(folder, replicates=2)
    mean, deviation = (torch.tensor(values, dtype=torch.float32) for values in dark_scales(folder.parent / "dark"))
    rows = datamodule.parts["test"].rows
    images = datamodule.tables[0].images[rows] / 255
    inputs = (images - mean[:, None, :, None, None]) / deviation[:, None, :, None, None]
    with torch.no_grad():
        return rows, classifier(inputs).softmax(2), datamodule.tables[0].labels[rows]


def test_a_checkpoint_is_scored_with_the_means_of_its_training(tmp_path, actbench, trained_on_dark):
    folder, checkpoint = trained_on_dark
    rows, expected, labels = bright_probabilities(folder, checkpoint)

    options = ["--ckpt_path", checkpoint, "--data.root", folder]
    predicted, tested = actbench("predict", *options), actbench("test", *options)
    export = actbench("export", "--ckpt_path", checkpoint, "--replicate", 1, "--output", tmp_path / "net.pt2")

    assert (predicted.returncode, tested.returncode, export.returncode) == (0, 0, 0), predicted.stderr + export.stderr
    table = pl.read_csv(checkpoint.with_name("predictions.csv"))
    for replicate in range(2):
        ours = table.filter(pl.col("seed") == replicate).sort("index")["probability_1"].to_numpy()
        order = rows[replicate].argsort()
        np.testing.assert_allclose(ours, expected[replicate, order, 1], atol=1e-5)
        named = table.filter(pl.col("seed") == replicate).sort("index")["predicted_class"]
        assert named.to_list() == [("cat", "dog")[label] for label in expected[replicate, order].argmax(1)]
        loss = torch.nn.functional.nll_loss(expected[replicate].log(), labels[replicate]).item()
        row = next(line.split() for line in tested.stdout.splitlines() if line.split()[:1] == [str(replicate)])
        assert float(row[1]) == pytest.approx(loss, abs=1e-5)
    mean, deviation = dark_scales(tmp_path / "dark")
    said = re.search(r"by channel minus \[(.*)\], over \[(.*)\]", export.stdout)
    for text, values in zip(said.groups(), (mean[1], deviation[1]), strict=True):
        np.testing.assert_allclose(np.float64(text.split(", ")), values, rtol=1e-4)


def test_in_python_a_loaded_classifier_is_scored_with_the_means_of_its_training(trained_on_dark):
    folder, checkpoint = trained_on_dark
    _, expected, labels = bright_probabilities(folder, checkpoint)
    classifier = Classifier.load_from_checkpoint(str(checkpoint))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
        datamodule = data.ImageFolder(str(folder), normalize="train", replicates=2)
        trainer.test(classifier, datamodule, verbose=False)

    mean, deviation = dark_scales(folder.parent / "dark")
    np.testing.assert_allclose(classifier.normalization["mean"], mean, rtol=1e-4)
    np.testing.assert_allclose(classifier.normalization["deviation"], deviation, rtol=1e-4)
    losses = [torch.nn.functional.nll_loss(p.log(), y).item() for p, y in zip(expected, labels, strict=True)]
    np.testing.assert_allclose(classifier.evaluated["test/loss"], losses, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "none"}, "data.normalize is train, and was none when the network was trained"),
        (None, "the checkpoint has no means of a training part"),
        ({"mean": torch.zeros(2, 4)}, "is not what actbench .* writes"),
        ({"mean": torch.full((2, 3), torch.nan)}, "is not what actbench .* writes"),
        ({"deviation": torch.zeros(2, 3)}, "is not what actbench .* writes"),
        ({"deviation": "a"}, "is not what actbench .* writes"),
        ({"kind": "other"}, "is not what actbench .* writes"),
    ],
)
def test_another_normalisation_in_a_checkpoint_is_refused(trained_on_dark, capsys, change, message):
    folder, checkpoint = trained_on_dark
    content = torch.load(checkpoint, weights_only=True)
    saved = content["actbench"]["normalization"]
    content["actbench"]["normalization"] = None if change is None else saved | change
    torch.save(content, checkpoint)

    status = main(["test", "--ckpt_path", str(checkpoint), "--data.root", str(folder)])

    error = capsys.readouterr().err.splitlines()[-1]
    assert status == 2
    assert re.search(message, error)
    assert "damaged: DataError" not in error


def test_another_option_than_in_training_is_refused(trained_on_dark, capsys):
    folder, checkpoint = trained_on_dark

    status = main(["test", "--ckpt_path", str(checkpoint), "--data.root", str(folder), "--data.normalize", "none"])

    assert status == 2
    assert "data.normalize is none, and was train when the network was trained" in capsys.readouterr().err


def test_a_folder_of_test_pictures_alone_is_scored_but_not_trained_on(tmp_path, actbench, trained_on_dark):
    folder, checkpoint = trained_on_dark
    (tmp_path / "new").mkdir()
    folder.rename(tmp_path / "new" / "test")
    (tmp_path / "new" / "test" / "dog" / "00.png").unlink()
    options = ["--data.root", tmp_path / "new"]

    predicted = actbench("predict", "--ckpt_path", checkpoint, *options)
    validated = actbench("validate", "--ckpt_path", checkpoint, *options)
    fitted = actbench("fit", "--data", "ImageFolder", *options)

    assert predicted.returncode == 0, predicted.stderr
    assert f"{tmp_path / 'new'}: 2 classes (cat, dog), pictures: 23 in test\n" in predicted.stderr
    table = pl.read_csv(checkpoint.with_name("predictions.csv"))
    assert table["index"].to_list() == [*range(23), *range(23)]
    mean, deviation = (torch.tensor(values, dtype=torch.float32) for values in dark_scales(tmp_path / "dark"))
    images = read_without_training(tmp_path / "new") / 255
    inputs = (images - mean[:, None, :, None, None]) / deviation[:, None, :, None, None]
    with torch.no_grad():
        expected = Classifier.load_from_checkpoint(str(checkpoint)).eval()(inputs).softmax(2)[..., 1]
    np.testing.assert_allclose(table["probability_1"].to_numpy(), expected.flatten(), atol=1e-5)
    for run, part in ((validated, "val"), (fitted, "train")):
        assert run.returncode == 2
        assert run.stderr.splitlines()[-1].endswith(f"new has a folder test, but none {part}")


def read_without_training(folder):
    datamodule = data.ImageFolder(str(folder))
    datamodule.setup("test")
    return datamodule.tables[1].images


def test_of_test_pictures_alone_a_class_may_have_none(tmp_path, rng):
    write_pictures(tmp_path / "test", rng, classes=["cat", "fox"])
    (tmp_path / "test" / "dog").mkdir()
    datamodule = data.ImageFolder(str(tmp_path))

    datamodule.setup("test")

    assert datamodule.tables[1].labels.tolist() == [0] * 12 + [2] * 12
    assert datamodule.findings == ["the test part has no picture of class 'dog'"]


def test_without_a_training_part_there_are_no_means(tmp_path, rng):
    write_pictures(tmp_path / "test", rng)
    datamodule = data.ImageFolder(str(tmp_path), normalize="train")
    datamodule.setup("test")

    with pytest.raises(data.DataError, match="has a folder test, but none train"):
        datamodule.transfer_batch_to_device(next(iter(datamodule.test_dataloader())), CPU, 0)


def test_a_split_of_other_pictures_than_in_training_is_said(tmp_path, rng, actbench):
    write_pictures(tmp_path / "pictures", rng)
    fit = ["fit", "--data", "ImageFolder", "--data.root", "pictures", "--trainer.max_epochs", 1]
    assert actbench(*fit, "--model.network", "MLP").returncode == 0
    test = ["test", "--ckpt_path", "lightning_logs/version_0/checkpoints/last.ckpt"]
    line = "the pictures are not those that the checkpoint was trained on, and are split anew"

    same = actbench(*test)
    write_picture(tmp_path / "pictures" / "cat" / "z.png", np.zeros((8, 8, 3), dtype=np.uint8))
    more = actbench(*test)
    write_pictures(tmp_path / "new" / "test", rng)
    new = actbench(*test, "--data.root", "new")

    assert [run.returncode for run in (same, more, new)] == [0, 0, 0]
    assert [run.stderr.count(line) for run in (same, more, new)] == [0, 1, 0]


@pytest.mark.parametrize(
    "state", [{}, [], {"classes": "cat", "listing": ""}, {"classes": [1], "listing": ""}, {"classes": ["cat", "dog"]}]
)
def test_a_damaged_state_is_refused(tmp_path, rng, state):
    write_pictures(tmp_path, rng)

    with pytest.raises(data.DataError, match="the checkpoint is damaged"):
        data.ImageFolder(str(tmp_path)).load_state_dict(state)


def test_a_cache_within_the_pictures_is_refused(tmp_path, rng):
    write_pictures(tmp_path, rng)

    with pytest.raises(ValueError, match="cache must lie outside of root"):
        data.ImageFolder(str(tmp_path), cache=str(tmp_path / "cat" / "cache"))


def test_classes_may_have_any_name_and_a_root_one_that_can_be_logged(tmp_path, rng):
    names = [os.fsdecode(name) for name in (b"caf\xe9", b"a\nb", "\N{GRINNING FACE}".encode(), b"{x: 1}")]
    write_pictures(tmp_path / "pictures", rng, classes=names)

    assert read(tmp_path / "pictures").classes == sorted(names)
    write_pictures(tmp_path / names[0], rng)
    with pytest.raises(ValueError, match="root must be a path in UTF-8"):
        data.ImageFolder(str(tmp_path / names[0]))
