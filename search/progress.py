"""What `start` shows while it works: a live view in a terminal, one plain line a trial otherwise.

Both are watchers of the runner (see `runner.Watcher`) and know nothing of trainers or storages.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from search.records import Assignment, EpochResult, Reason, TrialRecord
from search.stopping import StopRequest

if TYPE_CHECKING:
    from search.session import Session
    from search.trainers import Report

_RATE_WINDOW = 20


@dataclass
class Tally:
    """Running totals of a search, from which both views are drawn."""

    total: int
    """Trials that the study shall have in the end."""
    done: int = 0
    best: TrialRecord | None = None
    ends: deque[float] = field(default_factory=lambda: deque(maxlen=_RATE_WINDOW))

    def __post_init__(self) -> None:
        self.ends.append(time.monotonic())

    def count(self, record: TrialRecord) -> None:
        """Take note of a trial that ended; interrupted ones will run again and do not count."""
        if record.reason is Reason.INTERRUPTED:
            return
        self.done += 1
        self.ends.append(time.monotonic())
        if record.state == "complete" and _loss(record) < _loss(self.best):
            self.best = record

    @property
    def per_minute(self) -> float:
        """Trials per minute, over the last few."""
        span = self.ends[-1] - self.ends[0]
        return 60 * (len(self.ends) - 1) / span if span > 0 else 0.0

    @property
    def time_left(self) -> str:
        """A guess at what is left, as text."""
        if not self.per_minute:
            return "-"
        seconds = 60 * max(0, self.total - self.done) / self.per_minute
        return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{seconds:.0f} s"


def _loss(record: TrialRecord | None) -> float:
    return record.best.val_loss if record is not None and record.best is not None else float("inf")


class PlainProgress:
    """One line a trial, for pipes and logs."""

    def __init__(self, console: Console, tally: Tally) -> None:
        self._console, self._tally = console, tally

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        pass

    def started(self, assignment: Assignment) -> None:
        """Say nothing: its end is what matters in a log."""

    def epoch_ended(self, report: Report) -> None:
        """Say nothing."""

    def ended(self, record: TrialRecord) -> None:
        """Print how a trial ended."""
        self._tally.count(record)
        self._console.print(end_line(record, self._tally), markup=False, highlight=False, soft_wrap=True)

    def message(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def end_line(record: TrialRecord, tally: Tally) -> str:
    """Return a trial's end in one line of less than 80 characters."""
    words = f"[{tally.done:>{len(str(tally.total))}}/{tally.total}] trial {record.number:<3} {record.reason:<13}"
    words += f" {len(record.epochs):>2} epochs"
    if record.best is not None:
        words += f"  val_loss {record.best.val_loss:.4f}"
    if tally.best is not None:
        words += f"  best {_loss(tally.best):.4f}"
    return words + (f" {record.role}" if record.role else "")


class LiveProgress:
    """A view that redraws itself: totals above, the slots at work below."""

    def __init__(self, console: Console, tally: Tally, max_epochs: int, stop: StopRequest) -> None:
        self._console, self._tally, self._max_epochs, self._stop = console, tally, max_epochs, stop
        self._running: dict[int, EpochResult | None] = {}
        self._live = Live(console=console, refresh_per_second=4, transient=True, get_renderable=self._draw)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.__exit__(None, None, None)

    def started(self, assignment: Assignment) -> None:
        """Show a slot taken."""
        self._running[assignment.number] = None

    def epoch_ended(self, report: Report) -> None:
        """Show the new losses."""
        for number, result in report.results.items():
            if number in self._running:
                self._running[number] = result

    def ended(self, record: TrialRecord) -> None:
        """Take a trial off the view."""
        self._tally.count(record)
        self._running.pop(record.number, None)

    def message(self, text: str) -> None:
        """Print a line above the view."""
        self._console.print(text, markup=False, highlight=False)

    def _draw(self) -> Group:
        height = max(4, self._console.size.height - 6)
        return Group(self._totals(), Text(), self._slots(height))

    def _totals(self) -> Text:
        tally = self._tally
        if self._stop.interrupted:
            return Text("Stopping: running trials go back to the queue. Ctrl-C again leaves at once.", style="bold")
        best = f"best {_loss(tally.best):.4f} (trial {tally.best.number})" if tally.best else "no trial complete yet"
        rate = f"{tally.per_minute:.0f} trials/min" if tally.per_minute else "-"
        return Text(f"{tally.done}/{tally.total} trials · {best} · {rate} · {tally.time_left} left", style="bold")

    def _slots(self, rows: int) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
        for heading in ("trial", "epoch", "val_loss", "accuracy", "gap"):
            table.add_column(heading, justify="right")
        running = list(self._running.items())
        for number, result in running[:rows]:
            table.add_row(str(number), *self._cells(result))
        if len(running) > rows:
            table.add_row("…", f"and {len(running) - rows} more", "", "", "")
        return table

    def _cells(self, result: EpochResult | None) -> tuple[str, ...]:
        if result is None:
            return (f"0/{self._max_epochs}", "", "", "")
        return (
            f"{result.epoch}/{self._max_epochs}",
            f"{result.val_loss:.4f}",
            f"{result.val_accuracy:.1%}",
            f"{result.gap:+.4f}",
        )


def make_progress(console: Console, session: Session, stop: StopRequest) -> LiveProgress | PlainProgress:
    """Return the live view for a terminal, plain lines for anything else."""
    state, spec = session.state, session.spec
    done = sum(count for reason, count in state.reasons.items() if reason != Reason.INTERRUPTED)
    tally = Tally(spec.search.trials, done, state.best)
    if console.is_terminal:
        return LiveProgress(console, tally, spec.training.max_epochs, stop)
    return PlainProgress(console, tally)
