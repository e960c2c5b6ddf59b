"""What the search's winner is worth: its score on test data that no search has seen."""

from __future__ import annotations

from typing import Literal

from search.records import Assignment, Score, Summary, TrialRecord
from search.trainers import Trainer
from search.weights import WeightStore

Which = Literal["best", "baseline"]


def due_tests(summary: Summary) -> dict[Which, TrialRecord]:
    """Return the trials whose test score is wanted and not there yet: the best and the baseline, once for each."""
    wanted: dict[Which, TrialRecord | None] = {"best": summary.best, "baseline": summary.baseline}
    return {
        which: record
        for which, record in wanted.items()
        if record is not None and (which not in summary.test or summary.test[which].trial != record.number)
    }


def score_on_test(trainer: Trainer, record: TrialRecord, weights: WeightStore) -> Score:
    """Return a trial's accuracy and mean loss (nats) on the test data, with the weights of its best epoch.

    Where they are not at hand the trial is trained once more. It depends on the study's seed and its number alone, so
    they are the same to rounding where the search trained in float32, and near to them where it trained in bfloat16.
    """
    kept = weights.load(record.number)
    if kept is None:
        assert record.best is not None
        first = record.number if record.retry_of is None else record.retry_of
        kept = trainer.retrain(Assignment(record.number, first, record.params), record.best.epoch)
        weights.save(record.number, kept)
    return Score(record.number, *trainer.test(kept))
