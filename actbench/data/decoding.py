"""Pictures decoded once, in parallel, and kept in a file from which later runs map them into memory."""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from math import prod
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from jaxtyping import UInt8
from pytorch_lightning.utilities import rank_zero_info
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from actbench.data.folders import Picture
from actbench.data.images import DataError
from actbench.data.pictures import PictureError, read_picture
from actbench.records.files import replace_file, replacing

FORMAT = 1  # of the file; part of its name
CHUNK = 32  # pictures that a thread takes at once


class Decoded(NamedTuple):
    """Pictures of a folder, mapped from a file, and what was found while they were decoded."""

    images: UInt8[np.ndarray, "rows channels height width"]
    damaged: list[int]  # numbers of the files that were left out
    equal: list[tuple[int, int]]  # file numbers of pictures with the same pixels as an earlier one, and the earlier


def decoded_pictures(
    root: Path,
    pictures: Sequence[Picture],
    *,
    shape: tuple[int, int, int],
    resize: bool,
    skip_damaged: bool,
    cache: Path | None,
) -> Decoded:
    """The pictures of a folder, decoded, or from the file that an earlier call has left.

    The file's name is a hash of what it is made from: paths, sizes and times of the pictures, and the options. It is
    written whole or not at all, by one process at a time.

    Args:
        root: Folder of the pictures.
        pictures: Their files.
        shape: Channels, height and width.
        resize: Resize and crop pictures to that size; otherwise another size is an error.
        skip_damaged: Leave out files that are no whole pictures; otherwise the first is an error.
        cache: Folder for the files of all roots; by default actbench in the user's folder of caches.

    Raises:
        DataError: A picture is damaged or has another size, or the file cannot be written.
    """
    made_from = json.dumps([FORMAT, shape, resize, skip_damaged, pictures])
    name = sha256(made_from.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    home = sha256(os.fsencode(root.resolve())).hexdigest()[:8]  # two folders may have files of equal sizes and times
    folder = (cache or default_cache()) / f"{root.resolve().name}-{home}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{name}.lock"):
            for unfinished in folder.glob(f".unfinished.*.{name}.*"):  # of a process that was killed
                unfinished.unlink()
            images, notes = folder / f"{name}.npy", folder / f"{name}.json"
            if not notes.is_file() or not images.is_file():
                check_room(folder, len(pictures) * prod(shape))
                others = [file.stat().st_size for file in folder.glob("*.npy")]
                if others:
                    rank_zero_info(
                        f"{folder} also has {sum(others):,} bytes for earlier pictures or other options; "
                        "what you no longer use may be deleted"
                    )
                found = decode(root, pictures, images, shape=shape, resize=resize, skip_damaged=skip_damaged)
                replace_file(notes, json.dumps(found).encode())  # its presence says that the images are whole
            found = json.loads(notes.read_bytes())
    except OSError as error:
        raise DataError(
            f"ImageFolder: decoded pictures cannot be kept in {folder}: {error}; give --data.cache"
        ) from error
    table = np.load(images, mmap_mode="c")[: len(pictures) - len(found["damaged"])]
    return Decoded(table, found["damaged"], [(first, other) for first, other in found["equal"]])


def default_cache() -> Path:
    """The folder of decoded pictures, away from the pictures, where other programs would take it for a class."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "actbench"


def decode(
    root: Path,
    pictures: Sequence[Picture],
    file: Path,
    *,
    shape: tuple[int, int, int],
    resize: bool,
    skip_damaged: bool,
) -> dict[str, list[Any]]:
    """Decode pictures to a file, the damaged ones left out; returns the other fields of `Decoded`."""
    channels, *sizes = shape
    read = partial(picture_or_error, root, channels=channels, size=sizes if resize else None)
    damaged: list[int] = []
    equal: list[tuple[int, int]] = []
    first_of: dict[bytes, int] = {}
    with replacing(file) as unfinished, ThreadPool(os.cpu_count()) as pool:
        table = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=(len(pictures), *shape))
        results = pool.imap(read, pictures, chunksize=CHUNK)
        for number, (image, digest) in enumerate(progress_of(results, len(pictures), root)):
            if isinstance(image, PictureError):
                if not skip_damaged:
                    raise DataError(f"ImageFolder: {image}; --data.skip_damaged true leaves such files out")
                damaged.append(number)
                continue
            if image.shape != shape:
                raise DataError(
                    f"ImageFolder: pictures have several sizes, such as {sizes[0]}x{sizes[1]} and "
                    f"{image.shape[1]}x{image.shape[2]} (height x width, {str(root / pictures[number].path)!r}): "
                    "give --data.image_size"
                )
            table[number - len(damaged)] = image
            if (first := first_of.setdefault(digest, number)) != number:
                equal.append((first, number))
        table.flush()
        del table  # some systems rename no file that is mapped
    return {"damaged": damaged, "equal": equal}


def picture_or_error(
    root: Path, picture: Picture, *, channels: int, size: Sequence[int] | None
) -> tuple[UInt8[np.ndarray, "channels height width"] | PictureError, bytes]:
    """A picture and a hash of its pixels, or why it cannot be read."""
    try:
        image = np.ascontiguousarray(read_picture(root / picture.path, channels, size).transpose(2, 0, 1))
    except PictureError as error:
        return error, b""
    return image, sha256(f"{image.shape}".encode() + image.tobytes()).digest()


def progress_of(results: Iterable[Any], total: int, root: Path) -> Iterator[Any]:
    """The results, with a bar and the time that is left on a terminal, and after a line elsewhere."""
    if not sys.stderr.isatty():
        print(f"Decoding {total:,} pictures in {root}, once", file=sys.stderr, flush=True)
        yield from results
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield from bar.track(results, total, description="Decoding pictures")


def check_room(folder: Path, needed: int) -> None:
    """Raise DataError if a folder has no room for so many bytes, and warn if the memory has not."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"ImageFolder: decoded pictures take {needed:,} bytes, and {folder} has {free:,} left: give a smaller "
            "--data.image_size, or another --data.cache"
        )
    available = available_memory()
    if available is not None and needed > available:
        rank_zero_info(
            f"ImageFolder: decoded pictures take {needed:,} bytes, and {available:,} bytes of memory are available: "
            "batches will be read from the disk, slowly; --data.image_size makes the pictures smaller"
        )


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes of memory that this process may still use; None where the system does not say.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    known = []
    with suppress(OSError):
        lines = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
        known.append(int(lines["MemAvailable"].split()[0]) * 1024)
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):  # control groups of version 2, or 1
                top = root / "sys/fs/cgroup" / controllers
                group = top / path.lstrip("/")
                known += [
                    room for each in (group, *group.parents) if each.is_relative_to(top) for room in left_in(each)
                ]
    return min(known, default=None)


def left_in(group: Path) -> Iterator[int]:
    """Bytes that a control group's limit leaves, where cached files count as free; nothing without a limit."""
    for limit, used, cached in (
        ("max", "current", "inactive_file"),
        ("limit_in_bytes", "usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError, KeyError):  # the limit may be the word max
            bounds = [int((group / f"memory.{name}").read_text()) for name in (limit, used)]
            counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            yield bounds[0] - bounds[1] + int(counts[cached])
