"""Cross-validation in a population: each fold of a trial is a slot, and what the trial reaches is the mean over them.

Folds train side by side, each with the others' examples and on its own, and have initial weights, batch order and noise
of their own. The spread of their validation losses is the trial's standard error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from statistics import fmean, stdev

from torch import Tensor

from search.records import Assignment, EpochResult
from search.training.population import Population

_NEXT_FOLD = 2**50
"""How far apart the seeds of a trial's folds are: more than any two trials' seeds."""


class FoldedPopulation:
    """A population of trials that occupy a slot for each fold. As far as it goes, it is used as `Population` is."""

    def __init__(self, population: Population, folds: int) -> None:
        """The population must have data in folds, and at least as many slots."""
        self._population, self._folds = population, folds
        self._numbers: list[int] = []

    @property
    def seconds(self) -> tuple[float, float]:
        """What the last epoch's training and its evaluation took."""
        return self._population.seconds

    @property
    def numbers(self) -> list[int]:
        """Numbers of the trials."""
        return list(self._numbers)

    def admit(self, assignment: Assignment) -> None:
        """Put a trial into a slot for each fold."""
        self._fill(assignment, lambda _, trial: self._population.admit(trial))

    def free(self, numbers: Iterable[int]) -> None:
        """Empty the slots of these trials."""
        for number in list(numbers):
            self._population.free(self._slots_of(number))
            self._numbers.remove(number)

    def state(self, number: int) -> dict[str, Tensor]:
        """Return all that a trial needs to go on; see `Population.state`."""
        states = [self._population.state(slot) for slot in self._slots_of(number)]
        return {_of(fold) + name: tensor for fold, state in enumerate(states) for name, tensor in state.items()}

    def restore(self, assignment: Assignment, state: Mapping[str, Tensor]) -> None:
        """Put a trial into slots as it was when `state` was taken. Raises ValueError; see `Population.restore`."""
        if not all(name.startswith(tuple(map(_of, range(self._folds)))) for name in state):
            raise ValueError("this is the state of a trial of other folds")

        def put(fold: int, trial: Assignment) -> None:
            own = {name.removeprefix(_of(fold)): state[name] for name in state if name.startswith(_of(fold))}
            self._population.restore(trial, own)

        self._fill(assignment, put)

    def train_epoch(self, should_stop: Callable[[], bool] = lambda: False) -> dict[int, EpochResult]:
        """Train every fold of every trial for one epoch; results by trial. See `Population.train_epoch`."""
        results = self._population.train_epoch(should_stop)
        return {number: _mean([results[slot] for slot in self._slots_of(number)]) for number in self._numbers}

    def _fill(self, assignment: Assignment, put: Callable[[int, Assignment], None]) -> None:
        """Have each fold of a trial put into a slot, or none of them."""
        try:
            for fold in range(self._folds):
                put(fold, of_fold(assignment, fold, self._folds))
        except BaseException:
            with suppress(ValueError):
                self._population.free(self._slots_of(assignment.number))
            raise
        self._numbers.append(assignment.number)

    def _slots_of(self, number: int) -> list[int]:
        return [number * self._folds + fold for fold in range(self._folds)]


def of_fold(assignment: Assignment, fold: int, folds: int) -> Assignment:
    """Return what a population is told of one fold of a trial."""
    number, seed = assignment.number * folds + fold, assignment.seed + fold * _NEXT_FOLD
    return replace(assignment, number=number, seed=seed, fold=fold)


def _of(fold: int) -> str:
    """Return what the names of a fold's tensors begin with in the state of its trial."""
    return f"fold_{fold}/"


def _mean(results: list[EpochResult]) -> EpochResult:
    columns = {
        name: [getattr(result, name) for result in results]
        for name in ("train_loss", "val_loss", "val_accuracy", "sparsity")
    }
    losses = columns["val_loss"]
    error = stdev(losses) / math.sqrt(len(losses)) if all(map(math.isfinite, losses)) else math.nan
    means = {name: fmean(column) for name, column in columns.items()}
    return EpochResult(results[0].epoch, **means, val_loss_error=error)
