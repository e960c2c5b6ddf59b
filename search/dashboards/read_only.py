"""What the dashboards are given of a home that their user may not write to: nothing that has to be written to."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from search.errors import DashboardError
from search.sqlite_files import copy_database
from search.study.storage import is_writable, open_storage, open_to_read
from search.tracking.location import database_file

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


def open_as_allowed(url: str | None, home: Path) -> BaseStorage:
    """Return the storage to read and to write, or to read alone where its user may do no more. Raises StorageError."""
    return open_storage(url, home) if is_writable(url, home) else open_to_read(url, home)


def readable_store(uri: str, folder: Path) -> str:
    """Return an address that MLflow's server can open, which writes to its database whatever it is asked for.

    Where the database may not be written to, that is a copy in `folder`, or a new one there if there is none yet.
    Raises DashboardError.
    """
    file = database_file(uri)
    if file is None:
        return uri
    if os.access(file.parent, os.W_OK) and (not file.exists() or os.access(file, os.W_OK)):
        return uri
    # Artifacts stay where they are. The link leads to them where the copy is taken for that of a moved home.
    copy = folder / f"copy-of-{file.name}"
    try:
        (folder / "artifacts").symlink_to(file.parent / "artifacts")
        if file.exists():
            copy_database(file, copy)
    except (OSError, sqlite3.Error) as error:
        raise DashboardError(f"{file} can be neither written nor copied to be shown ({error})") from error
    return f"sqlite:///{copy}"
