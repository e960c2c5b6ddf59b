"""Leases: who runs a study, and who of them has died, told by no clock but the observer's own.

Each process that runs a study, a runner, beats: it writes a counter into the study several times a lease. Whoever sees
the same beat for longer than its lease, by a clock of his own that never jumps, takes the runner for dead; clocks of
different hosts are never compared. In the same home on the same machine nobody needs to wait: a runner holds a lock on
a file, which the kernel frees when it dies. What becomes of a dead runner's trials is the business of `study.py`; that
it cannot write to them any longer, should it only have been asleep, that of the storage, which refuses writes to
finished trials.
"""

import fcntl
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from optuna.storages import BaseStorage

from search.errors import HomeError
from search.printable import one_line
from search.study.reading import MISREAD, read_as

LOCKS = "locks"
"""Folder in the home for the runners' lock files."""

_PREFIX = "runner:"
_BEATS_PER_LEASE = 4
_LEAST, _MOST = 1e-3, 1e9
"""Seconds that a lease may have: others wait for its end."""


Task = Literal["search", "finish"]
Life = Literal["alive", "dead", "unknown"]


def seconds_awake_or_not() -> float:
    """Return the time by a clock that never jumps, and goes on while the machine sleeps where there is such a one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True)
class RunnerRecord:
    """What a runner tells of itself in the study."""

    runner: str
    """Its name, made anew for each process."""
    host: str
    pid: int
    boot: str
    """What tells this run of this machine from all others; empty where nothing does."""
    lease: float
    """Seconds after which it counts as dead without a beat."""
    since: str
    task: Task
    """Whether it runs trials, or only what follows the search."""
    beat: int = 0
    gone: bool = False
    """Whether it has left, or was found dead: it is expected to write no more."""


_FIELDS = RunnerRecord.__dataclass_fields__.keys()


class Lease:
    """This process's own place among the runners of a study; kept up by a thread of its own until `release`."""

    def __init__(self, storage: BaseStorage, study_id: int, home: Path, seconds: float, task: Task) -> None:
        """Raises HomeError when there is no place for the lock in the home."""
        name = uuid.uuid4().hex[:12]
        self._storage, self._study_id, self._path = storage, study_id, _lock_of(name, home)
        self._file = _hold(self._path)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self._record = RunnerRecord(name, _host(), os.getpid(), _boot(), seconds, started, task)
        self._writing, self._released = threading.Lock(), threading.Event()
        self._beaten = -float("inf")
        self.longest_silence = 0.0
        """Seconds between two beats, at most; longer than a lease means that others may have taken over."""

    @property
    def runner(self) -> str:
        """This runner's name."""
        return self._record.runner

    def start(self) -> None:
        """Write the first beat, and all others in a thread."""
        self.beat()
        threading.Thread(target=self._keep_up, name="lease", daemon=True).start()

    def beat(self) -> None:
        """Tell that this runner is alive. Raises what the storage raises."""
        with self._writing:
            if self._released.is_set():
                return
            now = seconds_awake_or_not()
            record = replace(self._record, beat=self._record.beat + 1)
            self._storage.set_study_system_attr(self._study_id, _PREFIX + record.runner, asdict(record))
            if record.beat > 1:
                self.longest_silence = max(self.longest_silence, now - self._beaten)
            # What counts is when it was begun: others may have seen the one before for long by the time it is there.
            self._record, self._beaten = record, now

    def be_heard(self) -> None:
        """Beat now if others may have taken this runner for dead: what it began would be taken over at once."""
        if seconds_awake_or_not() - self._beaten > self._record.lease:
            self.beat()

    def release(self) -> None:
        """Leave: nobody has to wait for this runner's beats any more."""
        with self._writing:
            if self._released.is_set():
                return
            self._released.set()
            with suppress(Exception):  # others find out by themselves, since the lock is free
                mark_gone(self._storage, self._study_id, self._record)
        _remove(self._path)
        os.close(self._file)

    def _keep_up(self) -> None:
        while not self._released.wait(self._record.lease / _BEATS_PER_LEASE):
            with suppress(Exception):  # a storage that fails is told of by those who need an answer from it
                self.beat()


class Observer:
    """Watches the other runners of a study."""

    def __init__(self, home: Path, clock: Callable[[], float] = seconds_awake_or_not) -> None:
        self._home, self._clock = home, clock
        self._seen: dict[str, tuple[int, float]] = {}
        """By runner, its last beat and for how many seconds that has been seen."""
        self._looked = clock()

    def dead(self, runners: Iterable[RunnerRecord]) -> list[RunnerRecord]:
        """Return those of the runners that have died. To be called several times a lease."""
        now = self._clock()
        passed, self._looked = now - self._looked, now
        return [runner for runner in list(runners) if self._is_silent(runner, passed) or _has_died(runner, self._home)]

    def _is_silent(self, runner: RunnerRecord, passed: float) -> bool:
        beat, silent = self._seen.get(runner.runner, (-1, 0.0))
        # Whoever has not looked for long (asleep, or without a database) has missed beats: that counts little.
        silent = silent + min(passed, runner.lease / _BEATS_PER_LEASE) if beat == runner.beat else 0.0
        self._seen[runner.runner] = (runner.beat, silent)
        return silent > runner.lease


def runners_of(attributes: Mapping[str, Any]) -> list[RunnerRecord]:
    """Return the runners that a study has and that are not known to be gone, from its system attributes.

    What no runner has written there is passed over.
    """
    records = (_read(key.removeprefix(_PREFIX), told) for key, told in attributes.items() if key.startswith(_PREFIX))
    return [each for each in records if each is not None and not each.gone]


def is_runner_name(name: object) -> bool:
    """Return whether a runner may be called so; the name is part of paths."""
    return isinstance(name, str) and re.fullmatch("[0-9a-f]{12}", name) is not None


def _read(name: str, told: Any) -> RunnerRecord | None:
    try:
        record = read_as(RunnerRecord, told)
        datetime.fromisoformat(record.since).astimezone()
    except MISREAD:
        return None
    is_ours = told.keys() == _FIELDS and record.runner == name and is_runner_name(name)
    return replace(record, host=one_line(record.host)) if is_ours and _LEAST <= record.lease <= _MOST else None


def mark_gone(storage: BaseStorage, study_id: int, record: RunnerRecord) -> None:
    """Note that a runner has left or died."""
    storage.set_study_system_attr(study_id, _PREFIX + record.runner, asdict(replace(record, gone=True)))


def tidy_away(record: RunnerRecord, home: Path) -> None:
    """Remove the lock file of a runner of this machine and home that has died."""
    if _has_died(record, home):
        _remove(_lock_of(record.runner, home))


def _lock_of(runner: str, home: Path) -> Path:
    """Return the file that a runner of this home holds a lock on.

    By its name alone: the storage has others' words, and a path from there is neither opened nor removed. So it is
    found in a home that was moved, and in one that was copied it is never that of the other.
    """
    return home / LOCKS / f"{runner}.lock"


def _remove(lock: Path) -> None:
    with suppress(OSError):  # the home may be read-only by now, or another user's: what counts is that nobody holds it
        lock.unlink(missing_ok=True)


def _hold(path: Path) -> int:
    """Make a file and return a descriptor with a lock that the kernel frees when this process dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not to be written to: a folder can be made read-only under it.
        file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o664)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise HomeError(f"{path}: the study's lock cannot be made: {error.strerror or error}") from error
    return file


def sign_of_life(runner: RunnerRecord, home: Path) -> Life:
    """Return whether a runner lives, where its lock tells: on this machine, since that was started, in this home."""
    if not runner.boot or runner.boot != _boot():
        return "unknown"
    try:
        file = os.open(_lock_of(runner.runner, home), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return "unknown"  # one of another home, for instance: its beat tells
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return "alive"
    finally:
        os.close(file)
    return "dead"


def _has_died(runner: RunnerRecord, home: Path) -> bool:
    return sign_of_life(runner, home) == "dead"


def _host() -> str:
    return os.uname().nodename


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
