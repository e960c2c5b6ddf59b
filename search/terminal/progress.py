"""What is going on in a search: counts, the best so far, the trials at work, the rungs, and how fast it goes.

Both views are drawn from it. It is filled by events, which are the runner's, or are read back from a storage (see
`watching`); an event costs the same however large the study is. Knows nothing of terminals.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from search.pruning import Ladder
from search.records import Assignment, EpochResult, Reason, Role, TrialRecord

_COUNTS = 64


class Rate:
    """How many a second, over the last few times that some were counted."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._counts: deque[tuple[float, int]] = deque()
        self._sum = 0

    def add(self, count: int) -> None:
        """Count so many now."""
        self._counts.append((time.monotonic(), count))
        self._sum += count
        if len(self._counts) > _COUNTS:
            self._since, oldest = self._counts.popleft()
            self._sum -= oldest

    @property
    def per_second(self) -> float:
        """How many a second; 0 as long as none was counted."""
        span = time.monotonic() - self._since
        return self._sum / span if span > 0 else 0.0


@dataclass
class Slot:
    """A trial at work."""

    label: str
    competes: bool = True
    """Whether it takes part in the pruning: the baseline does not."""
    val_losses: list[float] = field(default_factory=list)
    """By epoch."""
    best: EpochResult | None = None
    latest: EpochResult | None = None
    """Its last epoch. Training loss and accuracy are nan where they are not known."""


@dataclass
class Progress:
    """A search, or what follows it, as far as it has come."""

    total: int
    """Trials that the study shall have in the end, or repeats to train."""
    max_epochs: int
    ladder: Ladder | None = None
    """The rungs; None where trials are not pruned by successive halving."""
    labels: Mapping[int, str] | None = None
    """Of the repeats that are trained once the search is over, by number; None for the trials of a search."""
    done: int = 0
    best: TrialRecord | None = None
    reasons: Counter[Reason] = field(default_factory=Counter)
    running: dict[int, Slot] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._epochs_of_done = 0
        self.start_clocks()

    def start_clocks(self) -> None:
        """Measure from now on: what was told so far is of earlier."""
        self._trial_rate, self._epoch_rate, self._heard = Rate(), Rate(), time.monotonic()

    def started(self, assignment: Assignment) -> None:
        """Take note of a trial that got a slot."""
        number = assignment.number
        label = str(number) if self.labels is None else self.labels[number]
        self.running[number] = Slot(label, assignment.role is not Role.BASELINE)

    def resumed(self, epochs: Mapping[int, Sequence[EpochResult]]) -> None:
        """Take note of what trials that go on had reached before, by number: nothing that has just been trained."""
        for number, results in epochs.items():
            for result in results if number in self.running else ():
                self._follow(number, self.running[number], result)

    def epochs_ended(self, results: Mapping[int, EpochResult]) -> None:
        """Take note of an epoch of several trials, by number."""
        for number, result in results.items():
            if number in self.running:
                self._follow(number, self.running[number], result)
        self._epoch_rate.add(len(results))
        self._heard = time.monotonic()

    def ended(self, record: TrialRecord) -> None:
        """Take note of a trial that ended, and of its epochs that nobody has told yet.

        Interrupted ones will run again: they are not counted among those that are done.
        """
        slot = self.running.pop(record.number, None) or Slot(str(record.number), record.role is not Role.BASELINE)
        news = record.epochs[len(slot.val_losses) :]
        for result in news:
            self._follow(record.number, slot, result)
        self._epoch_rate.add(len(news))
        self._heard = time.monotonic()
        self.reasons[record.reason] += 1
        if record.reason.is_no_result:
            if self.ladder is not None:
                self.ladder.forget(record.number)
            return
        self.done += 1
        self._trial_rate.add(1)
        self._epochs_of_done += len(record.epochs)
        if record.state == "complete" and best_loss(record) < best_loss(self.best):
            self.best = record

    def _follow(self, number: int, slot: Slot, result: EpochResult) -> None:
        slot.val_losses.append(result.val_loss)
        slot.latest = result
        if not math.isnan(result.val_loss) and (slot.best is None or result.val_loss < slot.best.val_loss):
            slot.best = result
        if self.ladder is not None and slot.competes:
            self.ladder.epoch_ended(number, len(slot.val_losses), slot.best)

    @property
    def trials_per_minute(self) -> float:
        """0 as long as none has ended."""
        return 60 * self._trial_rate.per_second

    @property
    def epochs_per_second(self) -> float:
        """Trial-epochs a second; 0 as long as there are none."""
        return self._epoch_rate.per_second

    @property
    def seconds_left(self) -> float | None:
        """A guess at what is left; None as long as there is nothing to guess by.

        Trials that are not done are expected to take as many epochs as the others, running ones counted as if they
        went on to the last: what is pruned ends first, and would have a search look shorter than it is.
        """
        if not self.epochs_per_second:
            return None
        known = self.done + len(self.running)
        mean = (self._epochs_of_done + self.max_epochs * len(self.running)) / known if known else self.max_epochs
        under_way = sum(len(slot.val_losses) for slot in self.running.values())
        return max(0.0, (self.total - self.done) * mean - under_way) / self.epochs_per_second

    @property
    def seconds_without_news(self) -> float:
        """For how long nothing has been told."""
        return time.monotonic() - self._heard


def best_loss(record: TrialRecord | None) -> float:
    """Return a trial's lowest validation loss; infinite when it has none, or there is no trial."""
    return record.best.val_loss if record is not None and record.best is not None else math.inf
