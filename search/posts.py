"""A trainer with what runs on it and what has been asked for it, as the runner keeps them in mind. Decides nothing."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from math import inf

from search.records import Assignment, EpochResult, Reason, TimeSpent, TrialRecord
from search.trainers import Report, Trainer

LEAST_HANG_SECONDS = 300.0
HANG_FACTOR = 20.0
FIRST_HANG_SECONDS = 3600.0
"""Of a trainer's first epoch, before which it loads, compiles and measures."""
_LONGEST_LOOK_AWAY = 1.0
"""What a suspended machine, or a stopped process, misses is not held against its trainers."""


@dataclass
class Running:
    """A trial that has a slot."""

    assignment: Assignment
    worker: str | None = None
    """Place of its trainer in the crew; None when it did not get that far."""
    epochs: list[EpochResult] = field(default_factory=list)
    started: datetime = field(default_factory=datetime.now)

    def epochs_without_improvement(self) -> int:
        """Return how many epochs ago the loss was better than before by `min_improvement`. Needs an epoch."""
        least, best, best_epoch = self.assignment.params.get("min_improvement", 0.0), inf, 0
        for row in self.epochs:
            if row.val_loss < best - least:
                best, best_epoch = row.val_loss, row.epoch
        return self.epochs[-1].epoch - best_epoch

    def record(self, reason: Reason, error: str | None) -> TrialRecord:
        """Return what is to be known of the trial now that it has ended."""
        own = self.assignment
        first = own.seed if own.seed != own.number else None
        return TrialRecord(
            own.number, own.params, reason, tuple(self.epochs), self.started, datetime.now(), own.role, first, error
        )


@dataclass
class Post:
    """A trainer with what runs on it and what has been asked for it."""

    place: int
    """Of the trainer in the crew."""
    trainer: Trainer
    running: dict[int, Running] = field(default_factory=dict)
    asked: deque[Future[Assignment | None]] = field(default_factory=deque)
    to_free: list[int] = field(default_factory=list)
    waiting: bool = False
    """Whether an epoch is under way."""
    waited: float = 0.0
    """Seconds since the epoch under way began in which this process was awake to see it end."""
    slowest: float = 0.0
    """Seconds that this trainer's slowest epoch took."""
    deaths_in_a_row: int = 0
    """Trainers at this post that died without finishing an epoch."""
    proven: bool = False
    """Whether this trainer, and not only one before it, has finished an epoch."""
    first_step: float | None = None
    """When the first epoch at this post began, by the monotonic clock."""
    training: float = 0.0
    evaluation: float = 0.0

    @property
    def room(self) -> int:
        """Slots that are neither taken nor promised."""
        return self.trainer.slots - len(self.running) - len(self.asked)

    def take_on(self, trainer: Trainer) -> None:
        """Have another trainer in the place of this one."""
        self.trainer, self.proven = trainer, False

    def hangs(self, seconds: float) -> bool:
        """Return whether the epoch under way takes far longer than any before; to be told what time has passed."""
        self.waited += min(seconds, _LONGEST_LOOK_AWAY)
        limit = max(LEAST_HANG_SECONDS, HANG_FACTOR * self.slowest) if self.proven else FIRST_HANG_SECONDS
        return self.waiting and self.waited > limit

    def take_time(self, report: Report) -> None:
        """Add what an epoch took that has just been reported."""
        self.slowest = max(self.slowest, self.waited, report.training + report.evaluation)
        self.deaths_in_a_row, self.proven = 0, True
        if self.first_step is None:
            self.first_step = time.monotonic() - report.training - report.evaluation
        self.training += report.training
        self.evaluation += report.evaluation


def time_spent(posts: Sequence[Post], started: float, desk: Mapping[str, float]) -> TimeSpent:
    """Return where the time has gone since `started`, by the monotonic clock; `desk` is the desk's own account."""
    now = time.monotonic()
    at_work = [(now - post.first_step, post) for post in posts if post.first_step is not None]
    count = max(1, len(at_work))
    training, evaluation = (sum(getattr(p, part) for _, p in at_work) / count for part in ("training", "evaluation"))
    working = sum(seconds for seconds, _ in at_work) / count
    return TimeSpent(
        trainers=len(at_work),
        start_up=now - started - max((seconds for seconds, _ in at_work), default=0.0),
        training=training,
        evaluation=evaluation,
        waiting=working - training - evaluation,
        asking=desk["asking"],
        recording=desk["recording"],
    )
