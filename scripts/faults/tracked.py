"""Faults of a tracking server that answers, but not always."""

import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from scripts.faults.hostile import WAYS, HostileProxy, pass_on
from scripts.faults.pretend import NAME
from scripts.faults.processes import regsearch
from scripts.faults.tally import Tally
from scripts.faults.whole import compare_mlflow, ends_well, start
from tests.mlflow_server import MLflowServer

IN_PART = (
    ("HTTP 500, half of them carried out", "errors", 1),
    ("HTTP 429 with Retry-After", "busy", 0),
    ("connection reset amid the answer", "broken", 0),
    ("carried out and not answered", "unanswered", 0),
    ("a proxy's pages, or nothing, with HTTP 200, 502, 503 or 504", "pages", 0),
    ("answers cut off within the JSON", "truncated", 0),
    ("carried out twice", "twice", 0),
    ("answered after 1.5 s", "slow", 0),
)
"""In words, by name in `hostile`, and how often in the short form."""

_TRIALS = 16


def fails_in_part(way: str) -> Callable:
    """Have a search write to a server of which three requests in ten fail in this way, then sync through the same."""

    def inject(dice: random.Random, home: Path, tally: Tally) -> None:
        home.mkdir()
        server = MLflowServer(home)
        server.start()
        proxy = HostileProxy(server.port, WAYS[way], dice)
        try:
            ends_well(start(home, _TRIALS, "--tracking-uri", proxy.uri), tally)
            tally.count(home, None, _TRIALS)
            if proxy.failed == 0:
                tally.complaints.append(f"none of {proxy.requests} requests failed")
            if not _has_something(server.uri):
                tally.complaints.append("MLflow got nothing during the search")
            synced = regsearch("sync", "--study", NAME, "--home", home, "--tracking-uri", proxy.uri)
            if synced.end():
                tally.complaints.append(f"sync in between: {synced.output[-500:]}")
            proxy.way = pass_on
            compare_mlflow(home, tally, proxy.uri)
        finally:
            proxy.close()
            server.kill()

    return inject


def _has_something(uri: str) -> bool:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(NAME)
    ended = "tags.`regsearch.kind` = 'trial' and attributes.status != 'RUNNING'"
    return experiment is not None and bool(client.search_runs([experiment.experiment_id], ended, max_results=1))


def set_back(dice: random.Random, home: Path, tally: Tally) -> None:
    """Start the server again with an older copy of its database, amid a search."""
    home.mkdir()
    server = MLflowServer(home)
    server.start()
    try:
        real = start(home, 200, "--tracking-uri", server.uri)
        real.wait_for("Measured and chosen")
        server.kill()
        with closing(sqlite3.connect(home / "mlflow.db")) as now, closing(sqlite3.connect(home / "older.db")) as older:
            now.backup(older)  # undoes what the killed server had begun
        server.start()
        real.wait_for(f"trial {dice.randrange(20, 60)} ")
        server.kill()
        for suffix in ("-wal", "-shm", "-journal"):
            (home / f"mlflow.db{suffix}").unlink(missing_ok=True)
        shutil.copy(home / "older.db", home / "mlflow.db")
        server.start()
        ends_well(real, tally)
        tally.count(home, None, 200)
        compare_mlflow(home, tally, server.uri)
    finally:
        server.kill()


def first_starts_at_once(dice: random.Random, home: Path, tally: Tally) -> None:
    """Begin one study four times at once, on a server: none of the processes holds a lock that the others see."""
    home.mkdir()
    server = MLflowServer(home)
    server.start()
    try:
        starts = []
        for _ in range(4):
            starts.append(start(home, _TRIALS, "--workers", 1, "--tracking-uri", server.uri))
            time.sleep(dice.uniform(0, 0.2))
        for each in starts:
            ends_well(each, tally)
        tally.count(home, None, _TRIALS)
        compare_mlflow(home, tally, server.uri)
    finally:
        server.kill()
