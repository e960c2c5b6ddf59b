"""MLflow as the search sees it: hand over every finished trial and never wait for it.

MLflow lives in a process of its own (`process`), because importing it and creating its database cost
seconds of CPU that would hold up training, and because a server may be down, slow or silent for as long as it likes.
Nothing here imports MLflow, raises for MLflow's sake or waits for it, except `Tracker.finish`, and that not for ever.

No trial is lost: Optuna's storage is the truth, and whatever MLflow misses `regsearch sync` writes, or the next start.
"""

import math
import os
import shlex
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

from search.children import describe_exit, start_python
from search.places import absolute_address
from search.records import TrialRecord
from search.tracking.messages import (
    Closing,
    Ended,
    LookAgain,
    Lost,
    Notice,
    Opening,
    TrackedStudy,
    Written,
    receive,
    send,
    without_passwords,
)

# The process repeats requests by itself (`retry`): MLflow's own retries take up to 8 minutes, and write runs twice
# without a word. What the user has set wins.
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_ALLOW_HTTP_REDIRECTS": "false",  # a server would choose what this machine calls in its own network
}
_FIXED = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}

_SECONDS_TO_EXIT = 5.0  # for threads whose process is gone already


@dataclass(frozen=True)
class TrackingOutcome:
    """What became of the trials that a tracker was given."""

    written: int
    """Trials that MLflow now holds, those found there already included."""
    missing: int
    message: str | None
    """One line for the user when something is missing; it names the way out."""


class Tracker:
    """Writes a study's trials to MLflow from a process of its own. No method raises; only `finish` waits.

    `finished` are the trials in Optuna's storage when the search starts; of these, the ones MLflow misses are written.
    """

    def __init__(
        self,
        uri: str,
        artifact_root: Path | None,
        study: TrackedStudy,
        finished: Sequence[TrialRecord],
        again: str | None = None,
    ) -> None:
        """`again` is the command that writes what MLflow misses."""
        self._uri = uri
        self._again = again or f"regsearch sync --study {shlex.quote(study.name)}"
        self._given: set[int] = set()
        self._written: set[int] = set()
        self.found = 0
        """How many of its trials MLflow had already."""
        self._notices: deque[str] = deque()
        self._outbox: SimpleQueue[object] = SimpleQueue()
        self._problem: str | None = None
        self._stopping = False  # from here on, the end of the process is no news
        self._ended = threading.Event()
        self._progress_at = time.monotonic()
        self._threads: list[threading.Thread] = []
        self._process = self._start()
        now = datetime.now(UTC)
        first = min((record.started.astimezone(UTC) for record in finished), default=now)
        self._outbox.put(Opening(absolute_address(uri), artifact_root, study, study.started or first))
        for record in finished:
            self.trial(record)

    def trial(self, record: TrialRecord) -> None:
        """Have a finished trial written. Returns at once, whatever MLflow does."""
        self._given.add(record.number)
        self._outbox.put(record)

    def catch_up(self, ended: Sequence[TrialRecord], untold: Sequence[TrialRecord]) -> None:
        """Take note of what others have written of the trials that have `ended`, and have the `untold` ones written.

        Does nothing where all of them were given to this tracker. Returns at once, as `trial`.
        """
        if all(record.number in self._given for record in ended):
            return
        self._outbox.put(LookAgain())
        for record in untold:
            self.trial(record)

    def notice(self) -> str | None:
        """Return the next line for the user, each once: MLflow cannot be written, is back, its process died."""
        return self._notices.popleft() if self._notices else None

    def finish(self, closing: Closing, timeout: float, limit: float = math.inf) -> TrackingOutcome:
        """Complete the study's run and wait until all is written.

        Gives up after `timeout` seconds without progress, and after `limit` seconds in all. The run ends as FINISHED
        or, when the search was interrupted, as KILLED. A second call only returns the outcome again.
        """
        if not self._stopping:
            self._outbox.put(closing)
            self._outbox.put(None)
            self._wait(timeout, limit)
            self._stop()
        return self._outcome()

    def abandon(self) -> None:
        """Kill the process now. What it has not written is left to `regsearch sync`, or the study's next start."""
        # Takes no lock and waits for nothing: it may be called from a signal handler, in the middle of `finish`.
        self._stopping = True
        self._outbox.put(None)
        if self._process is not None:
            self._process.kill()

    def _start(self) -> "subprocess.Popen[bytes] | None":
        try:
            process = start_python(
                "from search.tracking.process import main; main()",
                environment=_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # Ctrl-C in the terminal is for the search alone. Not a session of its own: Linux shares the processor
                # between sessions first, and only within one by niceness.
                process_group=0,
            )
        except OSError as error:
            self._lost(f"its process could not be started: {error}")
            return None
        assert process.stdin is not None
        assert process.stdout is not None
        self._threads = [
            threading.Thread(target=self._send, args=(process.stdin,), daemon=True),
            threading.Thread(target=self._receive, args=(process, process.stdout), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        return process

    def _send(self, channel: BinaryIO) -> None:
        # A dead process breaks the pipe; `_receive` is the one to tell.
        with suppress(OSError), channel:
            while (message := self._outbox.get()) is not None:
                try:
                    send(channel, message)
                except OSError:
                    raise
                except Exception as error:  # not picklable: this message is lost to MLflow, and no other
                    self._problem = f"could not be sent: {error}"

    def _receive(self, process: "subprocess.Popen[bytes]", channel: BinaryIO) -> None:
        with channel:
            for message in receive(channel):
                self._progress_at = time.monotonic()
                match message:
                    case Written(number, new):
                        self._written.add(number)
                        self.found += not new
                    case Lost(numbers):
                        self._written -= numbers
                        self._problem = "it had taken them, and holds them no longer"
                    case Notice(text):
                        self._notices.append(text)
                    case Ended(problem):
                        self._stopping = True
                        self._problem = problem or self._problem
        process.wait()
        if self._stopping:
            self._ended.set()
        else:
            self._lost(f"its process ended unexpectedly ({describe_exit(process.returncode)})")

    def _lost(self, problem: str) -> None:
        self._problem = problem
        self._notices.append(f"MLflow gets no more trials: {problem}. The search goes on. {self._way_out()}")
        self._ended.set()

    def _wait(self, timeout: float, limit: float) -> None:
        self._progress_at = start = time.monotonic()
        while not self._ended.wait(0.05):
            now = time.monotonic()
            if now - self._progress_at > timeout or now - start > limit:
                stuck = now - self._progress_at > timeout
                self._problem = f"no progress for {timeout:g} s" if stuck else f"it took longer than {limit:g} s"
                self.abandon()
                return

    def _stop(self) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join(_SECONDS_TO_EXIT)

    def _outcome(self) -> TrackingOutcome:
        missing = len(self._given - self._written)
        where = f"MLflow at {without_passwords(self._uri, self._uri)}"
        message = None
        if missing:
            reason = self._problem or "its process was stopped"
            message = (
                f"{missing} of {len(self._given)} trials could not be written to {where}: {reason}. {self._way_out()}"
            )
        elif self._problem:
            message = f"{where}: {self._problem}. {self._way_out()}"
        return TrackingOutcome(len(self._given) - missing, missing, message)

    def _way_out(self) -> str:
        return f"The results are safe in Optuna; `{self._again}` writes what MLflow misses."


def _environment() -> dict[str, str]:
    unset = {name: value for name, value in _DEFAULTS.items() if name not in os.environ}
    return {**unset, **_FIXED}
