"""What the runner hears of the study beside its own trials: what others did, and whether the storage answers.

Asked for in the thread of the storage's operations, every now and then; nobody waits for it while there is work.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, wait
from typing import Protocol

from search.desk import Desk
from search.records import News


class Source(Protocol):
    """A study; see `Study`."""

    def news(self) -> News: ...

    @property
    def trouble(self) -> str | None: ...


class Newspaper:
    """Brings news of a study."""

    def __init__(self, desk: Desk, source: Source) -> None:
        self._desk, self._source = desk, source
        self._ordered: Future[News] | None = None
        self._due = time.monotonic()
        self._away_since: float | None = None

    def fetch(self, patience: float = 0.0) -> News | None:
        """Return what is new, if it is time for news and they have come; wait for them for `patience` seconds."""
        now = time.monotonic()
        if self._ordered is None:
            time.sleep(max(0.0, min(patience, self._due - now)))
        if self._ordered is None and time.monotonic() >= self._due:
            self._ordered = self._desk.submit("asking", self._source.news)
        if self._ordered is None:
            return None
        wait([self._ordered], patience)
        if not self._ordered.done():
            return None
        news, self._ordered = self._ordered.result(), None
        self._due = time.monotonic() + news.again_in
        return news

    def outage(self) -> str | None:
        """Return what is to be told of the storage, once as it is gone and once as it is back."""
        trouble, now = self._source.trouble, time.monotonic()
        if trouble is not None and self._away_since is None:
            self._away_since = now
            return f"The storage does not answer, and is asked again; training goes on, results are kept: {trouble}"
        if trouble is None and self._away_since is not None:
            away, self._away_since = now - self._away_since, None
            return f"The storage is back after {away:.0f} s, and has all results by now"
        return None
