"""A trainer in a process of its own, driven over a pipe.

The process is started before anybody knows what it shall do: importing torch takes a second, in which the runner can
read files and open storages.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from search.children import describe_exit, safe_children
from search.errors import RegsearchError
from search.memory import be_expendable, describe_limit, memory_kills
from search.places import in_an_existing_folder
from search.streams import steady_streams
from search.trainers.interface import KilledForMemory, TrainerDied, TrainerLost, TrainerSetup
from search.trainers.local import LocalTrainer, as_lost
from search.trainers.remote import RemoteTrainer, answer

if TYPE_CHECKING:
    from collections.abc import Iterator


_DEATH_SECONDS = 5.0
"""Within which a process is gone that was killed, or has closed its end of the pipe."""


class ProcessTrainer(RemoteTrainer):
    """A population in a process of its own, driven over a pipe.

    The process is started with `spawn`, imports torch and nothing else heavy, does not hear Ctrl-C (the runner does)
    and ends when its runner does, however that happens.
    """

    def __init__(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Start the process; it waits for `set_up`. Raises TrainerDied."""
        super().__init__(should_stop)
        self._kills_before = memory_kills()
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), name="regsearch trainer", daemon=True)
        try:
            with _interrupts_blocked(), in_an_existing_folder(), safe_children():
                self.process.start()
        except OSError as error:
            self.connection.close()
            raise TrainerDied(f"the system refuses another process ({error.strerror or error})") from error
        finally:
            theirs.close()
        self._delivery: threading.Thread | None = None

    def set_up(self, setup: TrainerSetup) -> None:
        """Say what is to be trained; returns at once."""
        self.slots = setup.slots
        self._send_later(setup)

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    @staticmethod
    def first_done(trainers: Sequence[ProcessTrainer], timeout: float) -> list[ProcessTrainer]:
        by_connection = {trainer.connection: trainer for trainer in trainers}
        return [by_connection[ready] for ready in wait(list(by_connection), timeout) if isinstance(ready, Connection)]

    def close(self) -> None:
        self.process.kill()
        self.process.join(_DEATH_SECONDS)
        if self.process.is_alive():  # in a call of a driver or a file system that does not come back
            _abandon(self.process)
        elif self._delivery is not None:
            self._delivery.join(_DEATH_SECONDS)  # it finds the pipe broken, and must not find it gone amid a write
        self.connection.close()

    def _send_later(self, message: object) -> None:
        """Send something once what was sent before has been read.

        The process reads nothing before it has imported torch, and a pipe holds little: nobody waits for that.
        """
        arguments = (message, self._delivery)
        self._delivery = threading.Thread(target=self._deliver, args=arguments, name="trainer set-up", daemon=True)
        self._delivery.start()

    def _deliver(self, message: object, before: threading.Thread | None) -> None:
        if before is not None:
            before.join()
        with suppress(OSError):  # the next message, or the wait for an answer, tells
            self.connection.send_bytes(pickle.dumps(message, protocol=5))

    def _send(self, *message: object) -> None:
        if self._delivery is not None and self._delivery.is_alive():
            self._send_later(message)
            return
        try:
            # Plain pickle copies into the pipe; multiprocessing's own would put tensors into /dev/shm, which containers
            # keep too small.
            self.connection.send_bytes(pickle.dumps(message, protocol=5))
        except OSError as error:
            with suppress(OSError):
                if self.connection.poll():  # all before was answered: it is the goodbye, or the pipe's end
                    self._received()
            raise self._lost() from error

    def _receive(self, timeout: float | None = None) -> object:
        try:
            if self.connection.poll(timeout):
                return pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._lost() from error
        self.close()  # what it says later would answer another question
        raise TrainerDied(f"a trainer process has not answered for {timeout:.0f} s")

    def _lost(self) -> TrainerLost:
        self.process.join(_DEATH_SECONDS)
        code = self.process.exitcode
        if code == -signal.SIGKILL and memory_kills() > self._kills_before:
            return KilledForMemory(
                f"the kernel has killed a trainer process, since {describe_limit()}; --workers 1 and a smaller "
                "--population need less"
            )
        return TrainerDied(f"a trainer process died ({describe_exit(code)})")


def _abandon(process: BaseProcess) -> None:
    """Have nobody wait for a process, as Python would do when this one ends."""
    multiprocessing.process._children.discard(process)  # type: ignore[attr-defined]


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
    with steady_streams(results=False):  # a user's model may print, and the reader of that may have gone
        _answer_messages(connection)


def _answer_messages(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    be_expendable()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        import torch  # noqa: F401  the longest part of starting, and what it shall do may not be known yet

        trainer = LocalTrainer(pickle.loads(connection.recv_bytes()))
        while True:
            message = pickle.loads(connection.recv_bytes())
            connection.send_bytes(pickle.dumps(answer(trainer, message), protocol=5))
            # After the first message, which asks for the checksum of the data, the runner has things to do.
            trainer.warm_up()
            # What is there now stays: the collector need not go through all of torch again and again.
            gc.freeze()
    except EOFError:
        return
    except (TrainerLost, RegsearchError) as error:
        _say_goodbye(connection, error)
    except Exception as error:
        _say_goodbye(connection, as_lost(error))


def _say_goodbye(connection: Connection, error: Exception) -> None:
    with suppress(OSError):  # the runner may be gone, and nobody is left to tell
        connection.send_bytes(pickle.dumps(error))


def _end_with_parent() -> None:
    """End this process when its runner dies, even in the middle of a long epoch."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
