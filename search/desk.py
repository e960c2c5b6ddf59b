"""The thread in which all of a study's storage operations run, in the order in which they were decided."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

_T = TypeVar("_T")


class Desk:
    """One thread in which all of a study's storage operations run, in order. A failure ends the search."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="desk")
        self._pending: deque[Future[Any]] = deque()
        self.seconds = {"asking": 0.0, "recording": 0.0}
        """What the thread has been busy with, by purpose."""

    def submit(self, purpose: str, work: Callable[..., _T], *args: Any) -> Future[_T]:
        """Queue some work; its failure is raised here or by a later call."""
        self.check()
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
        """Raise what went wrong in work that is done."""
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()

    def flush(self) -> None:
        """Wait until all is done."""
        while self._pending:
            self._pending.popleft().result()

    def close(self) -> None:
        """Let the work at hand finish and drop the rest."""
        self._executor.shutdown(wait=True, cancel_futures=True)
