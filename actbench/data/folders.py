"""Which pictures a folder holds: its parts, its classes, and the files of each class."""

import os
from collections import Counter
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
    what there is of ``train``, ``val`` and ``test``.
    """

    classes: tuple[str, ...]
    parts: dict[str, tuple[list[Picture], list[int]]]
    left_out: str  # what is not read, in words; empty if nothing


def scan_pictures(root: Path) -> PictureFolder:
    """Find the pictures in a folder, with one folder for each class, perhaps in folders for the parts.

    Folders within a class belong to the class, and links are followed. Hidden files and folders are left out.

    Raises:
        DataError: The folder does not exist, has fewer than two classes, two folders for one part, a class without
            pictures in its training part, or a class outside of that alone, or a folder may not be read.
    """
    if not root.is_dir():
        raise DataError(f"ImageFolder: the folder {root} was not found")
    left_out: Counter[str] = Counter()
    try:
        folders = part_folders(root, left_out)
        by_part = {part: class_folders(folder, left_out) for part, folder in folders.items()}
        first = next(iter(by_part))
        trains = first in ("all", "train")
        classes = tuple(sorted(by_part[first] if trains else {name for each in by_part.values() for name in each}))
        if len(classes) < 2:
            found = f"only {classes[0]}" if classes else "none"
            raise DataError(f"ImageFolder: {folders[first]} must have folders for two or more classes, and has {found}")
        for part, found_classes in by_part.items():
            if strange := sorted(found_classes.keys() - set(classes)):
                raise DataError(f"ImageFolder: class {strange[0]!r} is in {folders[part]}, but not in {folders[first]}")
        parts = {}
        for part, found_classes in by_part.items():
            pictures: list[Picture] = []
            labels: list[int] = []
            for label, name in enumerate(classes):
                of_class = pictures_in(found_classes[name], root, left_out) if name in found_classes else []
                if not of_class and part == first and trains:
                    raise DataError(
                        f"ImageFolder: {found_classes[name]} has no picture; pictures end in {', '.join(EXTENSIONS)}"
                    )
                pictures += of_class
                labels += [label] * len(of_class)
            if not pictures:
                raise DataError(f"ImageFolder: {folders[part]} has no picture; pictures end in {', '.join(EXTENSIONS)}")
            parts[part] = pictures, labels
    except OSError as error:
        raise DataError(f"ImageFolder: {error.filename or root} cannot be read: {error.strerror or error}") from error
    kinds = [f"{count:,} {kind}" for kind, count in left_out.most_common(MAX_NAMED)]
    more = sum(left_out.values()) - sum(count for _, count in left_out.most_common(MAX_NAMED))
    return PictureFolder(classes, parts, ", ".join(kinds + [f"{more:,} others"] * bool(more)))


def part_folders(root: Path, left_out: Counter[str]) -> dict[str, Path]:
    """The folder of each part, train first; or the root itself or train alone, called ``all``."""
    visible = visible_folders(root)
    parts = {
        part: [folder for folder in visible if folder.name.lower() in names] for part, names in PART_FOLDERS.items()
    }
    for part, folders in parts.items():
        if len(folders) > 1:
            raise DataError(f"ImageFolder: {folders[0]} and {folders[1]} are both the {part} part: keep one of them")
    found = {part: folders[0] for part, folders in parts.items() if folders}
    if not found:
        return {"all": root}
    if [*found] == ["train"]:
        return {"all": found["train"]}
    for entry in root.iterdir():
        if entry not in found.values() and not entry.name.startswith("."):
            left_out[f"folder {entry.name}" if entry.is_dir() else file_kind(entry.name)] += 1
    return found


def visible_folders(folder: Path) -> list[Path]:
    """Folders within a folder, by name, except hidden ones."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def class_folders(folder: Path, left_out: Counter[str]) -> dict[str, Path]:
    """The folder of each class; files beside them are left out."""
    left_out.update(file_kind(entry.name) for entry in folder.iterdir() if not entry.is_dir())
    return {path.name: path for path in visible_folders(folder)}


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
