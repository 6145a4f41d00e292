"""A cell: one arm on one dataset with some seeds. One fit, one test, a record for each seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple
from uuid import uuid4

from pytorch_lightning.utilities import rank_zero_warn

from actbench import records
from actbench.data import ForeignData
from actbench.seeding import SOURCES, Sharing
from actbench.specs import SchedulerSpec, without
from actbench.studies.cells.key import factors
from actbench.training.callbacks import mixing_callbacks
from actbench.training.config import BenchCLI

# Settings of the Trainer that a study chooses itself.
SET_BY_STUDY = ("logger", "default_root_dir", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")


@dataclass(frozen=True)
class Cell:
    """Replicates that are trained together: the config of their fit, and their seeds."""

    config: Mapping[str, Any]  # in canonical form; see `cell_config`
    seeds: range
    digest: str = ""  # of the data; see `data_digest`
    weights: str = "last"  # scored weights: of the last epoch, or each replicate's best by its own val/loss
    vary: Sequence[str] = SOURCES  # sources of randomness that differ from seed to seed
    fixed_seed: int = 0  # keys the other sources for every seed; the first of the seeds that key crossed sources
    crossed: Sequence[str] = ()  # sources that groups of seeds share, in the order of `SOURCES`; see `Sharing`
    engine_reason: str | None = None  # why the config names its engine, if a study chose it

    @property
    def fit(self) -> dict[str, Any]:
        """The config of the fit that trains the cell's seeds."""
        model = {**self.config["model"], "replicates": len(self.seeds)}
        alike = self.fixed_seed == self.seeds[0]
        vary = {"vary": [source for source in SOURCES if source in self.vary]} if alike and self.fixed else {}
        crossed = {"crossed": [*self.crossed]} if alike and self.crossed else {}
        return {"seed_everything": self.seeds[0], **vary, **crossed, **self.config, "model": model}

    def with_seeds(self, seeds: range) -> "Cell":
        """The cell with other seeds, on which its key does not depend."""
        changed = replace(self, seeds=seeds)
        vars(changed).update(factors=self.factors, hash=self.hash)
        return changed

    def one_by_one(self) -> list["Cell"]:
        """A cell for each seed."""
        return [self.with_seeds(range(seed, seed + 1)) for seed in self.seeds]

    @cached_property
    def mixing(self) -> list[str]:
        """What may mix the seeds of a fit, in words; such a cell's seeds are trained one by one."""
        classes = mixing_callbacks(self.config["trainer"])
        found = [f"{cls.__name__} sees all seeds of a fit at once" for cls in classes]
        schedule = self.config["model"].get("lr_scheduler")
        if schedule is not None and SchedulerSpec(schedule).waits:
            found.append("ReduceLROnPlateau sets one rate for all seeds of a fit")
        return found

    @property
    def seed_span(self) -> str:
        """The first and the last seed, ``0-31``."""
        return f"{self.seeds[0]}-{self.seeds[-1]}"

    @cached_property
    def factors(self) -> dict[str, Any]:
        """Exactly what determines the results, except the seeds: no paths, loggers or devices."""
        return factors(self.config, self.digest, self.weights, sharing=self.sharing)

    @property
    def fixed(self) -> tuple[str, ...]:
        """Sources of randomness that are the same for every seed."""
        return tuple(source for source in SOURCES if source not in self.vary)

    @property
    def sharing(self) -> Sharing:
        """Which of the seeds share a source of randomness."""
        return Sharing(self.fixed, self.crossed, self.fixed_seed)

    @cached_property
    def hash(self) -> str:
        """Hash of the factors."""
        return records.fingerprint(self.factors)


def kind_of(cell: Cell) -> str:
    """The data and network of a cell, as JSON: cells of one kind are trained by one engine."""
    return records.json_text([cell.config["data"], cell.digest, cell.config["model"]["network"]])


class ChosenEngine(NamedTuple):
    """The engine of a kind of cell, why it was chosen, and whether its steps are compiled."""

    name: str
    reason: str
    compiles: bool = False

    @classmethod
    def recorded(cls, engine: str, reason: str) -> "ChosenEngine":
        """The engine that records name."""
        name = engine.removeprefix("compiled ")
        return cls(name, reason, compiles=name != engine)


def with_engine(cell: Cell, engines: Mapping[str, ChosenEngine]) -> Cell:
    """The cell with the engine of its kind, on which its key does not depend; what its config names stays."""
    chosen, model = engines.get(kind_of(cell)), cell.config["model"]
    if chosen is None or {"engine", "compile"} <= model.keys():
        return cell
    config = {**cell.config, "model": {"engine": chosen.name, "compile": chosen.compiles} | model}
    changed = replace(cell, config=config, engine_reason=chosen.reason)
    vars(changed).update(factors=cell.factors, hash=cell.hash)
    return changed


def trained_cells(cell: Cell, engines: Mapping[str, ChosenEngine]) -> list[Cell]:
    """The cells that train a cell's seeds: by the engine of its kind, and one by one where a fit may mix them."""
    cell = with_engine(cell, engines)
    return cell.one_by_one() if cell.mixing else [cell]


def cell_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """The canonical config of a composed fit as a study runs it: on one device, without folders and loggers of its own.

    A ValueError says which setting is unknown or does not fit, or why no cell can run with it.
    """
    trainer = without(given.get("trainer") or {}, *SET_BY_STUDY)
    if trainer.get("devices") in (None, "auto"):
        trainer["devices"] = 1
    config = BenchCLI("fit", {**given, "trainer": trainer}, build=False).canonical
    check_trainer(config["trainer"])
    return without({**config, "model": without(config["model"], "replicates")}, "seed_everything")


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Raise a ValueError for settings of the Trainer with which no cell can run.

    Several devices are refused because under DDP each would run the whole study again.
    """
    for name in ("fast_dev_run", "barebones"):
        if trainer.get(name):
            raise ValueError(f"trainer.{name}: a study trains whole fits; leave it out")
    for name in ("devices", "num_nodes"):
        value = trainer.get(name, 1)
        if value not in (1, "1") and not (isinstance(value, list) and len(value) == 1):
            raise ValueError(f"trainer.{name}: a cell runs on one device, got {value!r}; use study.workers for several")
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if trainer.get(name) == 0:
            raise ValueError(f"trainer.{name} is 0, and a cell needs at least one epoch or step")
    if trainer.get("limit_test_batches") == 0:
        raise ValueError("trainer.limit_test_batches is 0, and every seed is scored on test")
    endless = trainer.get("max_epochs") == -1 and trainer.get("max_steps") in (None, -1)
    if endless and not trainer.get("max_time") and not trainer.get("callbacks"):
        raise ValueError("trainer.max_epochs is -1, and nothing else ends the training: give max_steps or max_time")


def build_data(config: Mapping[str, Any]) -> Any:
    """The DataModule of a cell's config, for one replicate."""
    return BenchCLI("fit", config, build=False).build_data()


def data_digest(config: Mapping[str, Any], digests: dict[str, str] | None = None) -> str:
    """Hash of the data that a cell's config yields, after checking its batches and labels.

    The hash is added to ``digests``, by config, which hold as long as no file changes. Raises a ValueError if the data
    are missing or damaged, or cannot be trained, validated and tested on.
    """
    reloads = bool(config["trainer"].get("reload_dataloaders_every_n_epochs"))
    key = records.json_text([config["data"], config["model"].get("batch_keys"), reloads])
    digests = {} if digests is None else digests
    if key not in digests:
        datamodule = build_data(config)
        if isinstance(datamodule, ForeignData):
            datamodule.scout.check()
            digests[key] = datamodule.scout.digest()
            if reloads:
                digests[key] = uuid4().hex
                rank_zero_warn(
                    f"{datamodule.scout.name} reloads its loaders during training: later epochs may hold other data, "
                    "so finished replicates are not found again"
                )
        else:
            datamodule.setup()
            digests[key] = datamodule.digest()
    return digests[key]
