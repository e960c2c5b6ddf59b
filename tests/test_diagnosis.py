"""Curves in plain words: each rule by an example that anyone would read the same way."""

from datetime import UTC, datetime

import pytest

from search.diagnosis import Diagnosis, diagnose
from search.records import EpochResult, Reason, TrialRecord

NOW = datetime.now(UTC)


def trial(train, val, reason=Reason.EARLY_STOPPED) -> TrialRecord:
    rows = tuple(EpochResult(e, t, v, 0.9, 0.0) for e, (t, v) in enumerate(zip(train, val, strict=True), 1))
    return TrialRecord(0, {}, reason, rows, NOW, NOW)


BASELINE = trial([0.5, 0.1, 0.01], [0.6, 0.4, 0.5])


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (trial([0.5, 0.1, 0.01], [0.6, 0.4, 0.5]), Diagnosis.OVERFITTING),
        (trial([1.0, 0.88, 0.87], [1.1, 0.9, 0.91]), Diagnosis.UNDERFITTING),
        (trial([0.5, 0.3, 0.28], [0.6, 0.35, 0.36]), Diagnosis.ABOUT_RIGHT),
        (trial([0.5, 0.3, 0.28], [0.6, 0.35, 0.33], Reason.COMPLETED), Diagnosis.STOPPED_TOO_SOON),
        (trial([0.5, 0.3, 0.28], [0.6, 0.33, 0.35], Reason.COMPLETED), Diagnosis.ABOUT_RIGHT),
        (trial([0.5, 0.3, 0.28], [0.6, 0.35, 0.349], Reason.COMPLETED), Diagnosis.ABOUT_RIGHT),
        (trial([0.5], [0.6], Reason.PRUNED), None),
        (trial([], []), None),
    ],
)
def test_curves_are_read_as_anyone_would(record, expected):
    assert diagnose(record, [None, BASELINE]) is expected


def test_every_diagnosis_comes_with_advice():
    assert all(len(diagnosis.advice) > 20 for diagnosis in Diagnosis)


def test_beside_nobody_nothing_is_worse():
    assert diagnose(trial([1.0, 0.88, 0.87], [1.1, 0.9, 0.91]), []) is Diagnosis.ABOUT_RIGHT


def test_the_baseline_itself_is_compared_with_the_best():
    best = trial([0.5, 0.3, 0.3], [0.6, 0.39, 0.4])
    assert diagnose(best, [best, BASELINE]) is Diagnosis.ABOUT_RIGHT
    for train, expected in ((0.3, Diagnosis.OVERFITTING), (0.48, Diagnosis.UNDERFITTING)):
        baseline = trial([0.7, train, train], [0.7, 0.5, 0.51])
        assert diagnose(baseline, [best, baseline]) is expected
