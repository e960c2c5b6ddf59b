"""SQLite databases opened by a reader who may not write: to the file, to its folder, or to a whole file system.

SQLite reads such a file as long as nothing has to be mended or made beside it. A transaction that a killed writer left
half done, or a write-ahead log, needs that: then a copy in a temporary folder is read. Knows no tables.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

_BESIDE = ("-journal", "-wal")
"""Suffixes of the files in which SQLite keeps what is not in the database yet, or not for good."""
_NEEDS_WRITING = ("SQLITE_READONLY", "SQLITE_CANTOPEN")
_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []
"""Of copies; they go away with this process."""


def reader_of(path: Path, busy_seconds: float) -> Callable[[], sqlite3.Connection]:
    """Return what connects to a database, or to a copy of it, to read; the file stays as it is.

    A connection may be used by several threads, one after the other. Raises OSError, sqlite3.Error.
    """

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(_address(path), uri=True, timeout=busy_seconds, check_same_thread=False)

    try:
        with closing(connect()) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        if not error.sqlite_errorname.startswith(_NEEDS_WRITING) or not path.exists():
            raise
        _FOLDERS.append(tempfile.TemporaryDirectory(prefix="regsearch-"))
        path = _copy_files(path, Path(_FOLDERS[-1].name))
        with closing(sqlite3.connect(path)) as connection:  # what a killed writer left is rolled back
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return connect


def copy_database(path: Path, copy: Path) -> None:
    """Copy a database as it is at one moment, though others may write to it. Raises OSError, sqlite3.Error."""
    with closing(reader_of(path, busy_seconds=60.0)()) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


def _address(path: Path) -> str:
    return f"file:{quote(str(path))}?mode=ro"


def _copy_files(path: Path, folder: Path) -> Path:
    shutil.copyfile(path, folder / path.name)
    for suffix in _BESIDE:
        with suppress(FileNotFoundError):
            shutil.copyfile(f"{path}{suffix}", folder / f"{path.name}{suffix}")
    return folder / path.name
