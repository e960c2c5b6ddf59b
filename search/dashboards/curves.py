"""A trial's learning curves as a picture that needs no browser to be drawn."""

from __future__ import annotations

import io
import math

from search.records import TrialRecord
from search.report.theme import PALETTES

_INCHES = (6.4, 3.2)
_COLOURS = PALETTES["light"]
_LOG_FROM = 8
"""Where the largest loss is so many times the smallest, the axis is logarithmic."""


def curves_svg(record: TrialRecord, title: str) -> bytes:
    """Return training and validation loss over the epochs as SVG, the gap shaded and the best epoch marked."""
    # The figure alone, without pyplot: no window system, no global state. Taking it in costs a fifth of a second.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = [row for row in record.epochs if math.isfinite(row.val_loss) and math.isfinite(row.train_loss)]
    epochs, losses, training = ([getattr(row, n) for row in rows] for n in ("epoch", "val_loss", "train_loss"))
    figure = Figure(figsize=_INCHES, layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="epoch", ylabel="loss")
    axes.plot(epochs, training, ":", color=_COLOURS["muted"], label="training", marker="." if len(rows) == 1 else "")
    axes.plot(epochs, losses, color=_COLOURS["best"], label="validation")
    axes.fill_between(epochs, training, losses, color=_COLOURS["best"], alpha=0.16, linewidth=0)
    if record.best is not None:
        axes.plot(record.best.epoch, record.best.val_loss, "*", color=_COLOURS["best"], markersize=12)
    values = [value for value in (*losses, *training) if value > 0]
    if values and max(values) > _LOG_FROM * min(values):
        axes.set_yscale("log")
    axes.grid(color=_COLOURS["grid"])
    axes.legend(frameon=False)
    drawn = io.BytesIO()
    with rc_context({"svg.hashsalt": "regsearch"}):  # the same curves give the same file
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()
