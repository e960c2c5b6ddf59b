"""What follows a search: test scores, confirmation over seeds, and the winner without each of its ingredients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from search.ablation import Ablation
from search.confirm import Confirming, best_weights, due_tests
from search.confirmation import Confirm, Confirmed, Repeats, pick
from search.crew import Crew
from search.errors import TrainerError
from search.records import Assignment, Score, TrialRecord
from search.runner import Watcher
from search.spec import StudySpec
from search.stopping import StopRequest
from search.study import Study
from search.trainers import Report, TrainerLost
from search.weights import WeightStore


class Aftermath:
    """The trainers of a search put to further use. What was done before is not done again."""

    def __init__(
        self, spec: StudySpec, study: Study, crew: Crew, artifacts: Path, watcher: Watcher, stop: StopRequest
    ) -> None:
        self._spec, self._study, self._crew, self._artifacts = spec, study, crew, artifacts
        self._watcher, self._stop = watcher, stop

    def score(self, weights: WeightStore) -> None:
        """Read the test data, if there is any, for the search's best trial and its baseline, once for each.

        In any case the best trial's weights are there afterwards. Raises TrainerError.
        """
        with _trainers_needed("the test data could not be scored"):
            for which, record in due_tests(self._study.summary()).items():
                kept = best_weights(self._crew.idle(), record, weights)
                if self._crew.has_test:
                    self._study.record_test(which, Score(record.number, *self._crew.idle().test(kept)))

    def confirm(self, wanted: Confirm) -> bool:
        """Train the best configurations with several seeds and score them; return whether all of that was done.

        Raises TrainerError.
        """
        study, records = self._study, self._study.records()
        picks, known = pick(records, wanted.top, self._spec.search.objectives), study.repeats()
        repeats = Repeats(picks, [] if known is None else known.runs)
        params = {record.number: record.params for record in records}
        # Weights wait for the test data: there may be none, and a cross-validated trial is trained anew for it.
        waits = self._crew.has_test and self._spec.data.folds is None
        confirming = Confirming(self._spec, repeats, params, self._artifacts / "confirm" if waits else None)
        title = f"Confirming {len(picks.trials)} configurations with {wanted.seeds} seeds each"
        with _trainers_needed("the best configurations could not be confirmed"):
            if not self._train(confirming, wanted.seeds, title, study.keep_repeats):
                return False
            if self._crew.has_test:
                confirming.score(self._crew.idle(), study.keep_repeats)
        return True

    def ablate(self, seeds: int) -> bool:
        """Train the winner without each of its ingredients; return whether all of it was done. Raises TrainerError."""
        study, summary = self._study, self._study.summary()
        winner = summary.best if summary.confirmed is None else summary.confirmed.best
        if winner is None:
            return True
        number = winner.trial if isinstance(winner, Confirmed) else winner.number
        ablation, known = Ablation.of(number, winner.params), summary.ablation
        if known is not None and (known.trial, known.names) == (number, ablation.names):
            ablation = known

        def keep(repeats: Repeats) -> None:
            study.keep_ablation(replace(ablation, runs=tuple(repeats.runs)))

        confirming = Confirming(self._spec, ablation.repeats(), ablation.variants(winner.params), folder=None)
        many = f"{len(ablation.names)} ingredients, {seeds} seeds each"
        with _trainers_needed("the winner's ingredients could not be weighed"):
            return self._train(confirming, seeds, f"Training trial {number} without each of {many}", keep)

    def _train(self, confirming: Confirming, seeds: int, title: str, keep: Callable[[Repeats], None]) -> bool:
        """Train what is due; return False when that was interrupted. What diverged stays due, and is let be."""
        due = confirming.due(seeds)
        if due:
            self._watcher.message(title)
            confirming.train(due, self._crew, _Messages(self._watcher), self._stop, keep)
        return not (confirming.due(seeds) and self._stop())


@contextmanager
def _trainers_needed(otherwise: str) -> Iterator[None]:
    """Tell the user what the loss of a trainer means here."""
    try:
        yield
    except TrainerLost as error:
        raise TrainerError(f"{otherwise}: {error}") from error


class _Messages:
    """Passes on messages only: repeats are no trials of the study."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def started(self, assignment: Assignment) -> None:
        """Do nothing."""

    def epoch_ended(self, report: Report) -> None:
        """Do nothing."""

    def ended(self, record: TrialRecord) -> None:
        """Do nothing."""

    def message(self, text: str) -> None:
        """Pass on."""
        self._watcher.message(text)
