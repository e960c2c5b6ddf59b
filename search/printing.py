"""A study's results for people: text of 80 columns, colours optional."""

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

from search.confirmation import Confirmation, Difference, Estimate
from search.diagnosis import diagnose
from search.records import EpochResult, Params, Reason, Score, Summary, TrialRecord
from search.results import cocktail
from search.study import mask_password

if TYPE_CHECKING:
    from search.session import Ending, Session


def print_summary(summary: Summary, console: Console) -> None:
    """Print the best configuration, best and baseline side by side, and how the trials ended."""
    if summary.best is None:
        console.print("No trial is complete, so there is no best configuration.")
    else:
        console.print(f"[bold]Best configuration[/bold] of study {escape(summary.study)}: trial {summary.best.number}")
        _print_params(summary.best.params, console)
        console.print()
        console.print(_comparison(summary))
    if summary.pareto:
        _print_front(summary, console)
    if summary.confirmed is not None:
        _print_confirmation(summary.confirmed, summary.best, console)
    console.print(f"\n{_ends(summary)}", highlight=False)


def print_ending(ending: Ending, session: Session, console: Console) -> None:
    """Print what `start` ends with: why it ended, the results, where everything is, how to look into it."""
    if ending.interrupted_by is not None:
        console.print("Interrupted: running trials are back in the queue; the same command goes on.")
    elif ending.timed_out:
        console.print("Time is up: running trials are back in the queue; the same command goes on.")
    console.print()
    print_summary(ending.summary, console)
    if ending.tracking.message:
        console.print(f"\n{ending.tracking.message}", markup=False)
    console.print()
    for label, text in _places(session, ending):
        console.print(f"{label:<17}{text}", soft_wrap=True, markup=False, highlight=False)


def _places(session: Session, ending: Ending) -> list[tuple[str, str]]:
    home, storage = session.options.home, session.options.storage
    kept_in = mask_password(storage) if storage else _short(home / "optuna.journal")
    runs = session.options.tracking_uri or f"sqlite:///{_short(home / 'mlflow.db')}"
    places = [("Everything is in", _short(home))]
    if ending.report is not None:
        places.append(("Read this first", _short(ending.report)))
    if ending.summary.best is not None:
        places.append(("The best of it", f"{_short(session.artifacts / 'best.toml')} and best.safetensors"))
    return [
        *places,
        ("Look into it", f"{_program('optuna-dashboard')} {shlex.quote(kept_in)}"),
        ("Compare runs", _look_at_runs(mask_password(runs))),
    ]


def _look_at_runs(uri: str) -> str:
    """Return where MLflow's runs can be seen: a server shows them itself, a database needs MLflow's UI."""
    is_server = uri.startswith(("http://", "https://"))
    return uri if is_server else f"{_program('mlflow')} ui --backend-store-uri {shlex.quote(uri)}"


def _short(path: Path) -> str:
    """Return a path as seen from the working directory, when it lies in it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _program(name: str) -> str:
    """Return how to call a program that was installed beside this one, also where its folder is not on the PATH."""
    beside = Path(sys.executable).parent / name
    return name if shutil.which(name) or not beside.exists() else shlex.quote(_short(beside))


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
    again = summary.reasons.get(Reason.INTERRUPTED, 0)
    counts = {**summary.trials, "failed": summary.trials["failed"] - again}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no trials"


def _comparison(summary: Summary) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("")
    table.add_column("best", justify="right", style="bold")
    table.add_column("baseline", justify="right")
    best, baseline = (
        _cells(summary.best, summary.test.get("best")),
        _cells(summary.baseline, summary.test.get("baseline")),
    )
    for label in _LABELS:
        table.add_row(label, best[label], baseline[label])
    return table


def _print_front(summary: Summary, console: Console) -> None:
    """Print the trials that no other one beats, a line each."""
    console.print(f"\n[bold]Pareto front[/bold] of {', '.join(summary.objectives)}")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("trial", *_FRONT):
        table.add_column(heading, justify="right")
    for record in summary.pareto:
        cells = _cells(record, None)
        table.add_row(str(record.number), *(cells[label] for label in _FRONT))
    console.print(table)


_FRONT = ("validation loss", "sparsity", "best epoch")


def _print_params(params: Params, console: Console) -> None:
    width = max(map(len, params), default=0) + 2
    for name, value in params.items():
        console.print(f"  {name:<{width}}{value:.4g}", highlight=False)
    names = ", ".join(cocktail(params)) or "no regularization"
    console.print(f"Cocktail: {names.replace('_', ' ')}", highlight=False)


def print_explanation(summary: Summary, importances: Mapping[str, float], console: Console) -> None:
    """Print which parameters mattered, what each of the winner's ingredients is worth, and what the curves say."""
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
    console.print("\n[bold]What the curves say[/bold]")
    picked = {"best": summary.best, "one std. error": summary.one_standard_error, "baseline": summary.baseline}
    for label, record in picked.items():
        diagnosis = None if record is None else diagnose(record, summary.baseline)
        if record is not None and diagnosis is not None:
            console.print(f"  {label} (trial {record.number}): {diagnosis}\n    {diagnosis.advice}", highlight=False)


_BAR = 30


def _meaning(effect: Difference) -> str:
    if not effect.is_clear:
        return "no clear effect"
    return "it helps" if effect.mean > 0 else "it hurts"


def _print_confirmation(confirmation: Confirmation, best: TrialRecord | None, console: Console) -> None:
    """Print means and standard deviations over seeds, and whether regularization helps."""
    console.print(f"\n[bold]Confirmed[/bold] with {confirmation.best.estimates['val_loss'].n} seeds (mean ± deviation)")
    if best is not None and confirmation.best.trial != best.number:
        console.print(f"Over seeds trial {confirmation.best.trial} does best:")
        _print_params(confirmation.best.params, console)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    there = confirmation.chosen
    for name in there:
        label = "one std. error" if name == "one_standard_error" else name
        table.add_column(label, justify="right", style="bold" if name == "best" else None)
    table.add_row("trial", *(str(confirmed.trial) for confirmed in there.values()))
    for metric, (label, style) in _CONFIRMED.items():
        table.add_row(label, *(_estimate(confirmed.estimates.get(metric), style) for confirmed in there.values()))
    console.print(table)
    if confirmation.difference is not None:
        console.print(_verdict(confirmation.difference), highlight=False)


_CONFIRMED = {
    "val_loss": ("validation loss", ".4f"),
    "test_accuracy": ("test accuracy", ".2%"),
    "test_loss": ("test loss", ".4f"),
    "ece": ("calibration error", ".2%"),
    "gap": ("gap", ".4f"),
    "sparsity": ("sparsity", ".1%"),
    "epochs": ("epochs", ".1f"),
}


def _estimate(value: Estimate | None, style: str) -> str:
    return "-" if value is None else f"{value.mean:{style}} ± {value.std:{style}}"


def _verdict(difference: Difference) -> str:
    """Return what the confirmation says in words."""
    mean, low, high = (f"{100 * value:+.2f}" for value in (difference.mean, difference.low, difference.high))
    if difference.n < _FEWEST_SEEDS:
        return f"Test accuracy {mean} points against the baseline; one seed tells nothing of chance."
    told = f"Test accuracy {mean} points against the baseline, 95 % interval {low} to {high}:"
    if not difference.is_clear:
        return f"{told}\nnot clearly different from no regularization."
    return f"{told}\n" + ("regularization helps." if difference.mean > 0 else "regularization hurts.")


_FEWEST_SEEDS = 2
_LABELS = ("validation loss", "validation accuracy", "test loss", "test accuracy", "gap", "sparsity", "best epoch")


def _cells(record: TrialRecord | None, score: Score | None) -> Mapping[str, str]:
    cells = dict.fromkeys(_LABELS, "-")
    if record is not None and record.best is not None:
        cells |= _row_cells(record.best, len(record.epochs))
    if score is not None:
        cells |= {"test loss": f"{score.loss:.4f}", "test accuracy": f"{score.accuracy:.2%}"}
    return cells


def _row_cells(row: EpochResult, epochs: int) -> dict[str, str]:
    return {
        "validation loss": f"{row.val_loss:.4f}",
        "validation accuracy": f"{row.val_accuracy:.2%}",
        "gap": f"{row.gap:+.4f}",
        "sparsity": f"{row.sparsity:.1%}",
        "best epoch": f"{row.epoch} of {epochs}",
    }


def _ends(summary: Summary) -> str:
    reasons = {reason: summary.reasons.get(reason, 0) for reason in Reason}
    again = reasons.pop(Reason.INTERRUPTED)
    counted = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
    lines = [f"Trials ended   {counted or 'none'}"]
    if again:
        lines.append(f"Interrupted    {again} attempts, their configurations put back in the queue")
    under_way = ", ".join(
        f"{summary.trials[state]} {state}" for state in ("running", "waiting") if summary.trials[state]
    )
    if under_way:
        lines.append(f"Still to run   {under_way}")
    return "\n".join(
        [*lines, f"Work done      {summary.trial_epochs} trial-epochs in {_duration(summary.wall_seconds)}"]
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{minutes:.0f} min {rest:.0f} s" if minutes else f"{rest:.1f} s"
