"""Where studies are kept: a URL or path becomes an Optuna storage, and its failures become errors a user can mend.

Journal files are opened by `journal.py`; databases by Optuna through SQLAlchemy. Passwords in URLs are never shown,
neither by us nor inside a driver's message. What is stored is the business of `study.py`.
"""

import fcntl
import logging
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from search.errors import NoStudiesError, StorageError, did_you_mean
from search.printable import enumerated, mask_password
from search.study.connections import database_error, driver_message, engine_options
from search.study.gone import watch_file
from search.study.journal import open_journal
from search.study.journal_format import MOST_STUDIES, too_many_studies
from search.study.journal_reader import open_journal_to_read
from search.study.read_only import server_takes_writes, sqlite_file, sqlite_reader
from search.study.schema import OWN_TABLES, count_studies, count_trials, find_impostors, most_trials
from search.study.sqlite_repair import is_sound
from search.study.sqlstates import pools_statements

JOURNAL_NAME = "optuna.journal"
"""The default storage's file in the home folder."""

DRIVERS = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "asyncpg": "asyncpg",
    "MySQLdb": "mysqlclient",
    "pymysql": "pymysql",
}
"""Distribution to install for a database driver that cannot be imported, by module."""

_LAST_TABLES = frozenset({"version_info", "alembic_version"})
"""Tables without which nobody has finished making the others."""

_DATABASES = ("sqlite", "postgresql", "mysql", "mariadb")
_DAMAGE = re.compile("malformed|not decode|not a database")
_ONE_AFTER_THE_OTHER = (
    "SET LOCAL lock_timeout = '120s'",
    "SET LOCAL idle_in_transaction_session_timeout = '60s'",
    "SELECT pg_advisory_xact_lock(7265677365617263)",  # any number that nobody else takes
)


def open_storage(url: str | None, home: Path, to_read: bool = False) -> BaseStorage:
    """Return the storage for `url`: None for the journal in `home`, a path or `journal:///path` for another journal,
    `sqlite:///path` or `postgresql://user:password@host/database` for a database.

    To read it, no right to write is needed; then it has to be there already, and writing to it fails.

    Raises StorageError for what cannot be reached or understood, is not Optuna's, or is refused.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # It warns of connections lost as it reads trials, and of nothing else: that is told by whoever waits for them.
    logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.ERROR)
    open_file = open_journal_to_read if to_read else open_journal
    if url is None:
        return open_file(home / JOURNAL_NAME)
    scheme, separator, _ = url.partition("://")
    if not separator or scheme == "journal":
        return open_file(_journal_path(url))
    database = scheme.partition("+")[0]
    if "redis" in scheme:
        raise StorageError(
            f"{mask_password(url)}: Redis storages are refused, since Optuna unpickles what it finds there and so runs "
            "anyone's code; use PostgreSQL (--storage postgresql://...) or a journal file"
        )
    if database not in _DATABASES:
        near = did_you_mean(database, (*_DATABASES, "journal"))
        known = ", ".join(f"{name}://" for name in ("journal", *_DATABASES))
        raise StorageError(f"{mask_password(url)}: {scheme}:// is not a storage{near} (known: {known}, or a path)")
    return _open_database(url, database, to_read)


def close_storage(storage: BaseStorage) -> None:
    """Close the connections of a database storage; a journal keeps none."""
    if isinstance(storage, RDBStorage):
        storage.remove_session()
        storage.engine.dispose()


@contextmanager
def storage_errors(storage: BaseStorage) -> Iterator[None]:
    """Turn what a database says while it is used into a StorageError without passwords."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, StorageError) as error:
        if isinstance(error, StorageError) and not error.is_raw:
            raise
        failure = describe_failure(error, storage)
        text = (
            f"{failure}; {mending_advice(storage) if _DAMAGE.search(failure) else ''}"
            "what was recorded is kept, run the same command again when this is mended"
        )
        raise database_error(text, error) from None


def mending_advice(storage: BaseStorage) -> str:
    """Return the command that mends a damaged SQLite database, as the beginning of what else there is to do."""
    if not isinstance(storage, RDBStorage) or storage.engine.dialect.name != "sqlite":
        return ""
    return f"`regsearch repair --storage {shlex.quote(storage.url)}` mends a damaged file; "


def describe_failure(error: BaseException, storage: BaseStorage) -> str:
    """Return what is wrong with the storage, in the driver's words, without passwords."""
    if isinstance(error, StorageError) and not error.is_raw:
        return str(error).partition(";")[0]
    url = storage.url if isinstance(storage, RDBStorage) else ""
    return f"{mask_password(url) or 'storage'}: {driver_message(error, url)}"


def describe_storage(storage: BaseStorage) -> str:
    """Return the storage's kind or URL for messages, without password."""
    if isinstance(storage, RDBStorage):
        return mask_password(storage.url)
    return "journal" if isinstance(storage, JournalStorage) else type(storage).__name__


def _journal_path(url: str) -> Path:
    scheme, separator, rest = url.partition("://")
    if not separator:
        return Path(os.path.expanduser(url))
    if scheme != "journal" or not rest.startswith("/") or rest == "/":
        raise StorageError(f"{url}: a journal's URL has three slashes and an absolute path: journal:///PATH")
    return Path(rest)


def _open_database(url: str, database: str, to_read: bool) -> BaseStorage:
    if database == "sqlite" and re.fullmatch(r"sqlite(\+\w+)?://(/|/:memory:)?(\?.*)?", url):
        raise StorageError(f"{url}: this database lives in memory and would be lost; give a file: sqlite:///PATH")
    options = engine_options(url, database, to_read)
    if (file := _storage_file(url, Path())) is not None and os.path.exists(file) and not os.path.isfile(file):
        raise StorageError(f"{mask_password(url)}: is a folder, a pipe or a device; give a file: sqlite:///PATH")
    try:
        if to_read:
            return _with_tables_there(url, database, options)
        with _alone_in_folder(file):
            _refuse_foreign_tables(url, database, options)
            if file is not None and not is_sound(
                file
            ):  # a damaged index hides what is there, and it would be made again
                raise StorageError(
                    f"{url}: SQLite's own check finds damage; `regsearch repair --storage {shlex.quote(url)}` mends it"
                )
            storage = _with_tables(url, options)
        if file is not None:
            watch_file(storage.engine, file)
        return storage
    except NoStudiesError:
        raise
    except Exception as error:  # a driver may raise anything
        if isinstance(error, StorageError) and not error.is_raw:
            raise
        # Without the cause: its traceback would show the password.
        raise database_error(f"{mask_password(url)}: {_explanation(error, url)}", error) from None


def _with_tables(url: str, options: dict[str, Any]) -> RDBStorage:
    """Return the storage with Optuna's tables, made if need be by one process, however many begin at once."""
    engine = sqlalchemy.create_engine(url, **options)
    try:
        if engine.dialect.name == "postgresql" and not sqlalchemy.inspect(engine).has_table("alembic_version"):
            with engine.begin() as connection:
                for statement in _ONE_AFTER_THE_OTHER:
                    connection.exec_driver_sql(statement)
                return _rdb_storage(url, options)
    finally:
        engine.dispose()
    return _rdb_storage(url, options)


def _with_tables_there(url: str, database: str, options: dict[str, Any]) -> RDBStorage:
    """Return the storage to read from, on which nothing is changed. Raises NoStudiesError when it holds nothing yet."""
    options = options | sqlite_reader(url, options)
    tables = _refuse_foreign_tables(url, database, options)
    if not tables >= _LAST_TABLES:
        raise _no_studies(url)
    return _rdb_storage(url, options, skip_table_creation=True)


def _rdb_storage(url: str, options: dict[str, Any], skip_table_creation: bool = False) -> RDBStorage:
    # Optuna fills in {SCHEMA_VERSION}; other braces belong to the user.
    template = url.replace("{", "{{").replace("}", "}}")
    return RDBStorage(template, engine_kwargs=options, skip_table_creation=skip_table_creation)


@contextmanager
def _alone_in_folder(file: Path | None) -> Iterator[None]:
    """Let one process at a time into the block, of those on this machine that open a database in that folder."""
    if file is None:
        yield
        return
    # Not the file itself: to close it would take away SQLite's own locks on it.
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _refuse_foreign_tables(url: str, database: str, options: dict[str, Any]) -> set[str]:
    """Return the tables; raise StorageError where Optuna would put its own into another program's database.

    A server's database may be shared, but not with another program that uses Alembic, such as MLflow: Optuna would
    take its version for its own.
    """
    engine = sqlalchemy.create_engine(url, **options)
    try:
        # First: to list tables is to use operators, which may be somebody's.
        if impostors := find_impostors(engine, options.get("connect_args", {})):
            raise StorageError(
                f"{mask_password(url)}: this database is not as Optuna makes it: it has {enumerated(impostors, 5)}, "
                "by which somebody makes up or changes what is stored; name another --storage"
            )
        tables = set(sqlalchemy.inspect(engine).get_table_names())
        if database == "sqlite":
            _refuse_too_many(mask_password(url), engine, tables)
    finally:
        engine.dispose()
    # Of a killed process's tables there may be some without the version; Optuna makes the rest.
    clashes = tables - OWN_TABLES if database == "sqlite" else tables & {"alembic_version", "studies", "trials"}
    if clashes and "version_info" not in tables:
        raise StorageError(
            f"{mask_password(url)}: this database is not Optuna's (it has the tables {', '.join(sorted(clashes)[:5])})"
            "; give a database of its own"
        )
    return tables


def _refuse_too_many(file: str, engine: sqlalchemy.Engine, tables: set[str]) -> None:
    """Raise StorageError for more studies or trials in a file than are read: each takes time and memory."""
    if "studies" in tables and count_studies(engine) > MOST_STUDIES:
        raise too_many_studies(file)
    if "trials" in tables and (trials := count_trials(engine)) > (most := most_trials(engine)):
        raise StorageError(
            f"{file}: has {trials:,} trials, where Optuna has no room for more than {most:,} in a file of this size; "
            "this is not a database as Optuna writes it"
        )


def _explanation(error: Exception, url: str) -> str:
    match error:
        case ImportError():
            module = (error.__cause__ if isinstance(error.__cause__, ImportError) else error).name or ""
            package = DRIVERS.get(module.partition(".")[0], module)
            return f"the database's driver is not installed: pip install '{package}'"
        case ArgumentError() | NoSuchModuleError() | ValueError() | LookupError():
            return "is not a valid database URL; the form is postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        case _ if pools_statements(error):
            return (
                f"cannot be opened: {driver_message(error, url)}; results are recorded in transactions: let PgBouncer "
                "pool those (pool_mode = transaction)"
            )
        case RuntimeError() if "schema" in str(error):
            return driver_message(error, url)
        case _:
            return f"cannot be opened: {driver_message(error, url)}"


def is_there(url: str | None, home: Path) -> bool:
    """Return whether there can be studies: a storage in a file has its file. A server is asked on opening.

    Raises StorageError where this user may not even look.
    """
    file = _storage_file(url, home)
    try:
        return file is None or bool(os.stat(file))
    except PermissionError as error:
        raise StorageError(f"{file} cannot be read: {error.strerror}") from error
    except (OSError, ValueError):  # no file has a NUL in its name
        return False


def open_existing(url: str | None, home: Path) -> BaseStorage:
    """Return the storage to write to, as `open_storage`; creates nothing. Raises NoStudiesError when there is none."""
    require_there(url, home)
    return open_storage(url, home)


def open_to_read(url: str | None, home: Path) -> BaseStorage:
    """Return the storage to read from; needs no right to write. Raises NoStudiesError when there is none."""
    require_there(url, home)
    return open_storage(url, home, to_read=True)


def is_writable(url: str | None, home: Path) -> bool:
    """Return whether this user may write to a storage that is there; True for a server that does not tell."""
    file = _storage_file(url, home)
    if file is not None:  # something is made beside it, too
        return os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)
    database = (url or "").partition("://")[0].partition("+")[0]
    return url is None or database != "postgresql" or server_takes_writes(url, engine_options(url, database))


def require_there(url: str | None, home: Path) -> None:
    """Raise NoStudiesError when there can be no studies, see `is_there`."""
    if not is_there(url, home):
        raise _no_studies(url, home)


def _no_studies(url: str | None, home: Path = Path()) -> NoStudiesError:
    where, way_out = (home, "--home names another folder") if url is None else (url, "--storage names another one")
    return NoStudiesError(
        f"{mask_password(str(where))} holds no studies yet; `regsearch start --study digits` makes one, {way_out}"
    )


def journal_file(url: str | None, home: Path) -> Path | None:
    """Return the file of a storage that is a journal; None for others."""
    is_journal = url is None or "://" not in url or url.startswith("journal://")
    return _storage_file(url, home) if is_journal else None


def _storage_file(url: str | None, home: Path) -> Path | None:
    """Return the file in which a journal or an SQLite database is, or would be; None for a server."""
    if url is None:
        return home / JOURNAL_NAME
    if "://" not in url or url.startswith("journal://"):
        return _journal_path(url)
    return sqlite_file(url)
