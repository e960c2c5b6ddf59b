"""Loss curves as lines of blocks, on one scale, so that they can be compared. Knows text, not terminals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

BLOCKS = "▁▂▃▄▅▆▇█"
NOT_FINITE = "×"
_SHARE = 0.75


def sparklines(curves: Sequence[Sequence[float]], epochs: int, width: int) -> list[str]:
    """Return a line for each curve; epoch 1 is at the left, and `epochs` at column `width` or before.

    The scale goes from the lowest of all losses to their upper quartile. What lies above is a full block: a first
    epoch, or a trial about to diverge, would leave no difference to be seen among all others.
    """
    drawn = [_columns(curve, epochs, width) for curve in curves]
    scale = _Scale.over([loss for curve in drawn for loss in curve if math.isfinite(loss)])
    return ["".join(map(scale.block, curve)) for curve in drawn]


def _columns(curve: Sequence[float], epochs: int, width: int) -> list[float]:
    """Return the curve as it is, or where epochs outnumber columns, the last loss of each column's epochs so far."""
    each = max(1.0, epochs / width)
    return [curve[min(len(curve), int((column + 1) * each)) - 1] for column in range(math.ceil(len(curve) / each))]


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float

    @staticmethod
    def over(losses: Sequence[float]) -> _Scale:
        ascending = sorted(losses)
        return _Scale(ascending[0], ascending[int(_SHARE * (len(ascending) - 1))]) if ascending else _Scale(0.0, 0.0)

    def block(self, loss: float) -> str:
        if not math.isfinite(loss):
            return NOT_FINITE
        if loss <= self.low:
            return BLOCKS[0]
        if loss >= self.high:
            return BLOCKS[-1]
        return BLOCKS[int(len(BLOCKS) * (loss - self.low) / (self.high - self.low))]
