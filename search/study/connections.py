"""Connections to databases: which settings each transaction runs with, and which errors Optuna gets to see.

No setting is left to the server that the code relies on. They are made anew for each transaction, and none is a
parameter of the connection's start: PgBouncer takes few of those, and in transaction mode the next transaction may run
on another connection. How long an error is waited for is the business of `sqlstates.py`.
"""

import re
from typing import Any

import sqlalchemy
from sqlalchemy.dialects import plugins
from sqlalchemy.engine import URL, Connection, CreateEnginePlugin, Engine, ExceptionContext
from sqlalchemy.exc import ArgumentError

from search.errors import StorageError, StorageUnavailableError
from search.printable import is_secret, mask_password, secret_values
from search.study.sqlstates import below_optunas, has_code, is_left_to_optuna, outage_of, sqlstate_of

_LOCK_SECONDS = 20
_IDLE_SECONDS = 10
_STATEMENT_SECONDS = 300
_SQLITE_BUSY_SECONDS = 60  # optuna-dashboard may be reading
_RECYCLE_SECONDS = 1800
_CONNECT_SECONDS = 10
_KEEP_ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}
"""So that a connection to a server that has vanished is given up soon: libpq's own limit is two hours."""

SETTINGS = {
    # A runner that was stopped in the middle of a transaction must not hold up the others: the server ends it.
    "lock_timeout": f"'{_LOCK_SECONDS}s'",
    "idle_in_transaction_session_timeout": f"'{_IDLE_SECONDS}s'",
    "statement_timeout": f"'{_STATEMENT_SECONDS}s'",
    # Less gives other losses than were written.
    "extra_float_digits": "'1'",
    # What was committed counts: a crash of the server must not take it back. What is stricter is left as it is.
    "synchronous_commit": (
        "CASE WHEN pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.=) 'off' THEN 'on' "
        "ELSE pg_catalog.current_setting('synchronous_commit') END"
    ),
}
"""PostgreSQL's settings that the code relies on, as SQL expressions, for the length of each transaction."""
_SET_ALL = "SELECT " + ", ".join(f"pg_catalog.set_config('{name}', {value}, true)" for name, value in SETTINGS.items())
_TRANSACTION_TIMEOUT = ", pg_catalog.set_config('transaction_timeout', '0', true)"
_HAS_TRANSACTION_TIMEOUT = (17,)

_PLUGIN = "regsearch"


class _Settled(CreateEnginePlugin):
    """Has every engine that is made with `engine_options` use our settings and our errors, from its first statement."""

    def update_url(self, url: URL) -> URL:
        """Return the URL as it is."""
        return url

    def engine_created(self, engine: Engine) -> None:
        """Listen to all that happens on the engine."""
        sqlalchemy.event.listen(engine, "handle_error", _translate)
        if engine.dialect.name == "postgresql":
            sqlalchemy.event.listen(engine, "begin", _set)


plugins.register(_PLUGIN, __name__, _Settled.__name__)


def engine_options(url: str, database: str, to_read: bool = False) -> dict[str, Any]:
    """Return SQLAlchemy's options for an engine of a kind of database."""
    if database == "sqlite":
        return {"plugins": [_PLUGIN], "connect_args": {"timeout": _SQLITE_BUSY_SECONDS}}
    # A server closes idle connections, and trials may take hours.
    options: dict[str, Any] = {"plugins": [_PLUGIN], "pool_pre_ping": True, "pool_recycle": _RECYCLE_SECONDS}
    if database != "postgresql":
        return options
    # A server has few connections: one that two threads need at once is given back after that.
    options["pool_size"] = 1
    # What has been committed is to be seen at once by those who wait for a lock.
    options["isolation_level"] = "READ COMMITTED"
    options["connect_args"] = {"connect_timeout": _CONNECT_SECONDS, "client_encoding": "utf8", **_KEEP_ALIVE}
    if re.match(r"postgresql(\+psycopg)?:", url):
        # A prepared statement lives on one connection to the server, which PgBouncer gives to the next transaction.
        options["connect_args"]["prepare_threshold"] = None
    if to_read:
        options["execution_options"] = {"postgresql_readonly": True}
    return options


def driver_message(error: BaseException, url: str) -> str:
    """Return the driver's own words (not SQLAlchemy's around them) on one line, without the password."""
    error = below_optunas(error)
    message = str(getattr(error, "orig", None) or error) or type(error).__name__
    for password in _passwords(url):
        message = message.replace(password, "***")
    return mask_password(" ".join(message.split()))


def _set(connection: Connection) -> None:
    newer = (connection.dialect.server_version_info or ()) >= _HAS_TRANSACTION_TIMEOUT
    connection.exec_driver_sql(_SET_ALL + _TRANSACTION_TIMEOUT * newer)


def _translate(context: ExceptionContext) -> Exception | None:
    """Return the error of ours that a driver's means; None leaves it as it is.

    Optuna tries some calls again by itself, in a transaction that is over, and then reports that instead: it has to
    see an error that it does not know.
    """
    error = context.sqlalchemy_exception
    if error is None or context.is_pre_ping or is_left_to_optuna(error):
        return None
    if not (context.is_disconnect or context.connection is None or has_code(error)):
        return None
    engine = context.engine
    text = driver_message(error, engine.url.render_as_string(hide_password=False) if engine is not None else "")
    translated = database_error(text, error)
    translated.is_raw = True
    if isinstance(translated, StorageUnavailableError) and context.connection is not None and context.is_disconnect:
        translated.passes = True  # the server was there
    return translated


def database_error(text: str, error: BaseException) -> StorageError:
    """Return the error of ours that another one means, in these words."""
    outage = outage_of(error)
    if outage is None:
        ending = StorageError(text)
        ending.sqlstate = sqlstate_of(error)
        return ending
    unavailable = StorageUnavailableError(text)
    unavailable.sqlstate, unavailable.outage = sqlstate_of(error), outage
    unavailable.passes = error.passes if isinstance(error, StorageUnavailableError) else outage.passes
    return unavailable


def _passwords(url: str) -> set[str]:
    """Return the URL's passwords, as written and as decoded."""
    found = re.search(r"://[^:/?#@]*:(.*)@", url)
    passwords = {found[1]} if found else set()
    try:
        parsed = sqlalchemy.make_url(url)
    except (ArgumentError, ValueError):
        return passwords - {""}
    query = {str(value) for key, value in parsed.query.items() if is_secret(key)}
    assigned = {secret for value in parsed.query.values() for secret in secret_values(str(value))}
    return (passwords | query | assigned | {parsed.password or ""}) - {""}
