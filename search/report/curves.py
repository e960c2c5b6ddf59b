"""Losses as they came: the curves of best, pick and baseline, the history of the search, and sparsity against loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from search.diagnosis import diagnose
from search.records import EpochResult, Reason, TrialRecord
from search.report.figure import MARKS, Figure, LossAxis, Trace, named_points, thinned
from search.report.material import Material, loss_of, losses
from search.report.theme import LOOKS

_MOST_EPOCHS = 400
_MOST_TRIALS = 2000
_FEW = 10
_SPARSE = 0.01
"""Share of weights at zero from which on one speaks of it: a few in ten thousand are an accident."""


def curve_figures(material: Material) -> list[Figure]:
    """Return the learning curves of best, pick and baseline; one figure for a trial that is several of them."""
    names: dict[int, list[str]] = {}
    for which, record in material.chosen.items():
        names.setdefault(record.number, []).append(which)
    records = {record.number: record for record in material.chosen.values()}
    axis = LossAxis.of((*_finite(records.values()), *_finite(records.values(), train=True)), "loss", share=1.0)
    return [_curves(records[number], which, axis, material) for number, which in names.items()]


def _curves(record: TrialRecord, names: Sequence[str], axis: LossAxis, material: Material) -> Figure:
    colour, symbol = MARKS[names[0]]
    rows = _few(record.epochs)
    epochs = [row.epoch for row in rows]
    best = record.best
    title = " and ".join(material.names[which] for which in names)
    lines: list[Trace] = [
        _line("training", epochs, [axis.clip(row.train_loss) for row in rows], colour, dash="dot"),
        _line("validation", epochs, [axis.clip(row.val_loss) for row in rows], colour)
        | {"fill": "tonexty", "fillcolor": f"{colour}/16"},
    ]
    if best is not None:
        mark = {"color": colour, "symbol": symbol, "size": 13, "line": {"color": "@paper", "width": 1.5}}
        lines.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [best.epoch],
                "y": [axis.clip(best.val_loss)],
                "showlegend": False,
                "marker": mark,
                "hovertemplate": f"best epoch {best.epoch}: %{{y:.4f}}<extra></extra>",
            }
        )
    return Figure(
        name=f"curves-{names[0].replace('_', '-')}",
        title=f"{title[0].upper()}{title[1:]}: trial {record.number}",
        caption=_diagnosis(record, material),
        alt=_said(record),
        data=lines,
        layout={
            "xaxis": {"title": {"text": "epoch"}, "range": [0.5, max(len(record.epochs), 2) + 0.5]},
            "yaxis": axis.layout,
            "showlegend": True,
            "legend": {"font": {"size": 11}},
        },
        height=280,
    )


def _line(name: str, x: Sequence[float], y: Sequence[float | None], colour: str, dash: str = "solid") -> Trace:
    return {
        "type": "scatter",
        "mode": "lines" if len(x) > 1 else "markers",
        "x": list(x),
        "y": list(y),
        "name": name,
        "line": {"color": colour, "width": 2, "dash": dash},
        "marker": {"color": colour},
        "hovertemplate": f"epoch %{{x}}: {name} %{{y:.4f}}<extra></extra>",
    }


def _diagnosis(record: TrialRecord, material: Material) -> str:
    diagnosis = diagnose(record, (material.summary.best, material.summary.baseline))
    if diagnosis is None:
        return "Not complete, so its curves are not judged."
    return f"{str(diagnosis)[0].upper()}{str(diagnosis)[1:]}: {diagnosis.advice}."


def _said(record: TrialRecord) -> str:
    best = record.best
    if best is None:
        return "No epoch was finished."
    return (
        f"Training and validation loss over {len(record.epochs)} epochs. At the best, epoch {best.epoch}, training "
        f"loss is {best.train_loss:.4f} and validation loss {best.val_loss:.4f}: a gap of {best.gap:+.4f}, shaded."
    )


def _few(rows: Sequence[EpochResult]) -> list[EpochResult]:
    """Return rows for a line: all of them, or so many that no pixel is without one."""
    if len(rows) <= _MOST_EPOCHS:
        return list(rows)
    step = len(rows) / _MOST_EPOCHS
    return [*(rows[int(i * step)] for i in range(_MOST_EPOCHS)), rows[-1]]


def _finite(records: Iterable[TrialRecord], train: bool = False) -> list[float]:
    values = (row.train_loss if train else row.val_loss for record in records for row in record.epochs)
    return [value for value in values if math.isfinite(value)]


def history_figure(material: Material) -> Figure:
    """Return every trial's loss in the order in which they ended, with the best so far as steps."""
    ended = sorted(material.counted, key=lambda record: (record.ended, record.number))
    place = {record.number: i for i, record in enumerate(ended, 1)}
    axis = LossAxis.of(loss for _, loss in losses(ended))
    keep = {record.number for record in material.chosen.values()}
    traces = [
        trials_trace(reason, shown, [place[record.number] for record in shown], axis)
        for reason in LOOKS
        if (shown := thinned([record for record in ended if record.reason is reason], _MOST_TRIALS, keep))
    ]
    steps = _best_so_far(ended, place, axis)
    x = {which: place.get(record.number) for which, record in material.chosen.items()}
    y = {which: axis.clip(loss_of(record)) for which, record in material.chosen.items()}
    best = material.summary.best
    return Figure(
        name="history",
        title="How the search went",
        caption="Each mark is a trial, at the lowest validation loss it reached, in the order in which they ended; "
        "the steps are the best complete trial so far. What is worse than the axis shows lies on its upper edge, "
        "and so do trials without a finite loss.",
        alt=f"{len(ended)} trials"
        + ("" if best is None else f"; the best, trial {best.number}, ended as number {place.get(best.number, '?')}."),
        data=[*traces, *steps, *named_points(material.chosen, material.names, x, y)],
        layout={
            "xaxis": {"title": {"text": "trials ended"}, **_whole(len(ended))},
            "yaxis": axis.layout,
            "showlegend": True,
        },
        height=380,
    )


def _whole(most: int) -> dict[str, int]:
    """Return what keeps an axis up to a small number from having halves."""
    return {"dtick": 1} if most <= _FEW else {}


def trials_trace(reason: Reason, records: Sequence[TrialRecord], x: Sequence[float | None], axis: LossAxis) -> Trace:
    """Return trials that ended in the same way as marks; those without a finite loss on the upper edge."""
    look = LOOKS[reason]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": list(x),
        "y": [axis.clip(axis.high if (loss := loss_of(record)) is None else loss) for record in records],
        "customdata": [record.number for record in records],
        "name": look.words,
        "cliponaxis": False,
        "marker": {"color": look.colour, "symbol": look.symbol, "size": 7, "opacity": 0.85},
        "hovertemplate": f"trial %{{customdata}}, {look.words}<br>%{{y:.4f}} at %{{x:.4g}}<extra></extra>",
    }


def _best_so_far(ended: Sequence[TrialRecord], place: dict[int, int], axis: LossAxis) -> list[Trace]:
    x: list[int] = []
    y: list[float | None] = []
    lowest = math.inf
    for record, loss in losses(ended):
        if record.state == "complete" and loss < lowest:
            lowest = loss
            x.append(place[record.number])
            y.append(axis.clip(loss))
    if not x:
        return []
    line = {"color": "@best", "width": 2, "shape": "hv"}
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [*x, len(ended)],
            "y": [*y, y[-1]],
            "name": "best so far",
            "line": line,
            "hoverinfo": "skip",
        }
    ]


def sparsity_figure(material: Material) -> Figure | None:
    """Return sparsity against loss, None where no network has become sparse."""
    shown = thinned(material.complete, 600, [record.number for record in material.chosen.values()])
    if not any(record.best and record.best.sparsity >= _SPARSE for record in material.complete):
        return None
    axis = LossAxis.of(loss for _, loss in losses(shown))
    share = {record.number: 100 * record.best.sparsity for record in shown if record.best}
    traces = [
        trials_trace(reason, group, [share[record.number] for record in group], axis)
        for reason in (Reason.COMPLETED, Reason.EARLY_STOPPED)
        if (group := [record for record in shown if record.reason is reason])
    ]
    x = {which: share.get(record.number) for which, record in material.chosen.items()}
    y = {which: axis.clip(loss_of(record)) for which, record in material.chosen.items()}
    return Figure(
        name="sparsity",
        title="Sparsity against loss",
        caption="Sparsity is the share of weights that are exactly zero at the best epoch. To the right at the same "
        "height is a smaller network that is as good.",
        alt=f"{len(shown)} complete trials with {min(share.values()):.0f} to {max(share.values()):.0f} percent of "
        "their weights at zero.",
        data=[*traces, *named_points(material.chosen, material.names, x, y)],
        layout={
            "xaxis": {"title": {"text": "weights at zero"}, "ticksuffix": " %"},
            "yaxis": axis.layout,
            "showlegend": True,
        },
        height=340,
    )
