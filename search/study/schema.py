"""Whether a database's tables are tables: what others put in their place, or have done as they are read and written.

Knows names of Optuna's tables, and nothing of what is in them.
"""

from collections.abc import Iterator

import sqlalchemy
from optuna.storages._rdb import models

OWN_TABLES = frozenset(models.BaseModel.metadata.tables)
"""Names of Optuna's tables."""

_TRIGGERS_AND_VIRTUAL_TABLES = """
    SELECT CASE type WHEN 'table' THEN 'virtual table' ELSE type END, name, tbl_name FROM sqlite_master
    WHERE type = 'trigger' OR type = 'table' AND sql LIKE 'CREATE VIRTUAL%'
"""
_COMPUTED = """
    SELECT 'computed column', xinfo.name, master.name
    FROM sqlite_master AS master, pragma_table_xinfo(master.name) AS xinfo
    WHERE master.type = 'table' AND xinfo.hidden
"""


def find_impostors(engine: sqlalchemy.Engine) -> list[str]:
    """Return what makes tables of Optuna other than they seem, in words; on a server views alone are looked for.

    A view may go on for ever, a trigger changes what is written, a computed column is as large as its maker likes.
    """
    return [f"the {kind} {name}" for kind, name in _impostors(engine)]


def _impostors(engine: sqlalchemy.Engine) -> Iterator[tuple[str, str]]:
    for view in sqlalchemy.inspect(engine).get_view_names():
        if view.lower() in OWN_TABLES:
            yield "view", view
    if engine.dialect.name != "sqlite":
        return
    with engine.connect() as connection:
        # What is computed in a virtual table is not asked for: the first find ends it.
        for query in (_TRIGGERS_AND_VIRTUAL_TABLES, _COMPUTED):
            found = [
                (kind, name)
                for kind, name, table in connection.exec_driver_sql(query)
                if str(table).lower() in OWN_TABLES
            ]
            yield from found
            if found:
                return
