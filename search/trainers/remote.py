"""What a trainer elsewhere is told and answers, whatever carries it: a pipe to a process, Ray to another machine.

A question is a tuple, its name first; an answer is a value, or the error that the other side met with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from search.errors import RegsearchError
from search.records import Assignment
from search.trainers.interface import Report, TrainerLost, TrainerStopped
from search.trainers.local import LocalTrainer

_ANSWER_SECONDS = 300.0
"""Within which a trainer answers that need not train for it: one that hangs shall not have the runner hang, too."""
_POLL_SECONDS = 0.2


class RemoteTrainer(ABC):
    """The runner's end of a trainer elsewhere."""

    slots = 0

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        """`should_stop` is asked while it trains or scores for whoever waits for that."""
        self._should_stop = should_stop

    @staticmethod
    @abstractmethod
    def first_done(trainers: Sequence[Any], timeout: float) -> Sequence[RemoteTrainer]: ...

    @property
    def lacks(self) -> str | None:
        return None

    def get_ready(self) -> str:
        fingerprint, self.slots = self._ask("get ready")
        return str(fingerprint)

    def begin(self, admit: Sequence[Assignment], free: Sequence[int]) -> None:
        self._send("epoch", list(admit), list(free))

    def collect(self) -> Report:
        report = self._received()
        assert isinstance(report, Report)
        return report

    def best_weights(self, number: int) -> bytes:
        return bytes(self._ask("weights", number, timeout=_ANSWER_SECONDS))

    def retrain(self, assignment: Assignment, epochs: int) -> bytes:
        return bytes(self._ask_until_stopped("retrain", assignment, epochs))

    def vacate(self) -> None:
        self._ask("vacate", timeout=_ANSWER_SECONDS)

    def checkpoint(self, free: Sequence[int]) -> None:
        self._ask("checkpoint", list(free), timeout=_ANSWER_SECONDS)

    def test(self, weights: bytes) -> tuple[float, float, float | None]:
        accuracy, loss, ece = self._ask_until_stopped("test", weights)
        return float(accuracy), float(loss), None if ece is None else float(ece)

    @abstractmethod
    def _send(self, *message: object) -> None:
        """Ask, without waiting for the answer. Raises TrainerLost, and what the trainer has died of."""

    @abstractmethod
    def _receive(self, timeout: float | None = None) -> object:
        """Wait for the answer to what was asked last, for so many seconds at most. Raises TrainerLost."""

    @abstractmethod
    def close(self) -> None: ...

    def _ask(self, *message: object, timeout: float | None = None) -> Any:
        self._send(*message)
        return self._received(timeout)

    def _ask_until_stopped(self, *message: object) -> Any:
        """Ask what may take long. Raises TrainerStopped when somebody wants to stop; the trainer is ended then."""
        self._send(*message)
        while not self.first_done([self], _POLL_SECONDS):
            if self._should_stop():
                self.close()  # what it says later would answer another question
                raise TrainerStopped
        return self._received()

    def _received(self, timeout: float | None = None) -> Any:
        answer = self._receive(timeout)
        if isinstance(answer, (TrainerLost, RegsearchError)):
            raise answer
        return answer


def answer(trainer: LocalTrainer, message: tuple[Any, ...]) -> object:
    """Do what a runner asks of a trainer, where that is; return what it is told."""
    match message:
        case ("get ready",):
            return trainer.get_ready(), trainer.slots
        case ("epoch", admit, free):
            trainer.begin(admit, free)
            return trainer.collect()
        case ("weights", number):
            return trainer.best_weights(number)
        case ("vacate",):
            trainer.vacate()
            return None
        case ("checkpoint", free):
            trainer.checkpoint(free)
            return None
        case ("retrain", assignment, epochs):
            return trainer.retrain(assignment, epochs)
        case ("test", weights):
            return trainer.test(weights)
    raise ValueError(f"unknown message {message!r}")
