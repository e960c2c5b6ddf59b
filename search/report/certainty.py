"""How sure it is: what was confirmed over seeds, with intervals, and what each of the winner's ingredients is worth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from search.confirmation import Confirmation, Confirmed
from search.intervals import Difference
from search.report.figure import MARKS, Figure, Trace
from search.report.material import NAMES, Material
from search.verdict import comparison

_ROW_PIXELS = 34
_NEAR = 0.2
"""Share of an axis beside its edge where words must not be centred."""


@dataclass(frozen=True)
class Row:
    """One mean with how far its 95 % interval reaches, in the units that are shown."""

    label: str
    mean: float
    reach: float
    colour: str
    symbol: str


def difference_figure(material: Material) -> Figure | None:
    """Return the difference in test accuracy with its interval beside zero, None where the verdict is not by that."""
    compared = comparison(material.summary)
    if compared is None or compared.metric != "test_accuracy" or not math.isfinite(compared.difference.low):
        return None
    row = _difference_row("", compared.difference, 100.0, "@best", "circle")
    return _intervals(
        [row],
        name="difference",
        title="With regularization minus without",
        caption="",
        alt=f"{row.mean:+.2f} points, 95 percent interval {row.mean - row.reach:+.2f} to {row.mean + row.reach:+.2f}.",
        axis={"title": {"text": "points of test accuracy, with minus without"}, "tickformat": "+.3~g"},
        zero="no difference",
    )


def confirmation_figures(material: Material) -> list[Figure]:
    """Return mean and interval of test accuracy and of validation loss of each confirmed configuration."""
    confirmed = material.summary.confirmed
    if confirmed is None:
        return []
    figures = [
        _metric(confirmed, *_tested(material)),
        _metric(confirmed, "val_loss", "Validation loss", 1.0, {"tickformat": ".4~g"}),
    ]
    return [figure for figure in figures if figure is not None]


def _tested(material: Material) -> tuple[str, str, float, dict[str, Any]]:
    """Return the metric of the test data that the verdict goes by."""
    compared = comparison(material.summary)
    if compared is not None and compared.metric == "test_loss":
        return "test_loss", "Test loss", 1.0, {"tickformat": ".4~g"}
    return "test_accuracy", "Test accuracy", 100.0, {"ticksuffix": " %"}


def _metric(confirmed: Confirmation, metric: str, title: str, factor: float, axis: dict[str, Any]) -> Figure | None:
    rows = [
        Row(label, factor * estimate.mean, factor * estimate.reach, *mark)
        for label, configuration, mark in _labelled(confirmed)
        if (estimate := configuration.estimates.get(metric)) is not None
    ]
    if not rows:
        return None
    return _intervals(
        rows,
        name=f"confirmed-{metric.replace('_', '-')}",
        title=title,
        caption="",
        alt="; ".join(f"{row.label} {row.mean:.4g}" for row in rows),
        axis={"title": {"text": f"{title[0].lower()}{title[1:]}, mean and 95 % interval"}, **axis},
    )


def _labelled(confirmed: Confirmation) -> Iterable[tuple[str, Confirmed, tuple[str, str]]]:
    """Give each configuration that was confirmed once, with what it is called and how it is marked."""
    names: dict[int, list[str]] = {}
    for which, configuration in confirmed.chosen.items():
        names.setdefault(configuration.trial, []).append(which)
    there = {configuration.trial: configuration for configuration in confirmed.by_rank}
    for trial, configuration in there.items():
        called = names.get(trial, [])
        label = f"{', '.join(map(_short, called))} ({trial})" if called else f"trial {trial}"
        yield label, configuration, MARKS[called[0]] if called else ("@muted", "circle")


def _short(which: str) -> str:
    return "one std. error" if which == "one_standard_error" else NAMES[which]


def ablation_figure(material: Material) -> Figure | None:
    """Return by how much the loss rises without each ingredient, None where nobody has asked."""
    ablation = material.summary.ablation
    effects = {} if ablation is None else ablation.effects()
    if ablation is None or not effects:
        return None
    rows = [
        _difference_row(
            name, effect, 1.0, "@best" if effect.is_clear else "@muted", "circle" if effect.is_clear else "circle-open"
        )
        for name, effect in effects.items()
    ]
    return _intervals(
        rows,
        name="ablation",
        title=f"What each ingredient of trial {ablation.trial} is worth",
        caption="By how much the validation loss rises when one ingredient is left out, in pairs by seed. Right of "
        "zero it helps, left of zero it hurts; an interval across zero (hollow) shows no clear effect."
        + "".join(f" {remark}" for remark in ablation.remarks),
        alt="; ".join(f"without {row.label} {row.mean:+.4f}" for row in rows),
        axis={"title": {"text": "rise of the validation loss without it"}, "tickformat": "+.3~g"},
        zero="no effect",
    )


def _difference_row(label: str, difference: Difference, factor: float, colour: str, symbol: str) -> Row:
    return Row(label, factor * difference.mean, factor * (difference.high - difference.mean), colour, symbol)


def _intervals(
    rows: Sequence[Row], *, name: str, title: str, caption: str, alt: str, axis: dict[str, Any], zero: str = ""
) -> Figure:
    """Return dots with intervals, one below the other; a single seed is a dot alone."""
    places = list(range(len(rows)))
    layout: dict[str, Any] = {
        "xaxis": {**axis, "showgrid": True},
        "yaxis": {
            "tickvals": places,
            "ticktext": [row.label for row in rows],
            "range": [len(rows) - 0.4, -0.6],
            "showgrid": False,
            "ticks": "",
            "showline": False,
        },
        "showlegend": False,
    }
    if zero:
        low, high = layout["xaxis"]["range"] = _around_zero(rows)
        layout |= _zero_line(zero, low, high)
    return Figure(
        name=name,
        title=title,
        caption=caption,
        alt=alt,
        data=[_dot(place, row) for place, row in zip(places, rows, strict=True)],
        layout=layout,
        height=(96 if zero else 76) + _ROW_PIXELS * len(rows),
    )


def _zero_line(text: str, low: float, high: float) -> dict[str, Any]:
    """Return a dashed line at zero with its meaning above it, both inside the axis from low to high."""
    line = {"color": "@ink", "width": 1, "dash": "dash"}
    edge = _NEAR * (high - low)
    side = "left" if -low < edge else "right" if high < edge else "center"
    above = {"x": 0, "y": 1, "yref": "paper", "yanchor": "bottom", "xanchor": side, "text": text}
    return {
        "shapes": [{"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": line}],
        "annotations": [above],
        "margin": {"l": 8, "r": 12, "t": 26, "b": 8},
    }


def _around_zero(rows: Sequence[Row]) -> list[float]:
    ends = [0.0, *(row.mean + sign * _finite(row.reach) for row in rows for sign in (-1, 1))]
    margin = 0.08 * (max(ends) - min(ends)) or 1.0
    return [min(ends) - margin, max(ends) + margin]


def _dot(place: int, row: Row) -> Trace:
    reach = _finite(row.reach)
    interval = f"<br>95 % interval {row.mean - reach:.4g} to {row.mean + reach:.4g}" if reach else ""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [row.mean],
        "y": [place],
        "marker": {"color": row.colour, "symbol": row.symbol, "size": 11, "line": {"color": row.colour, "width": 2}},
        "error_x": {"type": "data", "array": [reach], "color": row.colour, "thickness": 2, "width": 6},
        "hovertemplate": f"{row.label} %{{x:.4g}}{interval}<extra></extra>",
    }


def _finite(reach: float) -> float:
    return reach if math.isfinite(reach) else 0.0
