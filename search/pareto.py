"""More than one goal: what a trial is worth by each of them, and which trials no other one beats.

With one objective there is a best trial. With several there is a Pareto front: trials that do better by one objective
only where they do worse by another. Plain values; who is pruned, shown to a sampler or confirmed is decided elsewhere.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from search.records import EpochResult, TrialRecord

Point = tuple[float, ...]
"""What a trial costs by each objective: lower is better."""

MAXIMIZED = frozenset({"sparsity"})
"""The objectives of which more is better."""

_FIELDS = {"val_loss": "val_loss", "sparsity": "sparsity", "epochs": "epoch"}
"""Which number of a trial's best epoch is its value, by objective."""


def values(row: EpochResult, objectives: Sequence[str]) -> Point:
    """Return what a trial is worth by each objective, if this is its best epoch."""
    return tuple(getattr(row, _FIELDS[name]) for name in objectives)


def costs(row: EpochResult, objectives: Sequence[str]) -> Point:
    """Return the same with the sign by which lower is better."""
    signs = (-1.0 if name in MAXIMIZED else 1.0 for name in objectives)
    return tuple(sign * value for sign, value in zip(signs, values(row, objectives), strict=True))


def pareto_front(records: Sequence[TrialRecord], objectives: Sequence[str]) -> list[TrialRecord]:
    """Return those of the complete trials that no other one beats, in the order given."""
    scored = [(record, costs(record.best, objectives)) for record in records if record.best is not None]
    places = fronts([point for _, point in scored])
    return [record for (record, _), place in zip(scored, places, strict=True) if place == 0]


def fronts(points: Sequence[Point]) -> list[int]:
    """Return on which front each point lies: 0 where no other dominates it, 1 where only those of 0 do, and so on.

    By Zhang et al. 2015, "An Efficient Approach to Nondominated Sorting" (ENS-BS): in lexicographic order no point is
    dominated by a later one, and what has no dominator on one front has none on the next. NaN is not allowed.
    """
    places = [0] * len(points)
    edges: list[list[Point]] = []
    for index in sorted(range(len(points)), key=points.__getitem__):
        point = points[index]
        places[index] = place = _first_free_of(point, edges)
        if place == len(edges):
            edges.append([])
        # Of a front only those are kept that can still be somebody's first dominator: by the first objective all to
        # come cost as much or more, so that with two objectives the last one on a front speaks for all of it.
        edges[place] = [point, *(other for other in edges[place] if not _covers(point[1:], other[1:]))]
    return places


def _first_free_of(point: Point, edges: Sequence[Sequence[Point]]) -> int:
    """Return the number of the first front without a dominator of a point."""
    return bisect_left(edges, True, key=lambda edge: not any(_dominates(other, point) for other in edge))


def _dominates(one: Point, other: Point) -> bool:
    return one != other and _covers(one, other)


def _covers(one: Point, other: Point) -> bool:
    return all(mine <= theirs for mine, theirs in zip(one, other, strict=True))
