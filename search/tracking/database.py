"""The SQLite file of MLflow: made whole or not at all, recognized where it is half-made, and corrected after a move.

MLflow makes its tables by dozens of migrations, in place and without a lock. A kill between two of them, or a second
process that does the same, leaves a file that MLflow can neither open nor mend.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from search.tracking.location import database_file
from search.tracking.relocation import BUSY_SECONDS, correct_locations

_LOCK_SECONDS = 120.0
_SETTLED_SECONDS = 5.0
"""A file that has not changed for so long is being made by nobody."""
_POLL_SECONDS = 0.2
_TEMPORARY = "_alembic_tmp_"
_CONTENTS = ("runs", "registered_models", "logged_models", "trace_info")


@contextmanager
def opened(uri: str, root: Path | None) -> Iterator[str | None]:
    """Keep other processes out while the block opens MLflow at `uri`. A server is left alone.

    Before that, the file is made if need be, and artifact locations are corrected to `root`, the folder beside it.
    Yields a line for the user where a half-made file was replaced. Raises OSError, sqlite3.Error and what MLflow does.
    """
    file = database_file(uri)
    if file is None:
        yield None
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with _alone(file.with_name(f"{file.name}.lock")):
        notice = _make_whole(file, uri, root)
        if root is not None and root.is_relative_to(file.parent):
            _correct(file, root)
        yield notice


def _correct(file: Path, root: Path) -> None:
    try:
        correct_locations(file, root)
    except sqlite3.DatabaseError as error:
        # Of what is not MLflow's, MLflow says so. Whatever else fails must not lead to writing elsewhere.
        if error.sqlite_errorname not in ("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_ERROR"):
            raise


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    lock = FileLock(path)  # with the mode that the umask allows: an explicit one would be set whatever that is
    try:
        lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout:
        raise TimeoutError(f"another process has kept {path} locked for {_LOCK_SECONDS:.0f} s") from None
    try:
        yield
    finally:
        lock.release()


def _make_whole(file: Path, uri: str, root: Path | None) -> str | None:
    """Make the file where it is missing or half-made; return a line for the user in the second case."""
    half_made = None
    if file.exists() and file.stat().st_size:
        half_made = _half_made(file)
        if half_made is None:
            return None
    _make(file, uri, root, half_made)
    return None if half_made is None else half_made.notice(file)


@dataclass(frozen=True)
class _HalfMade:
    """A file whose making was cut off."""

    aside: Path | None
    """Where it is kept; None where it holds nothing that could be lost."""

    def notice(self, file: Path) -> str:
        kept = "" if self.aside is None else f"; the old one, which holds runs, is kept as {self.aside.name}"
        return (
            f"{file} was half-made, since its making was cut off, and is made anew{kept}. "
            "`sync` writes each other study of this home to it"
        )


def _half_made(file: Path) -> _HalfMade | None:
    """Return what is to become of a half-made file; None for every other one, also one that MLflow refuses."""
    while True:
        changed = file.stat().st_mtime  # before it is read: it may be replaced at any moment
        content = _Content.read(file)
        if content is None or not content.is_half_made:
            return None
        if time.time() - changed > _SETTLED_SECONDS:
            moment = f"{datetime.now():%Y%m%dT%H%M%S.%f}"
            return _HalfMade(file.with_name(f"{file.name}.half-made-{moment}") if content.is_valuable else None)
        time.sleep(_POLL_SECONDS)  # MLflow's own commands, and earlier versions, make it in place


def _make(file: Path, uri: str, root: Path | None, half_made: _HalfMade | None) -> None:
    """Make the file under another name, and put it in its place. What a killed process has left is removed."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    part = file.with_name(f"{file.name}.part")
    _remove(part)
    base, mark, query = uri.partition("?")
    # Also puts MLflow's own experiment beside the file; by default that is in the working directory.
    store = SqlAlchemyStore(f"{base}.part{mark}{query}", (root or file.parent / "mlruns").as_uri())  # type: ignore[no-untyped-call]
    store._dispose_engine()  # type: ignore[no-untyped-call]
    if half_made is not None and half_made.aside is not None:
        os.replace(file, half_made.aside)
    # A journal that outlives its database would be applied to the new one.
    _remove(file)
    os.replace(part, file)


def _remove(file: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Content:
    """Content of a database, as far as it tells whether MLflow has finished making it."""

    tables: frozenset[str]
    revision: str | None
    """Of the schema."""
    is_used: bool
    """Whether there is anything beside what MLflow begins with."""

    @classmethod
    def read(cls, file: Path) -> _Content | None:
        """Return None for what is not an SQLite database. Finishes or undoes what a killed process has begun."""
        try:
            with closing(sqlite3.connect(file, timeout=BUSY_SECONDS)) as connection:
                names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
                tables = frozenset(name for (name,) in names)
                found = "SELECT version_num FROM alembic_version" if "alembic_version" in tables else "SELECT NULL"
                revision = connection.execute(found).fetchone()
                used = [f"SELECT 1 FROM {table}" for table in _CONTENTS if table in tables]
                used += ["SELECT 1 FROM experiments WHERE experiment_id != 0"] if "experiments" in tables else []
                is_used = any(connection.execute(f"{query} LIMIT 1").fetchone() for query in used)
        except sqlite3.DatabaseError:
            return None
        return cls(tables, revision[0] if revision else None, is_used)

    @property
    def is_half_made(self) -> bool:
        """Whether its making, or a change of its schema, was cut off."""
        head, known, ours = _schema()
        if not self.tables:
            return True
        is_foreign = not self.tables & ours
        is_whole = self.revision == head and ours <= self.tables
        is_newer = self.revision is not None and self.revision not in known
        if is_foreign or is_whole or is_newer:
            return False
        return self.revision is None or not self.is_used or any(name.startswith(_TEMPORARY) for name in self.tables)

    @property
    def is_valuable(self) -> bool:
        """Whether anything could be lost with it."""
        _, _, ours = _schema()
        strange = {name for name in self.tables - ours if not name.startswith((_TEMPORARY, "alembic_", "sqlite_"))}
        return self.is_used or bool(strange)


def _schema() -> tuple[str | None, set[str], set[str]]:
    """Return MLflow's present schema revision, all revisions, and the names of its tables."""
    import mlflow.store.db_migrations
    import mlflow.store.tracking.sqlalchemy_store
    from alembic.script import ScriptDirectory
    from mlflow.store.db.base_sql_model import Base

    scripts = ScriptDirectory(str(Path(mlflow.store.db_migrations.__path__[0])))
    return scripts.get_current_head(), {each.revision for each in scripts.walk_revisions()}, set(Base.metadata.tables)
