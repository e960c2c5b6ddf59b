"""Logs of searches that run without a terminal: a file for each process in the home, locked as long as that writes it.

What is in them is what `start` prints. Who starts such processes is `detached`.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO

from search.errors import HomeError, UsageError
from search.places import make_home
from search.regular_files import MEGABYTE, open_regular

_FOLDER = "logs"
_POLL_SECONDS = 0.3
_LONGEST_LINE = MEGABYTE


class NewLog:
    """A log about to be written. Its name holds the process that writes it, which is to be started with `file`."""

    def __init__(self, home: Path, study: str) -> None:
        """Raises HomeError."""
        folder = home / _FOLDER
        self._new_folders = [each for each in (folder, home) if not each.exists()]
        self._name = f"{study}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        self.path = folder / f".{self._name}-{secrets.token_hex(8)}"
        make_home(home)
        try:
            folder.mkdir(exist_ok=True)
            # For the process that inherits it, and its lock.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            self.file: BinaryIO = os.fdopen(os.open(self.path, flags, 0o664), "ab")
            fcntl.flock(self.file, fcntl.LOCK_EX)
        except OSError as error:
            raise HomeError(f"{self.path}: the log cannot be written: {error.strerror or error}") from error

    def give_to(self, pid: int) -> None:
        """Name the log after the process that has inherited its file, and let go of that."""
        self.path = self.path.rename(self.path.with_name(f"{self._name}-{pid}.log"))
        self.file.close()

    def remove(self) -> None:
        """Remove the log, and the folders that were made for it and hold nothing else."""
        self.file.close()
        self.path.unlink()
        for folder in self._new_folders:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def newest_log(home: Path, study: str) -> Path:
    """Return the newest log of a study in this home. Raises UsageError when there is none."""
    name = re.compile(rf"{re.escape(study)}-(\d{{8}}-\d{{6}})-\d+\.log")
    files = (path for path in (home / _FOLDER).glob("*.log") if path.is_file())
    found = [(match[1], path) for path in files if (match := name.fullmatch(path.name))]
    if not found:
        raise UsageError(
            f'{home / _FOLDER} holds no log of study "{study}"; `start --detach` writes one, '
            "--home names another folder"
        )
    return max(found, key=lambda each: (each[0], each[1].stat().st_mtime_ns))[1]


def read_log(path: Path, lines: int | None, follow: bool) -> Iterator[str]:
    """Give the last so many lines of a log, or all; then, to follow it, what is added as long as it is written.

    Raises HomeError.
    """
    try:
        log = TextIOWrapper(open_regular(path, sys.maxsize), encoding="utf-8", errors="replace", newline="\n")
    except OSError as error:
        raise HomeError(f"{path}: the log cannot be read: {error.strerror or error}") from error
    with log as file:
        yield from _lines(file) if lines is None else deque(_lines(file), lines)
        while follow:
            ended = not _is_written(file.fileno())
            yield from _lines(file)
            if ended:
                return
            time.sleep(_POLL_SECONDS)


def _lines(file: TextIOWrapper) -> Iterator[str]:
    """Give the lines of a log; one that is longer than any that we write comes in pieces."""
    return iter(lambda: file.readline(_LONGEST_LINE), "")


def _is_written(file: int) -> bool:
    """Return whether a process has the lock that goes with writing a log."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False
