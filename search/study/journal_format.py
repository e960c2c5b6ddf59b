"""The lines of a journal file, and the errors for a file that has others. Opens files to read alone."""

import io
import json
from pathlib import Path
from typing import Any

from search.errors import StorageError

_FIRST_BYTES = b'{"op_code":'


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
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "op_code" in entry else None


def is_good(line: bytes) -> bool:
    """Return whether a line is whole, and an entry of the log."""
    return entry_of(line) is not None


def check_beginning(path: Path) -> None:
    """Raise StorageError if there is a file that begins as no journal does: nothing is ever moved out of others."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        beginning = file.read(len(_FIRST_BYTES))
    if beginning.startswith(b"\0"):
        # Blocks that never reached the disk: a journal only if there is nothing else, or logs behind them.
        beginning = path.read_bytes().lstrip(b"\0")[: len(_FIRST_BYTES)]
    if not _FIRST_BYTES.startswith(beginning):
        raise not_a_journal(path)


def not_a_journal(path: Path) -> StorageError:
    """Return the error for a file that is something else."""
    with open(path, "rb") as file:
        is_sqlite = file.read(15) == b"SQLite format 3"
    hint = f"it is an SQLite file: --storage sqlite:///{path}" if is_sqlite else "choose another file with --storage"
    return StorageError(f"{path}: is not an Optuna journal; {hint}")


def damaged(path: Path) -> StorageError:
    """Return the error for a journal with a damaged line that good ones follow."""
    lines = lines_of(path.read_bytes())
    number = next((i for i, line in enumerate(lines, 1) if not is_good(line)), len(lines))
    return StorageError(
        f"{path}: line {number} of {len(lines)} is damaged, and good lines follow it, so it is left as it is; "
        f'make a copy of the file, then remove that line (sed -i {number}d "{path}"), '
        "or begin a new file with --storage"
    )
