"""MLflow's own server, run in this process with what belongs to it."""

import os
import runpy
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import suppress

from search.tracking.location import artifact_root


def run_server(arguments: Sequence[str]) -> None:
    """Run the command `mlflow` with these arguments until it ends, and this process with it."""
    import mlflow.store.db.utils

    from search.tracking.database import opened

    # A database that does not answer is told of at once; MLflow's own ten attempts would take 100 s.
    mlflow.store.db.utils.MAX_RETRY_COUNT = 1
    uri = os.environ.get("MLFLOW_BACKEND_STORE_URI", "")
    with suppress(OSError, sqlite3.Error), opened(uri, artifact_root(uri)):  # MLflow says what is wrong
        pass
    sys.argv = ["mlflow", *arguments]
    runpy.run_module("mlflow", run_name="__main__", alter_sys=True)
