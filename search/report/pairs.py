"""Optuna's own plots, slices and contours, made to look like the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.report.figure import Figure, Trace, log_ticks, shown
from search.report.material import Material
from search.report.theme import SCALE

_WORST_SHOWN = 0.9
_MARGIN = {"l": 66, "r": 80, "t": 8, "b": 48}
"""Room for the colours' bar too."""


def slice_figures(material: Material) -> list[Figure]:
    """Return Optuna's slice of each of the strongest parameters."""
    return [_slice(name.removeprefix("slice-"), plot) for name, plot in _named(material, "slice-")]


def contour_figures(material: Material) -> list[Figure]:
    """Return Optuna's contour of each pair of the strongest parameters."""
    return [_contour(name, plot) for name, plot in _named(material, "contour-")]


def _named(material: Material, prefix: str) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, plot) for name, plot in material.optuna_plots.items() if name.startswith(prefix)]


def _slice(param: str, plot: Mapping[str, Any]) -> Figure:
    bar = {"title": {"text": "trial", "font": {"size": 12}}, "thickness": 10, "outlinewidth": 0, "tickformat": "d"}
    marker = {"colorscale": SCALE, "colorbar": bar, "size": 8, "line": {"width": 1, "color": "@line"}}
    traces = [{**trace, "marker": {**trace.get("marker", {}), **marker}} for trace in plot["data"]]
    return Figure(
        name=f"slice-{param}",
        title=param,
        caption="",
        alt=f"{param} against validation loss, coloured by the trial's number.",
        data=traces,
        layout=_layout(plot),
        height=260,
    )


def _contour(name: str, plot: Mapping[str, Any]) -> Figure:
    x, y = (_axis(plot, side)["title"]["text"] for side in ("xaxis", "yaxis"))
    return Figure(
        name=name,
        title=f"{x} and {y}",
        caption="",
        alt=f"Validation loss over {x} and {y}, between the complete trials, which are dots.",
        data=[_restyled(trace) for trace in plot["data"]],
        layout=_layout(plot),
        height=300,
    )


def _restyled(trace: Trace) -> Trace:
    if trace["type"] != "contour":
        return {**trace, "marker": {"color": "@paper", "size": 5, "line": {"width": 1.5, "color": "@ink"}}}
    values = sorted(value for row in trace.get("z") or [] for value in row if value is not None)
    worst = {"zmin": values[0], "zmax": values[int(_WORST_SHOWN * (len(values) - 1))]} if values else {}
    bar = {"title": {"text": "loss", "font": {"size": 12}}, "thickness": 10, "outlinewidth": 0}
    # The lower the loss, the more it stands out.
    return {
        **trace,
        **worst,
        "colorscale": SCALE,
        "reversescale": True,
        "colorbar": bar,
        "line": {"width": 0.5, "color": "@paper/60"},
    }


def _layout(plot: Mapping[str, Any]) -> dict[str, Any]:
    return {**{side: _axis(plot, side) for side in ("xaxis", "yaxis")}, "showlegend": False, "margin": _MARGIN}


def _axis(plot: Mapping[str, Any], side: str) -> dict[str, Any]:
    """Return what of Optuna's axis is not mere looks, with the same labels as elsewhere."""
    axis = {key: value for key, value in plot["layout"].get(side, {}).items() if key in ("title", "type", "range")}
    if axis.get("type") == "log":
        values = [value for trace in plot["data"] for value in trace.get(side[0]) or [] if value > 0]
        ticks = log_ticks(min(values), max(values), most=4) if values else []
        axis |= {"tickvals": ticks, "ticktext": shown(ticks)}
    return axis
