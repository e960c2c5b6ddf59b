"""A trainer on any machine of a Ray cluster: an actor that Ray's scheduler places, driven by remote calls.

What must be found out where the trainer is - device, kernels, data folder - is found out there. Clusters are connected
to in `cluster`; Ray is imported by those who call.
"""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from search import __version__
from search.errors import RegsearchError, UsageError
from search.machine import describe_machine
from search.memory import is_out_of_memory
from search.places import close_to_others, machine_data_dir
from search.trainers.interface import KilledForMemory, Own, Report, StudyData, TrainerDied, TrainerLost, TrainerSetup
from search.trainers.local import LocalTrainer, as_lost, brief
from search.trainers.machine import cores, find_kernels, pick_devices
from search.trainers.remote import RemoteTrainer, answer

if TYPE_CHECKING:
    from search.trainers.cluster import RayCluster

_SECRETS = ("REGSEARCH_STORAGE", "MLFLOW_TRACKING_", "PG")
"""How the names of variables begin that are the runner's alone: addresses and passwords of storage and tracking."""

_ALIVE_SECONDS = 5.0
_LONGEST_LINE = 200


def secrets() -> list[str]:
    """Return the variables of this process's environment that no trainer is to have."""
    return [name for name in os.environ if name.startswith(_SECRETS)]


@dataclass(frozen=True)
class Conditions:
    """What each machine decides for itself by these wishes."""

    device: str = "auto"
    kernels: str = "auto"
    own_folders: bool = False
    """Whether each machine's own REGSEARCH_DATA holds."""
    gpus: float = 0.0
    """What Ray reserves for a trainer; a fraction for a share of one."""


@dataclass(frozen=True)
class Place:
    """Where a trainer came to be."""

    machine: str
    """What Ray calls it."""
    device: str
    processor: str
    notice: str | None
    """What the user should know of how it works there."""


class RayTrainer(RemoteTrainer):
    """A population in an actor, which Ray starts wherever there is room, and ends when the runner does."""

    def __init__(self, cluster: RayCluster, should_stop: Callable[[], bool]) -> None:
        """Ask for a place; the actor waits for `set_up`. Raises TrainerDied when the cluster is gone."""
        import ray

        super().__init__(should_stop)
        self._ray, self._cluster = ray, cluster
        # Ray neither starts it again nor asks it again: what a lost trainer means is for the runner to say.
        reserved = ray.remote(TrainerActor).options(num_cpus=1, num_gpus=cluster.conditions.gpus, max_restarts=0)
        with _cluster_needed():
            self._actor = cast(Any, reserved.remote())
            self._arrival = self._actor.arrive.remote(__version__)
        self._answer: Any = None
        self._arrived = False
        self._closed = False

    def set_up(self, setup: TrainerSetup) -> None:
        """Say what is to be trained; returns at once. Raises UsageError when it cannot be sent, and TrainerLost."""
        self.slots = setup.slots
        plain = replace(setup, own=Own(), data=None)  # type: ignore[arg-type]  # put back on the other side
        with _cluster_needed():
            own = self._cluster.sent((setup.own, setup.data))
            self._actor.set_up.remote(plain, own, self._cluster.conditions)

    @staticmethod
    def first_done(trainers: Sequence[RayTrainer], timeout: float) -> list[RayTrainer]:
        import ray

        by_answer = {trainer._answer: trainer for trainer in trainers}
        try:
            done, _ = ray.wait(list(by_answer), timeout=timeout, fetch_local=False)
        except Exception:  # the cluster is gone, which each of them tells when it is asked
            return list(trainers)
        return [by_answer[each] for each in done]

    @property
    def lacks(self) -> str | None:
        try:
            self._arrived = self._arrived or bool(self._ray.wait([self._arrival], timeout=0)[0])
            return None if self._arrived else self._cluster.needs
        except Exception:  # the cluster is gone, which it tells when it is asked
            return None

    @property
    def alive(self) -> bool:
        if self._closed:
            return False
        try:
            self._ray.get(self._actor.arrive.remote(__version__), timeout=_ALIVE_SECONDS)
        except self._ray.exceptions.GetTimeoutError:  # it is busy
            return True
        except Exception:  # Ray's, or those of the connection to a cluster that is gone
            return False
        return True

    def get_ready(self) -> str:
        fingerprint = super().get_ready()
        self._actor.warm_up.remote()  # while the runner has things to do
        return fingerprint

    def place(self) -> Place:
        """Return where it is. Raises TrainerLost."""
        place = self._ask("place")
        assert isinstance(place, Place)
        return place

    def vacate(self) -> None:
        if self.lacks is None:  # who has not started yet has nothing to free
            super().vacate()

    def checkpoint(self, free: Sequence[int]) -> None:
        if self.lacks is None:  # nor anything to write
            super().checkpoint(free)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            with suppress(Exception):  # whatever Ray says of a cluster that is gone
                self._ray.kill(self._actor)

    def _send(self, *message: object) -> None:
        with _cluster_needed():
            self._answer = self._actor.answer.remote(message)

    def _receive(self, timeout: float | None = None) -> object:
        with _cluster_needed():
            return self._ray.get(self._answer, timeout=timeout)


@contextmanager
def _cluster_needed() -> Iterator[None]:
    """Turn the errors of Ray, and of the connection to a cluster that is gone, into TrainerDied."""
    try:
        yield
    except RegsearchError:
        raise
    except Exception as error:
        kind = KilledForMemory if is_out_of_memory(error) else TrainerDied
        raise kind(f"a trainer in the Ray cluster died ({_first_and_last(error)})") from error


def _first_and_last(error: Exception) -> str:
    """Return what there is to know of Ray's long stories: what happened, and the exception at the bottom of it."""
    lines = [line for line in map(str.strip, str(error).splitlines()) if line.strip("^")] or [type(error).__name__]
    return " ... ".join(line[:_LONGEST_LINE] for line in dict.fromkeys((lines[0], lines[-1])))


class TrainerActor:
    """The other end, on the machine that Ray chose. Its methods return errors: Ray would wrap up what they raise."""

    def __init__(self) -> None:
        close_to_others()
        for name in secrets():  # a cluster's machines may have been started by somebody who has them
            del os.environ[name]
        self._trainer: LocalTrainer | None = None
        self._place: Place | None = None
        self._error: Exception = TrainerLost("a trainer was asked before it was told what to do")

    def arrive(self, version: str) -> None:
        """Tell that it is here, by returning."""
        if version != __version__:
            self._error = UsageError(
                f"{platform.node()} has regsearch {__version__}, and the search is run by {version}: "
                "install the same on all machines of the cluster"
            )

    def set_up(self, setup: TrainerSetup, own: bytes, conditions: Conditions) -> None:
        """Load the data and make the trainer."""
        import pickle

        import ray

        if isinstance(self._error, UsageError):
            return
        try:
            mine, data = pickle.loads(own)
            setup, notice = _at_home(replace(setup, own=mine, data=data), conditions)
            self._trainer = LocalTrainer(setup)
        except RegsearchError as error:
            self._error = type(error)(f"on {platform.node()}: {error}")
        except TrainerLost as error:
            self._error = error
        except ImportError as error:
            self._error = TrainerLost(
                f"{brief(error)}: {platform.node()} lacks what the search was given in Python; install it there, or "
                "define it in the script itself"
            )
        except Exception as error:
            self._error = as_lost(error)
        else:
            processor = describe_machine([])["processor"]
            self._place = Place(ray.get_runtime_context().get_node_id(), setup.device, processor, notice)

    def warm_up(self) -> None:
        """Choose how to compute, ahead of the first epoch, which tells what goes wrong here."""
        if self._trainer is not None:
            with suppress(TrainerLost):
                self._trainer.warm_up()
            # What is there now stays: the collector need not go through all of torch again and again.
            gc.freeze()

    def answer(self, message: tuple[Any, ...]) -> object:
        """Do what the runner asks; see `remote`."""
        if self._trainer is None:
            return self._error
        try:
            return self._place if message == ("place",) else _placed(answer(self._trainer, message))
        except (TrainerLost, RegsearchError) as error:
            return error
        except Exception as error:
            return as_lost(error)


def _placed(told: object) -> object:
    """Return an answer whose notice, if it has one, says where it holds: the search's own machine may do better."""
    if isinstance(told, Report) and told.notice:
        return replace(told, notice=f"On machines of the Ray cluster: {told.notice}")
    return told


def _at_home(setup: TrainerSetup, conditions: Conditions) -> tuple[TrainerSetup, str | None]:
    """Return what is to be done as it is to be done on this machine, and what the user should know of that."""
    from search.training.files import prepare_files

    (device, *_) = pick_devices(conditions.device if conditions.gpus else "cpu")
    kernels, notice = find_kernels(conditions.kernels, device)
    if conditions.gpus and device == "cpu":
        notice = f"Ray reserved a GPU of {platform.node()}, but torch finds none there: a trainer uses the processor"
    data = setup.data
    if isinstance(data, StudyData):
        data = replace(data, folder=machine_data_dir()) if conditions.own_folders else data
        prepare_files(data.spec.name, data.folder)
    # How many trainers share a processor, and its memory, is up to Ray; a core each is the most.
    sharers = min(setup.sharers, cores()) if device == "cpu" else max(1, int(1 / conditions.gpus))
    return replace(setup, device=device, kernels=kernels, data=data, sharers=sharers), notice
