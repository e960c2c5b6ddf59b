"""Those that a runner works with, as it knows them: where trials come from, who starts trainers, who looks on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from search.records import Assignment, EpochResult, News, Reason, TrialRecord
from search.spec import StudySpec
from search.trainers import Report, Trainer


class Trials(Protocol):
    """Where configurations come from and results go: a study, or whoever else has trials to run. See `Study`."""

    @property
    def spec(self) -> StudySpec: ...

    def records(self) -> Sequence[TrialRecord]: ...

    def ask(self) -> Assignment | None: ...

    def report(self, results: Mapping[int, EpochResult]) -> set[int]: ...

    def set_aside(
        self, number: int, reason: Reason, epochs: Sequence[EpochResult], error: str | None, worker: str | None
    ) -> None: ...

    def finish(
        self,
        number: int,
        reason: Reason,
        epochs: Sequence[EpochResult],
        error: str | None = None,
        worker: str | None = None,
    ) -> TrialRecord: ...

    def news(self) -> News: ...

    def unfinished(self) -> int: ...

    @property
    def trouble(self) -> str | None: ...

    def explain_loss(self, numbers: Collection[int]) -> str | None: ...

    def hurry(self) -> None: ...


class Crew(Protocol):
    """Whoever starts trainers."""

    @property
    def trainers(self) -> Sequence[Trainer]:
        """All of them."""
        ...

    def replace(self, index: int, fewer_slots: bool = False) -> Trainer:
        """End a trainer and return another in its place, maybe with half the slots.

        Raises TrainerLost, and RegsearchError where none can work there at all.
        """
        ...


class Watcher(Protocol):
    """Whoever looks on, such as the progress display. Called in the runner's thread."""

    def started(self, assignment: Assignment) -> None:
        """A trial got a slot."""

    def epoch_ended(self, report: Report) -> None:
        """A trainer finished an epoch."""

    def ended(self, record: TrialRecord) -> None:
        """A trial ended and was recorded."""

    def message(self, text: str) -> None:
        """Something that the user should know happened."""
