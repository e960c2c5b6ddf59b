"""Addresses of MLflow's database files, and the artifact folder that belongs to each of them. Imports no MLflow."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from search.places import in_url

_ARTIFACTS = Path("artifacts", "mlflow")


def default_tracking_uri(home: Path) -> str:
    """Return the address of the SQLite database in the home folder, where MLflow keeps runs by default."""
    return f"sqlite:///{in_url((home.expanduser().resolve() / 'mlflow.db').as_posix())}"


def database_file(uri: str) -> Path | None:
    """Return the SQLite file at `uri`, without symbolic links; None for servers and for databases in memory."""
    found = re.match(r"sqlite(?:\+\w+)?:///(?!file:|:memory:)([^?]+)", uri)
    return Path(unquote(found[1])).resolve() if found else None


def artifact_root(uri: str) -> Path | None:
    """Return the folder for the artifacts of a database file: beside it, so that both can be moved and copied together.

    None for a server, which decides for itself.
    """
    file = database_file(uri)
    return None if file is None else file.parent / _ARTIFACTS
