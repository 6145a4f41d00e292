"""Which pictures a folder holds: its parts, its classes, and the files of each class."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from actbench.data.images import DataError

# Of torchvision, which is not imported for a list.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
PART_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
NO_PICTURE = f"has no picture that ends in {', '.join(EXTENSIONS)}"
MAX_NAMED = 5  # kinds of files that a message lists


class Picture(NamedTuple):
    """A picture's file: path relative to the root, size in bytes, and times of the last change, in nanoseconds."""

    path: str
    size: int
    modified: int
    changed: int  # content or metadata: also seen if a copy keeps the time of modification


class PictureFolder(NamedTuple):
    """What a folder of pictures holds.

    ``parts`` has the pictures of each part and their classes, in the order of class and path: one part ``all``, or
    what there is of ``train``, ``val`` and ``test``. Pictures without classes are one part ``predict``, in the order of
    their paths, with -1 for the class.
    """

    classes: tuple[str, ...]  # none if the pictures can only be predicted
    parts: dict[str, tuple[list[Picture], list[int]]]
    left_out: str  # what is not read, in words; empty if nothing
    obstacle: str = ""  # why there are no classes, in words


def scan_pictures(root: Path) -> PictureFolder:
    """Find the pictures in a folder, with one folder for each class, perhaps in folders for the parts.

    Folders within a class belong to the class, and links are followed. Hidden files and folders are left out. Without
    a folder for each of two or more classes, the pictures have no classes; see `scan_unlabelled`.

    Raises:
        DataError: The folder does not exist or has no picture, has two folders for one part, one part with classes and
            another without, a class without pictures in a folder train, or a class outside of that alone, or a folder
            may not be read.
    """
    if not root.is_dir():
        raise DataError(f"ImageFolder: the folder {root} was not found")
    left_out: Counter[str] = Counter()
    try:
        folders = part_folders(root, left_out)
        found = {part: class_pictures(folder, root, left_out) for part, folder in folders.items()}
    except OSError as error:
        raise unreadable(root, error) from error
    first = next(iter(found))
    trains = first in ("all", "train")
    classes = tuple(sorted(found[first] if trains else {name for of_class in found.values() for name in of_class}))
    empty = [name for name in classes if trains and not found[first][name]]
    if len(classes) < 2 or empty:
        obstacle = f"{folders[first] / empty[0]} {NO_PICTURE}" if empty else ""
        if len(classes) < 2:
            lacking = (
                f"a folder for the class {classes[0]}, and none for another" if classes else "no folders for classes"
            )
            obstacle = f"{folders[first]} has {lacking}"
        if first == "all" or not any(found.values()):
            return scan_unlabelled(root, obstacle)
        raise DataError(f"ImageFolder: {obstacle}")
    for part, of_class in found.items():
        check_part(folders[part], of_class, classes, folders[first])
    parts = {
        part: (
            [picture for name in classes for picture in of_class.get(name, [])],
            [label for label, name in enumerate(classes) for _ in of_class.get(name, [])],
        )
        for part, of_class in found.items()
    }
    return PictureFolder(classes, parts, counted_kinds(left_out))


def check_part(folder: Path, found: Mapping[str, list[Picture]], classes: Sequence[str], train: Path) -> None:
    """Raise DataError for a part with a class that the folder ``train`` lacks, or without classes or pictures."""
    if strange := sorted(found.keys() - set(classes)):
        raise DataError(f"ImageFolder: class {strange[0]!r} is in {folder}, but not in {train}")
    if not found:
        raise DataError(
            f"ImageFolder: {folder} has no folders for classes; to predict its pictures, give --data.root {folder}"
        )
    if not any(found.values()):
        raise DataError(f"ImageFolder: {folder} {NO_PICTURE}")


def scan_unlabelled(root: Path, obstacle: str) -> PictureFolder:
    """Find all pictures in a folder and the folders within, whatever these are called, without classes.

    Raises:
        DataError: There is no picture, or a folder may not be read.
    """
    left_out: Counter[str] = Counter()
    try:
        pictures = pictures_in(root, root, left_out)
    except OSError as error:
        raise unreadable(root, error) from error
    if not pictures:
        raise DataError(f"ImageFolder: {root} {NO_PICTURE}")
    return PictureFolder((), {"predict": (pictures, [-1] * len(pictures))}, counted_kinds(left_out), obstacle)


def unreadable(root: Path, error: OSError) -> DataError:
    """The error of one line for a folder that may not be read."""
    return DataError(f"ImageFolder: {error.filename or root} cannot be read: {error.strerror or error}")


def counted_kinds(left_out: Counter[str]) -> str:
    """How many files of each kind were left out; empty if none."""
    kinds = [f"{count:,} {kind}" for kind, count in left_out.most_common(MAX_NAMED)]
    more = sum(left_out.values()) - sum(count for _, count in left_out.most_common(MAX_NAMED))
    return ", ".join(kinds + [f"{more:,} others"] * bool(more))


def part_folders(root: Path, left_out: Counter[str]) -> dict[str, Path]:
    """The folder of each part, train first; or the root itself or train alone, called ``all``.

    Folders of pictures beside others are classes, also if one of them is called train.
    """
    visible = visible_folders(root)
    parts = {
        part: [folder for folder in visible if folder.name.lower() in names] for part, names in PART_FOLDERS.items()
    }
    named = [folder for folders in parts.values() for folder in folders]
    if not named or (len(named) < len(visible) and not any(map(visible_folders, named))):
        return {"all": root}
    for part, folders in parts.items():
        if len(folders) > 1:
            raise DataError(f"ImageFolder: {folders[0]} and {folders[1]} are both the {part} part: keep one of them")
    found = {part: folders[0] for part, folders in parts.items() if folders}
    for entry in root.iterdir():
        if entry not in found.values() and not entry.name.startswith("."):
            left_out[f"folder {entry.name}" if entry.is_dir() else file_kind(entry.name)] += 1
    return found if [*found] != ["train"] else {"all": found["train"]}


def visible_folders(folder: Path) -> list[Path]:
    """Folders within a folder, by name, except hidden ones."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def class_pictures(folder: Path, root: Path, left_out: Counter[str]) -> dict[str, list[Picture]]:
    """The pictures of each class; files beside the folders of the classes are left out."""
    left_out.update(file_kind(entry.name) for entry in folder.iterdir() if not entry.is_dir())
    return {path.name: pictures_in(path, root, left_out) for path in visible_folders(folder)}


def pictures_in(folder: Path, root: Path, left_out: Counter[str]) -> list[Picture]:
    """The pictures in a folder and all folders within, by folder and name."""
    pictures, pending, seen = [], [os.fspath(folder)], set()
    while pending:
        current = pending.pop()
        if (real := os.path.realpath(current)) in seen:  # a link leads back
            continue
        seen.add(real)
        with os.scandir(current) as entries:
            for entry in entries:
                if entry.is_dir():
                    pending += [entry.path] * (not entry.name.startswith("."))
                elif entry.name.startswith(".") or not entry.name.lower().endswith(EXTENSIONS):
                    left_out[file_kind(entry.name)] += 1
                else:
                    pictures.append(described(entry, os.fspath(root)))
    return sorted(pictures, key=lambda picture: picture.path.rpartition("/"))  # as torchvision sorts


def described(entry: os.DirEntry[str], root: str) -> Picture:
    """A picture's file. A link that leads nowhere has size 0, and is found damaged when it is read."""
    path = os.path.relpath(entry.path, root).replace(os.sep, "/")
    try:
        stat = entry.stat()
    except FileNotFoundError:
        return Picture(path, 0, 0, 0)
    return Picture(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def file_kind(name: str) -> str:
    """What a file that is left out is called."""
    return "hidden" if name.startswith(".") else os.path.splitext(name)[1].lower() or "without extension"  # noqa: PTH122
