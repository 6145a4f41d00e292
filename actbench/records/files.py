"""Files that are written whole or not at all, and never through a link."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


class RecordError(ValueError):
    """A file of records is damaged or foreign, or contradicts another."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write in place of a file; afterwards the file is whole, or as it was before an error such as OSError.

    Its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".unfinished.{uuid4().hex}.{path.name}")  # some formats go by the ending
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    if os.name == "posix":  # the name, too, has to reach the disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; see `whole`."""
    with whole(path) as unfinished:
        unfinished.write_bytes(content)


def own_folder(folder: Path, name: str) -> Path:
    """A folder in a study's, for files that are written anew.

    Raises:
        RecordError: A link leads from it to somewhere else, where files would be written or deleted.
    """
    own = folder / name
    link = next((path for path in (own, *own.rglob("*")) if path.is_symlink()), None)
    if link:
        raise RecordError(f"{link} is a link, through which nothing is written: remove it")
    return own
