"""Every configuration of a study trained again, and its losses compared with those that are stored.

A wrong number is found so even where all of its copies agree: another configuration's, or another seed's.
"""

import math
from collections.abc import Sequence

from search.places import machine_data_dir
from search.records import Assignment, TrialRecord
from search.spec import StudySpec
from search.trainers import LocalTrainer, StudyData, TrainerSetup

_SLOTS = 32
_TOLERANCE = 2e-3
"""Of a loss. Who else is in the population, and by which kernels it computes, changes the last digits."""


def replayed(spec: StudySpec, ended: Sequence[TrialRecord]) -> list[str]:
    """Return the trials whose losses are others when they are trained again; `ended` are those with a result."""
    found = []
    trained = [record for record in ended if record.epochs]
    for start in range(0, len(trained), _SLOTS):
        part = trained[start : start + _SLOTS]
        again = _trained(spec, part)
        for record in part:
            worst = max(map(_difference, record.val_losses, again[record.number]), default=0.0)
            if worst > _TOLERANCE:
                found.append(f"trial {record.number} differs by {worst:.2g} of its losses when it is trained again")
    return found


def _trained(spec: StudySpec, records: Sequence[TrialRecord]) -> dict[int, list[float]]:
    """Return validation losses by trial, of as many epochs as the longest has."""
    assignments = [
        Assignment(record.number, record.number if record.retry_of is None else record.retry_of, record.params)
        for record in records
    ]
    setup = TrainerSetup(
        spec.model,
        spec.training,
        StudyData(spec.data, machine_data_dir(), spec.search.seed),
        spec.search.seed,
        len(records),
        assignments[0],
        engine="stacked",
        precision="fp32",
        threads=1,
    )
    trainer = LocalTrainer(setup)
    losses: dict[int, list[float]] = {record.number: [] for record in records}
    for epoch in range(max(len(record.epochs) for record in records)):
        trainer.begin([] if epoch else assignments, [])
        for number, row in trainer.collect().results.items():
            losses[number].append(row.val_loss)
    return losses


def _difference(stored: float, again: float) -> float:
    if math.isfinite(stored) and math.isfinite(again):
        return abs(stored - again) / max(abs(again), 1e-12)
    return math.inf if math.isfinite(stored) or math.isfinite(again) else 0.0
