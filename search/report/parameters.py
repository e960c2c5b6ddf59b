"""What the parameters did: each against the loss, with its edges; importances; all together as parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from search.records import Reason, TrialRecord
from search.report.curves import trials_trace
from search.report.figure import Figure, LossAxis, Trace, named_points, shown, thinned
from search.report.material import Material, loss_of, losses
from search.report.scale import EDGE, OFF, Scale
from search.report.theme import LOOKS
from search.spec import parameter_of

_MOST_TRIALS = 400
_MOST_LINES = 150
_MOST_AXES = 8
_FEWEST_TRIALS = 4
_JITTER = 0.18


def parameter_figures(material: Material) -> list[Figure]:
    """Return each searched parameter against the validation loss, what matters most first."""
    axis = LossAxis.of(loss for _, loss in losses(material.counted))
    keep = [record.number for record in material.chosen.values()]
    records = thinned(material.counted, _MOST_TRIALS, keep)
    return [
        _parameter(Scale(name, material.searched[name]), records, axis, material) for name in material.ranked_params()
    ]


def _parameter(scale: Scale, records: Sequence[TrialRecord], axis: LossAxis, material: Material) -> Figure:
    name = scale.name
    traces: list[Trace] = []
    for reason in LOOKS:
        group = [record for record in records if record.reason is reason and name in record.params]
        if group:
            x = [scale.place(record.params[name]) + _jitter(scale, record) for record in group]
            trace = trials_trace(reason, group, x, axis)
            trace["text"] = shown(record.params[name] for record in group)
            trace["hovertemplate"] = f"trial %{{customdata}}, {LOOKS[reason].words}<br>{name} %{{text}}<extra></extra>"
            traces.append(trace)
    chosen = {which: record for which, record in material.chosen.items() if name in record.params}
    marks = named_points(
        chosen,
        material.names,
        {which: scale.place(record.params[name]) for which, record in chosen.items()},
        {which: axis.clip(loss_of(record)) for which, record in chosen.items()},
    )
    with_off = scale.any_off(record for record in records if name in record.params)
    places, labels = scale.ticks(with_off)
    warning, note = edge_words(scale, material.winner)
    return Figure(
        name=f"parameter-{name}",
        title=name,
        caption=f"{parameter_of(name).description.partition(';')[0].rstrip('.')}.",
        alt=_said(scale, material.winner),
        data=[*traces, *marks],
        layout={
            "xaxis": {
                "tickvals": places,
                "ticktext": labels,
                "tickangle": 0,
                "range": [OFF - 0.06 if with_off else -0.06, 1.06] if not scale.is_switch else [-0.5, 1.5],
            },
            "yaxis": axis.layout,
            "showlegend": False,
            "shapes": _shapes(scale, material.winner, with_off),
        },
        height=250,
        warning=warning,
        note=note,
    )


def edge_words(scale: Scale, winner: TrialRecord | None) -> tuple[str, str]:
    """Return the warning, and the note, that are due where the best lies at the edge of a range; often empty."""
    edge = None if winner is None or scale.name not in winner.params else scale.edge(winner.params[scale.name])
    if edge is None or winner is None:
        return "", ""
    words = f"the best lies at the {edge} edge of its range"
    parameter = parameter_of(scale.name)
    if edge == "lower" and scale.setting.low == 0:
        return "", f"{words}, which is off: it may not be needed"
    if scale.setting.low <= parameter.low if edge == "lower" else scale.setting.high >= parameter.high:
        return "", f"{words}, beyond which there is nothing"
    if scale.name == "patience" and winner.reason is Reason.COMPLETED:
        return "", f"{words}, but it ran to its last epoch, so patience did not matter"
    return f"{words}: widen it", ""


def _said(scale: Scale, winner: TrialRecord | None) -> str:
    low, high = shown([scale.setting.low, scale.setting.high])
    space = "on or off" if scale.is_switch else f"from {low} to {high}{', logarithmic' if scale.setting.log else ''}"
    if winner is None or scale.name not in winner.params:
        return f"{scale.name}, {space}, against the validation loss of each trial."
    [value] = shown([winner.params[scale.name]])
    return f"{scale.name}, {space}, against the validation loss of each trial; the best has {value}."


def _jitter(scale: Scale, record: TrialRecord) -> float:
    """Return by how much to move a mark aside, where many would lie on each other; always the same for a trial."""
    return _JITTER * (2 * (record.number * 0.618034 % 1) - 1) if scale.is_switch else 0.0


def _shapes(scale: Scale, winner: TrialRecord | None, with_off: bool) -> list[dict[str, Any]]:
    """Return the range's ends as lines where something lies beyond, and the edge that the best lies at as a band."""
    shapes = [_upright(OFF / 2, OFF / 2, "@line", "dot")] if with_off and not scale.is_switch else []
    edge = None if winner is None or scale.name not in winner.params else scale.edge(winner.params[scale.name])
    if edge is not None and edge_words(scale, winner)[0]:
        start = -0.06 if edge == "lower" else 1 - EDGE
        shapes.append(_upright(start, start + 0.06 + EDGE, "@warning/22", None))
    return shapes


def _upright(x0: float, x1: float, colour: str, dash: str | None) -> dict[str, Any]:
    place = {"xref": "x", "yref": "paper", "x0": x0, "x1": x1, "y0": 0, "y1": 1, "layer": "below"}
    if dash is None:
        return {"type": "rect", "fillcolor": colour, "line": {"width": 0}, **place}
    return {"type": "line", "line": {"color": colour, "width": 1, "dash": dash}, **place}


def importance_figure(material: Material) -> Figure | None:
    """Return how much each parameter explains, None where there are too few trials to tell."""
    ranked = sorted(material.importances.items(), key=lambda item: item[1])
    if not ranked:
        return None
    return Figure(
        name="importances",
        title="Which parameters mattered",
        caption="How much of the difference between good trials and others each parameter explains, over all complete "
        "trials (PED-ANOVA, Watanabe et al. 2023). It tells where the search was sensitive, and neither in which "
        "direction nor what a regularizer is worth: for that there is `regsearch explain`.",
        alt="; ".join(f"{name} {share:.0%}" for name, share in reversed(ranked)),
        data=[
            {
                "type": "bar",
                "orientation": "h",
                "x": [share for _, share in ranked],
                "y": [name for name, _ in ranked],
                "text": [f"{share:.1%}" for _, share in ranked],
                "textposition": "outside",
                "cliponaxis": False,
                "textfont": {"color": "@ink"},
                "marker": {"color": "@best"},
                "hoverinfo": "skip",
            }
        ],
        layout={
            "xaxis": {"tickformat": ".0%", "range": [0, 1.18 * max(share for _, share in ranked) or 1]},
            "yaxis": {"ticks": "", "showline": False, "type": "category", "showgrid": False},
        },
        height=70 + 26 * len(ranked),
    )


def parallel_figure(material: Material) -> Figure | None:
    """Return the complete trials as lines across the parameters, None where there are too few.

    Drawn with plain lines: plotly's own parallel coordinates, and so Optuna's, need WebGL, which a remote desktop or a
    printer has not, and Optuna's leave out every trial that lacks a parameter because it is switched off.
    """
    scales = [Scale(name, material.searched[name]) for name in material.ranked_params()[:_MOST_AXES]]
    ranked = sorted(losses(material.complete), key=lambda item: item[1])
    if len(ranked) < _FEWEST_TRIALS or not scales:
        return None
    few = thinned([record for record, _ in ranked], _MOST_LINES)
    axis = LossAxis.of(loss for _, loss in losses(few))
    lines = [
        [*(scale.place(record.params.get(scale.name, 0.0)) for scale in scales), _height(record, axis)]
        for record in few
    ]
    bands = [
        (lines[len(few) * i // 5 : len(few) * (i + 1) // 5], colour, 1.0 + 0.25 * (4 - i))
        for i, colour in enumerate(("@scale4", "@scale3", "@scale2", "@scale1", "@line"))
    ]
    names = [*(scale.name for scale in scales), "loss"]
    return Figure(
        name="parallel",
        title="All parameters at once",
        caption="Each line is a complete trial, from the most important parameter to its validation loss; the stronger "
        "its colour, the better the trial, by fifths. Where strong lines run together, a value matters; where they "
        "fan out, anything does.",
        alt=f"{len(few)} complete trials as lines across {', '.join(names)}.",
        data=[
            _lines(group, colour, width, i) for i, (group, colour, width) in reversed(list(enumerate(bands))) if group
        ],
        layout={
            "xaxis": {
                "tickvals": list(range(len(names))),
                "ticktext": names,
                "range": [-0.35, len(names) - 0.45],
                "showgrid": True,
                "gridcolor": "@line",
                "showline": False,
                "ticks": "",
            },
            "yaxis": {"visible": False, "range": [-0.22, 1.07]},
            "annotations": _ends(scales, few, axis),
            "showlegend": True,
        },
        height=400,
    )


def _height(record: TrialRecord, axis: LossAxis) -> float:
    """Return where a trial's loss lies on an axis from 0 to 1."""
    loss = axis.clip(loss_of(record)) or 0.0
    if axis.log:
        return math.log(loss / axis.low) / math.log(axis.high / axis.low)
    return (loss - axis.low) / (axis.high - axis.low)


_FIFTHS = ("best fifth", "second", "third", "fourth", "worst fifth")


def _lines(group: Sequence[Sequence[float]], colour: str, width: float, fifth: int) -> Trace:
    """Return several lines as one trace, with gaps between them."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [x for line in group for x in (*range(len(line)), None)],
        "y": [y for line in group for y in (*(round(y, 4) for y in line), None)],
        "name": _FIFTHS[fifth],
        "line": {"color": colour, "width": width},
        "hoverinfo": "skip",
    }


def _ends(scales: Sequence[Scale], records: Sequence[TrialRecord], axis: LossAxis) -> list[dict[str, Any]]:
    """Return what the ends of the axes are, written beside them."""
    ends = [("off", "on") if s.is_switch else tuple(shown([s.setting.low, s.setting.high])) for s in scales]
    ends.append(tuple(f"{value:.3g}" for value in (axis.low, axis.high)))
    labels: list[tuple[int, float, str]] = [(x, y, end[y]) for x, end in enumerate(ends) for y in (0, 1)]
    labels += [(x, OFF, "off") for x, scale in enumerate(scales) if not scale.is_switch and scale.any_off(records)]
    look = {"font": {"size": 11, "color": "@muted"}, "bgcolor": "@paper/75", "xanchor": "left", "xshift": 3}
    return [{"x": x, "y": y, "text": text, **look} for x, y, text in labels]
