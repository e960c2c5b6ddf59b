"""How the figures look: measures and rates become tables, and tables become text for a terminal or Markdown.

A figure is a median over repeats, with its range in parentheses where there are several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import inf

import rich.table
from rich import box

from scripts.benchmarks.comparing import Measure, Runs, Spread, Values, paired, spread
from scripts.benchmarks.rates import Rate
from scripts.benchmarks.sides import REGSEARCH

_FORMATS = {
    "s": "{:.1f}",
    "ms": "{:,.1f}",
    "count": "{:.0f}",
    "loss": "{:.4f}",
    "MiB": "{:,.0f}",
    "%": "{:.1f}",
    "GFLOP/s": "{:.3g}",
    "times": "{:.3g}",
    "rate": "{:.3g}",
}
_PLAIN_NUMBERS = ("count", "loss")
"""Units that need no word beside the label."""


@dataclass(frozen=True)
class Table:
    """Text in rows, the first column the label."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def case_table(title: str, repeats: int, lines: Sequence[Measure], note: str = "") -> Table:
    """Return the comparison of a case: a column for each side, and one for each plain side's ratio to regsearch."""
    sides = list(lines[0].values)
    plain = [side for side in sides if side != REGSEARCH]
    header = ["", *sides, *(f"{side.removeprefix('plain ')} / {REGSEARCH}" for side in plain)]
    rows = [
        [
            line.label if line.unit in _PLAIN_NUMBERS else f"{line.label}, {line.unit}",
            *(_cell(spread(line.values.get(side, [])), line.unit) for side in sides),
            *(_ratio(line, side) for side in plain),
        ]
        for line in lines
    ]
    return Table(_heading(title, repeats), header, rows, note)


def choices_table(title: str, repeats: int, runs: Runs, fixed: Sequence[str]) -> Table:
    """Return what each choice costs, beside the best fixed one, which is found for each measure by itself.

    And what came of it: the best validation loss, and its ratio to that of what regsearch chose by itself.
    """
    whole = {side: [run.ms_per_trial_epoch for run in own] for side, own in runs.items()}
    computing = {side: [_per_epoch(run.busy_s, run.trial_epochs) for run in own] for side, own in runs.items()}
    losses = {side: [run.best_val_loss for run in own] for side, own in runs.items()}
    auto = next(iter(runs))
    rows = [
        [
            side,
            _cell(spread(whole[side]), "ms"),
            _against_best(whole, fixed, side),
            _cell(spread(computing[side]), "ms"),
            _against_best(computing, fixed, side),
            _cell(spread(losses[side]), "loss"),
            _cell(paired(losses[side], losses[auto]), "times"),
            "; ".join(sorted({run.chosen for run in own})),
        ]
        for side, own in runs.items()
    ]
    header = ["", "search, ms a trial-epoch", "to best fixed", "computing, ms", "to best fixed"]
    header += ["best validation loss", f"to {auto}'s", "in its own words"]
    return Table(_heading(title, repeats), header, rows)


def trainers_table(title: str, repeats: int, runs: Runs) -> Table:
    """Return how many trial-epochs a second each number of trainers does, beside the first number."""
    rates = {count: [run.trial_epochs / run.search_s for run in own] for count, own in runs.items()}
    first = next(iter(runs))
    rows = [
        [
            count,
            _cell(spread(rates[count]), "rate"),
            _cell(paired(rates[count], rates[first]), "times"),
            "; ".join(sorted({run.chosen for run in own})),
        ]
        for count, own in runs.items()
    ]
    return Table(_heading(title, repeats), ["trainers", "trial-epochs a second", "times", "in its own words"], rows)


def rates_table(rates: Sequence[Rate]) -> Table:
    """Return the device's rates at matrix products, a row for each number of threads and precision."""
    sizes = sorted({rate.size for rate in rates})
    rows = []
    for (device, threads, precision), group in groupby(rates, lambda rate: (rate.device, rate.threads, rate.precision)):
        by_size = {rate.size: rate.gflops for rate in group}
        words = device if device == "cuda" else f"{device}, {threads} thread{'s' if threads > 1 else ''}"
        rows.append([f"{words}, {precision}", *(f"{by_size[size]:,.0f}" for size in sizes)])
    return Table("Matrix products, GFLOP/s", ["", *(f"{size} x {size}" for size in sizes)], rows)


def as_rich(table: Table) -> rich.table.Table:
    """Return the table for a terminal."""
    drawn = rich.table.Table(title=table.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    drawn.caption, drawn.caption_justify = table.note, "left"
    for i, name in enumerate(table.header):
        drawn.add_column(name, justify="right" if i else "left", no_wrap=not i)
    for row in table.rows:
        drawn.add_row(*row)
    return drawn


def as_markdown(machine: Mapping[str, str], command: str, tables: Sequence[Table]) -> str:
    """Return a page of all tables, with what they were measured on and by which command."""
    facts = "\n".join(f"- {name}: {text}" for name, text in {**machine, "command": f"`{command}`"}.items())
    note = "Medians over repeats, each with a seed of its own; ranges in parentheses; ratios paired within a repeat."
    return "\n\n".join([facts, note, *map(_markdown_table, tables)]) + "\n"


def _heading(title: str, repeats: int) -> str:
    return f"{title} ({repeats} repeat{'s' if repeats > 1 else ''})"


def _markdown_table(table: Table) -> str:
    rule = ["---", *("--:" for _ in table.header[1:])]
    lines = [table.header, rule, *table.rows]
    grid = "\n".join(f"| {' | '.join(row)} |" for row in lines)
    return "\n\n".join([f"**{table.title}**", grid, *([table.note] if table.note else [])])


def _cell(value: Spread | None, unit: str) -> str:
    if value is None:
        return "-"
    middle, low, high = (_text(number, unit) for number in (value.middle, value.low, value.high))
    return middle if low == high else f"{middle} ({low}-{high})"


def _text(number: float, unit: str) -> str:
    # A ratio of 0 is one to what was never reached.
    never = number == inf or (unit == "times" and number == 0)
    return "never" if never else _FORMATS[unit].format(number)


def _ratio(line: Measure, side: str) -> str:
    if not line.in_ratio or side not in line.values:
        return ""
    return _cell(paired(line.values[side], line.values[REGSEARCH]), "times")


def _per_epoch(seconds: float | None, epochs: int) -> float | None:
    return None if seconds is None else 1e3 * seconds / epochs


def _against_best(values: Mapping[str, Values], fixed: Sequence[str], side: str) -> str:
    known = {name: found.middle for name in fixed if (found := spread(values[name])) is not None}
    if not known:
        return "-"
    return _cell(paired(values[side], values[min(known, key=lambda name: known[name])]), "times")
