"""The live view as lines: how far a search is, its rungs, and the slots at work with their loss curves.

Pure drawing: a `Progress` and a size in, lines out. They say all in words and figures, so that colours may be missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.text import Text

from search.records import Reason
from search.terminal.progress import Progress, Slot, best_loss
from search.terminal.sparkline import sparklines

_GAP = "  "
_LONGEST_BAR = 24
_CURVE_HEADING = "val_loss by epoch"
_SHORTEST_CURVE, _LONGEST_CURVE = 8, 60
_HEIGHT_FOR_RUNGS = 14
_QUIET_SECONDS = 60


def draw(progress: Progress, width: int, height: int) -> list[Text]:
    """Return no more than `height` lines, none of which needs more than `width` columns or is folded."""
    lines = [_bar(progress), *_counts(progress)]
    if height >= _HEIGHT_FOR_RUNGS:
        lines += _rungs(progress, width)
    if progress.running and height > len(lines) + 2:
        lines += [Text(), *_slots(progress, width, height - len(lines) - 1)]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines[:height]


def _bar(progress: Progress) -> Text:
    share = min(1.0, progress.done / progress.total) if progress.total else 1.0
    filled = int(share * _LONGEST_BAR)
    unit = "trials" if progress.labels is None else "repeats"
    bar = Text("█" * filled, style="green").append("░" * (_LONGEST_BAR - filled), style="dim")
    bar.append(f"  {progress.done}/{progress.total} {unit}", style="bold")
    if progress.done >= progress.total:
        return bar
    left = progress.seconds_left
    bar.append(f" · {'-' if left is None else duration(left)} left", style="bold")
    if progress.seconds_without_news > _QUIET_SECONDS:
        bar.append(f" · no news for {duration(progress.seconds_without_news)}")
    return bar


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def _counts(progress: Progress) -> list[Text]:
    """Return the best so far and the speed, and how trials ended."""
    speed = f"{_figure(progress.epochs_per_second)} trial-epochs/s"
    if progress.labels is not None:
        return [Text(speed)] if progress.done < progress.total else []
    best = "no trial complete yet"
    if progress.best is not None:
        best = f"best {best_loss(progress.best):.4f} (trial {progress.best.number})"
    ends = [f"{progress.reasons[reason]} {reason}" for reason in Reason if progress.reasons[reason]]
    told = [best, f"{_figure(progress.trials_per_minute)} trials/min", speed]
    first = Text(" · ".join(told if progress.done < progress.total else told[:1]))
    return [first, Text(", ".join(ends))] if ends else [first]


def _figure(value: float) -> str:
    """Return about three figures."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _rungs(progress: Progress, width: int) -> list[Text]:
    """Return a table with a column for each rung that somebody has reached; none where there are no rungs."""
    rungs = [] if progress.ladder is None else [rung for rung in progress.ladder.rungs() if rung.reached]
    if not rungs:
        return []
    columns = [["rung at epoch", "reached", "went on", "to beat"]]
    for rung in rungs:
        to_beat = "-" if rung.to_beat is None else _loss(rung.to_beat)
        columns.append([str(rung.epoch), str(rung.reached), str(rung.went_on), to_beat])
    first, *others = _table([list(row) for row in zip(*columns, strict=True)], width, left={0})
    return [Text(), Text(first, style="dim"), *map(Text, others)]


def _slots(progress: Progress, width: int, height: int) -> list[Text]:
    """Return the running trials by number, as many as there is room for, each with its curve on one scale for all."""
    slots = [progress.running[number] for number in sorted(progress.running)]
    rows = height - 1
    shown = slots if len(slots) <= rows else slots[: rows - 1]
    heading = "trial" if progress.labels is None else "trial, seed"
    table = [[heading, "epoch", "", "val_loss", "accuracy", "gap"]]
    table += [[slot.label, f"{len(slot.val_losses)}/{progress.max_epochs}", "", *_cells(slot)] for slot in shown]
    table = _with_curves(_without_empty(table), shown, progress.max_epochs, width)
    first, *others = _table(table, width, left={2})
    lines = [Text(first, style="dim"), *map(Text, others)]
    return lines if shown is slots else [*lines, Text(f"… and {len(slots) - len(shown)} more", style="dim")]


def _cells(slot: Slot) -> list[str]:
    last = slot.latest
    if last is None:
        return ["", "", ""]
    accuracy = "" if math.isnan(last.val_accuracy) else f"{last.val_accuracy:.1%}"
    return [_loss(last.val_loss), accuracy, "" if math.isnan(last.gap) else f"{last.gap:+.4f}"]


def _without_empty(table: list[list[str]]) -> list[list[str]]:
    """Drop the columns of which nobody knows anything; the third is kept for the curves."""
    kept = [i for i in range(len(table[0])) if i == 2 or any(row[i] for row in table[1:])]
    return [[row[i] for i in kept] for row in table]


def _with_curves(table: list[list[str]], slots: Sequence[Slot], epochs: int, width: int) -> list[list[str]]:
    """Fill the third column with curves as wide as there is room; where there is next to none, leave it out."""
    taken = sum(max(map(len, column)) + len(_GAP) for column in zip(*table, strict=True))
    room = min(width - taken, _LONGEST_CURVE, epochs)
    if width - taken < min(_SHORTEST_CURVE, epochs):
        return [row[:2] + row[3:] for row in table]
    curves = sparklines([slot.val_losses for slot in slots], epochs, room)
    heading = _CURVE_HEADING if len(_CURVE_HEADING) <= room else ""
    return [[*row[:2], curve, *row[3:]] for row, curve in zip(table, [heading, *curves], strict=True)]


def _table(rows: list[list[str]], width: int, left: set[int]) -> list[str]:
    """Return rows with aligned columns, as many of these as fit; those in `left` are flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    while len(widths) > 1 and sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        widths.pop()
    return [
        _GAP.join(
            cell.ljust(wide) if i in left else cell.rjust(wide)
            for i, (cell, wide) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in rows
    ]


def _loss(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1000 or not math.isfinite(value) else f"{value:.3g}"
