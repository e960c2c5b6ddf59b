"""A journal opened to be read: without a lock, repairs, or any right but to read the file.

An end that a kill or a full disk has torn is passed over, as the next writer will move it away.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from search.errors import StorageError, StorageUnavailableError
from search.study.gone import WatchedFile
from search.study.journal_format import (
    StudyLimit,
    check_beginning,
    damaged,
    entry_of,
    is_good,
    not_a_journal,
    open_journal_file,
    read_lines,
)
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
    """Reads the entries of a journal, again and again, each time from where the last reading ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._limit = StudyLimit(path)
        self._watched = WatchedFile(path)
        self._number, self._offset = 0, 0
        """How many entries were read, and where the next one begins."""

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the entries from `log_number_from` on. Raises StorageError."""
        return self._limit.check(self._entries(log_number_from), log_number_from)

    def _entries(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        self._watched.check()
        if log_number_from != self._number:
            self._number, self._offset = 0, 0
        try:
            with open_journal_file(self._path) as file:
                file.seek(self._offset)
                for line in read_lines(file):
                    if (entry := entry_of(line)) is None:
                        # Without its newline it is the last one, maybe under way.
                        if line.endswith(b"\n") and any(map(is_good, read_lines(file))):
                            raise damaged(self._path)
                        return
                    self._number, self._offset = self._number + 1, self._offset + len(line)
                    if self._number > log_number_from:
                        yield entry
        except OSError as error:
            why = error.strerror or error
            raise StorageUnavailableError(f"{self._path}: the journal cannot be read: {why}") from error

    def append_logs(self, logs: list[dict[str, Any]]) -> None:  # noqa: ARG002
        """Refuse: this is for readers."""
        raise StorageError(f"{self._path}: the journal is open to be read, and cannot be written")
