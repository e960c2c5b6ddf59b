"""What follows a search: test scores, confirmation over seeds, and training without each ingredient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Protocol, TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from search.ablation import Ablation
from search.confirm import Confirming, best_weights, due_tests, winner_weights
from search.confirmation import NO_PICKS, Confirm, Confirmed, Repeats, pick
from search.crew import Crew
from search.errors import TrainerError
from search.protocols import Watcher
from search.records import Score
from search.spec import StudySpec
from search.stopping import StopRequest
from search.study import Study
from search.trainers import Trainer, TrainerLost, TrainerStopped
from search.verdict import winner
from search.weights import WeightStore

_ATTEMPTS = 3
_Answer = TypeVar("_Answer")


class Onlooker(Watcher, Protocol):
    """Whoever looks on at a whole session: at the search, and at the repeats that follow it."""

    def repeating(self, title: str, labels: Mapping[int, str]) -> Watcher:
        """Repeats are about to be trained, to be called so by number; return who looks on at them."""
        ...


class Aftermath:
    """The trainers of a search put to further use. What was done before is not done again."""

    def __init__(
        self, spec: StudySpec, study: Study, crew: Crew, artifacts: Path, watcher: Onlooker, stop: StopRequest
    ) -> None:
        self._spec, self._study, self._crew, self._artifacts = spec, study, crew, artifacts
        self._watcher, self._stop = watcher, stop

    def score(self, weights: WeightStore) -> bool:
        """Read the test data, if there is any, for the search's best trial and its baseline, once for each.

        In any case the best trial's weights are there afterwards. Return whether all of that was done. Raises
        TrainerError.
        """
        with _trainers_needed("the test data could not be scored"), suppress(TrainerStopped):
            for which, record in due_tests(self._study.summary()).items():
                kept = self._ask_a_trainer(partial(best_weights, record=record, weights=weights))
                if self._crew.has_test:
                    told = self._ask_a_trainer(methodcaller("test", kept))
                    self._study.record_test(which, Score(record.number, *told))
            return True
        return False

    def confirm(self, wanted: Confirm) -> bool:
        """Train the best configurations with several seeds and score them; return whether all of that was done.

        Raises TrainerError.
        """
        study, records = self._study, self._study.records()
        picks, known = pick(records, wanted.top, self._spec.search.objectives), study.repeats()
        repeats = Repeats(picks) if known is None else replace(known, picks=picks)
        params = {record.number: record.params for record in records}
        val_losses = {record.number: record.val_losses for record in records}
        # Weights wait for the test data: there may be none, and a cross-validated trial is trained anew for it.
        waits = self._crew.has_test and self._spec.data.folds is None
        folder = self._artifacts / "confirm" if waits else None
        finished = NO_PICKS if known is None else known.picks
        confirming = Confirming(self._spec, repeats, params, folder, val_losses, finished, study.identity)
        title = f"Confirming {len(picks.trials)} configurations with {wanted.seeds} seeds each"
        with _trainers_needed("the best configurations could not be confirmed"), suppress(TrainerStopped):
            names = {trial: str(trial) for trial in picks.trials}
            if not self._train(confirming, wanted.seeds, title, names, study.keep_repeats):
                return False
            if (winner := confirming.second_baseline()) is not None:
                title = f"Confirming the baseline with trial {winner}'s learning rate"
                if not self._train(confirming, wanted.seeds, title, names, study.keep_repeats):
                    return False
            confirming.finish(study.keep_repeats)
            if self._crew.has_test:
                self._ask_a_trainer(partial(confirming.score, save=study.keep_repeats))
            return True
        return False

    def keep_winner(self, weights: WeightStore) -> bool:
        """See to it that the winner's weights are there; return whether they are. Raises TrainerError."""
        best = winner(self._study.summary())
        if best is None:
            return True
        record = next(record for record in self._study.records() if record.number == best.trial)
        with _trainers_needed("the best configuration could not be trained"), suppress(TrainerStopped):
            self._ask_a_trainer(partial(winner_weights, winner=best, record=record, weights=weights))
            return True
        return False

    def ablate(self, seeds: int) -> bool:
        """Train the best regularized configuration without each of its ingredients; return whether all was done.

        Raises TrainerError.
        """
        study, summary = self._study, self._study.summary()
        regularized = summary.regularized if summary.confirmed is None else summary.confirmed.regularized
        if regularized is None:
            return True
        number = regularized.trial if isinstance(regularized, Confirmed) else regularized.number
        ablation, known = Ablation.of(number, regularized.params), summary.ablation
        if known is not None and (known.trial, known.names) == (number, ablation.names):
            ablation = known

        def keep(repeats: Repeats) -> None:
            study.keep_ablation(replace(ablation, runs=tuple(repeats.runs), diverged=tuple(repeats.diverged)))

        confirming = Confirming(self._spec, ablation.repeats(), ablation.variants(regularized.params), folder=None)
        many = f"{len(ablation.names)} ingredients, {seeds} seeds each"
        with _trainers_needed("the ingredients could not be weighed"):
            title = f"Training trial {number} without each of {many}"
            return self._train(confirming, seeds, title, ablation.labels(), keep)

    def _ask_a_trainer(self, question: Callable[[Trainer], _Answer]) -> _Answer:
        """Return what a trainer answers; where it dies of the question, or had died before, another is asked."""
        again = Retrying(stop=stop_after_attempt(_ATTEMPTS), retry=retry_if_exception_type(TrainerLost), reraise=True)
        return again(lambda: question(self._crew.idle()))

    def _train(
        self,
        confirming: Confirming,
        seeds: int,
        title: str,
        names: Mapping[int, str],
        keep: Callable[[Repeats], None],
    ) -> bool:
        """Train what is due; return False when that was interrupted. What diverged stays due, and is let be.

        `names` are what the configurations are called, by trial.
        """
        due = confirming.due(seeds)
        if due:
            watcher = self._watcher.repeating(title, confirming.labels(due, names))
            confirming.train(due, self._crew, watcher, self._stop, keep, self._study)
        return not (confirming.due(seeds) and self._stop())


@contextmanager
def _trainers_needed(otherwise: str) -> Iterator[None]:
    """Tell the user what the loss of a trainer means here."""
    try:
        yield
    except TrainerLost as error:
        raise TrainerError(f"{otherwise}: {error}") from error
