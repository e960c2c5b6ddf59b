"""Impostors in a database: objects in the place of Optuna's tables, or ones that act as these are read and written.

Knows names of Optuna's tables, and nothing of what is in them.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy
from optuna.storages._rdb import models

from search.study.server_schema import find_postgresql_impostors

OWN_TABLES = frozenset(models.BaseModel.metadata.tables)
"""Names of Optuna's tables."""

_GUARDED = OWN_TABLES | {"alembic_version"}
_BYTES_OF_A_TRIAL = 100
_NEVER_TOO_MANY_TRIALS = 5_000
_COLUMNS = [column for table in models.BaseModel.metadata.tables.values() for column in table.columns]
_NAMES = {
    "tables": _GUARDED,
    "columns": {column.name for column in _COLUMNS},
    "types": {str(column.type.name) for column in _COLUMNS if isinstance(column.type, sqlalchemy.Enum)},
}
"""Names that Optuna's statements use on a server that has types of their own."""

_TRIGGERS_AND_VIRTUAL_TABLES = """
    SELECT CASE type WHEN 'table' THEN 'virtual table' ELSE type END, name, tbl_name FROM sqlite_master
    WHERE type = 'trigger' OR type = 'table' AND sql LIKE 'CREATE VIRTUAL%'
"""
_COMPUTED = """
    SELECT 'computed column', xinfo.name, master.name
    FROM sqlite_master AS master, pragma_table_xinfo(master.name) AS xinfo
    WHERE master.type = 'table' AND xinfo.hidden
"""
_DEFAULTS = """
    SELECT 'default of the column', xinfo.name, master.name, xinfo.dflt_value
    FROM sqlite_master AS master, pragma_table_xinfo(master.name) AS xinfo
    WHERE master.type = 'table' AND xinfo.dflt_value IS NOT NULL
"""
_STATEMENTS = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE type IN ('table', 'index') AND sql IS NOT NULL"
_LITERAL = re.compile(r"'[^']*'|\"[^\"]*\"|[+-]?[\d.]+|NULL", re.IGNORECASE)
_OPTUNAS_CHECK = re.compile(r"CHECK\s*\(\s*(version_info_id\s*=\s*1|\w+ IN \('\w+'(, '\w+')*\))\s*\)", re.IGNORECASE)
_CHECK = re.compile(r"\bCHECK\b", re.IGNORECASE)
_COLUMN = r"""(\w+|"\w+"|`\w+`|\[\w+\])"""
_PLAIN_INDEX = re.compile(
    rf"CREATE\s+(UNIQUE\s+)?INDEX\s+\S+\s+ON\s+{_COLUMN}\s*\(\s*{_COLUMN}(\s*,\s*{_COLUMN})*\s*\)", re.IGNORECASE
)


def find_impostors(engine: sqlalchemy.Engine, arguments: Mapping[str, Any]) -> list[str]:
    """Return what makes tables of Optuna other than they seem, in words.

    A view may go on for ever, a trigger changes what is written, a computed column is as large as its maker likes.
    On a server of MySQL's kind views alone are looked for. `arguments` are those with which the engine connects.
    """
    match engine.dialect.name:
        case "sqlite":
            found = [*_views(engine), *_sqlite_impostors(engine)]
        case "postgresql":
            found = find_postgresql_impostors(engine, arguments, _NAMES)
        case _:
            found = [*_views(engine)]
    return [f"the {kind} {name}" for kind, name in found]


def count_studies(engine: sqlalchemy.Engine) -> int:
    """Return the number of studies in a database that has Optuna's tables, those of other programs included."""
    return _number(engine, "SELECT count(*) FROM studies")


def count_trials(engine: sqlalchemy.Engine) -> int:
    """Return the number of trials in a database that has Optuna's tables, those of other programs included."""
    return _number(engine, "SELECT count(*) FROM trials")


def most_trials(engine: sqlalchemy.Engine) -> int:
    """Return how many trials there can be in an SQLite database of this size.

    The smallest that Optuna writes, of one value and no parameters, takes more than `_BYTES_OF_A_TRIAL`.
    """
    size = _number(engine, "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")
    return max(_NEVER_TOO_MANY_TRIALS, size // _BYTES_OF_A_TRIAL)


def _number(engine: sqlalchemy.Engine, query: str) -> int:
    with engine.connect() as connection:
        return int(connection.exec_driver_sql(query).scalar() or 0)


def _views(engine: sqlalchemy.Engine) -> Iterator[tuple[str, str]]:
    for view in sqlalchemy.inspect(engine).get_view_names():
        if view.lower() in _GUARDED:
            yield "view", view


def _sqlite_impostors(engine: sqlalchemy.Engine) -> Iterator[tuple[str, str]]:
    with engine.connect() as connection:
        # What is computed in a virtual table is not asked for: the first find ends it.
        for query in (_TRIGGERS_AND_VIRTUAL_TABLES, _COMPUTED):
            found = [
                (kind, name)
                for kind, name, table in connection.exec_driver_sql(query)
                if str(table).lower() in _GUARDED
            ]
            yield from found
            if found:
                return
        for kind, name, table, default in connection.exec_driver_sql(_DEFAULTS):
            if str(table).lower() in _GUARDED and not _LITERAL.fullmatch(str(default)):
                yield kind, name
        for kind, name, table, statement in connection.exec_driver_sql(_STATEMENTS):
            if str(table).lower() not in _GUARDED:
                continue
            if kind == "index" and not _PLAIN_INDEX.fullmatch(str(statement).strip()):
                yield "index", name
            if kind == "table" and _CHECK.search(_OPTUNAS_CHECK.sub("", str(statement))):
                yield "check constraint of", name
