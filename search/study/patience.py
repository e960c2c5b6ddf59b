"""Trying again while a storage is away: a database that restarts, a disk that is full, a folder that is read-only.

Training goes on meanwhile. What is tried again must do no harm when the first try got through after all. Which errors
that is, and how long each is waited for, stands in `sqlstates.py`.
"""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_any, stop_when_event_set
from tenacity.nap import sleep_using_event
from tenacity.stop import stop_base
from tenacity.wait import wait_random_exponential

from search.errors import StorageUnavailableError
from search.study.sqlstates import AWAY, RETRY, Outage, outage_of

_T = TypeVar("_T")

_FIRST_PAUSE = 0.1
_RETRY_SECONDS = 10.0
"""For which readers, too, begin a transaction anew that was in the way of another one."""
_TRIES_IN_SILENCE = 3
_START_SECONDS = 60.0
_START_PAUSE = 0.3


class Patience:
    """Calls what may fail because a storage is away, again and again with growing pauses."""

    def __init__(self, seconds: float, describe: Callable[[BaseException], str]) -> None:
        """Give up after so many seconds; `describe` puts an error into words, without passwords."""
        self.seconds = seconds
        self.trouble: str | None = None
        """Why the storage does not answer right now, in words; None when it does."""
        self._describe = describe
        self._hurry = threading.Event()

    def call(self, work: Callable[[], _T]) -> _T:
        """Return what `work` does in the end. Raises what it raises when that lasts, or is no outage at all."""
        retrying = Retrying(
            retry=retry_if_exception(is_transient),
            stop=stop_any(_Limit(self.seconds), stop_when_event_set(self._hurry)),
            wait=_pause,
            sleep=sleep_using_event(self._hurry),
            before_sleep=self._take_note,
            reraise=True,
        )
        result = retrying(work)
        self.trouble = None
        return result

    def hurry(self) -> None:
        """Wait no longer: from now on everything is tried once."""
        self._hurry.set()

    def _take_note(self, state: RetryCallState) -> None:
        # What is over at once is not worth a word.
        if _outage(state) is not RETRY or state.attempt_number > _TRIES_IN_SILENCE:
            self.trouble = self._describe(_error(state))


class _Limit(stop_base):
    """Ends one call's tries when an outage has lasted for longer than such a one may."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._outage: Outage | None = None
        self._since = 0.0

    def __call__(self, state: RetryCallState) -> bool:
        outage, passed = _outage(state), state.seconds_since_start or 0.0
        if outage is not self._outage:
            self._outage, self._since = outage, passed
        allowed = max(self._seconds, _RETRY_SECONDS) if outage is RETRY else self._seconds
        return passed >= allowed or passed - self._since > outage.seconds


def is_transient(error: BaseException) -> bool:
    """Return whether an error says that the storage is away, full or busy, and not that it is asked for nonsense."""
    return outage_of(error) is not None


def outlast_restart(work: Callable[[], _T], interrupted: Callable[[], None]) -> _T:
    """Return what `work` does, begun anew for a minute where it meets a server that says that it is busy.

    What does not answer at all at the first call is not waited for: its address may be wrong. `interrupted` is called
    between two calls, to raise what is to end this.
    """
    deadline: float | None = None
    while True:
        try:
            return work()
        except StorageUnavailableError as error:
            if deadline is None and error.passes:
                deadline = time.monotonic() + _START_SECONDS
            if deadline is None or time.monotonic() > deadline:
                raise
        interrupted()
        time.sleep(_START_PAUSE)


def _pause(state: RetryCallState) -> float:
    return wait_random_exponential(_FIRST_PAUSE, _outage(state).longest_pause)(state)


def _outage(state: RetryCallState) -> Outage:
    return outage_of(_error(state)) or AWAY


def _error(state: RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome is not None else None
    assert error is not None, "only what has failed is tried again"
    return error
