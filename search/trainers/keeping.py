"""A trainer's checkpoints: which of its trials go on from one, when the next are written, and that they cost little."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from search.records import Assignment, EpochResult
from search.trainers.interface import TrainerSetup
from search.training.checkpoints import Checkpoint, CheckpointFolder

if TYPE_CHECKING:
    from search.training.data import Dataset
    from search.training.folding import FoldedPopulation
    from search.training.population import Population

_SHARE = 0.02
"""Of a trainer's time: writing takes no more of it in the long run."""


@dataclass
class _Kept:
    assignment: Assignment
    rows: list[EpochResult] = field(default_factory=list)


class Keeper:
    """Keeps a population's trials in checkpoints. Where it has no folder, it keeps none."""

    def __init__(self, files: CheckpointFolder | None, seconds: float) -> None:
        """`seconds` lie between two rounds of writing, or more where one takes long."""
        self._files, self._seconds = files, seconds
        self._due = time.monotonic() + seconds
        self._trials: dict[int, _Kept] = {}
        self._failed, self._notice = False, ""

    def admit(self, population: Population | FoldedPopulation, assignment: Assignment) -> tuple[EpochResult, ...]:
        """Put a trial into the population, from its checkpoint if there is one; return its epochs until then."""
        checkpoint = None if self._files is None else self._files.read(assignment)
        rows: Sequence[EpochResult] = ()
        if checkpoint is not None:
            with suppress(ValueError):  # what was written is not what this model has now
                population.restore(assignment, checkpoint.state)
                rows = checkpoint.rows
        if not rows:
            population.admit(assignment)
        self._trials[assignment.number] = _Kept(assignment, list(rows))
        return tuple(rows)

    def epoch_ended(self, results: Mapping[int, EpochResult]) -> None:
        """Take note of an epoch."""
        for number, result in results.items():
            self._trials[number].rows.append(result)

    def freed(self, numbers: Iterable[int]) -> None:
        """Remove the checkpoints of trials that have ended."""
        for number in numbers:
            kept = self._trials.pop(number)
            if self._files is not None:
                self._files.remove(kept.assignment)

    def vacated(self) -> None:
        """Forget all trials, but leave their checkpoints: somebody may go on with them."""
        self._trials.clear()

    def write_if_due(self, population: Population | FoldedPopulation) -> None:
        """Write all checkpoints if the last time is long ago."""
        if time.monotonic() >= self._due:
            self.write(population)

    def write(self, population: Population | FoldedPopulation) -> None:
        """Write all checkpoints, between two epochs. What goes wrong is for `take_notice`."""
        if self._files is None or not self._trials:
            return
        start = time.monotonic()
        try:
            self._write(self._files, population)
        except Exception as error:  # a search must not end for want of what only saves time
            self._take_note(error, self._files)
        end = time.monotonic()
        self._due = end + max(self._seconds, (end - start) / _SHARE)

    def take_notice(self) -> str:
        """Return what the user should know and has not been told yet."""
        notice, self._notice = self._notice, ""
        return notice

    def _take_note(self, error: Exception, files: CheckpointFolder) -> None:
        if self._failed:  # it was said already
            return
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        self._failed = True
        self._notice = (
            f"No checkpoints can be written to {files.folder} ({reason}): a trial that is cut off may begin anew"
        )

    def _write(self, files: CheckpointFolder, population: Population | FoldedPopulation) -> None:
        for index, (number, kept) in enumerate(self._trials.items()):
            state = population.state(number)
            if index == 0:
                files.make_room(len(self._trials) * sum(tensor.nbytes for tensor in state.values()))
            files.write(kept.assignment, Checkpoint(tuple(kept.rows), state))


def make_keeper(setup: TrainerSetup, data: Dataset) -> Keeper:
    """Return who keeps the checkpoints of a trainer."""
    if setup.checkpoints is None:
        return Keeper(None, setup.checkpoint_seconds)
    return Keeper(CheckpointFolder(setup.checkpoints, _setting(setup, data)), setup.checkpoint_seconds)


def _setting(setup: TrainerSetup, data: Dataset) -> dict[str, Any]:
    """Return what else a trial depends on than its configuration and its seed."""
    # The study's seed splits the data, so that whole and parts tell which examples these are.
    examples = {"fingerprint": data.fingerprint, "train": len(data.train), "val": len(data.val), "folds": data.folds}
    sections = {"model": setup.model.model_dump(mode="json"), "training": setup.training.model_dump(mode="json")}
    return {**sections, "data": examples, "study_seed": setup.seed}
