"""One table of database errors by code: which are waited for and how long, which are retried at once, and which end.

The codes of PostgreSQL are the SQLSTATEs of https://www.postgresql.org/docs/current/errcodes-appendix.html, with the
names that stand there; a class (two characters) is the default of its codes. Knows exceptions of drivers, SQLAlchemy
and Optuna, and nothing of what was asked for.
"""

import re
from dataclasses import dataclass
from math import inf

import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, PendingRollbackError

from search.errors import StorageError, StorageUnavailableError


@dataclass(frozen=True)
class Outage:
    """How an error is answered that is none of the statement's own: it is tried again."""

    seconds: float
    """For how long at most, within what the user allows (`--outage`)."""
    longest_pause: float
    """Seconds between two tries, at most."""
    passes: bool
    """Whether a start waits for it, too: the server itself says that it is busy, and not that it was never right."""


WAIT = Outage(inf, 10.0, True)
"""Something is away, full or read-only that usually comes back."""
AWAY = Outage(inf, 10.0, False)
"""The same, where a start takes it for a wrong address."""
BRIEFLY = Outage(60.0, 5.0, False)
"""An administrator may be in the middle of mending, restoring or switching over; after a minute it is an error."""
OVERTAKEN = Outage(60.0, 1.0, True)
"""Another process has written the same at the same moment: the next try finds what that one wrote."""
RETRY = Outage(inf, 1.0, True)
"""The transaction was in the way of another one, or took too long: it is begun anew at once."""

SQLSTATES: dict[str, tuple[str, Outage | None]] = {
    "08": ("connection_exception", AWAY),
    "0A000": ("feature_not_supported", BRIEFLY),  # such as a cached plan that must not change its result type
    "23505": ("unique_violation", OVERTAKEN),
    "25006": ("read_only_sql_transaction", WAIT),
    "25P02": ("in_failed_sql_transaction", RETRY),
    "25P03": ("idle_in_transaction_session_timeout", RETRY),
    "25P04": ("transaction_timeout", RETRY),
    "26000": ("invalid_sql_statement_name", BRIEFLY),
    "28": ("invalid_authorization_specification", AWAY),
    "3D000": ("invalid_catalog_name", None),  # the database has been deleted, see `gone.py`
    "3F000": ("invalid_schema_name", BRIEFLY),
    "40": ("transaction_rollback", RETRY),
    "40001": ("serialization_failure", RETRY),
    "40P01": ("deadlock_detected", RETRY),
    "42501": ("insufficient_privilege", BRIEFLY),
    "42P01": ("undefined_table", BRIEFLY),
    "53": ("insufficient_resources", WAIT),
    "53100": ("disk_full", WAIT),
    "53200": ("out_of_memory", WAIT),
    "53300": ("too_many_connections", WAIT),
    "55006": ("object_in_use", RETRY),
    "55P03": ("lock_not_available", RETRY),
    "57": ("operator_intervention", WAIT),
    "57014": ("query_canceled", RETRY),
    "57P01": ("admin_shutdown", WAIT),
    "57P03": ("cannot_connect_now", WAIT),
    "57P04": ("database_dropped", None),
    "57P05": ("idle_session_timeout", RETRY),
    "58": ("system_error", WAIT),
    "58030": ("io_error", WAIT),
    "72000": ("snapshot_too_old", RETRY),
    "F0": ("config_file_error", BRIEFLY),
    "XX000": ("internal_error", BRIEFLY),
    "XX001": ("data_corrupted", None),
    "XX002": ("index_corrupted", None),
}
"""PostgreSQL's errors. None, and all that stands neither here nor in a class: the search ends and says why."""

SQLITE = {
    "SQLITE_BUSY": AWAY,
    "SQLITE_CANTOPEN": AWAY,
    "SQLITE_FULL": AWAY,
    "SQLITE_INTERRUPT": AWAY,
    "SQLITE_IOERR": AWAY,
    "SQLITE_LOCKED": AWAY,
    "SQLITE_NOMEM": AWAY,
    "SQLITE_PERM": AWAY,
    "SQLITE_PROTOCOL": AWAY,
    "SQLITE_READONLY": AWAY,
    "SQLITE_SCHEMA": AWAY,
}
"""SQLite's primary result codes (https://www.sqlite.org/rescode.html), by the beginning of their extended ones."""

MYSQL: dict[int, Outage | None] = {
    1044: BRIEFLY,  # ER_DBACCESS_DENIED_ERROR
    1045: AWAY,  # ER_ACCESS_DENIED_ERROR
    1049: None,  # ER_BAD_DB_ERROR
    1142: BRIEFLY,  # ER_TABLEACCESS_DENIED_ERROR
    1146: BRIEFLY,  # ER_NO_SUCH_TABLE
    1205: RETRY,  # ER_LOCK_WAIT_TIMEOUT
    1213: RETRY,  # ER_LOCK_DEADLOCK
    1317: RETRY,  # ER_QUERY_INTERRUPTED
    3024: RETRY,  # ER_QUERY_TIMEOUT
    3572: RETRY,  # ER_LOCK_NOWAIT
    1021: WAIT,  # ER_DISK_FULL
    1037: WAIT,  # ER_OUTOFMEMORY
    1040: WAIT,  # ER_CON_COUNT_ERROR
    1041: WAIT,  # ER_OUT_OF_RESOURCES
    1053: WAIT,  # ER_SERVER_SHUTDOWN
    1114: WAIT,  # ER_RECORD_FILE_FULL
    1203: WAIT,  # ER_TOO_MANY_USER_CONNECTIONS
    1226: WAIT,  # ER_USER_LIMIT_REACHED
    1290: WAIT,  # ER_OPTION_PREVENTS_STATEMENT: --read-only
    1792: WAIT,  # ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION
    1836: WAIT,  # ER_READ_ONLY_MODE
}
"""MySQL's errors (https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html); others by class."""

_REFUSALS = {
    "53300": "sorry, too many clients already|remaining connection slots are reserved|too many connections for "
    "|no more connections allowed|query_wait_timeout",
    "57P03": "the database system is (starting up|shutting down|in recovery mode|not (yet )?accepting connections)"
    "|server login has been failing|pgbouncer cannot connect to server",
    "57P01": "terminating connection (due to|because of)|server closed the connection unexpectedly",
    "3D000": 'database "[^"]*" does not exist',
}
"""By SQLSTATE, the words of PostgreSQL and PgBouncer for it where there is no connection that errors have codes on:
https://github.com/postgres/postgres/blob/REL_15_STABLE/src/backend/postmaster/postmaster.c, `ProcessStartupPacket`."""
_ON_A_DEAD_CONNECTION = "8s2b"
"""Of a statement after the one that found its connection gone (https://docs.sqlalchemy.org/en/21/errors.html)."""


def outage_of(error: BaseException) -> Outage | None:
    """Return how long an error is waited for; None for one that ends what met it, with its reason."""
    error = below_optunas(error)
    if isinstance(error, StorageUnavailableError):
        return error.outage if isinstance(error.outage, Outage) else AWAY
    if isinstance(error, StorageError):
        return None
    if pools_statements(error):
        return None
    if (state := sqlstate_of(error)) is not None:
        _, outage = SQLSTATES.get(state) or SQLSTATES.get(state[:2]) or ("", None)
        return outage
    if has_code(error):
        return SQLITE[name] if (name := _sqlite_name(error)) in SQLITE else MYSQL[_mysql_code(error)]
    return AWAY if _is_outage_by_class(error) else None


def has_code(error: BaseException) -> bool:
    """Return whether an error has a code by which this module knows it, and need not be judged by its class.

    SQLite's SQLITE_ERROR stands for too much: too many parameters, for instance, for which Optuna has a slower way.
    """
    name = _sqlite_name(error)
    return sqlstate_of(error) is not None or name in SQLITE or _mysql_code(error) in MYSQL


def _sqlite_name(error: BaseException) -> str:
    name = getattr(getattr(error, "orig", None), "sqlite_errorname", "")
    return "_".join(str(name).split("_")[:2])


def _mysql_code(error: BaseException) -> int:
    first = next(iter(getattr(getattr(error, "orig", None), "args", ())), None)
    return first if isinstance(first, int) else 0


def pools_statements(error: BaseException) -> bool:
    """Return whether PgBouncer refuses transactions, with the code that it has for all of its errors."""
    return "statement pooling mode" in str(getattr(error, "orig", error))


def sqlstate_of(error: BaseException) -> str | None:
    """Return the SQLSTATE of an error of PostgreSQL; None where there is none, and for other databases."""
    error = below_optunas(error)
    if isinstance(error, StorageError):
        return error.sqlstate
    if not isinstance(error, DBAPIError):
        return None
    state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)  # psycopg's, psycopg2's
    if state is not None:
        return str(state)
    if not isinstance(error, OperationalError):
        return None
    words = str(error.orig)
    return next((code for code, refusal in _REFUSALS.items() if re.search(refusal, words)), None)


def below_optunas(error: BaseException) -> BaseException:
    """Return the error that Optuna has wrapped into its own."""
    while isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def is_left_to_optuna(error: BaseException) -> bool:
    """Return whether Optuna has to see an error as it is: that a study of that name is there, and SQLite's likewise.

    Elsewhere it takes a key that is there for written, and what was to be written is lost without a word.
    """
    error = below_optunas(error)
    if not isinstance(error, IntegrityError):
        return False
    return sqlstate_of(error) is None or (error.statement or "").startswith("INSERT INTO studies ")


def _is_outage_by_class(error: BaseException) -> bool:
    """Return whether an error without a known code says by its class that the database is away."""
    if isinstance(error, (OperationalError, sqlalchemy.exc.TimeoutError)):
        return True
    if isinstance(error, PendingRollbackError) and error.code == _ON_A_DEAD_CONNECTION:
        return True
    return isinstance(error, DBAPIError) and bool(error.connection_invalidated)
