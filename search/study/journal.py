"""The journal file, Optuna's append-only log of a study, and its careful owner.

Optuna's own file backend trusts the file. A last line torn by a kill, a full disk or a power cut makes the next `ask`
return an old trial, and the next append makes the file unreadable. Here every append first looks at the last byte, and
opening looks at the last lines: what is torn is moved to a `.corrupt-*` file, never dropped. The lock is the kernel's
(`flock`), which frees it when its holder dies. Lines that belong together are appended together, for one wait for the
disk. What the log's lines mean is Optuna's business.

The lock stands in `<journal>.flock`, not `.lock`: that name is Optuna's own, and a program with Optuna's locks
(optuna-dashboard on the same file) would wait for ours to go away and then remove it.
"""

import errno
import fcntl
import logging
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._storage import JournalOperation

from search.errors import StorageError, StorageUnavailableError
from search.study.file_systems import refuse_network_file_system
from search.study.gone import WatchedFile
from search.study.journal_format import (
    LONGEST_ENTRY,
    OWN_WORKER,
    JournalLines,
    check_beginning,
    is_good,
    is_torn,
    line_of,
    lines_of,
    not_a_journal,
)
from search.study.reading import MISREAD

_log = logging.getLogger(__name__)

_BLOCK = 64 * 1024
_FOREIGN_WRITER_SECONDS = 0.05
_LONG_FOR_AN_APPEND = 0.5
_REMARKABLY_LONG = 10.0
_POLL_SECONDS = 0.01


class Journal(JournalStorage):
    """Optuna's journal storage on our backend."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = JournalBackend(path)
        super().__init__(self._file)
        # One thread may keep the others away for several calls. It is always taken before the file's lock.
        self._thread_lock = threading.RLock()  # type: ignore[assignment]
        self._worker_id_prefix = self._replay_result._worker_id_prefix = f"{OWN_WORKER}{uuid.uuid4()}-"
        # Optuna reads it after each new trial, and sets it when that is read back: here maybe later.
        self._replay_result._last_created_trial_id_by_this_process = -1

    @contextmanager
    def grouped(self) -> Iterator[None]:
        """Append what is written inside in one go at the end; none of it if the block fails.

        Until then it is not to be read either, since only its place in the file says what came before it. A process
        killed at the end leaves the first of the lines, or all. Raises UpdateFinishedTrialError, and appends nothing,
        where a line is about a trial that has ended by then: readers would pass over it, each for itself.
        """
        with self._file.held_back() as logs:
            yield
        if logs:
            with self._thread_lock, self._file.locked():
                self._sync_with_backend()
                self._append(logs)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """As `grouped`, with all other writers kept away, and all that they have written to be seen."""
        with self._thread_lock, self._file.locked():
            self._sync_with_backend()
            with self._file.held_back() as logs:
                yield
            if logs:
                self._append(logs)

    def _append(self, logs: list[dict[str, Any]]) -> None:
        created = Counter[int]()
        for log in logs:
            if "trial_id" in log:
                trial = self._replay_result.get_trial(log["trial_id"])
                self.check_trial_is_updatable(log["trial_id"], trial.state)
            elif log["op_code"] == JournalOperation.CREATE_TRIAL:
                # Should an earlier line be damaged, this tells how many trials that line made.
                study_id = log["study_id"]
                log["number"] = len(self._replay_result._study_id_to_trial_ids[study_id]) + created[study_id]
                created[study_id] += 1
        self._file.append_logs(logs)


def open_journal(path: Path) -> Journal:
    """Open or create the journal at `path` as an Optuna storage; a torn end is repaired first.

    Raises StorageError on a network file system, for a file that is not an Optuna journal, for damage that cannot be
    repaired without losing good lines, and when the file cannot be read or written.
    """
    path = Path(os.path.abspath(path))
    refuse_network_file_system(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Journal(path)
    except OSError as error:
        raise StorageError(f"{path}: the journal cannot be opened: {error.strerror or error}") from error
    except MISREAD as error:
        raise not_a_journal(path) from error  # JSON lines of which Optuna's replay can make nothing


class JournalLock:
    """Optuna's journal lock (`acquire`, `release`) on the kernel's `flock`: free as soon as its holder is gone.

    `filelock` would take 50 microseconds for each append; this takes 5.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = threading.Lock()
        self._file = -1

    def acquire(self) -> bool:
        """Wait until the lock is held; always True."""
        with self._to_be_locked() as file:
            if not _locks_at_once(file):
                with self._told_if_it_lasts():
                    fcntl.flock(file, fcntl.LOCK_EX)
        return True

    def acquire_within(self, seconds: float) -> bool:
        """Wait no longer than that until the lock is held; return whether it is."""
        deadline = time.monotonic() + seconds
        with self._to_be_locked() as file:
            while not (locked := _locks_at_once(file)) and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        if not locked:
            self._let_go()
        return locked

    @contextmanager
    def _told_if_it_lasts(self) -> Iterator[None]:
        text = "%s: another process keeps the lock, for %.0f s now: if it is stopped (Ctrl-Z), let it go on or kill it"
        timer = threading.Timer(_REMARKABLY_LONG, _log.warning, [text, self._path, _REMARKABLY_LONG])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @contextmanager
    def _to_be_locked(self) -> Iterator[int]:
        """Open the file to lock it inside; close it again if that fails."""
        self._threads.acquire()  # whoever holds it has `_file` to himself
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o664)
            yield self._file
        except BaseException:
            self._let_go()
            raise

    def release(self) -> None:
        """Let the next one in."""
        fcntl.flock(self._file, fcntl.LOCK_UN)  # closing is not enough if a child process has inherited the file
        self._let_go()

    def _let_go(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._threads.release()

    def __enter__(self) -> "JournalLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _locks_at_once(file: int) -> bool:
    """Lock a file unless somebody else holds it; return whether it is locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class JournalBackend(JournalFileBackend):
    """Optuna's file backend, with appends that leave whole lines only, groups of appends, and errors that say where.

    Readers (also other processes, without a lock) accept a line only once its newline is there. What is cut off here
    never had one, or was not JSON, so that no reader has counted it: the offsets that readers remember stay true.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        check_beginning(path)  # before the lock, which would put a file of ours beside one that is not
        self._journal_lock = JournalLock(path.with_name(path.name + ".flock"))
        super().__init__(str(path))
        self._group = threading.local()
        self._watched = WatchedFile(path)
        self._lines = JournalLines(path)
        self._repair_if_free()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Yield the logs from `log_number_from` on; StorageError names the line that cannot be read."""
        if hasattr(self._group, "logs"):
            return
        self._watched.check()
        try:
            yield from self._lines.read(log_number_from)
        except OSError as error:
            text = f"{self._path}: the journal cannot be read: {error.strerror or error}"
            raise StorageUnavailableError(text) from error

    @contextmanager
    def held_back(self) -> Iterator[list[dict[str, Any]]]:
        """Append nothing of what this thread writes inside, and let it read nothing new; yield what it would write."""
        logs: list[dict[str, Any]] = []
        self._group.logs = logs
        try:
            yield logs
        finally:
            del self._group.logs

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from appending; this thread appends inside as ever."""
        with ExitStack() as stack:
            try:
                self._group.file = stack.enter_context(self._opened())
            except OSError as error:
                raise self._unwritable(error) from error
            try:
                yield
            finally:
                del self._group.file

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append and fsync, or hold back in a group; raises StorageError when they could not all be written.

        Lines that did get into the file whole stay there, since readers may have seen them.
        """
        if hasattr(self._group, "logs"):
            self._group.logs += logs
            return
        lines = b"".join(map(line_of, logs))
        try:
            with self._opened() as file:
                if not _ends_with_newline(file):
                    _repair(self._path, file, _sound_end(file))
                _append(file, lines)
        except OSError as error:
            raise self._unwritable(error) from error

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Yield a file descriptor under the lock; the one at hand where `locked` holds it."""
        if hasattr(self._group, "file"):
            yield self._group.file
            return
        with self._journal_lock:
            file = os.open(self._path, os.O_RDWR | os.O_APPEND)
            try:
                self._watched.check_opened(os.fstat(file))
                yield file
            finally:
                os.close(file)

    def _repair_if_free(self) -> None:
        """Cut a torn end off, unless somebody keeps the journal: stopped amid an append, maybe for good.

        Readers need not wait for that, and whoever appends next looks again.
        """
        if not self._journal_lock.acquire_within(_LONG_FOR_AN_APPEND):
            return
        try:
            file = os.open(self._path, os.O_RDWR | os.O_APPEND)
            try:
                _repair(self._path, file, _sound_end(file))
            finally:
                os.close(file)
        finally:
            self._journal_lock.release()

    def _unwritable(self, error: OSError) -> StorageUnavailableError:
        self._watched.check()  # which says so where the file is not there any more
        return StorageUnavailableError(
            f"{self._path}: the journal cannot be written: {error.strerror or error}; nothing is lost, "
            "run the same command again when this is mended"
        )


def _append(file: int, lines: bytes) -> None:
    """Write all `lines` and fsync; what an OSError leaves is whole lines."""
    before = os.fstat(file).st_size
    written = 0
    try:
        while written < len(lines):
            written += os.write(file, lines[written:])
    finally:
        # A whole line is never taken back, even if its fsync fails: readers may have seen it.
        if written < len(lines):
            os.ftruncate(file, before + lines.rfind(b"\n", 0, written) + 1)
    os.fsync(file)


def _ends_with_newline(file: int) -> bool:
    size = os.fstat(file).st_size
    return size == 0 or os.pread(file, 1, size - 1) == b"\n"


def _sound_end(file: int) -> int:
    """Return the offset just behind the last good line, reading backwards: a long journal costs one block."""
    if not _ends_with_newline(file):
        _wait_for_foreign_writer(file)
    size, block = os.fstat(file).st_size, _BLOCK
    while True:
        start = max(0, size - block)
        lines = lines_of(os.pread(file, size - start, start))
        whole = lines if start == 0 else lines[1:]  # the first one begins amid the file
        end = size
        for line in reversed(whole):
            if is_good(line) or not is_torn(line):
                return end
            end -= len(line)
        if start == 0:
            return 0
        if block > 2 * LONGEST_ENTRY:
            raise OSError(errno.EFBIG, f"its last {block:,} bytes hold no entry: make a copy, and cut them off")
        block *= 4


def _wait_for_foreign_writer(file: int) -> None:
    """Let a writer that does not know our lock finish its line, before it is taken for torn."""
    size = -1
    while size != os.fstat(file).st_size:
        size = os.fstat(file).st_size
        time.sleep(_FOREIGN_WRITER_SECONDS)


def _repair(path: Path, file: int, sound_end: int) -> None:
    """Move what stands behind `sound_end` to a file of its own."""
    size = os.fstat(file).st_size
    if size == sound_end:
        return
    aside = path.with_name(f"{path.name}.corrupt-{datetime.now():%Y%m%dT%H%M%S.%f}")
    with open(aside, "xb") as copy:
        copy.write(os.pread(file, size - sound_end, sound_end))
        copy.flush()
        os.fsync(copy.fileno())
    os.ftruncate(file, sound_end)
    os.fsync(file)
    _log.warning(
        "%s: the last %d bytes were torn (a kill, a full disk or a power cut) and were moved to %s; "
        "all lines before them are good",
        path,
        size - sound_end,
        aside.name,
    )
