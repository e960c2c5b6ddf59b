"""Addresses of MLflow's database files, and the artifact folder that belongs to each of them. Imports no MLflow."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from search.places import in_url

_ARTIFACTS = Path("artifacts", "mlflow")
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_OF_CLIENTS = ("", "file", "runs", "models")
"""Schemes of artifact addresses that are a folder of this machine, or may turn out to be one."""


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


def check_artifact_address(address: str, tracking_uri: str) -> str:
    """Return where a run's artifacts go when its tracking server may choose that. Raises ValueError.

    A server elsewhere names no folder of this machine: what lies there would be written over.
    """
    server = urlsplit(tracking_uri)
    is_elsewhere = server.scheme in ("http", "https") and server.hostname not in _THIS_MACHINE
    if is_elsewhere and urlsplit(address).scheme.lower() in _OF_CLIENTS:
        raise ValueError(f"the server wants it in a folder of this machine, {address}; start it with --serve-artifacts")
    return address
