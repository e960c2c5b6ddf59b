"""Several writes to a storage in one commit: one wait for the disk or the server instead of one for each.

How a journal does that is `journal.py`'s business. What is written is the caller's.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import InvalidRequestError

from search.study.journal import Journal


@contextmanager
def one_commit(storage: BaseStorage) -> Iterator[None]:
    """Have all writes of this thread inside the block reach the disk together, when it ends; none if it fails.

    A process killed at the end leaves all of them in a database, and the first of them, or all, in a journal. Inside,
    a journal shows nothing new: the block is for writes that need no answer. Storages in memory write at once.
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
def _one_transaction(storage: RDBStorage) -> Iterator[None]:
    """Run the sessions of Optuna's calls, each of which commits, inside one outer transaction that has the last word.

    https://docs.sqlalchemy.org/en/20/orm/session_transaction.html, "Joining a Session into an External Transaction"
    """
    sessions = storage.scoped_session
    with storage.engine.begin() as connection:
        sessions.remove()
        sessions(bind=connection, join_transaction_mode="rollback_only")
        try:
            yield
        finally:
            sessions.remove()
        if not connection.in_transaction():
            # Optuna keeps some errors to itself, and rolls back.
            raise InvalidRequestError("the database refused one of several writes, and none was made")
