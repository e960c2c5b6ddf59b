"""Faults before a search has begun, in a container that is too small for it, and amid an export."""

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import safe_open

from scripts.faults.pretend import NAME
from scripts.faults.processes import Process, processes_of_session, regsearch, trainers_of
from scripts.faults.tally import Tally
from scripts.faults.whole import GROUPS, compare_mlflow, ends_well, start

_TRIALS = 12
_KILLS = 4
"""Two trainers are replaced after that many, wherever they hit."""
_FIRST_SECONDS = 6.0
_MEGABYTES = 500
"""Room for the runner, MLflow and one trainer; not for two."""
_EXPORTED = {"README.md", "model.safetensors", "program.pt2", "spec.json"}
_EXPORT_SECONDS = 2.5
"""Roughly for which an export writes."""


def trainers_killed_at_first(dice: random.Random, home: Path, tally: Tally) -> None:
    """Kill trainers one after the other, from the moment that the first is there."""
    real = start(home, _TRIALS)
    while not trainers_of(real.pid) and real.child.poll() is None:
        time.sleep(0.01)
    moments = sorted(dice.uniform(0, _FIRST_SECONDS) for _ in range(_KILLS))
    for before, moment in zip([0.0, *moments], moments, strict=False):
        time.sleep(moment - before)
        if trainers := trainers_of(real.pid):
            with suppress(ProcessLookupError):
                os.kill(dice.choice(trainers), signal.SIGKILL)
    ends_well(real, tally)
    if "Traceback" in real.output:
        tally.complaints.append(real.output[-1500:])
    tally.count(home, None, _TRIALS)
    compare_mlflow(home, tally)


@contextmanager
def _memory_group(dice: random.Random, megabytes: int) -> Iterator[Path]:
    group = GROUPS / f"regsearch-{os.getpid()}-{dice.randrange(10**9)}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(megabytes << 20))
        yield group
    finally:
        time.sleep(0.5)  # until the kernel has done with the last process
        group.rmdir()


def too_small(dice: random.Random, home: Path, tally: Tally) -> None:
    """Search in a control group that has no room for the second trainer."""
    with _memory_group(dice, _MEGABYTES) as group:
        enter = ("sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh")
        real = start(home, _TRIALS, prefix=enter)
        ends_well(real, tally)
        kills = int((group / "memory.oom_control").read_text().split()[-1])
    if not kills:
        tally.complaints.append("there was memory enough")
    if f"{_MEGABYTES} MB" not in real.output:
        tally.complaints.append(f"memory is not named: {real.output[-1500:]}")
    tally.count(home, None, _TRIALS)
    compare_mlflow(home, tally)


def export_killed(dice: random.Random, home: Path, tally: Tally) -> None:
    """Kill an export while it writes, into a new folder or into one that is there, and export once more."""
    ends_well(start(home, 4, "--tracking-uri", "http://127.0.0.1:9"), tally)
    out = home.with_name("model")
    if dice.random() < 0.5:
        out.mkdir()
    killed = _export(home, out)
    while not _unfinished(home.parent) and killed.child.poll() is None:
        time.sleep(0.005)
    time.sleep(dice.uniform(0, _EXPORT_SECONDS))
    for pid in processes_of_session(killed.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    killed.end()
    there = {path.name for path in out.iterdir()} if out.exists() else set()
    if "README.md" in there and there != _EXPORTED:
        tally.complaints.append(f"it looks like an export: {sorted(there)}")
    if there != _EXPORTED:
        ends_well(_export(home, out), tally)
    if {path.name for path in out.iterdir()} != _EXPORTED:
        tally.complaints.append(f"not exported: {sorted(path.name for path in out.iterdir())}")
    with safe_open(out / "model.safetensors", framework="pt") as weights:
        if not weights.keys():
            tally.complaints.append("there are no weights")
    if left := _unfinished(home.parent):
        tally.complaints.append(f"left over: {left}")
    tally.count(home, None, 4)


def _export(home: Path, out: Path) -> Process:
    return regsearch("export", "--study", NAME, "--home", home, "--out", out, "--no-register", "--device", "cpu")


def _unfinished(folder: Path) -> list[Path]:
    return [*folder.glob(".model.*.part"), *folder.glob("model/.model.*.part")]


ROWS = (
    ("trainer killed at start-up", "4 times kill -9 in the first seconds of `start`", trainers_killed_at_first, 20),
    ("out of memory", "`start` in a container of 500 MB", too_small, 20, 0, ("root", str(GROUPS))),
    ("export killed", "kill -9 while it writes, then run again", export_killed, 20, 1),
)
