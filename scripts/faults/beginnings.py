"""Faults in the first seconds of a new home, while each of its files is made for the first time."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from scripts.faults.processes import pretend, processes_of_session
from scripts.faults.tally import Tally
from scripts.faults.whole import compare_mlflow, ends_well, start

_TRIALS = 12
_FILE_OPERATIONS = 110
_STATEMENTS = 160
"""Roughly as many as there are until the first trials run; a larger number would only be a later kill."""
_FIRST_SECONDS = 10.0


def all_killed_at_first(dice: random.Random, home: Path, tally: Tally) -> None:
    """Kill every process of a new home's first search, MLflow's and the trainers among them."""
    first = start(home, _TRIALS)
    while not home.exists() and first.child.poll() is None:
        time.sleep(0.01)
    time.sleep(dice.uniform(0, _FIRST_SECONDS))
    for pid in processes_of_session(first.pid):
        os.kill(pid, signal.SIGKILL)
    first.end()
    ends_well(start(home, _TRIALS), tally)
    tally.count(home, None, _TRIALS)
    compare_mlflow(home, tally)


def first_starts_at_once(dice: random.Random, home: Path, tally: Tally) -> None:
    starts = []
    for _ in range(4):
        starts.append(start(home, _TRIALS, "--workers", 1))
        time.sleep(dice.uniform(0, 0.2))
    for each in starts:
        ends_well(each, tally)
    tally.count(home, None, _TRIALS)
    compare_mlflow(home, tally)


def killed_at_a_file(storage: str | None) -> Callable:
    """Kill a runner at one of the first operations on files of a new home; in SQLite, at one of the statements."""
    point, last = ("file", _FILE_OPERATIONS) if storage is None else ("statement", _STATEMENTS)

    def inject(dice: random.Random, home: Path, tally: Tally) -> None:
        home.parent.mkdir(exist_ok=True)
        url = None if storage is None else f"sqlite:///{home.with_suffix('.db')}"
        options = {"trials": _TRIALS}
        pretend(home, url, die=f"{point}:{dice.randint(1, last)}", **options).end()
        again = pretend(home, url, **options)
        if code := again.end():
            tally.complaints.append(f"ended with {code}: {again.output[-500:]}")
        tally.count(home, url, _TRIALS)

    return inject
