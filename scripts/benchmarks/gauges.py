"""What a runner and its database do, counted and timed while they do it: calls, statements, locks, processor time.

Counts from inside the runner's process, and of the server from outside. Decides nothing about what is run.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.storages import BaseStorage, RDBStorage

from scripts.benchmarks.processes import process_tree
from search.records import Assignment, TrialRecord
from search.study import Study, ledger
from search.trainers import Report

DESK = ("ask", "report", "finish", "news")
_SAMPLE_SECONDS = 0.2
_TICKS = os.sysconf("SC_CLK_TCK")
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


class RunnerGauge:
    """Counts of one runner since it began; also the watcher that the runner tells of its trials."""

    def __init__(self, study: Study, storage: BaseStorage) -> None:
        self._counts: Counter[str] = Counter()
        self._locked = False
        for name in DESK:
            setattr(study, name, self._timed(name, getattr(study, name)))
        # Where the ledger keeps the others away from the study.
        ledger.exclusive = self._exclusive(ledger.exclusive)
        if isinstance(storage, RDBStorage):
            sqlalchemy.event.listen(storage.engine, "before_cursor_execute", self._statement)
            sqlalchemy.event.listen(storage.engine, "begin", self._transaction)

    def read(self) -> Counter[str]:
        """Return all counts by now: numbers of things, and seconds."""
        return self._counts + Counter({"wall": time.perf_counter(), "cpu": time.process_time()})

    def started(self, assignment: Assignment) -> None:  # noqa: ARG002
        self._counts["started"] += 1

    def epoch_ended(self, report: Report) -> None:
        self._counts["rounds"] += 1
        self._counts["epochs"] += len(report.results)

    def ended(self, record: TrialRecord) -> None:
        # Also those of others, of whom the news tell: how many are this runner's, the calls of `finish` tell.
        pass

    def message(self, text: str) -> None:
        print(text, flush=True)

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any) -> Any:
            begin = time.perf_counter()
            try:
                return call(*args)
            finally:
                self._counts[name] += 1
                self._counts[f"{name} seconds"] += time.perf_counter() - begin

        return measured

    def _exclusive(self, lock: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def measured(*args: Any) -> Iterator[Any]:
            begin = held = time.perf_counter()
            try:
                with lock(*args) as found:
                    held = time.perf_counter()
                    self._locked = True
                    yield found
            finally:
                self._locked = False
                self._counts["locks"] += 1
                self._counts["lock wait seconds"] += held - begin
                self._counts["locked seconds"] += time.perf_counter() - held

        return measured

    def _statement(self, *_: object) -> None:
        self._counts["statements"] += 1
        self._counts["statements locked"] += self._locked

    def _transaction(self, *_: object) -> None:
        self._counts["transactions"] += 1


class ServerGauge:
    """The processor time of the PostgreSQL server that descends from this process, and who waits for locks in it."""

    def __init__(self, url: str) -> None:
        self._engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
        self._stopped, self._samples = threading.Event(), []
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> ServerGauge:
        self._cpu = _server_seconds()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self.cpu = _server_seconds() - self._cpu
        self._engine.dispose()

    @property
    def waiting(self) -> float:
        """How many transactions waited for another's lock, on average."""
        return sum(self._samples) / max(1, len(self._samples))

    def _sample(self) -> None:
        with self._engine.connect() as connection:
            while not self._stopped.wait(_SAMPLE_SECONDS):
                self._samples.append(connection.exec_driver_sql(_WAITING).scalar_one())


def _server_seconds() -> float:
    """Return the processor time of the server's processes, also of those that have ended; 0 where there is no /proc."""
    total = 0
    for pid in process_tree(os.getpid()):
        try:
            name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        if name == "postgres":
            total += sum(map(int, rest.split()[11:15]))  # its own, and its children's that have ended
    return total / _TICKS
