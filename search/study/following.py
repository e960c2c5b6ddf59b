"""A study that another process runs, read again and again: what has begun and ended since the last look.

Reading takes no lock, and costs by what is new: a journal's new lines, a database's unfinished trials. (SQLite lets no
writer commit while it is read, which for what is new is milliseconds.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.records import Assignment, EpochResult, TrialRecord
from search.spec import StudySpec
from search.study.foreign import Sieve
from search.study.gone import Existence
from search.study.opening import stored_spec
from search.study.reading import as_written
from search.study.storage import mending_advice, storage_errors
from search.study.trials import first_attempt, role_of, spent_trials


@dataclass(frozen=True)
class Look:
    """What is new in a study, in the order in which to tell it; the first look has everything."""

    spec: StudySpec
    """As it is now: whoever resumes a study may give it more trials."""
    started: Sequence[Assignment]
    """Without configurations and seeds."""
    epochs: Sequence[tuple[int, EpochResult]]
    """Of running trials, by number. Of these only the validation loss is known; all else is nan."""
    ended: Sequence[TrialRecord]
    finished: bool
    """Whether all trials have ended that the study shall have."""


class Following:
    """One study, to be looked at."""

    def __init__(self, study: optuna.Study, storage: BaseStorage) -> None:
        self._study, self._storage = study, storage
        self._name = study.study_name
        self._existence = Existence(storage, study._study_id, self._name)
        self._epochs: dict[int, int] = {}
        """By running trial, how many of its epochs were told."""
        self._ended: set[int] = set()
        self._sieve: Sieve | None = None

    def look(self) -> Look:
        """Return what is new. Raises StorageError."""
        with (
            storage_errors(self._storage),
            as_written(f'study "{self._name}"', mending_advice(self._storage)),
            self._existence.required(),
        ):
            self._existence.check()
            return self._look()

    def _look(self) -> Look:
        spec = stored_spec(self._study)
        if self._sieve is None:
            self._sieve = Sieve(spec)
        sieve = self._sieve
        trials = sieve.sift(self._study.get_trials(deepcopy=False))
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        started = [self._started(trial) for trial in running if trial.number not in self._epochs]
        epochs = [told for trial in running for told in self._new_epochs(trial, sieve)]
        ended = [trial for trial in trials if trial.state.is_finished() and trial.number not in self._ended]
        self._ended |= {trial.number for trial in ended}
        records = sorted(sieve.records(ended), key=lambda record: (record.ended, record.number))
        finished = not running and spent_trials(trials) >= spec.search.trials
        return Look(spec, started, epochs, records, finished)

    def _started(self, trial: FrozenTrial) -> Assignment:
        self._epochs[trial.number] = 0
        return Assignment(trial.number, first_attempt(trial), {}, role_of(trial))

    def _new_epochs(self, trial: FrozenTrial, sieve: Sieve) -> list[tuple[int, EpochResult]]:
        known = self._epochs[trial.number]
        new = sorted(sieve.steps(trial).items())[known:]
        self._epochs[trial.number] += len(new)
        return [(trial.number, EpochResult(epoch, nan, loss, nan, nan)) for epoch, loss in new]
