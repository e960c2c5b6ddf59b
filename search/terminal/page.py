"""A study's results as a page of 80 columns: the verdict first, then what it rests on. Colours optional.

What configurations reached in the search, with one seed, and what they reach over several seeds stand in one table.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from search.confirmation import Confirmation, Confirmed
from search.intervals import Estimate
from search.records import EpochResult, Params, Reason, Role, Score, Summary, TrialRecord
from search.results import cocktail
from search.terminal.sparkline import sparklines
from search.verdict import Winner, comparison, test_score, warnings, winner

_WIDTH = 80


def print_summary(summary: Summary, console: Console) -> None:
    """Print the verdict, the best configuration, what it and the baseline reach, and how the trials ended."""
    best = winner(summary)
    if best is None:
        console.print("No trial is complete, so there is no best configuration.")
    else:
        _print_verdict(summary, console)
        _print_winner(summary, best, console)
        console.print()
        console.print(_table(summary))
        _print_curves(summary, console)
    if summary.pareto:
        _print_front(summary, console)
    console.print(f"\n{_ends(summary)}", highlight=False, markup=False)


def _print_verdict(summary: Summary, console: Console) -> None:
    headline, *details = _verdict_lines(summary)
    console.print(f"[bold]{escape(headline)}[/bold]")
    for line in details:
        console.print(line, markup=False)
    for warning in warnings(summary):
        console.print("\n".join(textwrap.wrap(f"Note: {warning}", _WIDTH)), markup=False, highlight=False)


def _verdict_lines(summary: Summary) -> list[str]:
    confirmation = summary.confirmed
    if confirmation is None:
        told = [f"{summary.study}: not confirmed with further seeds", *_in_the_search(summary)]
        if summary.noise is not None and summary.noise.remark is not None:
            told += textwrap.wrap(summary.noise.remark, _WIDTH)
        return told
    seeds = confirmation.best.estimates["val_loss"].n
    confirmed = f"Confirmed with {seeds} seed{'s' * (seeds > 1)}"
    compared = comparison(summary)
    if compared is None:
        return [f"{summary.study}: no baseline to tell whether regularization helps", confirmed]
    told = [f"{summary.study}: {compared.answer}"]
    if compared.metric == "val_loss":
        told.append(f"{confirmed}, by validation loss: test data was not read")
    else:
        told += [f"{confirmed}: {compared.scores},", _against_the_baseline(compared.amount)]
    return [*told, *(line for remark in confirmation.remarks for line in textwrap.wrap(remark, _WIDTH))]


def _in_the_search(summary: Summary) -> Iterator[str]:
    """Give a line on the search alone, with one run of each."""
    regularized, baseline = summary.regularized or summary.best, summary.baseline
    if regularized is not None and regularized.best is not None and baseline is not None and baseline.best is not None:
        loss = regularized.best.val_loss
        yield f"In the search: validation loss {loss:.4f}, {baseline.best.val_loss:.4f} without regularization"


def _against_the_baseline(amount: str) -> str:
    mean, *interval = amount.split(", ", 1)
    return ", ".join([f"{mean} against the baseline", *interval])


def _print_winner(summary: Summary, best: Winner, console: Console) -> None:
    """Print the configuration to use."""
    searched = summary.best
    other = "" if searched is None or searched.number == best.trial else f" (by the search alone: {searched.number})"
    lines = textwrap.wrap(f"of study {summary.study}: {best.name}{other}", _WIDTH, initial_indent=" " * _BEST)
    console.print(f"\n[bold]Best configuration[/bold] {escape(chr(10).join(lines).strip())}")
    _print_params(best.params, console)
    if summary.noise is not None:
        _print_layers(summary.noise.layers, console)


_BEST = len("Best configuration ")


def _print_params(params: Params, console: Console) -> None:
    """Print a configuration in as many columns as fit, and its ingredients."""
    names, values = [max(map(len, each), default=0) for each in (params, [f"{v:.4g}" for v in params.values()])]
    cells = [f"  {name:<{names}}  {value:<{values}.4g}" for name, value in params.items()]
    across = max(1, _WIDTH // max(map(len, cells), default=_WIDTH))
    down = math.ceil(len(cells) / across)
    for row in range(down):
        console.print("".join(cells[row::down]).rstrip(), highlight=False, markup=False)
    told = ", ".join(cocktail(params)) or "no regularization"
    console.print(f"Cocktail: {told.replace('_', ' ')}", highlight=False)


def _print_layers(layers: Mapping[str, str], console: Console) -> None:
    """Print where each dropout rate acts."""
    for name, layer in layers.items():
        console.print(f"  {name} = {layer}", highlight=False, markup=False, soft_wrap=True)


class _Column(NamedTuple):
    heading: str
    trial: int
    cells: Mapping[str, str]
    is_best: bool = False


def _table(summary: Summary) -> Table:
    """Return what configurations reach: over seeds, where that is known, and in the search."""
    columns = [*_confirmed_columns(summary.confirmed), *_search_columns(summary)]
    # Three columns with deviations and two without have room for one space between them, and for a minus.
    apart = 3 if summary.confirmed is None else 1
    table = Table(box=None, pad_edge=False, padding=(0, apart, 0, 0), header_style="dim")
    table.add_column("")
    for column in columns:
        table.add_column(column.heading, justify="right", style="bold" if column.is_best else None)
    table.add_row("trial", *(str(column.trial) for column in columns))
    for label in _LABELS:
        if any(label in column.cells for column in columns):
            table.add_row(label, *(column.cells.get(label, "-") for column in columns))
    return table


def _confirmed_columns(confirmation: Confirmation | None) -> list[_Column]:
    if confirmation is None:
        return []
    return [
        _Column(f"{_HEADINGS[name]}\nover seeds", each.trial, _confirmed_cells(each), each is confirmation.best)
        for name, each in confirmation.chosen.items()
        if not (name == "best" and confirmation.baseline_wins)
    ]


def _search_columns(summary: Summary) -> list[_Column]:
    apart = "\nin search" if summary.confirmed is not None else ""
    best = summary.best
    records = {"best": best, "baseline": summary.baseline}
    if best is not None and best.role is Role.BASELINE:
        records = {"regularized": summary.regularized, "baseline": best}
    return [
        _Column(f"{_HEADINGS[name]}{apart}", record.number, _cells(record, test_score(summary, record)), record is best)
        for name, record in records.items()
        if record is not None
    ]


_HEADINGS = {"best": "best", "regularized": "regularized", "one_standard_error": "1 std. error", "baseline": "baseline"}
_LABELS = (
    "val. loss",
    "val. accuracy",
    "test loss",
    "test accuracy",
    "calibration",
    "gap",
    "sparsity",
    "best epoch",
)
_CONFIRMED = {
    "val. loss": ("val_loss", ".4f"),
    "test loss": ("test_loss", ".4f"),
    "test accuracy": ("test_accuracy", ".2%"),
    "calibration": ("ece", ".2%"),
    "gap": ("gap", ".4f"),
    "sparsity": ("sparsity", ".1%"),
    "best epoch": ("epochs", ".1f"),
}


def _confirmed_cells(confirmed: Confirmed) -> dict[str, str]:
    known = {label: (confirmed.estimates.get(metric), style) for label, (metric, style) in _CONFIRMED.items()}
    return {label: _estimate(value, style) for label, (value, style) in known.items() if value is not None}


def _estimate(value: Estimate, style: str) -> str:
    return f"{value.mean:{style}}±{value.std:{style}}"


def _cells(record: TrialRecord, score: Score | None) -> dict[str, str]:
    cells = {} if record.best is None else _row_cells(record.best, len(record.epochs))
    if score is not None:
        cells |= {"test loss": f"{score.loss:.4f}", "test accuracy": f"{score.accuracy:.2%}"}
        if score.ece is not None:
            cells["calibration"] = f"{score.ece:.2%}"
    return cells


def _row_cells(row: EpochResult, epochs: int) -> dict[str, str]:
    return {
        "val. loss": f"{row.val_loss:.4f}",
        "val. accuracy": f"{row.val_accuracy:.2%}",
        "gap": f"{row.gap:+.4f}",
        "sparsity": f"{row.sparsity:.1%}",
        "best epoch": f"{row.epoch}/{epochs}",
    }


def _print_curves(summary: Summary, console: Console) -> None:
    """Print how the validation losses of the search's best trial and its baseline went, on one scale."""
    records = [summary.best, summary.baseline]
    if summary.best is not None and summary.best.role is Role.BASELINE:
        records = [summary.regularized, summary.best]
    named = {_name(record): record for record in records if record is not None}
    there = {name: record for name, record in named.items() if record.best is not None}
    epochs = max(len(record.epochs) for record in there.values())
    width = min(epochs, _WIDTH - _BESIDE_CURVE)
    curves = sparklines([[row.val_loss for row in record.epochs] for record in there.values()], epochs, width)
    for (name, record), curve in zip(there.items(), curves, strict=True):
        first, last = record.epochs[0].val_loss, record.epochs[-1].val_loss
        label = f"{name}'s curve"
        told = f"{label:<16}  {curve:<{width}}  {first:.4f} to {last:.4f}"
        console.print(told, markup=False, highlight=False)


_BESIDE_CURVE = 40


def _name(record: TrialRecord) -> str:
    """Return a trial's name: the best over seeds may be another one than the best of the search."""
    return "baseline" if record.role is Role.BASELINE else f"trial {record.number}"


def _print_front(summary: Summary, console: Console) -> None:
    """Print the trials that no other one beats, a line each."""
    console.print(f"\n[bold]Pareto front[/bold] of {', '.join(summary.objectives)}")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("trial", *_FRONT):
        table.add_column(heading, justify="right")
    for record in summary.pareto:
        row = record.best
        assert row is not None, "a complete trial has a best epoch"
        told = f"{row.val_loss:.4f}", f"{row.sparsity:.1%}", f"{row.epoch} of {len(record.epochs)}"
        table.add_row(str(record.number), *told)
    console.print(table)


_FRONT = ("validation loss", "sparsity", "best epoch")


def _ends(summary: Summary) -> str:
    reasons = {reason: summary.reasons.get(reason, 0) for reason in Reason}
    again = sum(reasons.pop(reason) for reason in Reason if reason.is_no_result)
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
    lines = [f"Trials ended   {counted or 'none'}"]
    if again:
        lines.append(f"Cut short      {again} attempts, their configurations put back in the queue")
    under_way = ", ".join(
        f"{summary.trials[state]} {state}" for state in ("running", "waiting") if summary.trials[state]
    )
    if under_way:
        lines.append(f"Still to run   {under_way}")
    lines += _left_out(summary)
    return "\n".join(
        [*lines, f"Work done      {summary.trial_epochs} trial-epochs in {_duration(summary.wall_seconds)}"]
    )


def _left_out(summary: Summary) -> list[str]:
    """Return what is to be said of trials that do not count, and of those that wait in vain."""
    lines = []
    if beyond := summary.beyond_budget:
        which = f"{beyond} queued trials wait" if beyond > 1 else "1 queued trial waits"
        told = f"{which}; `start` with --trials {summary.enough_trials} runs {'them' if beyond > 1 else 'it'}"
        lines.append(f"Beyond budget  {told}")
    if count := len(summary.left_out):
        lines.append(f"Left out       {count} trial{'s' * (count > 1)} of other programs, or changed by them")
        lines += [
            line
            for each in summary.left_out[:_MOST_LEFT_OUT]
            for line in textwrap.wrap(
                f"trial {each.number}: {each.why}", _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT
            )
        ]
        if count > _MOST_LEFT_OUT:
            lines.append(f"{_INDENT}and {count - _MOST_LEFT_OUT} more; show --json has all of them")
    return lines


_INDENT = 15 * " "
_MOST_LEFT_OUT = 5


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{minutes:.0f} min {rest:.0f} s" if minutes else f"{rest:.1f} s"
