"""What commands print at their end: where everything is, explanations, lists. Text of 80 columns, colours optional.

A study's results themselves are printed by `terminal.page`.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from search.diagnosis import diagnose
from search.intervals import Difference
from search.places import short_path
from search.printable import mask_password, printable
from search.records import Reason, Summary
from search.report import where_is
from search.terminal.page import print_summary

if TYPE_CHECKING:
    from search.session import Ending, Session


def print_ending(ending: Ending, session: Session, console: Console) -> None:
    """Print what `start` ends with: why it ended, the results, where everything is, how to look into it."""
    if ending.interrupted_by is not None:
        console.print("Interrupted: running trials are back in the queue; the same command goes on.")
    elif ending.stopped:
        console.print("Stopped on request: trials are back in the queue; the same command goes on.")
    elif ending.timed_out:
        console.print("Time is up: running trials are back in the queue; the same command goes on.")
    console.print()
    print_summary(ending.summary, console)
    if ending.tracking.message:
        console.print(f"\n{printable(ending.tracking.message)}", markup=False)
    console.print()
    for label, text in _places(session, ending):
        console.print(f"{label:<17}{text}", soft_wrap=True, markup=False, highlight=False)


def _places(session: Session, ending: Ending) -> list[tuple[str, str]]:
    places = [("Everything is in", short_path(session.options.home))]
    if ending.report is not None:
        places.append(("Read this first", short_path(ending.report)))
    if ending.summary.best is not None:
        weights = " and best.safetensors" if (session.artifacts / "best.safetensors").exists() else ""
        places.append(("The best of it", f"{short_path(session.artifacts / 'best.toml')}{weights}"))
    return [*places, ("Look into it", _ui(session))]


def _ui(session: Session) -> str:
    """Return the command that starts the dashboards on what this session has written."""
    options = session.options
    given = where_is(options.home, options.storage)
    if options.tracking_uri is not None:
        given["tracking-uri"] = mask_password(options.tracking_uri)
    return " ".join([_program("regsearch"), "ui", *(f"--{name} {shlex.quote(value)}" for name, value in given.items())])


def print_next_steps(summary: Summary, place: str, console: Console) -> None:
    """Print the commands that go on from a study; `place` are the options that say where it is kept."""
    if summary.best is None:
        return
    study = f"--study {shlex.quote(summary.study)}{place}"
    steps = {
        "All of it": f"regsearch report {study}",
        "What mattered": f"regsearch explain {study}",
        "Take the winner": f"regsearch export {study} --out {shlex.quote(summary.study)}-model",
    }
    if summary.confirmed is None:
        steps = {"Is it so?": f"regsearch confirm {study}", **steps}
    console.print()
    for label, command in steps.items():
        console.print(f"{label:<17}{command}", soft_wrap=True, markup=False, highlight=False)


def _program(name: str) -> str:
    """Return how to call a program that was installed beside this one, also where its folder is not on the PATH."""
    beside = Path(sys.executable).parent / name
    return name if shutil.which(name) or not beside.exists() else shlex.quote(short_path(beside))


def print_studies(shipped: Mapping[str, str], stored: Sequence[Summary], console: Console) -> None:
    """Print the shipped studies with what they are, and the stored ones with how far they are."""
    console.print("[bold]Shipped studies[/bold] (regsearch start --study NAME)")
    console.print(_listing(shipped.items()))
    console.print(
        "\n[bold]Stored studies[/bold] (regsearch show --study NAME)" if stored else "\nNo stored studies yet."
    )
    console.print(_listing((s.study, f"{_states(s)}; best {_best_loss(s)}") for s in stored))


def _listing(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=True, padding=(0, 2))
    for name, text in rows:
        table.add_row(escape(name), escape(text))
    return table


def _best_loss(summary: Summary) -> str:
    record = summary.best
    return f"val_loss {record.best.val_loss:.4f}" if record is not None and record.best is not None else "none yet"


def _states(summary: Summary) -> str:
    again = sum(summary.reasons.get(reason, 0) for reason in Reason if reason.is_no_result)
    counts = {**summary.trials, "failed": summary.trials["failed"] - again}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no trials"


def print_explanation(summary: Summary, importances: Mapping[str, float], console: Console) -> None:
    """Print which parameters mattered, what each ingredient is worth, and what the curves say."""
    if importances:
        goal = "Pareto front" if summary.pareto else "loss"
        console.print(f"[bold]Importance[/bold] of each parameter for the {goal}, in all trials")
        ranked = sorted(importances.items(), key=lambda item: -item[1])
        for name, share in ranked:
            console.print(f"  {name:<18}{share:6.1%}  {'█' * round(_BAR * share)}", highlight=False)
    if summary.ablation is not None:
        console.print(f"\n[bold]Without each ingredient[/bold] of trial {summary.ablation.trial}: validation loss")
        for name, effect in summary.ablation.effects().items():
            told = f"{effect.mean:+.4f}  (95 % interval {effect.low:+.4f} to {effect.high:+.4f})"
            console.print(f"  {name:<18}{told}  {_meaning(effect)}", highlight=False)
        for remark in summary.ablation.remarks:
            console.print(f"  {remark}", highlight=False)
    console.print("\n[bold]What the curves say[/bold]")
    picked = {
        "best in the search": summary.best,
        "one std. error": summary.one_standard_error,
        "baseline": summary.baseline,
    }
    for label, record in picked.items():
        diagnosis = None if record is None else diagnose(record, (summary.best, summary.baseline))
        if record is not None and diagnosis is not None:
            console.print(f"  {label} (trial {record.number}): {diagnosis}\n    {diagnosis.advice}", highlight=False)


_BAR = 30


def _meaning(effect: Difference) -> str:
    if not effect.is_clear:
        return "no clear effect"
    return "it helps" if effect.mean > 0 else "it hurts"
