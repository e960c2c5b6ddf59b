"""More than one goal: the loss against each other objective, and the trials that no other one beats."""

from __future__ import annotations

from collections.abc import Sequence

from search.records import Reason, TrialRecord
from search.report.curves import trials_trace
from search.report.figure import Figure, LossAxis, Trace, named_points, thinned
from search.report.material import Material, loss_of, losses
from search.report.tables import Cell, Table

_MOST_TRIALS = 600
_AXES = {
    "sparsity": ("weights at zero", {"ticksuffix": " %"}, "to the right"),
    "epochs": ("best epoch", {}, "to the left"),
}
"""By objective: its axis, and where on it is better."""


def front_figures(material: Material) -> list[Figure]:
    """Return a figure for each objective beside the loss; none where the loss is the only one."""
    return [_front(material, objective) for objective in material.summary.objectives if objective in _AXES]


def _front(material: Material, objective: str) -> Figure:
    on_front = {record.number for record in material.summary.pareto}
    shown = thinned(material.complete, _MOST_TRIALS, {*on_front, *(r.number for r in material.chosen.values())})
    axis = LossAxis.of((loss for _, loss in losses(shown)), share=1.0)
    title, ticks, better = _AXES[objective]
    traces = [
        trials_trace(reason, group, [_value(record, objective) for record in group], axis) | {"opacity": 0.5}
        for reason in (Reason.COMPLETED, Reason.EARLY_STOPPED)
        if (group := [record for record in shown if record.reason is reason])
    ]
    x = {which: _value(record, objective) for which, record in material.chosen.items()}
    y = {which: axis.clip(loss_of(record)) for which, record in material.chosen.items()}
    return Figure(
        name=f"front-{objective}",
        title=f"Validation loss against {objective}",
        caption=f"Better is below and {better}. Ringed are the trials of the Pareto front: whoever is better by one "
        "objective is worse by another.",
        alt=f"{len(shown)} complete trials, {len(on_front)} of them on the Pareto front.",
        data=[
            *traces,
            _rings(material.summary.pareto, objective, axis),
            *named_points(material.chosen, material.names, x, y),
        ],
        layout={"xaxis": {"title": {"text": title}, **ticks}, "yaxis": axis.layout, "showlegend": True},
        height=360,
    )


def _rings(front: Sequence[TrialRecord], objective: str, axis: LossAxis) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [_value(record, objective) for record in front],
        "y": [axis.clip(loss_of(record)) for record in front],
        "customdata": [record.number for record in front],
        "name": "Pareto front",
        "cliponaxis": False,
        "marker": {"color": "@pick", "symbol": "circle-open", "size": 13, "line": {"width": 2}},
        "hovertemplate": "trial %{customdata}, on the Pareto front<extra></extra>",
    }


def _value(record: TrialRecord, objective: str) -> float | None:
    if record.best is None:
        return None
    return 100 * record.best.sparsity if objective == "sparsity" else record.best.epoch


def front_table(material: Material) -> Table:
    """Return the trials of the front, the lowest loss first."""
    columns = {"validation loss": "val_loss", "sparsity": "sparsity", "best epoch": "best_epoch"}
    styles = {"val_loss": ".4f", "sparsity": ".1%", "best_epoch": "d"}
    rows = [
        (f"trial {record.number}", [_cell(record, i, key, styles[key]) for key in columns.values()])
        for i, record in enumerate(material.summary.pareto)
    ]
    return Table(f"The Pareto front of {', '.join(material.summary.objectives)}", list(columns), [("", rows)])


def _cell(record: TrialRecord, place: int, key: str, style: str) -> Cell:
    assert record.best is not None, "only complete trials are on the front"
    value = record.best.epoch if key == "best_epoch" else getattr(record.best, key)
    return Cell(f"{value:{style}}", f"pareto.{place}.{key}")
