"""MLflow's own server, run in this process with what belongs to it."""

import runpy
import sys
from collections.abc import Sequence


def run_server(arguments: Sequence[str]) -> None:
    """Run the command `mlflow` with these arguments until it ends, and this process with it."""
    import mlflow.store.db.utils

    # A database that does not answer is told of at once; MLflow's own ten attempts would take 100 s.
    mlflow.store.db.utils.MAX_RETRY_COUNT = 1
    sys.argv = ["mlflow", *arguments]
    runpy.run_module("mlflow", run_name="__main__", alter_sys=True)
