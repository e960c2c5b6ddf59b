"""Trying again while a storage is away: a database that restarts, a disk that is full, a folder that is read-only.

Training goes on meanwhile. What is tried again must do no harm when the first try got through after all.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, OperationalError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, stop_when_event_set
from tenacity.nap import sleep_using_event
from tenacity.wait import wait_random_exponential

from search.errors import StorageUnavailableError

_T = TypeVar("_T")

_LONGEST_PAUSE = 10.0


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
    while isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, (StorageUnavailableError, OperationalError, sqlalchemy.exc.TimeoutError)):
        return True
    return isinstance(error, DBAPIError) and bool(error.connection_invalidated)
