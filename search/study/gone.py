"""Studies and storages that somebody deletes while they are in use: an error at once, since waiting is no help.

A file that is away because its file system is not mounted may come back, and is an outage: see `patience.py`.
"""

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from search.errors import StorageError, StudyGoneError
from search.study.reading import MISREAD
from search.study.sqlstates import sqlstate_of

_NO_DATABASE = ("3D000", "57P04")
"""SQLSTATEs of invalid_catalog_name and database_dropped."""
_IDENTITY = "SELECT value_json FROM study_user_attributes WHERE study_id = {} AND key = 'fact_identity'"
_WAY_OUT = "all that was not copied elsewhere is lost, and the same `regsearch start` begins anew"


class WatchedFile:
    """A storage's file, as it was when it was opened."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._path = path
        found = os.stat(path)
        self._identity = found.st_dev, found.st_ino
        # As long as it is open, no other file gets its number. Such a descriptor reads nothing, and its closing takes
        # away no locks of SQLite's.
        if hasattr(os, "O_PATH"):
            weakref.finalize(self, os.close, os.open(path, os.O_PATH | os.O_CLOEXEC))

    def check(self) -> None:
        """Raise StudyGoneError where the file has been deleted, or another one stands in its place."""
        try:
            found = os.stat(self._path)
        except OSError:
            if self.is_deleted():
                raise StudyGoneError(f"{self._path} has been deleted while it was in use: {_WAY_OUT}") from None
            return
        self.check_opened(found)

    def check_opened(self, found: os.stat_result) -> None:
        """Raise StudyGoneError where this is another file than the one that was there first."""
        if (found.st_dev, found.st_ino) != self._identity and found.st_dev == self._identity[0]:
            raise StudyGoneError(
                f"{self._path} has been deleted while it was in use, and another file has its name now, which is left "
                "as it is: run the same command again to go on with that one"
            )

    def is_deleted(self) -> bool:
        """Return whether the file is not there, though its file system is."""
        if self._path.exists():
            return False
        there = next(folder for folder in self._path.absolute().parents if folder.exists())
        return os.stat(there).st_dev == self._identity[0]


def watch_file(engine: sqlalchemy.Engine, path: Path) -> None:
    """Have each use of an SQLite database look whether its file is still there: what is deleted can be written to."""
    file = WatchedFile(path)

    def look(*_connection: Any) -> None:
        file.check()

    for event in ("do_connect", "checkout"):
        sqlalchemy.event.listen(engine, event, look)


def is_dropped(error: BaseException) -> bool:
    """Return whether a server says that it has no such database."""
    return sqlstate_of(error) in _NO_DATABASE


class Existence:
    """One study, as it was when it was opened."""

    def __init__(self, storage: BaseStorage, study_id: int, name: str) -> None:
        self._storage, self._study_id, self._name = storage, study_id, name
        self._identity: str | None = None
        self._identity_query = _IDENTITY.format(int(study_id))
        self._in_doubt, self._watched = True, False
        """Whether a server's database may be another one by now, since it has failed or was connected to anew."""

    def check(self) -> None:
        """Raise StudyGoneError where the study is not there, of storages that do not say so by themselves.

        A journal takes what is written to a study that was deleted; SQLite gives its number to the next one, and so
        does a database that was put in the place of another one while its server was away.
        """
        if isinstance(self._storage, JournalStorage):
            self._storage.get_study_name_from_id(self._study_id)
        elif isinstance(self._storage, RDBStorage):
            engine = self._storage.engine
            if engine.dialect.name == "sqlite":
                self._look(engine)
            elif self._in_doubt:
                self._look(engine)
                self._watch_connections(engine)

    @contextmanager
    def required(self) -> Iterator[None]:
        """Raise StudyGoneError where something fails inside since the study is not there any more."""
        try:
            yield
        except StudyGoneError:
            raise
        except (StorageInternalError, SQLAlchemyError, StorageError, *MISREAD) as error:
            if is_dropped(error):
                raise StudyGoneError(f"the database has been deleted while it was in use: {_WAY_OUT}") from None
            if self._is_missing():
                raise self._gone() from None
            raise

    @contextmanager
    def used(self) -> Iterator[None]:
        """Have the study looked for again after whatever fails inside."""
        try:
            yield
        except BaseException:
            self._in_doubt = True
            raise

    def _look(self, engine: sqlalchemy.Engine) -> None:
        with engine.connect() as connection:
            self._compare(connection.execute(sqlalchemy.text(self._identity_query)).scalar())

    def _compare(self, found: str | None) -> None:
        if self._identity not in (None, found):
            raise self._gone()
        self._identity = found

    def _watch_connections(self, engine: sqlalchemy.Engine) -> None:
        """Have each new connection to a server looked at before it is used, once the study can be recognized."""
        if self._identity is None:
            return
        self._in_doubt = False
        if not self._watched:
            self._watched = True
            # The engine outlives a study that is closed.
            this = weakref.ref(self)
            sqlalchemy.event.listen(engine, "connect", lambda connection, _: _look_at(this(), connection))

    def look_at(self, connection: Any) -> None:
        """Raise StudyGoneError where a driver's new connection leads to a database without the study."""
        try:
            cursor = connection.cursor()
            cursor.execute(self._identity_query)
            found = cursor.fetchone()
            cursor.close()
            connection.rollback()
            self._compare(found[0] if found else None)
        except BaseException:
            connection.close()
            raise

    def _is_missing(self) -> bool:
        try:
            there = [(study._study_id, study.study_name) for study in self._storage.get_all_studies()]
        except (StorageInternalError, SQLAlchemyError, StorageError, *MISREAD):
            return False  # as far as is known
        return (self._study_id, self._name) not in there

    def _gone(self) -> StudyGoneError:
        return StudyGoneError(f'study "{self._name}" has been deleted while it was in use: {_WAY_OUT}')


def _look_at(existence: Existence | None, connection: Any) -> None:
    if existence is not None:
        existence.look_at(connection)
