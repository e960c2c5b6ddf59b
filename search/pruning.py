"""Who is pruned: the epochs of all trials so far in, trial numbers out. No storage, no Optuna, no torch.

The default is asynchronous successive halving, which compares a trial with everything that has come as far as it has,
finished or not: trials that start together can be pruned (Optuna's median pruner compares with completed trials only).
Optuna's own pruners are in `mirror.py`, behind the same protocol. Whoever calls decides what to do with the answer:
the baseline, for instance, is scored here like any other trial and never pruned by the runner.
"""

import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from search.pareto import Point, costs, fronts
from search.records import EpochResult, TrialRecord, best_epoch

if TYPE_CHECKING:
    from search.spec import StudySpec


class Pruner(Protocol):
    """Sees all trials of a study, epoch by epoch; remembers what it must."""

    def epoch_ended(self, curves: Mapping[int, Sequence[EpochResult]]) -> set[int]:
        """Return the numbers of the trials to prune, of those that have just finished an epoch together.

        `curves` has each trial's epochs so far, by trial number; index 0 is epoch 1.
        """
        ...

    def trial_ended(self, record: TrialRecord) -> None:
        """Learn how a trial ended. On resume, called for every trial of earlier runs, by number."""
        ...


class NoPruner:
    """Prunes nothing."""

    def epoch_ended(self, curves: Mapping[int, Sequence[EpochResult]]) -> set[int]:  # noqa: ARG002
        """Return the empty set."""
        return set()

    def trial_ended(self, record: TrialRecord) -> None:
        """Do nothing."""


class SuccessiveHalving:
    """Asynchronous successive halving (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning").

    Rungs stand at epochs `min_epochs * reduction_factor**k`, below `max_epochs`. A trial's score at a rung is its
    lowest validation loss up to there, since the best epoch's weights are what is kept. It goes on if it is in the
    best `1 / reduction_factor` (rounded up, so at least one; ties go on) of all scores seen at that rung by now.
    Unlike in the paper nobody is paused and promoted later: a slot is refilled with a new trial instead.

    Where sparsity counts too, a score is on which Pareto front of lowest loss and sparsity of that epoch the trial
    lies, among all at the rung, and then its loss (Schmucker et al. 2021, "Multi-objective Asynchronous Successive
    Halving").
    """

    def __init__(self, min_epochs: int, reduction_factor: int, max_epochs: int, sparsity: bool = False) -> None:
        """`sparsity`: whether it is an objective beside the loss."""
        self.rungs = tuple(_rungs(min_epochs, reduction_factor, max_epochs))
        """Epochs at which trials are judged, ascending."""
        self._reduction_factor = reduction_factor
        self._scores = {rung: _Fronts() if sparsity else _Losses() for rung in self.rungs}

    def epoch_ended(self, curves: Mapping[int, Sequence[EpochResult]]) -> set[int]:
        """Return who is pruned; trials that reach a rung in the same call are all scored before any is judged."""
        reached = [(number, rung) for number in sorted(curves) for rung in self._record(number, curves[number])]
        return {number for number, rung in reached if not self._goes_on(number, rung)}

    def trial_ended(self, record: TrialRecord) -> None:
        """Keep the scores of a trial of an earlier run; forget those of an interrupted one, which will be run again."""
        if record.reason.is_no_result:
            for scores in self._scores.values():
                scores.forget(record.number)
        else:
            self._record(record.number, record.epochs)

    def _record(self, number: int, epochs: Sequence[EpochResult]) -> list[int]:
        """Score the trial at the rungs that it has newly reached, and return those."""
        new = [rung for rung in self.rungs if rung <= len(epochs) and number not in self._scores[rung]]
        for rung in new:
            self._scores[rung].add(number, best_epoch(epochs[:rung]))
        return new

    def _goes_on(self, number: int, rung: int) -> bool:
        scores = self._scores[rung]
        return scores.is_among_best(number, math.ceil(len(scores) / self._reduction_factor))


class _Losses:
    """The losses of all trials at one rung, kept in order: sorting them for each trial would cost more with each."""

    def __init__(self) -> None:
        self._by_trial: dict[int, float] = {}
        self._ascending: list[float] = []

    def __len__(self) -> int:
        return len(self._by_trial)

    def __contains__(self, number: int) -> bool:
        return number in self._by_trial

    def add(self, number: int, best: EpochResult | None) -> None:
        self._by_trial[number] = loss = math.inf if best is None else best.val_loss
        insort(self._ascending, loss)

    def forget(self, number: int) -> None:
        if number in self._by_trial:
            del self._ascending[bisect_left(self._ascending, self._by_trial.pop(number))]

    def is_among_best(self, number: int, places: int) -> bool:
        """Return whether a trial has one of the lowest losses, or the same as one of them."""
        return self._by_trial[number] <= self._ascending[places - 1]

    def to_beat(self, places: int) -> float:
        """Return the highest loss with which a newcomer would have one of so many places; infinite if any would do."""
        return self._ascending[places - 1] if places <= len(self._ascending) else math.inf


class _Fronts:
    """Losses and sparsities of all trials at one rung. The earlier of two fronts is better, then the lower loss.

    A newcomer may put others on a later front, so that all are ranked anew when somebody has come.
    """

    def __init__(self) -> None:
        self._by_trial: dict[int, Point] = {}
        self._scores: dict[int, tuple[int, float]] = {}
        self._ascending: list[tuple[int, float]] = []
        """The scores in order; empty when they are out of date."""

    def __len__(self) -> int:
        return len(self._by_trial)

    def __contains__(self, number: int) -> bool:
        return number in self._by_trial

    def add(self, number: int, best: EpochResult | None) -> None:
        self._by_trial[number] = (math.inf, 0.0) if best is None else costs(best, ("val_loss", "sparsity"))
        self._ascending = []

    def forget(self, number: int) -> None:
        self._by_trial.pop(number, None)
        self._ascending = []

    def is_among_best(self, number: int, places: int) -> bool:
        """Return whether a trial has one of the first scores, or the same as one of them."""
        if not self._ascending:
            self._rank()
        return self._scores[number] <= self._ascending[places - 1]

    def _rank(self) -> None:
        numbers, points = self._by_trial.keys(), list(self._by_trial.values())
        scores = [(front, point[0]) for front, point in zip(fronts(points), points, strict=True)]
        self._scores, self._ascending = dict(zip(numbers, scores, strict=True)), sorted(scores)


@dataclass(frozen=True)
class Rung:
    """What successive halving has seen at one of its epochs."""

    epoch: int
    reached: int
    """Trials that have come so far and are judged here."""
    went_on: int
    """Those of them that have finished a further epoch."""
    to_beat: float | None
    """The highest loss with which the next one goes on; None if any would do, or more than the loss counts."""


class Ladder:
    """The rungs of successive halving for people to read, from the losses alone: whoever looks on has no pruner."""

    def __init__(self, min_epochs: int, reduction_factor: int, max_epochs: int, sparsity: bool = False) -> None:
        """As for `SuccessiveHalving`."""
        self._reduction_factor, self._sparsity = reduction_factor, sparsity
        self._losses = {rung: _Losses() for rung in _rungs(min_epochs, reduction_factor, max_epochs)}
        self._went_on: Counter[int] = Counter()
        self._last_rungs: dict[int, int] = {}
        """By trial, the last rung that it has left behind."""

    def epoch_ended(self, number: int, epoch: int, best: EpochResult | None) -> None:
        """Take note of a trial's epochs, one after the other; `best` is its best one so far."""
        if epoch in self._losses:
            self._losses[epoch].add(number, best)
        if epoch - 1 in self._losses:
            self._went_on[epoch - 1] += 1
            self._last_rungs[number] = epoch - 1

    def forget(self, number: int) -> None:
        """Forget an interrupted trial, which will be run again."""
        for losses in self._losses.values():
            losses.forget(number)
        left = self._last_rungs.pop(number, 0)
        self._went_on.subtract(rung for rung in self._losses if rung <= left)

    def rungs(self) -> list[Rung]:
        """Return all rungs, ascending."""
        return [
            Rung(epoch, len(seen), self._went_on[epoch], self._to_beat(seen)) for epoch, seen in self._losses.items()
        ]

    def _to_beat(self, seen: "_Losses") -> float | None:
        loss = seen.to_beat(math.ceil((len(seen) + 1) / self._reduction_factor))
        return loss if math.isfinite(loss) and not self._sparsity else None


def make_ladder(spec: "StudySpec") -> Ladder | None:
    """Return the rungs of the spec's pruner, before any trial; None where it has none to show."""
    pruner = spec.search.pruner
    if pruner.name != "halving":
        return None
    sparsity = "sparsity" in spec.search.objectives
    return Ladder(pruner.min_epochs, pruner.reduction_factor, spec.training.max_epochs, sparsity)


def make_pruner(spec: "StudySpec", name: str | None = None) -> Pruner:
    """Return the spec's pruner, without memory of any trial.

    `name` is the study's, where it is not the spec's: hyperband assigns its brackets by it.
    """
    pruner = spec.search.pruner
    if pruner.name == "none":
        return NoPruner()
    if pruner.name == "halving":
        # Epochs as an objective take no part: all that are compared have trained for the same number of them.
        sparsity = "sparsity" in spec.search.objectives
        return SuccessiveHalving(pruner.min_epochs, pruner.reduction_factor, spec.training.max_epochs, sparsity)
    from search.study.mirror import OptunaPruner, optuna_pruner  # Optuna takes a second to import

    return OptunaPruner(optuna_pruner(spec), name or spec.name)


def _rungs(min_epochs: int, reduction_factor: int, max_epochs: int) -> Iterator[int]:
    rung = min_epochs
    while rung < max_epochs:
        yield rung
        rung *= reduction_factor
