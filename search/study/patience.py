"""Trying again while a storage is away: a database that restarts, a disk that is full, a folder that is read-only.

Training goes on meanwhile. What is tried again must do no harm when the first try got through after all.
"""

import re
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, OperationalError, PendingRollbackError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, stop_when_event_set
from tenacity.nap import sleep_using_event
from tenacity.wait import wait_random_exponential

from search.errors import StorageUnavailableError
from search.study.gone import is_dropped

_T = TypeVar("_T")

_LONGEST_PAUSE = 10.0
_ON_A_DEAD_CONNECTION = "8s2b"
"""Of a statement after the one that found its connection gone (https://docs.sqlalchemy.org/en/21/errors.html): where
Optuna reads trials it takes any error for too long a statement, and asks in another way."""
_RESTART_SECONDS = 30.0
_RESTART_PAUSE = 0.3
_RESTARTING = re.compile(
    "the database system is (starting up|shutting down|in recovery mode|not (yet )?accepting connections)"
    "|terminating connection (due to|because of)|server closed the connection unexpectedly"
)
"""What PostgreSQL says then, before there is a connection that errors could have codes on:
https://github.com/postgres/postgres/blob/REL_15_STABLE/src/backend/postmaster/postmaster.c, `ProcessStartupPacket`, and
https://www.postgresql.org/docs/15/errcodes-appendix.html, class 57."""


class Patience:
    """Calls what may fail because a storage is away, again and again with growing pauses."""

    def __init__(self, seconds: float, describe: Callable[[BaseException], str]) -> None:
        """Give up after so many seconds; `describe` puts an error into words, without passwords."""
        self.seconds = seconds
        self.trouble: str | None = None
        """Why the storage does not answer right now, in words; None when it does."""
        self._describe = describe
        self._hurry = threading.Event()
        self._retrying = Retrying(
            retry=retry_if_exception(is_transient),
            stop=stop_after_delay(seconds) | stop_when_event_set(self._hurry),
            wait=wait_random_exponential(multiplier=0.1, max=_LONGEST_PAUSE),
            sleep=sleep_using_event(self._hurry),
            before_sleep=self._take_note,
            reraise=True,
        )

    def call(self, work: Callable[[], _T]) -> _T:
        """Return what `work` does in the end. Raises what it raises when that lasts, or is no outage at all."""
        result = self._retrying(work)
        self.trouble = None
        return result

    def hurry(self) -> None:
        """Wait no longer: from now on everything is tried once."""
        self._hurry.set()

    def _take_note(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if error is not None:
            self.trouble = self._describe(error)


def is_transient(error: BaseException) -> bool:
    """Return whether an error says that the storage is away, full or busy, and not that it is asked for nonsense."""
    error = _below_optunas(error)
    if is_dropped(error):
        return False
    if isinstance(error, (StorageUnavailableError, OperationalError, sqlalchemy.exc.TimeoutError)):
        return True
    if isinstance(error, PendingRollbackError) and error.code == _ON_A_DEAD_CONNECTION:
        return True
    return isinstance(error, DBAPIError) and bool(error.connection_invalidated)


def is_restarting(error: BaseException) -> bool:
    """Return whether a server says that it is just stopping or starting, or has ended the connection for that."""
    error = _below_optunas(error)
    return is_transient(error) and _RESTARTING.search(str(error)) is not None


def outlast_restart(work: Callable[[], _T], interrupted: Callable[[], None]) -> _T:
    """Return what `work` does, begun anew for half a minute where it meets a server that is just being restarted.

    What does not answer at all at the first call is not waited for: its address may be wrong. `interrupted` is called
    between two calls, to raise what is to end this.
    """
    deadline: float | None = None
    while True:
        try:
            return work()
        except StorageUnavailableError as error:
            if deadline is None and error.restarting:
                deadline = time.monotonic() + _RESTART_SECONDS
            if deadline is None or time.monotonic() > deadline:
                raise
        interrupted()
        time.sleep(_RESTART_PAUSE)


def _below_optunas(error: BaseException) -> BaseException:
    """Return the error that Optuna has wrapped into its own."""
    while isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    return error
