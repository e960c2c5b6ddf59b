"""What a trial's curves say, in plain words: did it fit too little, too much, about right, or stop too soon?

The rules are rules of thumb, on losses alone: they tell where to look, and not what is proven.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum

from search.records import EpochResult, Reason, TrialRecord

# As a share of the validation loss: the training loss is less than half of it.
_WIDE_GAP = 0.5
# By how much a loss must be above the lowest one to be worse.
_WORSE = 1.05
# Epochs at the end, as a share of all, in which so large a fall of the loss means that it was not over.
_LAST_SHARE = 0.1
_FALL = 0.02


class Diagnosis(StrEnum):
    """One word on a trial, with what it means."""

    UNDERFITTING = "underfitting"
    OVERFITTING = "overfitting"
    ABOUT_RIGHT = "about right"
    STOPPED_TOO_SOON = "stopped too soon"

    @property
    def advice(self) -> str:
        """What it means, and what to do about it."""
        return _ADVICE[self]


_ADVICE = {
    Diagnosis.UNDERFITTING: "training and validation loss are both high: less regularization, or a larger model",
    Diagnosis.OVERFITTING: "the training loss is far below the validation loss: regularize more",
    Diagnosis.ABOUT_RIGHT: "the validation loss is the lowest or near it, and the training loss not far below",
    Diagnosis.STOPPED_TOO_SOON: "the validation loss was still falling at the last epoch: raise max_epochs",
}


def _still_falling(losses: Sequence[float]) -> bool:
    last = max(1, math.ceil(_LAST_SHARE * len(losses)))
    return len(losses) > last and min(losses[-last:]) < (1 - _FALL) * min(losses[:-last])


def diagnose(record: TrialRecord, others: Iterable[TrialRecord | None]) -> Diagnosis | None:
    """Return what the curves of a complete trial say, beside those of others, such as the best and the baseline.

    One that does worse than the best of them does so since it fits the training data too closely or not closely
    enough: its gap, as a share of the loss, is wider or narrower. None when the trial is not complete.
    """
    best = record.best
    if best is None or record.state != "complete":
        return None
    if record.reason is Reason.COMPLETED and _still_falling([row.val_loss for row in record.epochs]):
        return Diagnosis.STOPPED_TOO_SOON
    if _gap(best) > _WIDE_GAP:
        return Diagnosis.OVERFITTING
    there = [other.best for other in others if other is not None and other.best is not None]
    lowest = min([best, *there], key=lambda row: row.val_loss)
    if best.val_loss <= _WORSE * lowest.val_loss:
        return Diagnosis.ABOUT_RIGHT
    return Diagnosis.OVERFITTING if _gap(best) > _gap(lowest) else Diagnosis.UNDERFITTING


def _gap(row: EpochResult) -> float:
    return row.gap / row.val_loss if row.val_loss > 0 else 0.0
