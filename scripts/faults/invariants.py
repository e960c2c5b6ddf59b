"""What holds of every study, whatever has happened to it: read from its trials as Optuna has them."""

import math
from collections.abc import Mapping, Sequence

from optuna.trial import FrozenTrial, TrialState

from search.records import TrialRecord


def violations(trials: Sequence[FrozenTrial], records: Sequence[TrialRecord]) -> list[str]:
    """Return what does not hold of a study that has been run to its end; `records` are those of its own trials."""
    found = []
    if [trial.number for trial in trials] != [*range(len(trials))]:
        found.append(f"numbers that are missing or given twice: {[trial.number for trial in trials]}")
    # Other programs' trials, which have no configuration of ours, are theirs to end.
    running = [trial.number for trial in trials if trial.state is TrialState.RUNNING and "config" in trial.user_attrs]
    if running:
        found.append(f"trials that nobody runs are running: {running}")
    configurations = {record.number: record.params for record in records}
    for record in records:
        if record.params != configurations.get(_first(record), record.params):
            found.append(f"trial {record.number} has another configuration than its first attempt")
        if not record.reason.is_no_result:
            found += [f"trial {record.number}: {what}" for what in _of_result(trials[record.number], record)]
    return found


def _of_result(trial: FrozenTrial, record: TrialRecord) -> list[str]:
    """Return which copies of a trial's losses disagree: its curve, its reports and its value."""
    found = []
    curve = {row.epoch: row.val_loss for row in record.epochs}
    if _finite(curve) != _finite(trial.intermediate_values) or curve.keys() != trial.intermediate_values.keys():
        found.append("its curve and its reports differ")
    if [row.epoch for row in record.epochs] != [*range(1, len(record.epochs) + 1)]:
        found.append("its epochs are not all there once")
    best = min(_finite(curve).values(), default=None)
    if trial.state is TrialState.COMPLETE and len(trial.values) == 1 and trial.value != best:
        found.append(f"its value {trial.value} is not the best of its curve")
    if trial.user_attrs.get("epochs") != len(record.epochs):
        found.append(f"it has {len(record.epochs)} epochs and says {trial.user_attrs.get('epochs')}")
    return found


def _finite(losses: Mapping[int, float]) -> dict[int, float]:
    return {epoch: loss for epoch, loss in losses.items() if math.isfinite(loss)}


def _first(record: TrialRecord) -> int:
    return record.number if record.retry_of is None else record.retry_of
