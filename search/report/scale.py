"""A searched parameter as an axis: where a value lies in its range, at which edge, and what is written below."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from search.records import TrialRecord
from search.report.figure import log_ticks, shown
from search.spec import Range

EDGE = 0.02
"""Share of a range, on the scale that was searched, that counts as its edge."""
OFF = -0.16
"""Where 0 is drawn when it lies outside the range: beside it."""


@dataclass(frozen=True)
class Scale:
    """A parameter's axis from 0, the low end of its range, to 1, the high end, on the scale that was searched."""

    name: str
    setting: Range

    @property
    def is_switch(self) -> bool:
        """Whether there is only on and off."""
        return not self.setting.has_strengths

    def place(self, value: float) -> float:
        """Return where a value lies; what is off, or outside the range, lies beside it."""
        if self.is_switch:
            return 0.0 if value == 0 else 1.0
        if self.off(value):
            return OFF
        low, high = self._scaled(self.setting.low), self._scaled(self.setting.high)
        return min(max((self._scaled(value) - low) / (high - low), OFF), 1 - OFF)

    def off(self, value: float) -> bool:
        """Return whether a value means off and has no place inside the range."""
        return value == 0 and self.setting.low > 0

    def any_off(self, records: Iterable[TrialRecord]) -> bool:
        """Return whether any of these trials has it off, beside the range."""
        return any(self.off(record.params.get(self.name, 0.0)) for record in records)

    def edge(self, value: float) -> str | None:
        """Return at which edge of the range a value lies: `lower`, `upper` or None."""
        if self.is_switch or self.off(value):
            return None
        place = self.place(value)
        return "lower" if place <= EDGE else "upper" if place >= 1 - EDGE else None

    def ticks(self, with_off: bool) -> tuple[list[float], list[str]]:
        """Return places and labels for the axis."""
        if self.is_switch:
            return [0.0, 1.0], ["off", "on"]
        values = self._round_values()
        places, labels = [self.place(value) for value in values], shown(values)
        return ([OFF, *places], ["off", *labels]) if with_off else (places, labels)

    def _round_values(self) -> list[float]:
        low, high = float(self.setting.low), float(self.setting.high)
        if self.setting.log:
            return log_ticks(low, high, most=4)
        step = 10.0 ** math.floor(math.log10(high - low))
        step = next(step * factor for factor in (0.1, 0.2, 0.5, 1, 2) if (high - low) / (step * factor) <= 6)
        if self.setting.integer:
            step = max(1.0, round(step))
        first = math.ceil(low / step - 1e-9)
        return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]

    def _scaled(self, value: float) -> float:
        if not self.setting.log:
            return float(value)
        return math.log(value) if value > 0 else -math.inf
