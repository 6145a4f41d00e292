"""Writing files whole or not at all, and never through a link."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


class RecordError(ValueError):
    """A file of records is damaged or foreign, or contradicts another."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces ``path`` at the end; after an error ``path`` is unchanged.

    The folder is created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".unfinished.{uuid4().hex}.{path.name}")  # some writers choose a format by the suffix
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    if os.name == "posix":  # the new name must reach the disk too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; see `replacing`."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)


def check_links(folder: Path) -> Path:
    """The folder, which need not exist, after a check that files can be written and deleted in it.

    Raises:
        RecordError: The folder is a link, or holds one that leads out of it. Links above the folder are the user's own.
    """
    home = folder.absolute().parent.resolve() / folder.name
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(home):
            raise RecordError(f"{path} is a link, through which nothing is written: remove it")
    return folder
