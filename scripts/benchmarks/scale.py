"""How far one runner and one database go: many simulated trainers, and many runners that share a study.

The real runner, study, storage and sampler; trainers that cost nothing (`simulated.py`). With epochs of 0 seconds all
wait for the runner, and what is measured is the most that it can do; with longer ones, how busy it keeps them. Each
runner is a process of its own. Counting begins once every slot has had a trial.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import NoReturn

from scripts.benchmarks.gauges import DESK, RunnerGauge, ServerGauge
from scripts.benchmarks.growth import storage_url
from scripts.benchmarks.simulated import SimulatedCrew
from search.pruning import make_pruner
from search.runner import Runner
from search.spec import load_spec
from search.study import Study, open_storage

ENDLESS = 10_000_000
FULL_SECONDS = 600
TRAINERS, RUNNERS = (1, 10, 100, 1000), (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Load:
    """What is run."""

    url: str | None
    home: Path
    runners: int
    trainers: int
    """Of each runner."""
    slots: int
    """Of each trainer."""
    epoch_seconds: float
    sampler: str | None


@dataclass(frozen=True)
class Figures:
    """What came of it, over all runners."""

    load: Load
    filled: float
    """Seconds until each slot had had a trial."""
    counts: Counter[str]
    """Sums over runners; see `RunnerGauge`."""
    server_cpu: float | None = None
    waiting: float | None = None

    @property
    def seconds(self) -> float:
        """How long was counted."""
        return self.counts["wall"] / self.load.runners

    def rate(self, name: str) -> float:
        return self.counts[name] / self.seconds

    def each(self, name: str, of: str = "finish", factor: float = 1.0) -> float:
        return factor * self.counts[name] / max(1, self.counts[of])


class Gate:
    """Stops no runner, but ends its process when all have been counted. Asked by the runner again and again."""

    def __init__(self, gauge: RunnerGauge, slots: int, begin: Event, end: Event, parent: Connection) -> None:
        self._gauge, self._slots, self._begin, self._end, self._parent = gauge, slots, begin, end, parent
        self._full, self._ancestor = False, os.getppid()
        self._before: Counter[str] | None = None

    def __call__(self) -> bool:
        if os.getppid() != self._ancestor:
            os._exit(1)  # whoever wanted to know has gone
        now = self._gauge.read()
        if not self._full and now["started"] >= self._slots:
            self._full = True
            self._parent.send(None)
        if self._before is None and self._begin.is_set():
            self._before = now
        if self._before is not None and self._end.is_set():
            now.subtract(self._before)
            self._leave(now)
        return False

    def _leave(self, counts: Counter[str]) -> NoReturn:
        self._parent.send(counts)
        os._exit(0)  # a tidy end would put thousands of trials back into the queue first


def run(load: Load, begin: Event, end: Event, parent: Connection) -> None:
    """Be one of the runners."""
    crew = SimulatedCrew(load.trainers, load.slots, load.epoch_seconds)
    spec = load_spec("digits").with_overrides(trials=ENDLESS, sampler=load.sampler)
    storage = open_storage(load.url, load.home)
    study = Study.open("scale", spec, storage, load.home, patience=60.0)
    gauge = RunnerGauge(study, storage)
    gate = Gate(gauge, load.trainers * load.slots, begin, end, parent)
    Runner(study, crew, make_pruner(spec), None, gauge, gate).run()


def measure(load: Load, seconds: float) -> Figures:
    """Run a load until all its slots are filled, count for so many seconds, and end it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "optuna.storages._rdb.models", "optuna.samplers"])
    begin, end, connections, start = context.Event(), context.Event(), [], time.perf_counter()
    processes = []
    for _ in range(load.runners):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=run, args=(load, begin, end, theirs)))
        processes[-1].start()
        theirs.close()
        connections.append(ours)
    try:
        for connection in connections:
            if not connection.poll(FULL_SECONDS):
                raise SystemExit(f"{load.trainers} trainers had nothing to do for {FULL_SECONDS} s")
            connection.recv()
        filled = time.perf_counter() - start
        with ExitStack() as stack:
            server = stack.enter_context(ServerGauge(load.url)) if load.url else None
            begin.set()
            time.sleep(seconds)
        end.set()
        counts: Counter[str] = Counter()
        for connection in connections:
            counts.update(connection.recv())
    finally:
        for process in processes:
            process.kill()
            process.join()
    if server is None:
        return Figures(load, filled, counts)
    return Figures(load, filled, counts, server.cpu, server.waiting)


def trainers_row(figures: Figures) -> list[str]:
    """Return what one runner does for its trainers."""
    load = figures.load
    asked = 1 - figures.counts["rounds"] * load.epoch_seconds / (load.trainers * figures.seconds)
    return [
        f"{load.trainers:,} x {load.slots}",
        f"{figures.filled:.0f}",
        f"{figures.rate('finish'):.1f}",
        f"{figures.rate('epochs'):.0f}",
        f"{100 * asked:.0f}" if load.epoch_seconds else "",
        f"{figures.each('cpu', factor=1e3):.1f}",
        f"{100 * sum(figures.rate(f'{name} seconds') for name in DESK):.0f}",
        *(f"{figures.each(f'{name} seconds', name, 1e3):.1f}" for name in DESK),
    ]


TRAINERS_HEADER = ["trainers x slots", "filled, s", "trials/s", "epochs/s", "trainers wait, %", "CPU ms a trial"]
TRAINERS_HEADER += ["storage thread busy, %", *(f"{name}, ms" for name in DESK)]


def runners_row(figures: Figures) -> list[str]:
    """Return what runners do together, and what it costs."""
    per_second = figures.rate("finish")
    locked = figures.rate("locked seconds")
    server = "-" if figures.server_cpu is None else f"{1e3 * figures.server_cpu / max(1, figures.counts['finish']):.1f}"
    return [
        f"{figures.load.runners}",
        f"{per_second:.1f}",
        f"{figures.rate('statements'):.0f}",
        f"{figures.each('statements'):.0f}",
        f"{figures.each('transactions'):.1f}",
        f"{figures.each('cpu', factor=1e3):.1f}",
        server,
        f"{figures.each('statements locked', 'locks'):.1f}",
        f"{figures.each('locked seconds', 'locks', 1e3):.1f}",
        f"{figures.each('lock wait seconds', 'locks', 1e3):.1f}",
        f"{100 * locked:.0f}",
        "-" if figures.waiting is None else f"{figures.waiting:.1f}",
        f"{figures.each('news seconds', 'news', 1e3):.0f}",
    ]


RUNNERS_HEADER = ["runners", "trials/s", "statements/s", "statements a trial", "transactions a trial", "CPU ms a trial"]
RUNNERS_HEADER += ["server's CPU ms", "statements locked", "locked, ms", "wait for lock, ms", "study locked, %"]
RUNNERS_HEADER += ["waiting", "news, ms"]


def print_row(cells: Sequence[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def print_header(cells: Sequence[str]) -> None:
    print()
    print_row(cells)
    print_row(["--:" for _ in cells])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", default="postgresql", help="journal, postgresql (starts a server) or a URL")
    parser.add_argument("--trainers", type=int, nargs="*", help=f"under one runner, one after the other; {TRAINERS}")
    parser.add_argument("--runners", type=int, nargs="*", help=f"on one study, one after the other; {RUNNERS}")
    parser.add_argument("--slots", type=int, default=1, help="of each trainer")
    parser.add_argument("--trainers-each", type=int, default=8, help="of each runner, where there are several")
    parser.add_argument("--epoch", type=float, default=0.0, help="seconds that an epoch takes")
    parser.add_argument("--seconds", type=float, default=15.0, help="to count for, once all slots are filled")
    parser.add_argument("--sampler")
    options = parser.parse_args()
    neither = options.trainers is None and options.runners is None
    trainers = TRAINERS if neither else options.trainers or ()
    runners = RUNNERS if neither else options.runners or ()
    single = Load(None, Path(), 1, 1, options.slots, options.epoch, options.sampler)
    several = replace(single, trainers=options.trainers_each)
    for header, row, loads in (
        (TRAINERS_HEADER, trainers_row, [replace(single, trainers=number) for number in trainers]),
        (RUNNERS_HEADER, runners_row, [replace(several, runners=number) for number in runners]),
    ):
        if loads:
            print_header(header)
        for load in loads:
            # A server and a study of its own for each: what a study holds already changes what the next trial costs.
            with storage_url(options.storage) as url, tempfile.TemporaryDirectory(prefix="regsearch-scale-") as home:
                print_row(row(measure(replace(load, url=url, home=Path(home)), options.seconds)))


if __name__ == "__main__":
    main()
