"""Faults injected into the whole program, `regsearch start`: its trainers train, and MLflow takes part."""

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.faults.comparison import differences
from scripts.faults.pretend import NAME
from scripts.faults.processes import Process, regsearch, trainers_of
from scripts.faults.proxy import Proxy
from scripts.faults.tally import Tally
from search.study import StoredStudy, close_storage, open_storage
from tests.mlflow_server import MLflowServer
from tests.ray_cluster import Machines, settings

GROUPS = Path("/sys/fs/cgroup/memory")
_RAY_TRIALS = 180
"""Enough for the search to be at work still, on a fast machine too, when the node is killed."""
SMALL = """
name = "faults"
[data]
name = "digits"
[model]
hidden = [16]
[training]
max_epochs = 9
[space]
dropout = {{ low = 0.0, high = 0.5 }}
weight_decay = {{ low = 1e-5, high = 1e-2, log = true }}
[search]
trials = {trials}
sampler = "random"
"""


def start(home: Path, trials: int, *more: object, prefix: tuple[str, ...] = (), **environment: str) -> Process:
    study = home.with_suffix(".toml")
    content = SMALL.format(trials=trials)
    if not study.exists() or study.read_text() != content:  # another start may be reading it
        study.write_text(content)
    fixed = ("--no-confirm", "--workers", 2, "--engine", "stacked", "--precision", "fp32")
    return regsearch("start", "--study", study, "--home", home, *fixed, *more, prefix=prefix, **environment)


def killed_for_real(trainer: bool) -> Callable:
    def inject(dice: random.Random, home: Path, tally: Tally) -> None:
        real = start(home, 12)
        real.wait_for("Measured and chosen")
        time.sleep(dice.uniform(0, 1.0))
        trainers = trainers_of(real.pid)
        if trainer and trainers:
            os.kill(dice.choice(trainers), signal.SIGKILL)
        elif not trainer:
            real.kill()
        real.end()
        ends_well(start(home, 12), tally)
        tally.count(home, None, 12)
        compare_mlflow(home, tally)

    return inject


def compare_mlflow(home: Path, tally: Tally, uri: str | None = None) -> None:
    """Have MLflow told what it misses, and count all that it has otherwise than Optuna.

    `uri` is that of a server whose database is in the home all the same.
    """
    synced = regsearch("sync", "--study", NAME, "--home", home, *(["--tracking-uri", uri] if uri else []))
    if synced.end():
        tally.complaints.append(f"sync: {synced.output[-500:]}")
    opened = open_storage(None, home)
    found = differences(f"sqlite:///{home}/mlflow.db", NAME, StoredStudy.load(NAME, opened).records())
    close_storage(opened)
    tally.mlflow_differs = (tally.mlflow_differs or 0) + len(found)
    tally.complaints += found


def out_of_memory(dice: random.Random, home: Path, tally: Tally) -> None:
    """The kernel kills a trainer whose control group has no more memory."""
    group = GROUPS / f"regsearch-{os.getpid()}-{dice.randrange(10**9)}"
    real = start(home, 12)
    real.wait_for("Measured and chosen")
    group.mkdir()
    try:
        if trainers := trainers_of(real.pid):
            victim = dice.choice(trainers)
            (group / "cgroup.procs").write_text(str(victim))
            (group / "memory.force_empty").write_text("0")
            (group / "memory.limit_in_bytes").write_text(str(1 << 20))
        ends_well(real, tally)
    finally:
        time.sleep(0.2)
        group.rmdir()
    tally.count(home, None, 12)
    compare_mlflow(home, tally)


@contextmanager
def _mlflow_server(home: Path) -> Iterator[tuple[MLflowServer, Proxy]]:
    """Yield a server, and a proxy in front of it."""
    home.mkdir()
    server = MLflowServer(home)
    server.start()
    proxy = Proxy(("127.0.0.1", server.port))
    try:
        yield server, proxy
    finally:
        proxy.close()
        server.kill()


def ends_well(real: Process, tally: Tally) -> None:
    if code := real.end():
        tally.complaints.append(f"ended with {code}: {real.output[-500:]}")


def mlflow_cut_off(seconds: float) -> Callable:
    def inject(dice: random.Random, home: Path, tally: Tally) -> None:
        with _mlflow_server(home) as (server, proxy):
            real = start(home, 30, "--tracking-uri", f"http://127.0.0.1:{proxy.port}")
            real.wait_for("Measured and chosen")
            time.sleep(dice.uniform(0, 1.0))
            proxy.cut()
            time.sleep(seconds)
            proxy.mend()
            ends_well(real, tally)
            tally.count(home, None, 30)
            compare_mlflow(home, tally, server.uri)

    return inject


def mlflow_restarted(dice: random.Random, home: Path, tally: Tally) -> None:
    with _mlflow_server(home) as (server, _):
        real = start(home, 200, "--tracking-uri", server.uri)
        real.wait_for("Measured and chosen")
        for _ in range(10):
            time.sleep(dice.uniform(0, 1.0))
            server.kill()
            server.start()
        ends_well(real, tally)
        tally.count(home, None, 200)
        compare_mlflow(home, tally, server.uri)


@contextmanager
def _ray_cluster() -> Iterator[tuple[Machines, dict[str, str]]]:
    """Yield a cluster of two machines, and the environment of who uses it."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        environment = settings(folder)
        machines = Machines(environment)
        try:
            yield machines, environment
        finally:
            machines.close()


def ray_node_killed(dice: random.Random, home: Path, tally: Tally) -> None:
    with _ray_cluster() as (machines, environment):
        real = start(home, _RAY_TRIALS, "--ray", machines.address, "--device", "cpu", **environment)
        real.wait_for("Measured and chosen")
        time.sleep(dice.uniform(0, 1.0))
        since = time.time()
        machines.lose_the_second()
        if real.wait_for("A trainer failed and is replaced"):
            tally.took_over.append(time.time() - since)
        else:
            tally.complaints.append(f"nobody noticed: {real.output[-500:]}")
        ends_well(real, tally)
    tally.count(home, None, _RAY_TRIALS)
    compare_mlflow(home, tally)
