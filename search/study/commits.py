"""Several writes to a storage in one commit: one wait for the disk or the server, all of them or none, maybe alone.

How a journal does that is `journal.py`'s business. What is written is the caller's.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from search.errors import StorageUnavailableError
from search.study.journal import Journal
from search.study.sqlstates import OVERTAKEN, below_optunas

_memory = threading.RLock()


@contextmanager
def one_commit(storage: BaseStorage) -> Iterator[None]:
    """Have all writes of this thread inside the block reach the disk together, when it ends; none if it fails.

    A process killed at the end leaves all of them in a database, and the first of them, or all, in a journal. Inside,
    a journal shows nothing new: the block is for writes that need no answer. Storages in memory write at once.

    Raises UpdateFinishedTrialError, and writes nothing, where one of the writes is to a trial that has ended.
    """
    if isinstance(storage, Journal):
        with storage.grouped():
            yield
    elif isinstance(storage, RDBStorage):
        with _one_transaction(storage):
            yield
    else:
        yield


@contextmanager
def exclusive(storage: BaseStorage, study_id: int) -> Iterator[None]:
    """Have the block, reads and writes, happen as if nobody else used the study meanwhile; as `one_commit` otherwise.

    All that others have written before is to be seen in the block, and nobody else writes until it ends. A database
    locks the study's row, as Optuna does for each new trial; a journal its file. To ask in the block for a trial that
    is not there would end a database's transaction.
    """
    if isinstance(storage, Journal):
        with storage.exclusive():
            yield
    elif isinstance(storage, RDBStorage):
        with _one_transaction(storage) as connection:
            _lock(connection, study_id)
            yield
    else:
        with _memory:
            yield


@contextmanager
def _one_transaction(storage: RDBStorage) -> Iterator[sqlalchemy.Connection]:
    """Run the sessions of Optuna's calls, each of which commits, inside one outer transaction that has the last word.

    https://docs.sqlalchemy.org/en/20/orm/session_transaction.html, "Joining a Session into an External Transaction"
    """
    sessions = storage.scoped_session
    with storage.engine.begin() as connection:
        sessions.remove()
        sessions(bind=connection, join_transaction_mode="rollback_only")
        try:
            yield connection
        except (StorageInternalError, SQLAlchemyError) as error:
            if connection.in_transaction() or isinstance(below_optunas(error), DBAPIError):
                raise
            raise _refused() from error
        finally:
            sessions.remove()
        if not connection.in_transaction():
            raise _refused()


def _refused() -> StorageUnavailableError:
    """Return the error of a transaction that Optuna has rolled back without a word, as it does where a key is there."""
    refused = StorageUnavailableError("the database refused one of several writes, and none was made")
    refused.outage = OVERTAKEN
    return refused


def _lock(connection: sqlalchemy.Connection, study_id: int) -> None:
    """Lock a study until the transaction's end."""
    if connection.dialect.name == "sqlite":
        # SQLite locks no rows: nobody else writes at all. A deferred transaction could not wait for that later on.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        query = sqlalchemy.text("SELECT study_id FROM studies WHERE study_id = :id FOR UPDATE")
        connection.execute(query, {"id": study_id})
