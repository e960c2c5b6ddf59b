"""The lines of a journal file, and the errors for a file that has others. Opens files to read alone."""

import io
import json
import shlex
import sys
import zlib
from collections import Counter
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
_CREATE_TRIAL = 4
"""Optuna's `JournalOperation.CREATE_TRIAL`."""
OWN_WORKER = "regsearch-"
"""Beginning of the worker ids in the entries that regsearch writes, each of which has a checksum."""
_CHECKSUM = b',"checksum":"'
_CHECKSUM_BYTES = len(_CHECKSUM) + 11
_MOST_BEFORE_AN_ENTRY = MEGABYTE
"""Bytes at a file's beginning among which a journal has an entry, whatever has been damaged."""


def open_journal_file(path: Path) -> BinaryIO:
    """Open a journal's file to read it. Raises OSError for a pipe or a device, whose end would never come."""
    return open_regular(path, sys.maxsize)


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Give the lines of a file with their ends; one that is longer than any entry comes in pieces."""
    return iter(lambda: file.readline(LONGEST_ENTRY), b"")


class EntryCheck:
    """Looks at the entries of a journal while they are read: too many studies take minutes, and none may be missing."""

    def __init__(self, path: Path) -> None:
        self._path, self._studies, self._trials = path, 0, Counter[int]()

    def check(self, entries: Iterable[dict[str, Any]], number: int) -> Iterator[dict[str, Any]]:
        """Pass on the entries from `number` on. Raises StorageError where there are too many studies, or too few."""
        if number == 0:
            self._studies, self._trials = 0, Counter[int]()
        for entry in entries:
            self._studies += entry["op_code"] == _CREATE_STUDY
            if self._studies > MOST_STUDIES:
                raise too_many_studies(self._path)
            if "checksum" in entry and self._is_behind_a_gap(entry):
                raise _mendable(self._path, "lines are missing")
            yield entry

    def _is_behind_a_gap(self, entry: dict[str, Any]) -> bool:
        """Return whether a study or a trial must have been created before an entry of ours, and was not."""
        study_id, number = entry.get("study_id", -1), entry.get("number", -1)
        if not (isinstance(study_id, int) and isinstance(number, int)):
            return False
        is_missing = study_id >= self._studies or number > self._trials[study_id]
        self._trials[study_id] += entry["op_code"] == _CREATE_TRIAL
        return is_missing


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


def line_of(entry: dict[str, Any]) -> bytes:
    """Return an entry of ours as a line, with the CRC-32 of all that stands before it as its last value.

    Optuna reads the values that it knows, and passes over the checksum.
    """
    text = json.dumps(entry, separators=(",", ":")).encode()[:-1]
    return text + checksum_end(text)


def checksum_end(text: bytes) -> bytes:
    """Return the end of a line that begins with a text."""
    return b'%b%08x"}\n' % (_CHECKSUM, zlib.crc32(text))


def entry_of(line: bytes) -> dict[str, Any] | None:
    """Return the entry of the log that a line holds; None for one that is not whole, or not as it was written.

    Other programs write entries without checksums.
    """
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except (RecursionError, ValueError):
        return None
    if not isinstance(entry, dict) or "op_code" not in entry:
        return None
    needs_checksum = "checksum" in entry or str(entry.get("worker_id")).startswith(OWN_WORKER)
    return None if needs_checksum and not has_its_checksum(line) else entry


def has_its_checksum(line: bytes) -> bool:
    """Return whether a line ends with the checksum of what stands before it."""
    text = line[:-_CHECKSUM_BYTES]
    return line[len(text) :] == checksum_end(text)


def split_checksum(line: bytes) -> tuple[bytes, bytes]:
    """Return what stands before a line's checksum, and the checksum, however the end may be damaged.

    Without a checksum where the line is too short for one.
    """
    text, end = line[:-_CHECKSUM_BYTES], line[-_CHECKSUM_BYTES:]
    return (text, end[len(_CHECKSUM) : -3]) if text else (line, b"")


def is_torn(line: bytes) -> bool:
    """Return whether a line is what a kill, a full disk or a power cut may have left of the last append.

    A line that begins and ends as an entry does, and is none, has been damaged later.
    """
    return not (line.startswith(_FIRST_BYTES) and line.endswith(b"}\n")) or b"\0" in line


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
        file.seek(0)
        if not _FIRST_BYTES.startswith(beginning):
            first = lines_of(file.read(_MOST_BEFORE_AN_ENTRY))
            raise damaged(path) if any(map(is_good, first)) else not_a_journal(path)


def not_a_journal(path: Path) -> StorageError:
    """Return the error for a file that is something else."""
    with open_journal_file(path) as file:
        is_sqlite = file.read(15) == b"SQLite format 3"
    hint = f"it is an SQLite file: --storage sqlite:///{path}" if is_sqlite else "choose another file with --storage"
    return StorageError(f"{path}: is not an Optuna journal; {hint}")


def damaged(path: Path) -> StorageError:
    """Return the error for a journal with a damaged line."""
    first, count = 0, 0
    with open_journal_file(path) as file:
        for count, line in enumerate(read_lines(file), 1):
            if not first and not is_good(line):
                first = count
    return _mendable(path, f"line {first or count} of {count} is damaged")


def _mendable(path: Path, what: str) -> StorageError:
    command = f"regsearch repair --storage {shlex.quote(str(path))}"
    return StorageError(
        f"{path}: {what}, so none of it is read or written; `{command}` mends it, and keeps the damaged file beside it"
    )


class JournalLines:
    """Reads the entries of a journal, again and again, each time from where the last reading ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._check = EntryCheck(path)
        self._number, self._offset = 0, 0
        """How many entries were read, and where the next one begins."""

    def read(self, number: int) -> Iterator[dict[str, Any]]:
        """Yield the entries from `number` on. Raises StorageError for a damaged line, and OSError.

        An end that a kill or a full disk has torn is passed over, as the next writer will move it away.
        """
        return self._check.check(self._entries(number), number)

    def _entries(self, number: int) -> Iterator[dict[str, Any]]:
        if number != self._number:
            self._number, self._offset = 0, 0
        with open_journal_file(self._path) as file:
            file.seek(self._offset)
            for line in read_lines(file):
                if (entry := entry_of(line)) is None:
                    # Without its newline it is the last one, maybe under way.
                    if line.endswith(b"\n") and (not is_torn(line) or any(map(is_good, read_lines(file)))):
                        raise damaged(self._path)
                    return
                self._number, self._offset = self._number + 1, self._offset + len(line)
                if self._number > number:
                    yield entry
