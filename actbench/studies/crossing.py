"""Crossed seeds: which sources of randomness an arm uses, and the replicates that show how much each matters."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from actbench.data import SEED, ImageData
from actbench.inference.verdict import Question
from actbench.inference.verdict.phrases import listed
from actbench.networks.examining import generator_states
from actbench.seeding import CROSSED_REPLICATES, SOURCES, global_stream, shared_sources
from actbench.specs import one_line
from actbench.studies.cells import Cell
from actbench.studies.cells.run import CellCLI, unchanged_process
from actbench.studies.definition import Study, StudyError
from actbench.studies.grid import PlannedCell
from actbench.studies.plan import Wanted

PROBED = 16  # images that a network is given to see whether it draws


def crossed_wanted(
    study: Study, question: Question, compared: Sequence[PlannedCell], say: Callable[[str], None]
) -> list[Wanted]:
    """The crossed replicates of every arm under the study's usual condition; none unless the study asks for them.

    On a dataset and network, all arms cross the same sources, so that pairs are
    pairs: those that vary and that any of the arms uses. A line says which are left out.

    Raises:
        StudyError: Fewer than two sources vary on a dataset and network, or an arm cannot be built.
    """
    wanted = list[Wanted]()
    for panel in question.panels if study.fairness.variance else ():
        entries = [entry for entry in compared if entry.key[:2] == panel]
        if panel.network not in question.usual_networks:
            continue
        used = set[str]().union(*(sources_of(entry) for entry in entries))
        crossed = [source for source in SOURCES if source in used and source in study.vary]
        unused = [source for source in SOURCES if source in study.vary and source not in used]
        if len(crossed) < 2:
            raise StudyError(
                f"study.fairness.variance crosses two sources of randomness at least; of {listed(study.vary)}, "
                f"{panel.title} uses {listed(crossed) or 'none'}"
            )
        if unused:
            say(f"{panel.title}: seeds of {listed(crossed)} are crossed; {listed(unused)} left out, which nothing uses")
        seeds = range(study.seed, study.seed + CROSSED_REPLICATES)
        wanted += [Wanted(crossed_entry(entry, crossed), seeds) for entry in entries]
    return wanted


def crossed_entry(entry: PlannedCell, crossed: Sequence[str]) -> PlannedCell:
    """An entry whose replicates cross the seeds of these sources."""
    return entry._replace(cell=replace(entry.cell, crossed=tuple(crossed)))


def sources_of(entry: PlannedCell) -> set[str]:
    """The `used_sources` of an entry; a StudyError if it cannot be built."""
    try:
        return used_sources(entry.cell)
    except Exception as error:  # of any kind, in the user's code
        raise StudyError(f"{entry.label}: {one_line(error)}") from error


def used_sources(cell: Cell) -> set[str]:
    """Sources of randomness from which two replicates of a cell would differ if all varied.

    Their weights are compared, and a forward pass in training shows whether the
    network draws. All replicates share the data of a DataModule that is not ours.
    """
    model = {**cell.config["model"], "engine": "sequence", "compile": False}  # a stack would have to be proved
    seeds = range(cell.fixed_seed, cell.fixed_seed + 2)
    two = replace(cell, config={**cell.config, "model": model}, seeds=seeds, vary=SOURCES, crossed=())
    with tempfile.TemporaryDirectory() as folder, unchanged_process(SEED), shared_sources(two.sharing):
        cli = CellCLI(two, Path(folder), ())
        classifier, datamodule = cli.model, cli.datamodule
        one, other = (classifier.engine.replicate(index) for index in range(2))
        used = {"init"} if states_differ(one, other) else set[str]()
        if isinstance(datamodule, ImageData):
            used |= {"split"} if datamodule.fractions else set()
            used |= set() if cli.trainer.overfit_batches else {"order"}  # type: ignore[attr-defined]
            used |= {"augmentation"} if datamodule.augment else set()
        return used | ({"dropout"} if draws_random_numbers(one, classifier.input_shape) else set())


def states_differ(network: nn.Module, other: nn.Module) -> bool:
    """Whether any parameter or buffer has other values than its counterpart."""
    values, others = network.state_dict().values(), other.state_dict().values()
    return any(isinstance(value, Tensor) and not value.equal(than) for value, than in zip(values, others, strict=True))


def draws_random_numbers(network: nn.Module, input_shape: Sequence[int]) -> bool:
    """Whether a network in training draws from a global generator, as dropout does."""
    with torch.no_grad(), global_stream(SEED, "dropout"):
        inputs = torch.rand(PROBED, *input_shape)  # not zeros, for which code may draw nothing
        before = generator_states()
        network.train()(inputs)
        return generator_states() != before
