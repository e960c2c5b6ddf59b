"""Fronts, against their definition tried out on every pair; and what a trial is worth by each objective."""

import random
from datetime import UTC, datetime

import pytest

from search.pareto import costs, fronts, pareto_front, values
from search.records import EpochResult, Reason, TrialRecord

NOW = datetime.now(UTC)


def dominates(one, other) -> bool:
    return one != other and all(mine <= theirs for mine, theirs in zip(one, other, strict=True))


def by_definition(points) -> list[int]:
    """Take the first front away, then the next, until none is left."""
    places, left, place = [0] * len(points), set(range(len(points))), 0
    while left:
        front = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        for i in front:
            places[i] = place
        left, place = left - front, place + 1
    return places


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("levels", [3, 10, 10**6])
def test_fronts_are_those_of_the_definition(objectives, levels):
    """With few levels there are many ties and copies, with many there are none."""
    chance = random.Random(levels)
    for count in (0, 1, 2, 7, 60):
        points = [tuple(float(chance.randrange(levels)) for _ in range(objectives)) for _ in range(count)]
        assert fronts(points) == by_definition(points)


def test_infinite_costs_are_on_the_last_front():
    assert fronts([(float("inf"), 0.0), (1.0, -0.5), (9.0, -0.5)]) == [2, 0, 1]


def record(number: int, *epochs: tuple[float, float]) -> TrialRecord:
    """Return a trial with so many epochs, each of a loss and a sparsity."""
    rows = tuple(EpochResult(i, 0.0, loss, 0.0, sparsity) for i, (loss, sparsity) in enumerate(epochs, 1))
    return TrialRecord(number, {}, Reason.COMPLETED, rows, NOW, NOW)


def test_an_objective_is_a_number_of_the_best_epoch():
    best = record(0, (0.5, 0.9), (0.25, 0.75), (0.3, 0.0)).best
    assert values(best, ("val_loss", "sparsity", "epochs")) == (0.25, 0.75, 2)
    assert costs(best, ("val_loss", "sparsity", "epochs")) == (0.25, -0.75, 2)
    assert values(best, ("val_loss",)) == (0.25,)


def test_the_front_has_whom_nobody_beats_in_the_order_given():
    records = [
        record(3, (0.1, 0.1)),
        record(1, (0.9, 0.0), (0.2, 0.1)),
        record(2, (0.3, 0.5)),
        record(5),
        record(4, (0.9, 0.0), (0.3, 0.5)),
    ]
    assert [r.number for r in pareto_front(records, ("val_loss", "sparsity"))] == [3, 2, 4]
    assert [r.number for r in pareto_front(records, ("val_loss", "sparsity", "epochs"))] == [3, 2]
    assert [r.number for r in pareto_front(records, ("val_loss", "epochs"))] == [3]
    assert pareto_front([], ("val_loss", "sparsity")) == []
