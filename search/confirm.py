"""What the search's winner is worth: trained again with several seeds, beside no regularization, on unseen test data.

What comes of it is concluded in `confirmation`. The repeats are run by the same runner as a search, as one population,
without pruning; configurations with the same seed share initial weights, batch order and noise, so that they are
compared in pairs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from search.confirmation import (
    MOST_SEEDS,
    NO_PICKS,
    Confirmation,
    Diverged,
    Picks,
    Repeat,
    Repeats,
    conclude,
    without_regularization,
)
from search.crew import Crew
from search.protocols import Watcher
from search.pruning import NoPruner
from search.records import Assignment, EpochResult, News, Params, Reason, Summary, TrialRecord
from search.runner import Runner
from search.spec import StudySpec
from search.stopping import StopRequest
from search.trainers import Trainer
from search.verdict import Winner
from search.weights import WeightStore

# Seeds of repeats lie above those of trials, which are their numbers.
FIRST_SEED = 2**40

Which = Literal["best", "baseline"]


def due_tests(summary: Summary) -> dict[Which, TrialRecord]:
    """Return the trials whose test score is wanted and not there yet: the best and the baseline, once for each."""
    wanted: dict[Which, TrialRecord | None] = {"best": summary.best, "baseline": summary.baseline}
    return {
        which: record
        for which, record in wanted.items()
        if record is not None and (which not in summary.test or summary.test[which].trial != record.number)
    }


def best_weights(trainer: Trainer, record: TrialRecord, weights: WeightStore) -> bytes:
    """Return the weights of a trial's best epoch.

    Where they are not at hand the trial is trained once more. It depends on the study's seed and its number alone, so
    they are the same to rounding where the search trained in float32, and near to them where it trained in bfloat16.
    A cross-validated trial, which has several models, is trained on all of its data then.
    """
    kept = weights.load(record.number)
    if kept is None:
        assert record.best is not None
        first = record.number if record.retry_of is None else record.retry_of
        assignment = Assignment(record.number, first, record.params, val_losses=record.val_losses)
        kept = trainer.retrain(assignment, record.best.epoch)
        weights.save(record.number, kept)
    return kept


def winner_weights(trainer: Trainer, winner: Winner, record: TrialRecord, weights: WeightStore) -> bytes:
    """Return the winner's weights; `record` is of the trial that it is, or of the baseline at another learning rate.

    The latter is no trial of the search: it is trained for as long as it was best in the confirmation.
    """
    if winner.rate_of is None:
        return best_weights(trainer, record, weights)
    kept = weights.load(winner.trial, winner.rate_of)
    if kept is None:
        assignment = Assignment(winner.trial, FIRST_SEED, winner.params, val_losses=winner.val_losses)
        kept = trainer.retrain(assignment, winner.epochs)
        weights.save(winner.trial, kept, winner.rate_of)
    return kept


class Host(Protocol):
    """The study that repeats belong to, whose storage they are kept in; see `Study`."""

    def asked_to_stop(self) -> bool: ...

    @property
    def trouble(self) -> str | None: ...

    def hurry(self) -> None: ...


class Confirming:
    """The repeats of one study: those that are there, and those that are still to be run."""

    def __init__(
        self,
        spec: StudySpec,
        repeats: Repeats,
        params: Mapping[int, Params],
        folder: Path | None,
        val_losses: Mapping[int, Sequence[float]] | None = None,
        finished: Picks = NO_PICKS,
        study: str | None = None,
    ) -> None:
        """`params` by trial, of all that are picked; `folder` is for weights until they are scored; None: for none.

        `val_losses` are those of the search, by trial: repeats that are trained with nothing held out go by them.
        `finished` are the picks of the last confirmation that was finished, which are kept until this one is. `study`
        is its identity, which weights in the folder must have.
        """
        self._spec, self._params, self._val_losses = spec, params, val_losses or {}
        self._finished = finished
        self._weights = None if folder is None else _All(folder, study=study)
        self.repeats = repeats

    def due(self, seeds: int) -> list[Assignment]:
        """Return what is still to be trained for every pick to have so many repeats, one seed after the other.

        What diverged would do so again.
        """
        picks = self.repeats.picks
        configurations = [
            *((trial, False) for trial in picks.trials),
            *([] if picks.plain is None else [(picks.plain, True)]),
        ]
        done = {(run.trial, run.plain, run.seed) for run in self.repeats.runs}
        done |= {(each.trial, each.plain, each.seed) for each in self.repeats.diverged if not each.killed}
        wanted = ((*configuration, seed) for seed in range(seeds) for configuration in configurations)
        return [self._assignment(*each) for each in wanted if each not in done]

    def second_baseline(self) -> int | None:
        """Return the best regularized trial if its learning rate is not the baseline's; pick its `plain` self, too."""
        confirmation, baseline = self.conclusion(), self.repeats.picks.baseline
        if confirmation is None or baseline is None:
            return None
        regularized = confirmation.regularized
        if regularized.params.get("learning_rate") == self._params[baseline].get("learning_rate"):
            return None
        self.repeats = replace(self.repeats, picks=replace(self.repeats.picks, plain=regularized.trial))
        return regularized.trial

    def finish(self, save: Callable[[Repeats], None]) -> None:
        """Conclude from these picks from now on: all that they need is trained."""
        self._finished = self.repeats.picks
        save(self._kept)

    def labels(self, due: Sequence[Assignment], names: Mapping[int, str]) -> dict[int, str]:
        """Return what to call the repeats that are due, by number; `names` are those of the configurations."""
        told = ((each.number, _identified(each.number)) for each in due)
        return {number: f"{'baseline' if plain else names[trial]}, {seed + 1}" for number, (trial, plain, seed) in told}

    def train(
        self,
        due: Sequence[Assignment],
        crew: Crew,
        watcher: Watcher,
        stop: StopRequest,
        save: Callable[[Repeats], None],
        study: Host,
    ) -> None:
        """Train the repeats that are due; `save` is called with what is to be kept whenever one has ended.

        It is called in the same thread as `study.asked_to_stop`. Raises TrainerError, and what `save` does.
        """
        crew.vacate()
        agenda = _Agenda(self._spec, due, lambda record: self._keep(record, save), study)
        Runner(agenda, crew, NoPruner(), self._weights, watcher, stop).run()

    def score(self, trainer: Trainer, save: Callable[[Repeats], None]) -> None:
        """Read the test data for the best regularized trial, the pick and the baseline, once for each repeat."""
        confirmation = self.conclusion()
        if confirmation is None:
            return
        regularized, pick = confirmation.regularized.trial, self.repeats.picks.one_standard_error
        finalists = [
            *self.repeats.of(regularized),
            *([] if pick is None else self.repeats.of(pick)),
            *self.repeats.of_baseline(regularized),
        ]
        scored = [
            self._scored(trainer, run) if run in finalists and run.test_loss is None else run
            for run in self.repeats.runs
        ]
        self.repeats = replace(self.repeats, runs=scored)
        save(self._kept)
        if self._weights is not None:
            self._weights.clear()

    def conclusion(self) -> Confirmation | None:
        """Return what the repeats say so far."""
        return conclude(self.repeats, self._params)

    @property
    def _kept(self) -> Repeats:
        """What is to be kept so far."""
        return replace(self.repeats, picks=self._finished)

    def _assignment(self, trial: int, plain: bool, seed: int) -> Assignment:
        params, losses, baseline = self._params[trial], self._val_losses.get(trial, ()), self.repeats.picks.baseline
        if plain:
            assert baseline is not None, "nothing is plain beside no baseline"
            params = without_regularization(self._params[baseline], params)
            losses = self._val_losses.get(baseline, ())
        number = (2 * trial + plain) * MOST_SEEDS + seed
        return Assignment(number, FIRST_SEED + seed, params, val_losses=losses)

    def _keep(self, record: TrialRecord, save: Callable[[Repeats], None]) -> None:
        (trial, plain, seed), best = _identified(record.number), record.best
        runs = list(self.repeats.runs)
        # What ended trainers before may have come to something now.
        none = [each for each in self.repeats.diverged if (each.trial, each.plain, each.seed) != (trial, plain, seed)]
        if record.reason in (Reason.DIVERGED, Reason.ERROR):
            none.append(Diverged(trial, seed, plain, killed=record.reason is Reason.ERROR))
        elif record.state == "complete" and best is not None:
            scores = best.epoch, best.val_loss, best.train_loss, best.val_accuracy, best.sparsity
            runs.append(Repeat(trial, seed, *scores, plain=plain))
        else:
            return
        self.repeats = replace(self.repeats, runs=runs, diverged=none)
        save(self._kept)

    def _scored(self, trainer: Trainer, run: Repeat) -> Repeat:
        assignment = self._assignment(run.trial, run.plain, run.seed)
        kept = None if self._weights is None else self._weights.load(assignment.number)
        weights = kept or trainer.retrain(assignment, run.epochs)
        accuracy, loss, ece = trainer.test(weights)
        return replace(run, test_accuracy=accuracy, test_loss=loss, ece=ece)


def _identified(number: int) -> tuple[int, bool, int]:
    """Return which trial's configuration a repeat is of, whether without its regularization, and its seed."""
    configuration, seed = divmod(number, MOST_SEEDS)
    trial, plain = divmod(configuration, 2)
    return trial, bool(plain), seed


class _Agenda:
    """A list of trials to run, in the place of a study."""

    def __init__(
        self,
        spec: StudySpec,
        due: Sequence[Assignment],
        ended: Callable[[TrialRecord], None],
        study: Host,
    ) -> None:
        self.spec = spec
        self._due, self._ended, self._study = deque(due), ended, study
        self._running: dict[int, Assignment] = {}

    def records(self) -> list[TrialRecord]:
        return []

    def ask(self) -> Assignment | None:
        if not self._due:
            return None
        assignment = self._due.popleft()
        self._running[assignment.number] = assignment
        return assignment

    def report(self, results: Mapping[int, EpochResult]) -> set[int]:  # noqa: ARG002
        return set()

    def set_aside(self, *outcome: object) -> None:
        pass

    def news(self) -> News:
        return News(to_ask=bool(self._due), stop=self._study.asked_to_stop())

    def unfinished(self) -> int:
        return len(self._due) + len(self._running)

    @property
    def trouble(self) -> str | None:
        return self._study.trouble

    def explain_loss(self, numbers: Collection[int]) -> str | None:  # noqa: ARG002
        return None

    def hurry(self) -> None:
        self._study.hurry()

    def finish(
        self,
        number: int,
        reason: Reason,
        epochs: Sequence[EpochResult],
        error: str | None = None,
        worker: str | None = None,
    ) -> TrialRecord:
        assignment, now = self._running.pop(number), datetime.now()
        record = TrialRecord(number, assignment.params, reason, tuple(epochs), now, now, error=error, worker=worker)
        if reason.is_no_result:
            deaths = assignment.trainer_deaths + (error is not None)
            self._due.append(replace(assignment, trainer_deaths=deaths))
        else:
            self._ended(record)
        return record


class _All(WeightStore):
    """Keeps everybody's weights, until it is cleared."""

    def wanted(self, assignment: Assignment, val_loss: float) -> bool:  # noqa: ARG002
        return True

    def clear(self) -> None:
        for path in self._folder.glob("trial-*.*"):
            path.unlink(missing_ok=True)
        if self._folder.exists():
            self._folder.rmdir()
