"""The trainer interface and its homes: this process, or a process of its own.

A trainer owns one device and one population on it. It knows nothing of Optuna, MLflow or other trainers; a runner
drives it by a few messages, one round per epoch: `begin` (free these slots, admit these trials, train an epoch), wait,
`collect`. The runner cannot tell the homes apart. A trainer whose runner dies ends by itself.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Protocol

from search.errors import DeviceError
from search.records import Assignment, EpochResult
from search.spec import ModelSpec, TrainingSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from search.training.data import Dataset
    from search.training.population import Population, Way


class TrainerLost(Exception):
    """The trainer failed or died; its trials are unfinished and it is of no further use."""


class TrainerStopped(Exception):
    """An epoch was given up because the runner asked for it."""


@dataclass(frozen=True)
class TrainerSetup:
    """All that a trainer needs to know, once."""

    model: ModelSpec
    training: TrainingSpec
    data: Dataset
    seed: int
    """The study's seed."""
    slots: int
    probe: Assignment
    """A configuration to measure with."""
    engine: str = "auto"
    precision: str = "auto"
    device: str = "cpu"
    threads: int | None = None
    """Threads of torch within the trainer; None to measure whether more than one is worth it."""


@dataclass(frozen=True)
class Report:
    """What an epoch brought."""

    results: dict[int, EpochResult]
    failed: dict[int, str] = field(default_factory=dict)
    """Trials that could not even be admitted, with the error."""
    engine: str = ""
    """How the trainer works, in words: engine and threads."""


class Trainer(Protocol):
    """See the module's docstring. `best_weights` may be asked between `collect` and the next `begin`."""

    slots: int

    def begin(self, admit: Sequence[Assignment], free: Sequence[int]) -> None:
        """Free slots, admit trials, start an epoch; returns at once. Raises TrainerLost."""
        ...

    def collect(self) -> Report:
        """Wait for the epoch's end. Raises TrainerLost, TrainerStopped."""
        ...

    def best_weights(self, number: int) -> dict[str, Tensor]:
        """Return the weights of a trial's best epoch. Raises TrainerLost."""
        ...

    def close(self) -> None:
        """End the trainer at once, whatever it is doing."""
        ...


class LocalTrainer:
    """A population in this process: one GPU, tests, debugging. `collect` does the work."""

    def __init__(self, setup: TrainerSetup, should_stop: Callable[[], bool] = lambda: False) -> None:
        self.slots = setup.slots
        self._should_stop = should_stop
        self._orders: tuple[Sequence[Assignment], Sequence[int]] = ((), ())
        try:
            self._population, threads = _population(setup)
        except Exception as error:  # above all memory that is not there
            raise TrainerLost(_brief(error)) from error
        self._engine = _in_words(self._population.way, threads)

    def begin(self, admit: Sequence[Assignment], free: Sequence[int]) -> None:
        self._orders = (admit, free)

    def collect(self) -> Report:
        from search.training.population import Stopped

        admit, free = self._orders
        try:
            self._population.free(free)
            failed = self._admit(admit)
            results = self._population.train_epoch(self._should_stop)
        except Stopped:
            raise TrainerStopped from None
        except Exception as error:
            raise TrainerLost(_brief(error)) from error
        return Report(results, failed, self._engine)

    def best_weights(self, number: int) -> dict[str, Tensor]:
        return self._population.best_weights(number)

    def close(self) -> None:
        pass

    def _admit(self, assignments: Sequence[Assignment]) -> dict[int, str]:
        failed = {}
        for assignment in assignments:
            try:
                self._population.admit(assignment)
            except Exception as error:  # a configuration that cannot be built must not end the others
                failed[assignment.number] = _brief(error)
        return failed


class ProcessTrainer:
    """A population in a process of its own, driven over a pipe.

    The process is started with `spawn`, imports torch and nothing else heavy, does not hear Ctrl-C (the runner does)
    and ends when its runner does, however that happens.
    """

    def __init__(self, setup: TrainerSetup) -> None:
        self.slots = setup.slots
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), name="regsearch trainer", daemon=True)
        with _interrupts_blocked():
            self.process.start()
        theirs.close()
        # The process reads its set-up once it has imported torch: several trainers do that at the same time.
        self._delivery = threading.Thread(target=self._deliver, args=(setup,), name="trainer set-up", daemon=True)
        self._delivery.start()

    def begin(self, admit: Sequence[Assignment], free: Sequence[int]) -> None:
        self._delivery.join()
        self._send(("epoch", list(admit), list(free)))

    def collect(self) -> Report:
        report = self._receive()
        assert isinstance(report, Report)
        return report

    def best_weights(self, number: int) -> dict[str, Tensor]:
        self._send(("weights", number))
        weights: dict[str, Tensor] = self._receive()
        return weights

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()

    def _deliver(self, setup: TrainerSetup) -> None:
        with suppress(TrainerLost):  # the next message tells
            self._send(setup)

    def _send(self, message: object) -> None:
        try:
            # Plain pickle copies tensors into the pipe; multiprocessing's own would put them into /dev/shm, which
            # containers keep too small.
            self.connection.send_bytes(pickle.dumps(message, protocol=5))
        except OSError as error:
            raise self._lost() from error

    def _receive(self) -> Any:
        try:
            answer = pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._lost() from error
        if isinstance(answer, str):
            raise TrainerLost(answer)
        return answer

    def _lost(self) -> TrainerLost:
        self.process.join(timeout=5)
        return TrainerLost(f"a trainer process died (exit code {self.process.exitcode})")


def wait_for_any(trainers: Sequence[Trainer], timeout: float) -> list[Trainer]:
    """Return trainers whose `collect` will not wait for another process, within `timeout` seconds; maybe none."""
    local = [trainer for trainer in trainers if not isinstance(trainer, ProcessTrainer)]
    if local:
        return local[:1]
    by_connection = {t.connection: t for t in trainers if isinstance(t, ProcessTrainer)}
    return [by_connection[ready] for ready in wait(list(by_connection), timeout) if isinstance(ready, Connection)]


def pick_device(name: str) -> str:
    """Turn `auto`, `cpu` or `cuda` into a device that is there. Raises DeviceError."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "--device cuda: torch finds no CUDA device here; use --device cpu, or auto to take what is there"
        )
    return name


def _population(setup: TrainerSetup) -> tuple[Population, int]:
    """Return the population, set to the best way to compute, and how many threads that takes."""
    import torch

    from search.training.choosing import choose
    from search.training.engines import ENGINES, PRECISIONS
    from search.training.models import model_factory
    from search.training.population import Population

    factory = model_factory(setup.model, setup.data.inputs, setup.data.classes)
    population = Population(factory, setup.data, setup.training, setup.seed, setup.slots, device=setup.device)
    engines = list(ENGINES) if setup.engine == "auto" else [setup.engine]
    precisions = list(PRECISIONS) if setup.precision == "auto" else [setup.precision]
    threads = sorted({1, torch.get_num_threads()}) if setup.threads is None else [setup.threads]
    _, chosen = choose(population, setup.probe, engines, precisions, threads)
    return population, chosen


def _in_words(way: Way, threads: int) -> str:
    return f"{way.engine} engine, {way.precision}, {threads} thread{'s' if threads > 1 else ''}"


def _brief(error: BaseException) -> str:
    """Return type, message and place of an error: enough to find it, short enough to store with a trial."""
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" ({os.path.basename(frame[0].filename)}:{frame[0].lineno})" if frame else ""
    return f"{type(error).__name__}: {error}{place}"


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block SIGINT while a child is started: the child inherits that, and Ctrl-C cannot hit its start-up."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection) -> None:
    """Run a trainer process: setup first, then messages until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        trainer = LocalTrainer(pickle.loads(connection.recv_bytes()))
        while True:
            message = pickle.loads(connection.recv_bytes())
            connection.send_bytes(pickle.dumps(_answer(trainer, message), protocol=5))
    except EOFError:
        return
    except TrainerLost as error:
        _say_goodbye(connection, str(error))
    except Exception as error:
        _say_goodbye(connection, _brief(error))


def _answer(trainer: LocalTrainer, message: tuple[Any, ...]) -> object:
    match message:
        case ("epoch", admit, free):
            trainer.begin(admit, free)
            return trainer.collect()
        case ("weights", number):
            return trainer.best_weights(number)
    raise ValueError(f"unknown message {message!r}")


def _say_goodbye(connection: Connection, reason: str) -> None:
    with suppress(OSError):  # the runner may be gone, and nobody is left to tell
        connection.send_bytes(pickle.dumps(reason))


def _end_with_parent() -> None:
    """End this process when its runner dies, even in the middle of a long epoch."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
