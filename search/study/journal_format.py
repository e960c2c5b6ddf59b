"""The lines of a journal file, and the errors for a file that has others. Opens files to read alone."""

import io
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from search.errors import StorageError
from search.regular_files import MEGABYTE, open_regular

LONGEST_ENTRY = 64 * MEGABYTE
"""The curves of a trial of 100,000 epochs take 12 million bytes, and a confirmation of 6,000 runs two million."""
_FIRST_BYTES = b'{"op_code":'
MOST_STUDIES = 2_000
"""Studies in one file, in a journal deleted ones included. There Optuna compares the name of each with those of all
others, and in a database each takes a dozen statements to list."""
_CREATE_STUDY = 0
"""Optuna's `JournalOperation.CREATE_STUDY`."""


def open_journal_file(path: Path) -> BinaryIO:
    """Open a journal's file to read it. Raises OSError for a pipe or a device, whose end would never come."""
    return open_regular(path, sys.maxsize)


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Give the lines of a file with their ends; one that is longer than any entry comes in pieces."""
    return iter(lambda: file.readline(LONGEST_ENTRY), b"")


class StudyLimit:
    """Counts the studies of a journal while its entries are read, so that no journal takes minutes to read."""

    def __init__(self, path: Path) -> None:
        self._path, self._studies = path, 0

    def check(self, entries: Iterable[dict[str, Any]], number: int) -> Iterator[dict[str, Any]]:
        """Pass on the entries from `number` on. Raises StorageError where there are too many studies."""
        if number == 0:
            self._studies = 0
        for entry in entries:
            self._studies += entry["op_code"] == _CREATE_STUDY
            if self._studies > MOST_STUDIES:
                raise too_many_studies(self._path)
            yield entry


def too_many_studies(file: object) -> StorageError:
    """Return the error for a file of more studies than are read."""
    return StorageError(
        f"{file}: holds more than {MOST_STUDIES:,} studies; "
        "begin a new file with --storage, or use a server's database: --storage postgresql://..."
    )


def lines_of(data: bytes) -> list[bytes]:
    """Return lines with their ends."""
    # Not `splitlines`: only a newline ends a line of the journal.
    return io.BytesIO(data).readlines()


def entry_of(line: bytes) -> dict[str, Any] | None:
    """Return the entry of the log that a line holds; None for one that is not whole, or something else."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except (RecursionError, ValueError):
        return None
    return entry if isinstance(entry, dict) and "op_code" in entry else None


def is_good(line: bytes) -> bool:
    """Return whether a line is whole, and an entry of the log."""
    return entry_of(line) is not None


def check_beginning(path: Path) -> None:
    """Raise StorageError if there is a file that begins as no journal does: nothing is ever moved out of others."""
    if not path.exists():
        return
    with open_journal_file(path) as file:
        beginning = file.read(len(_FIRST_BYTES))
        if beginning.startswith(b"\0"):
            # Blocks that never reached the disk: a journal only if there is nothing else, or logs behind them.
            file.seek(0)
            beginning = file.read(LONGEST_ENTRY).lstrip(b"\0")[: len(_FIRST_BYTES)]
    if not _FIRST_BYTES.startswith(beginning):
        raise not_a_journal(path)


def not_a_journal(path: Path) -> StorageError:
    """Return the error for a file that is something else."""
    with open_journal_file(path) as file:
        is_sqlite = file.read(15) == b"SQLite format 3"
    hint = f"it is an SQLite file: --storage sqlite:///{path}" if is_sqlite else "choose another file with --storage"
    return StorageError(f"{path}: is not an Optuna journal; {hint}")


def damaged(path: Path) -> StorageError:
    """Return the error for a journal with a damaged line that good ones follow."""
    first, count = 0, 0
    with open_journal_file(path) as file:
        for count, line in enumerate(read_lines(file), 1):
            if not first and not is_good(line):
                first = count
    number = first or count
    return StorageError(
        f"{path}: line {number} of {count} is damaged, and good lines follow it, so it is left as it is; "
        f'make a copy of the file, then remove that line (sed -i {number}d "{path}"), '
        "or begin a new file with --storage"
    )
