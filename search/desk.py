"""The thread in which all of a study's storage operations run, in the order in which they were decided."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from math import inf
from typing import Any, Protocol, TypeVar

_POLL_SECONDS = 0.2
_FAREWELL_SECONDS = 10.0
"""For which who leaves tries to tell a storage that is away; after that only the call under way is waited for."""
_T = TypeVar("_T")


class Storage(Protocol):
    """Where results go; see `Study`."""

    @property
    def trouble(self) -> str | None: ...

    def hurry(self) -> None: ...


class Desk:
    """One thread in which all of a study's storage operations run, in order, whatever becomes of those before."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="desk")
        self._pending: deque[Future[Any]] = deque()
        self.seconds = {"asking": 0.0, "recording": 0.0}
        """What the thread has been busy with, by purpose."""

    def submit(self, purpose: str, work: Callable[..., _T], *args: Any) -> Future[_T]:
        """Queue some work; that it failed is told by `check`, so that nothing is kept from being queued."""
        future = self._executor.submit(self._timed, purpose, partial(work, *args))
        self._pending.append(future)
        return future

    def _timed(self, purpose: str, work: Callable[[], _T]) -> _T:
        start = time.perf_counter()
        try:
            return work()
        finally:
            self.seconds[purpose] += time.perf_counter() - start

    def check(self) -> None:
        """Raise what went wrong in work that is done: the first of it that has not been raised yet."""
        while self._pending and self._pending[0].done():
            future = self._pending.popleft()
            if not future.cancelled():
                future.result()

    def wait_for_all(self, storage: Storage) -> None:
        """Wait until all is done, but not for long where the storage turns out to be away."""
        limit = inf
        while wait(self._pending, _POLL_SECONDS).not_done and time.monotonic() < limit:
            if storage.trouble is None:
                limit = inf
            elif limit == inf:
                storage.hurry()
                limit = time.monotonic() + _FAREWELL_SECONDS

    def close(self) -> None:
        """Let the work at hand finish and drop the rest."""
        self._executor.shutdown(wait=True, cancel_futures=True)


def results_of(futures: deque[Future[_T]]) -> Iterator[_T]:
    """Take work that is done out of a queue and give its results, but for failures: those are for `Desk.check`."""
    while futures and futures[0].done():
        future = futures.popleft()
        if future.exception() is None:
            yield future.result()
