"""One line a trial, for pipes and logs: what `start` and `watch` print where they cannot redraw anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from rich.console import Console

from search.printable import printable
from search.records import Assignment, TrialRecord
from search.terminal.progress import Progress, best_loss

if TYPE_CHECKING:
    from search.protocols import Watcher
    from search.trainers import Report


class PlainProgress:
    """Prints a line when a trial has ended."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console, self._progress = console, progress

    def __enter__(self) -> Self:
        self._progress.start_clocks()
        return self

    def __exit__(self, *_exc: object) -> None:
        pass

    def started(self, assignment: Assignment) -> None:
        """Say nothing: its end is what matters in a log."""
        self._progress.started(assignment)

    def epoch_ended(self, report: Report) -> None:
        """Say nothing."""
        self._progress.resumed(report.resumed)
        self._progress.epochs_ended(report.results)

    def ended(self, record: TrialRecord) -> None:
        """Print how a trial ended."""
        self._progress.ended(record)
        self.message(end_line(record, self._progress))

    def message(self, text: str) -> None:
        """Print a line."""
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def repeating(self, title: str, labels: Mapping[int, str]) -> Watcher:  # noqa: ARG002
        """Print the title, and of the repeats no lines: they are no trials of the study."""
        self.message(title)
        return _Messages(self)


class _Messages:
    """Passes on messages only."""

    def __init__(self, plain: PlainProgress) -> None:
        self._plain = plain

    def started(self, assignment: Assignment) -> None:
        """Do nothing."""

    def epoch_ended(self, report: Report) -> None:
        """Do nothing."""

    def ended(self, record: TrialRecord) -> None:
        """Do nothing."""

    def message(self, text: str) -> None:
        """Pass on."""
        self._plain.message(text)


def end_line(record: TrialRecord, progress: Progress) -> str:
    """Return a trial's end in one line of less than 80 characters."""
    total = str(progress.total)
    words = f"[{progress.done:>{len(total)}}/{total}] trial {record.number:<3} {record.reason:<13}"
    words += f" {len(record.epochs):>2} epochs"
    if record.best is not None:
        words += f"  val_loss {record.best.val_loss:.4f}"
    if progress.best is not None:
        words += f"  best {best_loss(progress.best):.4f}"
    return words + (f" {record.role}" if record.role else "")
