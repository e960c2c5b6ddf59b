"""Trainers that train nothing: real pipes and messages, losses from a formula, epochs that take as long as told.

To the runner they are `ProcessTrainer`s. One process stands for all of them, so that a thousand fit on a laptop.
"""

from __future__ import annotations

import heapq
import multiprocessing
import pickle
import selectors
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from multiprocessing.connection import Connection

from scripts.benchmarks.growth import curve
from search.records import Assignment, EpochResult
from search.trainers import ProcessTrainer, Report

_Pipes = Sequence[tuple[Connection, Connection]]


class SimulatedTrainer(ProcessTrainer):
    """The runner's end of a pipe."""

    def __init__(self, connection: Connection, slots: int) -> None:
        self.slots, self.connection = slots, connection
        self._delivery = None


class SimulatedCrew:
    """All trainers of a runner; none is ever lost."""

    def __init__(self, trainers: int, slots: int, epoch_seconds: float) -> None:
        # Forked, since thousands of pipes are handed over for nothing; to be made before any thread.
        context = multiprocessing.get_context("fork")
        pipes = [context.Pipe() for _ in range(trainers)]
        context.Process(target=_serve, args=(pipes, epoch_seconds), daemon=True).start()
        for _, theirs in pipes:
            theirs.close()
        self.trainers = [SimulatedTrainer(ours, slots) for ours, _ in pipes]

    def replace(self, index: int, fewer_slots: bool = False) -> SimulatedTrainer:  # noqa: ARG002
        return self.trainers[index]


def _serve(pipes: _Pipes, epoch_seconds: float) -> None:
    """Answer at the other ends of the pipes until the runner has gone."""
    for ours, _ in pipes:
        ours.close()
    trainers = {theirs: _Lives() for _, theirs in pipes}
    due: list[tuple[float, int, Connection]] = []
    turns = count()
    with selectors.DefaultSelector() as selector:
        for connection in trainers:
            selector.register(connection, selectors.EVENT_READ)
        while selector.get_map():
            patience = max(0.0, due[0][0] - time.monotonic()) if due else None
            for key, _ in selector.select(patience):
                connection = key.fileobj
                assert isinstance(connection, Connection)
                try:
                    _, admit, free = pickle.loads(connection.recv_bytes())
                except (EOFError, OSError):
                    selector.unregister(connection)
                    continue
                trainers[connection].change(admit, free)
                heapq.heappush(due, (time.monotonic() + epoch_seconds, next(turns), connection))
            while due and due[0][0] <= time.monotonic():
                connection = heapq.heappop(due)[2]
                with suppress(OSError):
                    connection.send_bytes(pickle.dumps(trainers[connection].epoch(epoch_seconds), protocol=5))


class _Lives:
    """What one trainer trains."""

    def __init__(self) -> None:
        self._curves: dict[int, Iterator[EpochResult]] = {}

    def change(self, admit: Sequence[Assignment], free: Sequence[int]) -> None:
        for number in free:
            del self._curves[number]
        for assignment in admit:
            self._curves[assignment.number] = curve(assignment)

    def epoch(self, seconds: float) -> Report:
        return Report({number: next(losses) for number, losses in self._curves.items()}, training=seconds)
