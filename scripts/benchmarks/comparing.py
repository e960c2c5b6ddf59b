"""What the sides' runs say when held against each other: the measures of a table, their ratios and their spread.

Knows runs and numbers, and nothing of how a table looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median

from scripts.benchmarks.rates import Work
from scripts.benchmarks.sides import REGSEARCH, BestSoFar, Run

Runs = Mapping[str, Sequence[Run]]
"""By side, one run for each repeat, in the same order."""
Values = Sequence[float | None]
"""Of one side, one for each repeat; None where a run does not tell, infinity for what was never reached."""


@dataclass(frozen=True)
class Measure:
    """A line of a table."""

    label: str
    unit: str
    """`s`, `ms`, `count`, `loss`, `MiB`, `%` or `GFLOP/s`: how to write it."""
    values: Mapping[str, Values]
    """By side."""
    in_ratio: bool = True
    """Whether plain / regsearch says something."""


@dataclass(frozen=True)
class Spread:
    """Median and range over repeats."""

    middle: float
    low: float
    high: float


def time_to(best_so_far: BestSoFar, target: float) -> float:
    """Return the seconds until a trial ended with a loss of at most `target`; infinity when none did."""
    return next((seconds for seconds, best in best_so_far if best is not None and best <= target), inf)


def ratio(plain: float, ours: float) -> float:
    """Return how many times less `ours` is; 0 when it is infinite, as is the time to what was never reached."""
    return 0.0 if ours == inf else plain / ours


def spread(values: Iterable[float | None]) -> Spread | None:
    """Return the spread of what was measured; None when any repeat lacks it."""
    given = list(values)
    known = [value for value in given if value is not None]
    if not known or len(known) < len(given):
        return None
    return Spread(median(known), min(known), max(known))


def paired(plain: Values, ours: Values) -> Spread | None:
    """Return the spread of plain / ours, each repeat by itself: the sides of a pair had the same seed and hour."""
    pairs = zip(plain, ours, strict=True)
    return spread(None if left is None or right is None else ratio(left, right) for left, right in pairs)


def measures(runs: Runs, work: Work, peak_gflops: float) -> list[Measure]:
    """Return all lines of a comparison; `peak_gflops` is the device's best rate at matrix products."""

    def gflops(run: Run) -> float | None:
        return work.of(run.side) * run.trial_epochs / run.busy_s / 1e9 if run.busy_s else None

    def measure(label: str, unit: str, value: Callable[[Run], float | None], in_ratio: bool = True) -> Measure:
        return Measure(label, unit, {side: [value(run) for run in own] for side, own in runs.items()}, in_ratio)

    return [
        measure("search", "s", lambda run: run.search_s),
        measure("whole command", "s", lambda run: run.command_s),
        measure("each trial-epoch", "ms", lambda run: run.ms_per_trial_epoch),
        measure("trial-epochs", "count", lambda run: run.trial_epochs),
        measure("best validation loss", "loss", lambda run: run.best_val_loss),
        *_times_to_plain_best(runs),
        measure("start-up, to the first step", "s", lambda run: run.start_up_s),
        measure("peak memory", "MiB", lambda run: run.peak_mib),
        measure("time in training", "%", lambda run: _share(run, run.training_s), False),
        measure("time in evaluation", "%", lambda run: _share(run, run.evaluation_s), False),
        measure("asking, recording, idle", "%", lambda run: _share(run, run.waiting_s), False),
        measure("asking, beside training", "s", lambda run: run.asking_s, False),
        measure("recording, beside training", "s", lambda run: run.recording_s, False),
        measure("arithmetic while computing", "GFLOP/s", gflops, False),
        measure("... of the fastest matrix product", "%", lambda run: _part(gflops(run), peak_gflops), False),
    ]


def _times_to_plain_best(runs: Runs) -> list[Measure]:
    """Return, for each plain side, how long it and regsearch took to reach the best that it reached in the end."""
    lines = []
    for side in (side for side in runs if side != REGSEARCH):
        targets = [run.best_val_loss for run in runs[side]]
        pair = {side: runs[side], REGSEARCH: runs[REGSEARCH]}
        times = {
            name: [time_to(run.best_so_far, target) for run, target in zip(own, targets, strict=True)]
            for name, own in pair.items()
        }
        from_command = {
            name: [seconds + run.search_began_s for seconds, run in zip(times[name], own, strict=True)]
            for name, own in pair.items()
        }
        lines.append(Measure(f"to {side}'s best", "s", times))
        lines.append(Measure("... from the command on", "s", from_command))
    return lines


def _share(run: Run, seconds: float | None) -> float | None:
    """Return, in percent, a part of the time between the first step and the end of the search."""
    if seconds is None or run.busy_s is None or run.waiting_s is None:
        return None
    return 100 * seconds / (run.busy_s + run.waiting_s)


def _part(value: float | None, whole: float) -> float | None:
    return None if value is None else 100 * value / whole
