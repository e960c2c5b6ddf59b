"""Databases opened to be read, by those who may do no more. What is read is the business of others."""

import re
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy

from search.sqlite_files import reader_of
from search.study.server_schema import connect_alone

_TAKES_WRITES = "SELECT NOT pg_catalog.pg_is_in_recovery() AND pg_catalog.has_table_privilege('trials', 'INSERT')"


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite database; None for others, and for what is no plain path."""
    file = re.match(r"sqlite(?:\+\w+)?:///(?!file:)([^?]+)", url)
    return Path(file[1]) if file else None


def sqlite_reader(url: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return SQLAlchemy's options for an engine through which no SQLite file can be written, given those for others.

    May raise OSError and sqlite3.Error.
    """
    if (file := sqlite_file(url)) is None or not re.match(r"sqlite(\+pysqlite)?:", url):
        return {}
    return {"creator": reader_of(file.absolute(), options["connect_args"]["timeout"])}


def server_takes_writes(url: str, options: dict[str, Any]) -> bool:
    """Return whether a server lets this user write trials; True where that is not known."""
    try:
        engine = sqlalchemy.create_engine(url, **options)
        # Before anything is known of the database: see `connect_alone`.
        with closing(connect_alone(engine, options.get("connect_args", {}))) as connection:
            cursor = connection.cursor()
            cursor.execute(_TAKES_WRITES)
            return bool(cursor.fetchone()[0])
    except Exception:  # a driver may raise anything; told when it is opened
        return True
