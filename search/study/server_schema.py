"""Code of others in the schema of a PostgreSQL database: objects that run it, or change values, when tables are used.

A trigger, a default or an operator runs with the rights of the role that uses the table. So the catalog is read over a
connection on which nothing else has run: SQLAlchemy's own first statements would already call what the database's
search path puts in the place of built-in functions.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import sqlalchemy
from sqlalchemy.exc import DBAPIError

FUNCTIONS = (
    "count", "sum", "min", "max", "avg", "lower", "upper", "version", "current_schema", "to_regtype",
    "pg_advisory_xact_lock", "pg_is_in_recovery", "has_table_privilege",
)  # fmt: skip
"""Functions that statements name without their schema: Optuna's, SQLAlchemy's, the driver's and ours."""

_SEARCH_PATH = "SELECT pg_catalog.current_schemas(true)::pg_catalog.text[]"
_TAKE_NO_PART = (
    "SET LOCAL search_path = pg_catalog, pg_temp",
    "SET LOCAL lock_timeout = '20s'",
    "SET LOCAL statement_timeout = '60s'",
)
_FIND = r"""
WITH own AS (
    SELECT c.oid, c.relname, c.relkind, c.relrowsecurity, c.reltype FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY(%(schemas)s) AND c.relname = ANY(%(tables)s)
), columns AS (
    SELECT own.relname, a.attrelid, a.attnum, a.attname, a.attgenerated, a.atttypid FROM pg_attribute AS a
    JOIN own ON own.oid = a.attrelid WHERE a.attnum > 0 AND NOT a.attisdropped AND own.relkind = 'r'
), known AS (  -- types that are built in, and Optuna's own
    SELECT oid FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace
    UNION SELECT atttypid FROM columns UNION SELECT reltype FROM own UNION SELECT 0
), written AS (  -- only a superuser makes functions of the other languages; an aggregate calls functions of any
    SELECT p.* FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
    WHERE p.pronamespace <> 'pg_catalog'::regnamespace AND (l.lanname NOT IN ('c', 'internal') OR p.prokind IN ('a', 'w'))
), added AS (
    SELECT oid FROM pg_namespace WHERE nspname = ANY(%(schemas)s) AND nspname <> 'pg_catalog'
)
SELECT CASE relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table'
    WHEN 'p' THEN 'partitioned table' ELSE 'relation of another kind' END, relname FROM own WHERE relkind <> 'r'
UNION ALL
SELECT 'trigger', tgname FROM pg_trigger JOIN own ON own.oid = tgrelid WHERE NOT tgisinternal
UNION ALL
SELECT 'rule', rulename FROM pg_rewrite JOIN own ON own.oid = ev_class WHERE relkind = 'r'
UNION ALL
SELECT 'row security of', relname FROM own WHERE relrowsecurity
UNION ALL
SELECT 'computed column', attname FROM columns WHERE attgenerated <> ''
UNION ALL
SELECT 'default of the column', attname FROM (
    SELECT c.*, pg_get_expr(d.adbin, d.adrelid) AS text FROM columns AS c
    JOIN pg_attrdef AS d ON d.adrelid = c.attrelid AND d.adnum = c.attnum WHERE c.attgenerated = ''
    ) AS defaults  -- with this search path, names without a schema are built in
    WHERE text !~ '^(nextval\(''([^'']|'''')*''::regclass\)|''([^'']|'''')*''::[a-z ]+|-?[\d.]+|NULL(::[a-z ]+)?)$'
        AND NOT (text ~ '^''' AND regexp_replace(text, '^''([^'']|'''')*''::', '') = format_type(atttypid, NULL))
UNION ALL
SELECT 'type of the column', c.attname FROM columns AS c JOIN pg_type AS t ON t.oid = c.atttypid
    WHERE NOT (t.typtype = 'e' OR t.typtype = 'b' AND t.typnamespace = 'pg_catalog'::regnamespace)
UNION ALL
SELECT 'type', typname FROM pg_type WHERE typname = ANY(%(types)s) AND typtype <> 'e' AND typnamespace IN (TABLE added)
UNION ALL
SELECT 'constraint', conname FROM pg_constraint AS c JOIN own ON own.oid = c.conrelid
    WHERE contype IN ('c', 'x') AND pg_get_constraintdef(c.oid) <> 'CHECK ((version_info_id = 1))'
UNION ALL
SELECT 'index', i.relname FROM pg_index JOIN own ON own.oid = indrelid JOIN pg_class AS i ON i.oid = indexrelid
    WHERE indexprs IS NOT NULL OR indpred IS NOT NULL
UNION ALL
SELECT 'inheritance of', relname FROM own WHERE EXISTS (SELECT FROM pg_inherits WHERE oid IN (inhrelid, inhparent))
UNION ALL
SELECT 'cast by the function', w.proname FROM pg_cast JOIN written AS w ON w.oid = castfunc
    WHERE castsource IN (TABLE known) AND casttarget IN (TABLE known)
UNION ALL
SELECT 'function', proname FROM written  -- SQL takes trials.number for number(trials) where there is no such column
    WHERE proname = ANY(%(columns)s) AND pronamespace IN (TABLE added) AND pronargs = 1 AND proargtypes[0] IN (
        SELECT reltype FROM own UNION SELECT oid FROM pg_type WHERE typtype = 'p')
UNION ALL
SELECT 'function', proname FROM written
    WHERE proname = ANY(%(functions)s) AND pronamespace IN (TABLE added) AND NOT EXISTS (
        SELECT FROM unnest(proargtypes) AS argument (type) WHERE type NOT IN (TABLE known))
UNION ALL
SELECT 'operator', oprname FROM pg_operator AS o JOIN pg_proc AS p ON p.oid = o.oprcode
    JOIN pg_language AS l ON l.oid = p.prolang
    WHERE oprnamespace IN (TABLE added) AND oprleft IN (TABLE known) AND oprright IN (TABLE known)
        AND (l.lanname <> 'c' OR p.pronamespace = 'pg_catalog'::regnamespace)
        AND oprname IN (SELECT oprname FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace)
"""  # noqa: E501


def find_postgresql_impostors(
    engine: sqlalchemy.Engine, arguments: Mapping[str, Any], names: Mapping[str, Iterable[str]]
) -> list[tuple[str, str]]:
    """Return objects by which a database runs code of others, or does more than keep values, as kind and name.

    `arguments` are those with which the engine connects beside its URL's. `names` are those that statements use of
    `tables`, their `columns` and `types`. Looks in all schemas of the role's search path. Raises SQLAlchemy's errors.
    """
    with _as_errors_of_sqlalchemy(engine), closing(connect_alone(engine, arguments)) as connection:
        cursor = connection.cursor()
        cursor.execute(_SEARCH_PATH)
        schemas = [name for name in cursor.fetchone()[0] if not name.startswith("pg_temp_")]
        if schemas[0] != "pg_catalog":
            return [("search path", ", ".join(schemas))]
        for statement in _TAKE_NO_PART:
            cursor.execute(statement)
        given = {"schemas": schemas, "functions": [*FUNCTIONS], **{kind: [*found] for kind, found in names.items()}}
        cursor.execute(_FIND, given)
        return [(str(kind), str(name)) for kind, name in cursor.fetchall()]


@contextmanager
def _as_errors_of_sqlalchemy(engine: sqlalchemy.Engine) -> Iterator[None]:
    """Raise a driver's errors as those that outages are known by."""
    base = engine.dialect.loaded_dbapi.Error
    try:
        yield
    except base as error:
        raise DBAPIError.instance(None, None, error, base, dialect=engine.dialect) from error


def connect_alone(engine: sqlalchemy.Engine, arguments: Mapping[str, Any]) -> Any:
    """Return a driver's connection on which SQLAlchemy has executed nothing.

    Statements on it name built-in functions with their schema, and use no operators before the search path is set.
    """
    positional, keywords = engine.dialect.create_connect_args(engine.url)
    return engine.dialect.connect(*positional, **{**keywords, **arguments})
