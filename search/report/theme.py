"""How plots look: colours by what they stand for, in light and dark, and what all plots have in common.

A plot names its colours by role, `@best` or, with an opacity in percent, `@best/20`; `resolve` replaces them by those
of a palette. The page does the same in the browser, so that plots follow the reader's light or dark. Blue, orange,
green and the rest are told apart by colour-blind readers (after Okabe and Ito 2008), and never by colour alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search.records import Reason

PALETTES: Mapping[str, Mapping[str, str]] = {
    "light": {
        "ink": "#1c2128",
        "muted": "#57606a",
        "grid": "#e4e7eb",
        "line": "#b3bac2",
        "paper": "#ffffff",
        "best": "#0b63b0",
        "stopped": "#3d8ccb",
        "pick": "#00735c",
        "baseline": "#b84a00",
        "pruned": "#7a838d",
        "failed": "#b3195a",
        "interrupted": "#8a6100",
        "warning": "#b84a00",
        "scale0": "#e3edf7",
        "scale1": "#a6c8e8",
        "scale2": "#5d9bd3",
        "scale3": "#1e68b0",
        "scale4": "#083a70",
    },
    "dark": {
        "ink": "#e8ebef",
        "muted": "#a3adb9",
        "grid": "#2b323b",
        "line": "#56606c",
        "paper": "#161a20",
        "best": "#62b3f5",
        "stopped": "#3f86c6",
        "pick": "#45cba3",
        "baseline": "#f59a5b",
        "pruned": "#8d97a3",
        "failed": "#f27aa8",
        "interrupted": "#dcb548",
        "warning": "#f59a5b",
        "scale0": "#1d2b3a",
        "scale1": "#244b70",
        "scale2": "#2f78b5",
        "scale3": "#62b3f5",
        "scale4": "#d3eaff",
    },
}
SCALE = [[step / 4, f"@scale{step}"] for step in range(5)]
"""Plotly's colour scale: the more there is, the more it stands out."""

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


@dataclass(frozen=True)
class Look:
    """How trials that ended in one way are drawn."""

    colour: str
    symbol: str
    pattern: str
    """Of bars, plotly's: empty for none."""
    words: str


LOOKS: Mapping[Reason, Look] = {
    Reason.COMPLETED: Look("@best", "circle", "", "completed"),
    Reason.EARLY_STOPPED: Look("@stopped", "diamond", "/", "early stopped"),
    Reason.PRUNED: Look("@pruned", "circle-open", ".", "pruned"),
    Reason.DIVERGED: Look("@failed", "x", "x", "diverged"),
    Reason.ERROR: Look("@failed", "triangle-up", "+", "error"),
    Reason.INTERRUPTED: Look("@interrupted", "triangle-left-open", "\\", "interrupted"),
    Reason.LOST: Look("@interrupted", "triangle-right-open", "\\", "lost"),
}


def filled(colour: str, pattern: str) -> dict[str, Any]:
    """Return how a bar is filled, in plotly's words."""
    told = {"shape": pattern, "bgcolor": colour, "fgcolor": "@paper", "size": 5, "solidity": 0.25}
    return {"color": colour, "line": {"color": "@paper", "width": 0.5}, "pattern": told}


_AXIS: Mapping[str, Any] = {
    "gridcolor": "@grid",
    "linecolor": "@line",
    "tickcolor": "@line",
    "tickfont": {"color": "@muted", "size": 12},
    "title": {"font": {"color": "@muted", "size": 12}, "standoff": 8},
    "zeroline": False,
    "showline": True,
    "ticks": "outside",
    "ticklen": 4,
    "automargin": True,
    "fixedrange": False,
}

TEMPLATE: Mapping[str, Any] = {
    "layout": {
        "font": {"family": FONT, "size": 13, "color": "@ink"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "xaxis": {**_AXIS, "showgrid": False},
        "yaxis": _AXIS,
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "@paper", "bordercolor": "@line", "font": {"color": "@ink", "family": FONT}},
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "yanchor": "bottom",
            "font": {"size": 12},
            "itemwidth": 30,
            "traceorder": "normal",
        },
        "bargap": 0.25,
        "annotationdefaults": {"font": {"size": 12, "color": "@muted"}, "showarrow": False},
        "dragmode": "zoom",
    },
    "data": {"scatter": [{"marker": {"size": 7}}]},
}
"""What every plot starts from, in plotly's words."""


def resolve(value: Any, palette: Mapping[str, str]) -> Any:
    """Return plain values with each named colour replaced by the palette's."""
    if isinstance(value, Mapping):
        return {key: resolve(item, palette) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [resolve(item, palette) for item in value]
    return _colour(value, palette) if isinstance(value, str) and value.startswith("@") else value


def _colour(name: str, palette: Mapping[str, str]) -> str:
    role, _, percent = name[1:].partition("/")
    if role not in palette:
        return name
    if not percent:
        return palette[role]
    red, green, blue = (int(palette[role][i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{int(percent) / 100:g})"
