"""What a trial's curves say, in plain words: did it fit too little, too much, about right, or stop too soon?

The rules are rules of thumb, on losses alone: they tell where to look, and not what is proven.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

from search.records import Reason, TrialRecord

# Shares of the validation loss. Above the first the training loss is less than half of it.
_WIDE_GAP = 0.5
_NARROW_GAP = 0.15
# By how much a loss must be above the baseline's to be the price of too much regularization.
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
    Diagnosis.OVERFITTING: "training loss is less than half the validation loss: regularize more",
    Diagnosis.ABOUT_RIGHT: "training and validation loss are near each other, and near the best",
    Diagnosis.STOPPED_TOO_SOON: "the validation loss was still falling at the last epoch: raise max_epochs",
}


def _still_falling(losses: Sequence[float]) -> bool:
    last = max(1, math.ceil(_LAST_SHARE * len(losses)))
    return len(losses) > last and min(losses[-last:]) < (1 - _FALL) * min(losses[:-last])


def diagnose(record: TrialRecord, baseline: TrialRecord | None) -> Diagnosis | None:
    """Return what the curves of a complete trial say, beside those of no regularization; None when it has none."""
    best = record.best
    if best is None or record.state != "complete":
        return None
    if record.reason is Reason.COMPLETED and _still_falling([row.val_loss for row in record.epochs]):
        return Diagnosis.STOPPED_TOO_SOON
    gap = best.gap / best.val_loss if best.val_loss > 0 else 0.0
    if gap > _WIDE_GAP:
        return Diagnosis.OVERFITTING
    reference = baseline.best.val_loss if baseline is not None and baseline.best is not None else None
    if gap < _NARROW_GAP and reference is not None and best.val_loss > _WORSE * reference:
        return Diagnosis.UNDERFITTING
    return Diagnosis.ABOUT_RIGHT
