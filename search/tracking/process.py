"""The tracking process: takes trials from the search and keeps trying until MLflow has them.

Knows about queues, pauses and giving up. How a trial becomes runs and metrics is `writer`'s business; how a request is
sent again, that of `retry`. It ends when told to, or when the search has died (its end of the pipe is closed), after a
last try, or some more where the server answers in part.
"""

import logging
import os
import resource
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO

from search.memory import be_expendable
from search.printable import first_line
from search.records import TrialRecord
from search.tracking.messages import (
    Alive,
    Closing,
    Ended,
    LookAgain,
    Lost,
    Notice,
    Opening,
    Written,
    receive,
    send,
    without_passwords,
)

if TYPE_CHECKING:
    from search.tracking.retry import RepeatedRequests
    from search.tracking.writer import MlflowWriter

_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds until the next try, after 1, 2, ... failed ones in a row; the last holds from then on."""

_LAST_TRIES = 3
"""At the end, where a server that answers does not let everything through."""

_REFUSALS_IN_A_ROW = 10
"""So many trials refused by a store that otherwise works mean that it is not the trials' fault."""

_LONGEST_PAUSE = 3600.0
"""Seconds for which a server may ask not to be asked again."""

_NICENESS = 10
MOST_MEMORY = 4 * 2**30
"""In bytes, of this process. MLflow needs some hundred megabytes, and reads each answer of a server as a whole."""
_ALIVE_SECONDS = 1.0
_LONGEST_REASON = 200


class Inbox:
    """What the search has sent. A thread fills it, so that the search's pipe is drained whatever MLflow does."""

    def __init__(self, messages: Iterator[object]) -> None:
        self.pending: deque[TrialRecord | LookAgain] = deque()
        self.closing: Closing | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._fill, args=(messages,), daemon=True).start()

    def wait(self) -> None:
        """Return when there is a trial to write, or the end has come."""
        with self._changed:
            self._changed.wait_for(lambda: self.pending or self.closing)

    def pause(self, seconds: float | None) -> None:
        """Return after `seconds`, or as soon as the end has come; with None, only then."""
        with self._changed:
            self._changed.wait_for(lambda: self.closing, seconds)

    def _fill(self, messages: Iterator[object]) -> None:
        for message in messages:
            self._take(message)
        # The search has died without a word: what it has sent is still worth writing.
        self._take(Closing(interrupted=True, ended=datetime.now(UTC)))

    def _take(self, message: object) -> None:
        with self._changed:
            if isinstance(message, (TrialRecord, LookAgain)):
                self.pending.append(message)
            elif isinstance(message, Closing):
                self.closing = self.closing or message
            self._changed.notify_all()


@dataclass(frozen=True)
class _Problem:
    """Reason for which not all could be written."""

    text: str
    pause: float = 0.0
    """Seconds for which the server asks not to be asked again."""
    may_pass: bool = True
    """Whether trying again may help: not where the server refuses the credentials, or has taken all but a file."""


class Courier:
    """Carries trials from the inbox to MLflow, and says so when it cannot."""

    def __init__(self, opening: Opening, inbox: Inbox, report: Callable[[object], None]) -> None:
        self._opening = opening
        self._inbox = inbox
        self._report = report
        self._writer: MlflowWriter | None = None
        self._requests: RepeatedRequests | None = None
        self._written: set[int] = set()
        self._failures = 0
        self._has_told_refusal = False

    def run(self) -> None:
        """Work until the search closes or dies; then try for the last time."""
        while (closing := self._inbox.closing) is None:
            problem = self._attempt(None)
            if problem is None:
                self._succeeded()
                self._inbox.wait()
            else:
                self._failed(problem)
                pause = max(_PAUSES[min(self._failures, len(_PAUSES)) - 1], min(problem.pause, _LONGEST_PAUSE))
                self._inbox.pause(pause if problem.may_pass else None)
        problem = self._conclude(closing)
        self._report(Ended(None if problem is None else problem.text))

    def _conclude(self, closing: Closing) -> _Problem | None:
        """Write what is left. Try again only where there is a server that answered something."""
        problem = None
        for pause in (0.0, *_PAUSES[: _LAST_TRIES - 1]):
            time.sleep(pause)
            answers = self._answers
            problem = self._attempt(closing)
            if problem is None or not problem.may_pass or problem.pause or self._answers == answers:
                break
        return problem

    @property
    def _answers(self) -> int:
        return 0 if self._requests is None else self._requests.answers

    def _attempt(self, closing: Closing | None) -> _Problem | None:
        """Write all there is, then the study's own run when `closing`. Return what went wrong."""
        try:
            self._connected()
            problem = self._write_pending()
            if closing is not None:
                unfinished = self._close(closing)
                problem = problem or unfinished
        except Exception as error:  # MLflow raises its own, SQLAlchemy's, requests', OSError ...: all are an outage
            self._writer = None
            return self._problem(error)
        return problem

    def _close(self, closing: Closing) -> _Problem | None:
        writer = self._connected()
        problem = writer.close(closing)
        self._tell_refusals()
        # A server that was set back to an older copy of its database has lost trials that it had taken.
        if not closing.to_be_continued and (lost := self._written - writer.numbers):
            self._written -= lost
            self._report(Lost(frozenset(lost)))
        return None if problem is None else _Problem(problem, may_pass=False)

    def _connected(self) -> "MlflowWriter":
        if self._writer is None:
            with self._at_work():  # importing MLflow takes seconds of CPU, many on a busy machine
                from search.tracking.retry import RepeatedRequests
                from search.tracking.writer import MlflowWriter

            def alive() -> None:
                self._report(Alive())

            if self._requests is None:
                self._requests = RepeatedRequests(self._opening.uri, alive)
                self._requests.install()
            requests = self._requests
            # A database file of our own is made at the first connection, which takes as long.
            with self._at_work() if self._opening.uri.startswith("sqlite:") else nullcontext():
                self._writer = MlflowWriter(self._opening, alive, lambda: requests.creations)
            if self._writer.notice is not None:
                self._report(Notice(self._writer.notice))
        return self._writer

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Tell the search that there is progress as long as the block lasts, which waits for nobody."""
        done = threading.Event()

        def tell() -> None:
            while not done.wait(_ALIVE_SECONDS):
                self._report(Alive())

        self._report(Alive())
        threading.Thread(target=tell, daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def _write_pending(self) -> _Problem | None:
        """Try every pending trial once. One that is refused goes to the end of the queue and holds up no other."""
        problem, in_a_row = None, 0
        for _ in range(len(self._inbox.pending)):
            record = self._inbox.pending[0]
            if isinstance(record, LookAgain):
                self._writer = None  # the next one sees what MLflow holds by now
                self._inbox.pending.popleft()
                continue
            try:
                new = self._connected().write(record)
            except Exception as error:
                problem, in_a_row = self._problem(error), in_a_row + 1
                self._inbox.pending.rotate(-1)
                if problem.pause or not problem.may_pass:
                    raise
                # How much got through is unknown: look again. Raises if it is MLflow that fails, not the trial.
                self._writer = None
                self._connected()
                if in_a_row == _REFUSALS_IN_A_ROW:
                    break
            else:
                in_a_row = 0
                self._inbox.pending.popleft()
                self._written.add(record.number)
                self._report(Written(record.number, new))
                self._tell_refusals()
        return problem

    def _succeeded(self) -> None:
        if self._failures:
            self._report(Notice(f"MLflow at {self._where()} takes trials again; all are written."))
        self._failures = 0

    def _failed(self, problem: _Problem) -> None:
        self._failures += 1
        if self._failures == 1 or not problem.may_pass:
            rest = "what is missing is written once that works"
            if not problem.may_pass:
                rest = "MLflow is tried once more at its end"
            self._report(
                Notice(f"MLflow at {self._where()} cannot be written ({problem.text}). The search goes on; {rest}.")
            )

    def _tell_refusals(self) -> None:
        """Tell of the first thing that MLflow does not take: there may be one of the kind in each trial."""
        assert self._writer is not None
        if self._writer.refused and not self._has_told_refusal:
            self._has_told_refusal = True
            refused = without_passwords(self._writer.refused[0], self._opening.uri)
            self._report(
                Notice(
                    f"MLflow at {self._where()} refuses {refused}. All else is written; "
                    "further ones that it refuses are not named."
                )
            )

    def _where(self) -> str:
        return without_passwords(self._opening.uri, self._opening.uri)

    def _problem(self, error: Exception) -> _Problem:
        from search.tracking.retry import BusyError, RefusedError, raised_by

        busy = raised_by(error, BusyError)
        may_pass = raised_by(error, RefusedError) is None
        return _Problem(self._reason(error), 0.0 if busy is None else busy.seconds, may_pass)

    def _reason(self, error: BaseException) -> str:
        """Return the root of an error in one short line: its outermost message is often a page long."""
        while cause := error.__cause__ or error.__context__:
            error = cause
        said = (error.strerror if isinstance(error, OSError) else None) or error
        return without_passwords(first_line(said), self._opening.uri)[:_LONGEST_REASON].rstrip(".")


def main() -> None:
    """Run the process: messages come on standard input, reports go to standard output, nothing goes anywhere else."""
    reports = _private_stdout()
    _limit_memory()
    be_expendable()
    # The search's end is this process's end, so a signal meant for the search must not end it in mid-write.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)  # training has precedence on a full machine

    def report(message: object) -> None:
        with suppress(OSError):  # nobody left to read it; the trials are still to be written
            send(reports, message)

    messages = receive(sys.stdin.buffer)
    opening = next(messages, None)
    if isinstance(opening, Opening):
        Courier(opening, Inbox(messages), report).run()
    os._exit(0)  # everything is flushed and committed; taking MLflow down in order would cost time for nothing


def _limit_memory() -> None:
    """Have an answer without end raise MemoryError here, in the place of the search that it would starve."""
    with suppress(OSError, ValueError):  # a lower limit is set already, or the system knows none
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _private_stdout() -> BinaryIO:
    """Keep standard output for the reports alone: MLflow prints to it, and that must not mix with them."""
    reports = os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    return reports
