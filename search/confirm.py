"""What the search's winner is worth: its score on test data that no search has seen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from search.records import Assignment, Score, TrialRecord
from search.trainers import LocalTrainer, TrainerSetup

if TYPE_CHECKING:
    from torch import Tensor

    from search.training.data import Split


def score_on_test(setup: TrainerSetup, record: TrialRecord, weights: dict[str, Tensor], test: Split) -> Score:
    """Return a trial's accuracy and mean loss (nats) on the test data, with the weights of its best epoch."""
    from search.training.models import model_factory
    from search.training.population import score

    model = model_factory(setup.model, setup.data.inputs, setup.data.classes)()
    accuracy, loss = score(model, weights, test)
    return Score(record.number, accuracy, loss)


def retrain(setup: TrainerSetup, record: TrialRecord) -> dict[str, Tensor]:
    """Train a trial once more and return the weights of its best epoch, where they are not at hand.

    A trial depends on the study's seed and its number alone, so they are the same to rounding where the search trained
    in float32, and near to them where it trained in bfloat16.
    """
    assert record.best is not None
    trainer = LocalTrainer(replace(setup, slots=1, engine="looped", precision="fp32"))
    first = record.number if record.retry_of is None else record.retry_of
    trainer.begin([Assignment(record.number, first, record.params)], [])
    for _ in range(record.best.epoch):
        trainer.collect()
        trainer.begin([], [])
    return trainer.best_weights(record.number)
