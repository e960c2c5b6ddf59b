"""Means over seeds and differences in pairs, with Student's 95 % intervals, and what they say in words.

The intervals are about training with other seeds. Another draw of test data would move the numbers, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, stdev

_CONFIDENCE = 0.95
_FEWEST_SEEDS = 2
"""With fewer, nothing is known of chance."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds."""

    mean: float
    std: float
    """Sample standard deviation of a single seed; 0 when there is only one."""
    n: int

    @property
    def error(self) -> float:
        """Standard error of the mean; infinite when there is only one seed."""
        return self.std / math.sqrt(self.n) if self.n > 1 else math.inf

    @property
    def reach(self) -> float:
        """Half of the mean's 95 % interval (Student's t); infinite when there is only one seed."""
        return self.reach_among(1)

    def reach_among(self, means: int) -> float:
        """Half of the interval's width with which so many means are all in theirs, 95 times of 100 at least."""
        return _t_quantile(self.n - 1, (1 - _CONFIDENCE) / means) * self.error if self.n > 1 else math.inf


class Answer(StrEnum):
    """What a confirmation says of regularization, in words."""

    HELPS = "regularization helps"
    HURTS = "regularization hurts"
    UNCLEAR = "not clearly different from no regularization"
    UNKNOWN = "one seed tells nothing of chance"


@dataclass(frozen=True)
class Difference:
    """A paired difference of means, with its 95 % interval (Student's t)."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero. One without width does not: equal pairs tell nothing of chance.

        Test data of few examples gives such pairs, one example more with every seed.
        """
        return (self.low > 0 or self.high < 0) and not math.isclose(self.low, self.high, rel_tol=1e-6)

    @property
    def answer(self) -> Answer:
        """Whether regularization helps, if this is the accuracy with it minus that without."""
        if self.n < _FEWEST_SEEDS:
            return Answer.UNKNOWN
        if not self.is_clear:
            return Answer.UNCLEAR
        return Answer.HELPS if self.mean > 0 else Answer.HURTS

    @property
    def points(self) -> str:
        """The difference of accuracies as one says it: `+0.52 points, 95 % interval +0.04 to +1.00`."""
        mean, low, high = (f"{100 * value:+.2f}" for value in (self.mean, self.low, self.high))
        return f"{mean} points" + (f", 95 % interval {low} to {high}" if self.n >= _FEWEST_SEEDS else "")

    @property
    def losses(self) -> str:
        """The difference of losses as one says it, less being better: `-0.0123, 95 % interval -0.0200 to -0.0046`.

        This is the loss without regularization minus that with it, and what is said is the other way round.
        """
        mean, low, high = (f"{0.0 - value:+.4f}" for value in (self.mean, self.high, self.low))
        return mean + (f", 95 % interval {low} to {high}" if self.n >= _FEWEST_SEEDS else "")


def estimate(values: Iterable[float]) -> Estimate:
    """Return mean and sample standard deviation of at least one value."""
    values = list(values)
    return Estimate(fmean(values), stdev(values) if len(values) > 1 else 0.0, len(values))


def paired_difference(pairs: Sequence[tuple[float, float]], among: int = 1) -> Difference:
    """Return the mean of first minus second, with Student's 95 % interval; infinite for a single pair.

    Where the first was chosen for this very difference, among several, the interval is wide enough to hold all of
    theirs at once (Bonferroni: Dunn 1961, "Multiple comparisons among means", JASA 56).
    """
    told = estimate(first - second for first, second in pairs)
    reach = told.reach_among(among)
    return Difference(told.mean, told.mean - reach, told.mean + reach, told.n)


def _t_quantile(freedom: int, outside: float) -> float:
    """Return what so large a share of Student's distribution lies beyond, on both sides together."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - outside / 2))
