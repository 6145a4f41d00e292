"""Datasets that torchvision downloads: fetched completely or not at all, read, and checked."""

import shlex
from abc import abstractmethod
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from typing_extensions import override

from actbench.data.images import DataError, ImageData, LabelledImages


class FileData(ImageData):
    """Images from files, with separate test files. Each subclass has the name of torchvision's class.

    Args:
        root: Folder that contains the dataset's files or folder.
        download: Fetch the dataset if its files are missing or damaged.
        val_fraction: Share of the training files' images held out for validation.

    Raises:
        ValueError: An argument is out of range.
        DataError: In ``prepare_data`` or ``setup``: files are missing or damaged, cannot be downloaded, or hold too
            few images.
    """

    official_test = True
    packed = ""  # suffix of an archive that may stand in place of a file
    chosen = ""  # options that choose the files, for the hint how to fetch them

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        batch_size: int = 64,
        val_fraction: float = 0.1,
        seed: int = 0,
        replicates: int = 1,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, val_fraction, seed=seed, replicates=replicates, drop_last=drop_last)
        self.save_hyperparameters({"root": root, "download": download}, logger=False)
        self.root = root
        self.download = download

    @abstractmethod
    def files(self) -> dict[str, str | None]:
        """Paths of the files, relative to ``root``, each with its MD5 sum if torchvision knows one."""

    def fetch(self, folder: str) -> None:
        """Download all files with torchvision to a folder that stands in for ``root``."""
        self.torchvision_class()(folder, download=True)

    @abstractmethod
    def read_part(self, root: Path, part: str) -> LabelledImages:
        """Read the ``train`` or ``test`` part."""

    def torchvision_class(self) -> Any:
        """The class of the same name in torchvision."""
        # Imported here, as everywhere in actbench.data, so that --help and other datasets do not wait for it.
        from torchvision import datasets

        return getattr(datasets, type(self).__name__)

    @override
    def read(self) -> list[LabelledImages]:
        root = Path(self.root).expanduser()
        try:
            return self._read_from(root)
        except DataError:
            if not self.download:
                raise
        return self._fetch_to(root)

    def _read_from(self, root: Path) -> list[LabelledImages]:
        name = type(self).__name__
        fit = f"python main.py fit --data {name} --data.root {shlex.quote(self.root)}{self.chosen}"
        hint = f"to fetch it: {fit} --data.download true"
        if not root.is_dir():
            raise DataError(f"{name}: the folder {root} was not found; {hint}")
        for path in map(root.joinpath, self.files()):
            if not path.is_file() and not Path(f"{path}{self.packed}").is_file():
                raise DataError(f"{name}: {path} is missing; {hint}")
        try:
            tables = {part: self.read_part(root, part) for part in ("train", "test")}
        except OSError as error:
            raise DataError(f"{name} in {root} cannot be read: {error}") from error
        except RuntimeError as error:
            from torchvision.datasets.utils import check_integrity

            for file, md5 in self.files().items():  # torchvision does not name the damaged file
                if not check_integrity(str(root / file), md5):
                    raise DataError(f"{root / file} is damaged: its MD5 sum is not {md5}") from error
            raise DataError(f"{name} in {root} is damaged: {error}") from error
        for part, table in tables.items():
            self._check_table(table, f"{name} in {root} is damaged: its {part} part")
        return list(tables.values())

    def _check_table(self, table: LabelledImages, title: str) -> None:
        images, labels = table
        if len(images) != len(labels):
            raise DataError(f"{title} has {len(images)} images and {len(labels)} labels")
        if images.shape[1:] != self.input_shape:
            raise DataError(f"{title} has images of shape {tuple(images.shape[1:])}, not {self.input_shape}")
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise DataError(
                f"{title} has labels from {labels.min()} to {labels.max()}, not 0 to {self.num_classes - 1}"
            )

    def _fetch_to(self, root: Path) -> list[LabelledImages]:
        """Download to a temporary folder, read the files there, and only then move them to ``root``."""
        try:
            root.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=".download-", dir=root) as folder:
                self.fetch(folder)
                tables = self._read_from(Path(folder))
                for file in self.files():
                    (root / file).parent.mkdir(parents=True, exist_ok=True)
                    Path(folder, file).replace(root / file)
        except (RuntimeError, OSError, HTTPException, DataError) as error:
            raise DataError(f"{type(self).__name__} could not be downloaded to {root}: {error}") from error
        return tables
