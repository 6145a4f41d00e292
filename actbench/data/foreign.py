"""DataModules of the user: shared by all replicates, checked before training, and known again by what they yield."""

import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from hashlib import sha256
from typing import Any

import torch
from pytorch_lightning import LightningDataModule, seed_everything
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from actbench.data.images import DataError, ImageData
from actbench.data.rows import Batch
from actbench.streams import Purpose, stream_seed

SEED = 0  # of what replicates share
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader")
KEYS = (  # of inputs and of labels, where batches are mappings
    ("image", "images", "img", "imgs", "pixel_values", "input", "inputs", "input_values", "x", "data", "features"),
    ("label", "labels", "target", "targets", "y", "class", "classes"),
)
UNSIZED = 100  # batches that are looked at of a loader without a length
NAME_THEM = "name the keys of inputs and labels with --model.batch_keys '[IMAGE, LABEL]'"


def read_batch(batch: Any, keys: Sequence[str] | None = None) -> Batch:
    """Inputs and labels of a batch: ``(x, y, ...)``, x alone, or a mapping; one of our own as it is.

    Args:
        batch: What a loader yields, the same for all replicates, or a `Batch`.
        keys: Keys of inputs and labels where a batch is a mapping with unusual names.

    Returns:
        Labels are int64 (batch), or None where there are none.

    Raises:
        DataError: It is something else; one line.
    """
    if isinstance(batch, Batch):
        return batch
    given = batch
    if is_mapping(batch):
        options = [[key] for key in keys] if keys else KEYS
        found = [next((key for key in names if key in batch), None) for names in options]
        if found[0] is None:
            raise DataError(f"no inputs in a batch that is a {kind(batch)}; {NAME_THEM}")
        batch = [batch[key] for key in found if key is not None]
    inputs, labels, *_ = (*batch, None) if isinstance(batch, list | tuple) else (batch, None)
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.ndim < 2:
        raise DataError(
            f"batches must be (inputs, labels), inputs of floating point as ToTensor gives them, not {kind(given)}"
        )
    if not isinstance(labels, Tensor):
        return Batch(inputs, None, None)
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.is_floating_point() or labels.is_complex() or flat.shape != inputs.shape[:1]:
        raise DataError(f"labels must be one whole number for each of {len(inputs)} inputs, not {kind(labels)}")
    return Batch(inputs, flat.long(), None)


def is_mapping(batch: Any) -> bool:
    """Whether a batch is a mapping, of whatever kind."""
    return isinstance(batch, Mapping) or (hasattr(batch, "keys") and hasattr(batch, "__getitem__"))


def kind(batch: Any) -> str:
    """What a batch is made of, in a few words."""
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')} {tuple(batch.shape)}"
    if is_mapping(batch):
        return f"{type(batch).__name__} of {', '.join(map(str, batch.keys()))}"
    if isinstance(batch, list | tuple):
        return f"{type(batch).__name__} of {', '.join(map(kind, batch)) or 'nothing'}"
    return type(batch).__name__


def adopt(datamodule: Any, *, keys: Sequence[str] | None = None) -> Any:
    """A DataModule as actbench trains on it: ours as it is, any other wrapped."""
    return datamodule if isinstance(datamodule, ImageData | ForeignData) else ForeignData(datamodule, keys=keys)


class ForeignData(LightningDataModule):
    """A LightningDataModule of the user's, of `pytorch_lightning` or of `lightning`, shared by all replicates.

    Its split and training batches depend on the epoch only, and not on which
    replicates train on them. On several devices, or when the same few batches
    are trained on again and again, Lightning has to see the loader itself.

    Args:
        inner: The user's.
        keys: Keys of inputs and labels, where batches are mappings with unusual names.

    Raises:
        DataError: It is no LightningDataModule.
    """

    def __init__(self, inner: Any, *, keys: Sequence[str] | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.keys = keys
        self.prepared: set[str | None] = set()
        self.shared: SharedBatches | None = None
        self.seen: dict[str, Any] = {}
        theirs = next((cls for cls in type(inner).__mro__ if cls.__name__ == "LightningDataModule"), None)
        if theirs is None:
            raise DataError(f"{type(inner).__name__} is no LightningDataModule")
        for name in LOADERS:  # Lightning asks which a DataModule has
            if name in vars(inner) or getattr(type(inner), name) is not getattr(theirs, name):
                ours = {"train_dataloader": self._train_batches, "predict_dataloader": self._predict_batches}
                setattr(self, name, ours.get(name, getattr(inner, name)))
        if "predict_dataloader" not in vars(self) and "test_dataloader" in vars(self):
            vars(self)["predict_dataloader"] = vars(self)["test_dataloader"]

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    # --- what Lightning calls ---

    @override
    def prepare_data(self) -> None:
        if "prepare" not in self.prepared:
            self.prepared.add("prepare")
            self.inner.prepare_data()

    @override
    def setup(self, stage: str | None = None) -> None:
        self.inner.trainer = self.trainer
        if stage not in self.prepared:
            self.prepared.add(stage)
            seed_globally("split")
            self.inner.setup(stage)

    @override
    def teardown(self, stage: str) -> None:
        self.inner.teardown(stage)
        self.prepared &= {"prepare"}  # it may have freed what any stage needs

    @override
    def on_exception(self, exception: BaseException) -> None:
        self.inner.on_exception(exception)

    @override
    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return self.inner.transfer_batch_to_device(batch, device, dataloader_idx)

    @override
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.inner.on_before_batch_transfer(batch, dataloader_idx)

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.inner.on_after_batch_transfer(batch, dataloader_idx)

    @override
    def state_dict(self) -> dict[str, Any]:
        return dict(self.inner.state_dict())

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.inner.load_state_dict(state_dict)

    def _train_batches(self) -> Any:
        loader, trainer = only(self.inner.train_dataloader()), self.trainer
        if not trainer or trainer.world_size > 1 or trainer.overfit_batches or not isinstance(loader, DataLoader):  # type: ignore[attr-defined]
            return loader
        self.shared = SharedBatches(loader, trainer, self.keys)
        return self.shared

    def _predict_batches(self) -> Any:
        loader = only(self.inner.predict_dataloader())
        alone = not self.trainer or self.trainer.world_size == 1
        # Lightning would make a DataLoader anew, which it cannot do with every one.
        return Handed(loader) if alone and isinstance(loader, DataLoader) else loader

    # --- what actbench asks ---

    @property
    def order(self) -> str | None:
        """Fingerprint of the batches of the first epoch that were trained on; None if it is not known."""
        return self.shared.order if self.shared and self.shared.order else None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input: the inner's attribute ``input_shape``, or that of the first training batch."""
        said = getattr(self.inner, "input_shape", None)
        if said is None and "input_shape" not in self.seen:
            self.seen["input_shape"] = self._shape("train")
        return tuple(said) if said is not None else self.seen["input_shape"]

    @property
    def num_classes(self) -> int:
        """Number of classes: what the DataModule or its dataset says, or else the largest training label and one."""
        said = getattr(self.inner, "num_classes", None) or getattr(self.inner, "classes", None)
        if said is None:
            said = getattr(getattr(self._loader("train"), "dataset", None), "classes", None)
        if said is None and "num_classes" not in self.seen:
            self.seen["num_classes"] = max(int(labels.max()) for labels in self._labels("train")) + 1
        said = self.seen["num_classes"] if said is None else said
        return len(said) if hasattr(said, "__len__") else int(said)

    def _loader(self, part: str) -> Any:
        """A part's only loader.

        Raises:
            DataError: There is none, or there are several.
        """
        name = f"{part}_dataloader"
        with isolate_rng():
            self.prepare_data()
            if name not in vars(self):
                raise DataError(f"{type(self.inner).__name__} has no {name}, which is needed")
            self.setup("test" if part == "test" else "fit")
            loader = only(getattr(self.inner, name)())
        if isinstance(loader, list | tuple | Mapping) and any(isinstance(of, DataLoader) for of in parts_of(loader)):
            raise DataError(f"{name} of {type(self.inner).__name__} gives {len(loader)} loaders, and one is needed")
        return loader

    def _batches(self, part: str) -> Generator[Batch, None, None]:
        """Batches of a part as they are in every process; the first ones, where nobody knows how many there are."""
        with isolate_rng():
            loader = self._loader(part)
            seed_loader(loader, 0)
            found = 0
            for batch in itertools.islice(loader, None if has_length(loader) else UNSIZED):
                found += 1
                read = read_batch(batch, self.keys)
                if read.labels is None:
                    hint = f"; {NAME_THEM}" if is_mapping(batch) else ""
                    raise DataError(f"batches of the {part} part have no labels: {kind(batch)}{hint}")
                yield read
            if not found:
                raise DataError(f"the {part} part of {type(self.inner).__name__} has no batch")

    def _shape(self, part: str) -> tuple[int, ...]:
        """Shape of one input of a part."""
        # Lightning's isolate_rng puts nothing back when a generator inside of it is closed early.
        with isolate_rng(), closing(self._batches(part)) as batches:
            shape = tuple(next(batches).inputs.shape[1:])
        return shape

    def _labels(self, part: str) -> Iterator[Tensor]:
        """Labels of a part, without its inputs where they are at hand."""
        dataset = getattr(self._loader(part), "dataset", None)
        if type(dataset) is TensorDataset and len(dataset.tensors) > 1:
            yield read_batch(dataset.tensors, self.keys).labels  # type: ignore[misc]
        else:
            yield from (batch.labels for batch in self._batches(part) if batch.labels is not None)

    @property
    def parts(self) -> list[str]:
        """Of train, val and test, those that have a loader."""
        return [part for part in ("train", "val", "test") if f"{part}_dataloader" in vars(self)]

    def has_labels(self, part: str) -> bool:
        """Whether batches of a part have labels: a test part need not, as long as nobody scores it."""
        with isolate_rng():
            batch = next(iter(self._loader(part)), None)
        try:
            return read_batch(batch, self.keys).labels is not None
        except DataError:
            return False

    def check(self, parts: Sequence[str] = ("train", "val", "test")) -> None:
        """Refuse what would fail in a fit or a test.

        Args:
            parts: Those that are needed.

        Raises:
            DataError: A part has no loader, several, no labels, labels out of range or other shapes; one line.
        """
        for part in parts:
            self._loader(part)
        for part in parts:
            shape = self._shape(part)
            if shape != self.input_shape:
                raise DataError(f"inputs of the {part} part have the shape {shape}, not {self.input_shape}")
            classes = self.num_classes
            for labels in self._labels(part):
                low, high = int(labels.min()), int(labels.max())
                if low < 0 or high >= classes:
                    wrong = low if low < 0 else high
                    raise DataError(f"the {part} part has the label {wrong}, and there are {classes} classes")

    def digest(self) -> str:
        """Hash of all that the loaders yield in the first epoch, the same in every process."""
        found = sha256()
        for part in ("train", "val", "test"):
            for batch in self._batches(part):
                found.update(f"{part} {tuple(batch.inputs.shape)} {batch.inputs.dtype}".encode())
                found.update(as_bytes(batch.labels))
                found.update(as_bytes(batch.inputs))
        return found.hexdigest()[:32]


def has_length(loader: Any) -> bool:
    """Whether a loader knows how many batches it has."""
    try:
        len(loader)
    except TypeError:  # an IterableDataset, which may never end
        return False
    return True


def parts_of(loaders: Any) -> list[Any]:
    """Loaders of a list or a mapping."""
    return list(loaders.values() if isinstance(loaders, Mapping) else loaders)


def only(loader: Any) -> Any:
    """The loader of a list or a mapping of one; anything else as it is."""
    if isinstance(loader, list | tuple | Mapping) and len(loader) == 1 and isinstance(parts_of(loader)[0], DataLoader):
        return parts_of(loader)[0]
    return loader


class Handed:
    """A loader that is used as it is.

    Args:
        loader: What yields the batches.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)


def as_bytes(values: Tensor | None) -> bytes:
    """Bytes of a tensor."""
    if values is None:
        return b""
    return values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


class SharedBatches:
    """A loader whose batches depend on the epoch only, and that can be resumed inside one.

    What it draws from the global generators is keyed by epoch and batch.

    Args:
        loader: What is shared.
        trainer: Says which epoch it is.
        keys: See `read_batch`.
    """

    def __init__(self, loader: DataLoader[Any], trainer: Any, keys: Sequence[str] | None) -> None:
        self.loader = loader
        self.trainer = trainer
        self.keys = keys
        self.epoch = 0
        self.batches = 0  # handed out in this epoch
        self.resumed = False
        self.order = ""  # chained hash of the first epoch's batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        # A generator: nothing runs before the first batch is asked for. Lightning makes iterators early.
        epoch = self.trainer.current_epoch
        first = self.batches if self.resumed and self.epoch == epoch else 0
        self.epoch, self.batches, self.resumed = epoch, 0, False
        seed_loader(self.loader, epoch)
        iterator = iter(self.loader)
        while True:
            seed_globally("order", epoch, self.batches)
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.batches += 1
            if self.batches > first:
                if epoch == 0:
                    read = read_batch(batch, self.keys)
                    sample = read.inputs.flatten()[:: max(1, read.inputs.numel() // 1024)]
                    self.order = sha256(self.order.encode() + as_bytes(read.labels) + as_bytes(sample)).hexdigest()[:32]
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """The place in the epoch."""
        return {"epoch": self.epoch, "batches": self.batches, "order": self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration start at this place, if it is one over the same epoch."""
        self.epoch, self.batches, self.resumed = state["epoch"], state["batches"], True
        self.order = state.get("order", "")


def seed_loader(loader: Any, epoch: int) -> None:
    """Seed the global generators, and those that a loader or its samplers have of their own, with an epoch's order."""
    seed_globally("order", epoch)
    samplers = [getattr(loader, name, None) for name in ("sampler", "batch_sampler")]
    samplers.append(getattr(samplers[1], "sampler", None))
    for holder in (loader, *samplers):
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(stream_seed(SEED, "order", epoch))


def seed_globally(purpose: Purpose, *index: int) -> None:
    """Seed the global generators with what replicates share."""
    seed_everything(stream_seed(SEED, purpose, *index) % 2**32, verbose=False)
