"""`watch`: the view of `start` on a study that another process runs, here or elsewhere, from its storage alone.

What is read there is told to the same views as the runner's own events.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from search.pruning import make_ladder
from search.records import EpochResult
from search.stopping import StopRequest
from search.terminal.live import LiveProgress, redraws
from search.terminal.plain import PlainProgress
from search.terminal.progress import Progress, best_loss
from search.trainers import Report

if TYPE_CHECKING:
    from search.protocols import Watcher
    from search.study import StoredStudy
    from search.study.following import Look


def watch(study: StoredStudy, console: Console, interval: float) -> None:
    """Look at a study every so many seconds and show it, until it is finished. Raises StorageError."""
    following = study.follow()
    look = following.look()
    progress = Progress(look.spec.search.trials, look.spec.training.max_epochs, make_ladder(look.spec))
    _catch_up(progress, look)
    view: LiveProgress | PlainProgress
    if redraws(console):
        view = LiveProgress(console, progress, StopRequest(), stays=True)
    else:
        view = PlainProgress(console, progress)
        view.message(_standing(study.name, progress))
    with view:
        while not look.finished:
            time.sleep(interval)
            look = following.look()
            progress.total = look.spec.search.trials
            _tell(view, look)
    console.print(f"All {progress.done} trials of study {study.name} have ended.", markup=False, soft_wrap=True)


def _catch_up(progress: Progress, look: Look) -> None:
    """Have the progress know what happened before there was anybody to watch it."""
    for record in look.ended:
        progress.ended(record)
    for assignment in look.started:
        progress.started(assignment)
    for number, result in look.epochs:
        progress.epochs_ended({number: result})


def _tell(view: Watcher, look: Look) -> None:
    """Tell a view what is new."""
    for assignment in look.started:
        view.started(assignment)
    for results in _rounds(look.epochs):
        view.epoch_ended(Report(results))
    for record in look.ended:
        view.ended(record)


def _rounds(epochs: Sequence[tuple[int, EpochResult]]) -> list[dict[int, EpochResult]]:
    """Return the epochs as a trainer would report them: one of several trials at a time, each trial's in order."""
    rounds: list[dict[int, EpochResult]] = []
    for number, result in epochs:
        later = next((each for each in rounds if number not in each), None)
        if later is None:
            rounds.append(later := {})
        later[number] = result
    return rounds


def _standing(study: str, progress: Progress) -> str:
    best = f", best {best_loss(progress.best):.4f} (trial {progress.best.number})" if progress.best else ""
    return f"Study {study}: {progress.done} of {progress.total} trials have ended{best}"
