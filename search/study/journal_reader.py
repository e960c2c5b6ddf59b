"""A journal opened to be read: without a lock, repairs, or any right but to read the file."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from search.errors import StorageError, StorageUnavailableError
from search.study.gone import WatchedFile
from search.study.journal_format import JournalLines, check_beginning, not_a_journal
from search.study.reading import MISREAD


class ReadOnlyJournal(JournalStorage):
    """Optuna's journal storage on a file that is only read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(JournalReader(path))


def open_journal_to_read(path: Path) -> ReadOnlyJournal:
    """Open the journal at `path`. Raises StorageError for what is none, is damaged, or cannot be read."""
    path = Path(os.path.abspath(path))
    try:
        check_beginning(path)
        return ReadOnlyJournal(path)
    except OSError as error:
        raise StorageError(f"{path}: the journal cannot be opened: {error.strerror or error}") from error
    except MISREAD as error:
        raise not_a_journal(path) from error


class JournalReader(BaseJournalBackend):
    """Reads the entries of a journal file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = JournalLines(path)
        self._watched = WatchedFile(path)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the entries from `log_number_from` on. Raises StorageError."""
        self._watched.check()
        try:
            yield from self._lines.read(log_number_from)
        except OSError as error:
            why = error.strerror or error
            raise StorageUnavailableError(f"{self._path}: the journal cannot be read: {why}") from error

    def append_logs(self, logs: list[dict[str, Any]]) -> None:  # noqa: ARG002
        """Refuse: this is for readers."""
        raise StorageError(f"{self._path}: the journal is open to be read, and cannot be written")
