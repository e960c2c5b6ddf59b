"""A plot as plain values, in plotly's words, with what is said about it; and what several plots need to draw trials."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.records import TrialRecord

Trace = dict[str, Any]

_LOG_FROM = 8
"""Where the largest value is so many times the smallest, an axis is logarithmic."""
_MARGIN = 0.06
MARKS = {
    "best": ("@best", "star"),
    "regularized": ("@pick", "diamond"),
    "one_standard_error": ("@pick", "star-diamond"),
    "baseline": ("@baseline", "square"),
}
"""Colour and symbol of the trials that have a name."""


@dataclass(frozen=True)
class Figure:
    """One plot."""

    name: str
    """Names its file, and its element in the page."""
    title: str
    caption: str
    """What it shows and how to read it, in a sentence or two."""
    alt: str
    """What one sees, for those who do not see it."""
    data: Sequence[Trace]
    layout: Mapping[str, Any]
    height: int = 320
    warning: str = ""
    """What the reader should do something about."""
    note: str = ""
    """What the reader should know, and do nothing about."""

    @property
    def plot(self) -> dict[str, Any]:
        """The plot for plotly."""
        return {"data": list(self.data), "layout": {"height": self.height, "margin": self._margin(), **self.layout}}

    def _margin(self) -> dict[str, int]:
        """Return room for labels and legend. Where it is too little plotly makes more, but draws everything twice.

        Plotly adds the smallest of the four to what labels take.
        """
        x, y = (self.layout.get(axis, {}) for axis in ("xaxis", "yaxis"))
        return {
            "l": 66 if "title" in y else 8,
            "r": 8,
            "t": 44 if self.layout.get("showlegend") else 14,
            "b": 48 if "title" in x else 31,
        }


@dataclass(frozen=True)
class LossAxis:
    """The axis of the validation loss that several plots share, so that they can be compared."""

    low: float
    high: float
    """What is worse is drawn at the edge."""
    log: bool
    title: str = "validation loss"

    @staticmethod
    def of(values: Iterable[float], title: str = "validation loss", share: float = 0.95) -> LossAxis:
        """Return an axis for so large a share of the values, so that the worst do not squeeze the others."""
        ranked = sorted(values)
        if not ranked:
            return LossAxis(0.0, 1.0, False, title)
        low, high = ranked[0], ranked[min(len(ranked) - 1, int(share * len(ranked)))]
        if high <= low:
            spread = abs(low) / 2 or 1.0
            return LossAxis(low - spread, low + spread, False, title)
        log = low > 0 and high > _LOG_FROM * low
        if log:
            margin = (high / low) ** _MARGIN
            return LossAxis(low / margin, high * margin, True, title)
        margin = _MARGIN * (high - low)
        return LossAxis(low - margin, high + margin, False, title)

    def clip(self, value: float | None) -> float | None:
        """Return where a value is drawn."""
        if value is None or math.isnan(value):
            return None
        return min(max(value, self.low), self.high)

    @property
    def layout(self) -> dict[str, Any]:
        """The axis in plotly's words."""
        if not self.log:
            return {"title": {"text": self.title}, "range": [self.low, self.high]}
        ticks = log_ticks(self.low, self.high)
        span = [math.log10(self.low), math.log10(self.high)]
        return {
            "title": {"text": self.title},
            "type": "log",
            "range": span,
            "tickvals": ticks,
            "ticktext": shown(ticks),
        }


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round values on a logarithmic axis, few enough to be read; its ends where there are none."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((last - first) / most))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    values = [step * 10.0**power for power in range(first, last + 1, every) for step in steps]
    inside = [value for value in values if low <= value <= high]
    return inside if len(inside) > 1 else [low, high]


def shown(values: Iterable[float]) -> list[str]:
    """Return numbers as short as they can be written."""
    return [f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e+") for value in values]


def named_points(
    chosen: Mapping[str, TrialRecord], names: Mapping[str, str], x: Mapping[str, Any], y: Mapping[str, Any]
) -> list[Trace]:
    """Return a marked point for each of best, pick and baseline that has a place, the best on top."""
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [x[which]],
            "y": [y[which]],
            "name": names[which],
            "cliponaxis": False,
            "marker": {
                "color": MARKS[which][0],
                "symbol": MARKS[which][1],
                "size": 14,
                "line": {"color": "@paper", "width": 1.5},
            },
            "hovertemplate": f"{names[which]}, trial {record.number}<extra></extra>",
        }
        for which, record in reversed(list(chosen.items()))
        if x.get(which) is not None and y.get(which) is not None
    ]


def thinned(records: Sequence[TrialRecord], most: int, keep: Iterable[int] = ()) -> list[TrialRecord]:
    """Return at most about so many trials, evenly chosen, and those of the numbers `keep` in any case."""
    if len(records) <= most:
        return list(records)
    step, keep = len(records) / most, set(keep)
    places = {int(i * step) for i in range(most)}
    return [record for i, record in enumerate(records) if i in places or record.number in keep]
