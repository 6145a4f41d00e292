import re
import shutil

import numpy as np
import pytest
import torch
from pictures import read, write_picture, write_pictures
from PIL import Image
from torchvision import datasets, transforms

from actbench import data
from actbench.data import folders

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("caches")


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


def test_a_class_may_be_called_train(tmp_path, rng):
    write_pictures(tmp_path, rng, classes=["bus", "train", "training"])

    datamodule = read(tmp_path)

    assert datamodule.classes == ["bus", "train", "training"]
    assert len(datamodule.pictures) == 36


def test_folders_beside_train_are_left_out_and_said(tmp_path, rng):
    write_pictures(tmp_path / "train", rng)
    write_pictures(tmp_path, rng, classes=["bus"])

    datamodule = read(tmp_path)

    assert datamodule.classes == ["cat", "dog"]
    assert datamodule.findings == ["what is no picture was left out: 1 folder bus"]


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


def test_a_fraction_that_has_no_effect_is_said(tmp_path, rng):
    for part in ("train", "val", "test"):
        write_pictures(tmp_path / part, rng, count=4)

    given, default = (read(tmp_path, **options).findings for options in ({"val_fraction": 0.3}, {}))

    assert given == ["val_fraction 0.3 has no effect, because there is a folder val"]
    assert default == []


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
        (one_class, "has a folder for the class cat, and none for another"),
        (pictures_alone, "has no folders for classes"),
        (two_vals, "val and .*valid are both the val part"),
        (class_in_test_alone, "class 'cow' is in .*test, but not in .*train"),
        (class_without_pictures, r"cow has no picture that ends in \.jpg"),
        (part_without_pictures, "test has no picture"),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_refused_at_once(tmp_path, rng, prepare, message):
    root = tmp_path / "pictures"
    root.mkdir()
    prepare(root, rng)

    with pytest.raises(data.DataError, match=message) as error:
        int(data.ImageFolder(str(root)).num_classes)  # which a network is built with

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
    study = [
        "--study.name",
        "s",
        "--study.activations",
        "[relu, swish]",
        "--study.replicates",
        4,
        "--study.timing_s",
        0,
    ]

    for command in (["fit", *options], ["compare", *study, *options], ["compare", *study, *options]):
        run = actbench(*command)

        assert run.returncode == 0, run.stderr
        for line in ("2 classes (cat, dog), pictures: 17 in train", "1 .txt", "equal in every pixel: 1,"):
            assert (run.stdout + run.stderr).count(line) == 1
        assert "Warning" not in run.stdout + run.stderr


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
    study += ["--study.timing_s", 0]

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
