"""The thread in which all of a study's storage operations run, in the order in which they were decided."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, TypeVar

_T = TypeVar("_T")


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

    def wait(self, seconds: float) -> bool:
        """Wait until all is done, but no longer than so many seconds; return whether it is."""
        return not wait(self._pending, seconds).not_done

    def close(self) -> None:
        """Let the work at hand finish and drop the rest."""
        self._executor.shutdown(wait=True, cancel_futures=True)


def results_of(futures: deque[Future[_T]]) -> Iterator[_T]:
    """Take work that is done out of a queue and give its results, but for failures: those are for `Desk.check`."""
    while futures and futures[0].done():
        future = futures.popleft()
        if future.exception() is None:
            yield future.result()
