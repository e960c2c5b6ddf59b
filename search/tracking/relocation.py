"""Artifact locations in a database file that was moved or copied: corrected to the folder beside the file.

MLflow stores absolute locations only. Without this correction, a copied home would write to the original, and a moved
one to a folder that is gone. Imports no MLflow.
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from search.places import write_whole

BUSY_SECONDS = 60.0
"""Time for which a statement waits for other processes that write to the file."""
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def correct_locations(file: Path, root: Path) -> None:
    """Let all artifact locations in `file` that were in its former folder be in `root`, a folder beside it.

    Locations that the user has chosen stay. Raises OSError and sqlite3.Error.
    """
    with closing(sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
        if not _former_roots(connection, file, root):
            return
        connection.execute("BEGIN IMMEDIATE")
        for former in _former_roots(connection, file, root):
            _correct_models(connection, former, root)
            for table, column in _COLUMNS:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (root.as_uri(), len(former) + 1, former, len(former) + 1, f"{former}/"),
                )
        connection.execute("COMMIT")


def _former_roots(connection: sqlite3.Connection, file: Path, root: Path) -> set[str]:
    """Return the locations, as they are stored, that have to become `root`."""
    relative = root.relative_to(file.parent).as_posix()
    pattern = re.compile(rf"((?:file:|/).*/{re.escape(quote(relative))})(?:/\d+)?")
    locations = (location for (location,) in connection.execute("SELECT artifact_location FROM experiments"))
    matches = (pattern.fullmatch(location or "") for location in locations)
    found = {match[1] for match in matches if match} - {root.as_uri()}
    return {former for former in found if _is_of_a_former_place(former, relative, file.name)}


def _is_of_a_former_place(former: str, relative: str, name: str) -> bool:
    """Return whether the database was in the folder that `former` is in.

    A folder that is there without any such database belongs to something else, such as another home.
    """
    folder = _path(former)
    # Not by `Path`, which raises where the former place may not be looked at.
    return not os.path.isdir(folder) or os.path.isfile(os.path.join(folder.removesuffix(relative), name))


def _correct_models(connection: sqlite3.Connection, former: str, root: Path) -> None:
    """Correct the location that each model's own description, MLmodel, has of itself."""
    stored = connection.execute("SELECT artifact_location FROM logged_models").fetchall()
    for (location,) in stored:
        if not location.startswith(f"{former}/"):
            continue
        description = root / _path(location[len(former) + 1 :]) / "MLmodel"
        if description.is_file():
            text = description.read_text(encoding="utf-8")
            corrected = text.replace(f"artifact_path: {former}/", f"artifact_path: {root.as_uri()}/")
            write_whole(description, corrected.encode())


def _path(location: str) -> str:
    return unquote(urlsplit(location).path) if location.startswith("file:") else location
