"""The live view of `start` and `watch`: redraws itself four times a second, whatever happens meanwhile.

The runner's thread tells what happens and only notes it down; drawing is done in a thread of rich's.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from search.printable import printable
from search.pruning import make_ladder
from search.records import Assignment, TrialRecord
from search.stopping import StopRequest
from search.terminal.plain import PlainProgress
from search.terminal.progress import Progress
from search.terminal.view import draw

if TYPE_CHECKING:
    from search.session import Session
    from search.trainers import Report


class LiveProgress:
    """A view that redraws itself: how far the search is above, the slots at work below."""

    def __init__(self, console: Console, progress: Progress, stop: StopRequest, stays: bool = False) -> None:
        """`stays`: whether the last view is left on the screen."""
        self._console, self._progress, self._stop = console, progress, stop
        self._lock = threading.Lock()
        self._live = Live(console=console, refresh_per_second=4, transient=not stays, get_renderable=self._draw)

    def __enter__(self) -> Self:
        self._progress.start_clocks()
        self._live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.__exit__(None, None, None)

    def started(self, assignment: Assignment) -> None:
        """Show a slot taken."""
        with self._lock:
            self._progress.started(assignment)

    def epoch_ended(self, report: Report) -> None:
        """Show the new losses."""
        with self._lock:
            self._progress.resumed(report.resumed)
            self._progress.epochs_ended(report.results)

    def ended(self, record: TrialRecord) -> None:
        """Take a trial off the view."""
        with self._lock:
            self._progress.ended(record)

    def message(self, text: str) -> None:
        """Print a line above the view."""
        self._console.print(printable(text), markup=False, highlight=False)

    def repeating(self, title: str, labels: Mapping[int, str]) -> LiveProgress:
        """Print the title, and show how far these repeats are in the place of the search."""
        self.message(title)
        with self._lock:
            self._progress = Progress(len(labels), self._progress.max_epochs, labels=labels)
        return self

    def _draw(self) -> Group:
        if self._stop.interrupted:
            words = "Stopping: running trials go back to the queue. Ctrl-C again leaves at once."
            return Group(Text(words, style="bold"))
        size = self._console.size
        with self._lock:
            return Group(*draw(self._progress, size.width, size.height - 1))


def make_progress(console: Console, session: Session, stop: StopRequest) -> LiveProgress | PlainProgress:
    """Return the live view for a terminal, plain lines for anything else."""
    spec = session.spec
    progress = Progress(spec.search.trials, spec.training.max_epochs, make_ladder(spec))
    for record in session.records:
        progress.ended(record)
    return LiveProgress(console, progress, stop) if redraws(console) else PlainProgress(console, progress)


def redraws(console: Console) -> bool:
    """Return whether a console can take back what it shows: a terminal, but no dumb one."""
    return console.is_terminal and not console.is_dumb_terminal
