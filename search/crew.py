"""The trainers of one search: how many, of how many slots, on which devices; started, replaced and ended here.

Nothing here knows what a search does with them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from search.errors import RegsearchError, UsageError
from search.machine import describe_machine
from search.records import Assignment
from search.shortage import Shortage
from search.spec import StudySpec
from search.trainers import (
    NOTHING_OWN,
    LocalTrainer,
    OutOfMemory,
    Own,
    ProcessTrainer,
    RayCluster,
    RayTrainer,
    StudyData,
    Trainer,
    TrainerDied,
    TrainerLost,
    TrainerSetup,
    TrainerStopped,
    cores,
    find_kernels,
    pick_devices,
)
from search.training.files import prepare_files
from search.wishes import Wishes

_ATTEMPTS = 3
"""Trainers that are started in one place until it is given up."""
_POLL_SECONDS = 0.2
_LATECOMER_SECONDS = 20.0
"""Within which trainers find room if there is any: Ray starts a process for each."""
_MOST_SLOTS = {"cpu": 32, "cuda": 128}
"""Of all trainers of a kind together. On a processor more of them are not more efficient, on a GPU they are."""


class Crew:
    """Trainers that have been started; to be closed in the end, whatever happens."""

    def __init__(
        self,
        spec: StudySpec,
        wishes: Wishes,
        stop: Callable[[], bool] = lambda: False,
        own: Own = NOTHING_OWN,
        checkpoints: Path | None = None,
    ) -> None:
        """Decide who is needed. Raises DeviceError, UsageError when the spec is not enough to go by, and TrainerError
        when there is no such cluster.

        `stop` is asked amid an epoch by a trainer in this process, and amid what follows a search by all of them.
        `checkpoints` is the folder that trials are kept in, None to keep none.
        """
        if spec.is_own and own == NOTHING_OWN:
            raise UsageError(
                f'study "{spec.name}" was made in Python, with a model or data of its own: go on with it there'
            )
        self._spec, self._wishes, self._stop, self._own = spec, wishes, stop, own
        self._checkpoints = checkpoints
        self._cluster = _cluster(wishes)
        self.devices = pick_devices(wishes.device) if self._cluster is None else self._cluster.devices
        models, places = spec.data.folds or 1, None if self._cluster is None else self._cluster.places
        count, self.slots = plan(spec.search.trials, wishes.workers, wishes.population, self.devices, models, places)
        self.trainers: list[Trainer] = []
        self.notices: list[str] = []
        """What the user should know of how the trainers work, once they are ready."""
        self._count = count
        self._numbers: list[int] = []
        """Of the trainers, as they were first counted. The device of each goes by its number."""
        self._mishaps: list[str] = []
        """Trainers that failed while they started, in words."""
        self._kernels: Path | None = None
        self._fingerprint: str | None = None
        self._processors: list[str] = []
        self._machines = 0

    def start(self) -> None:
        """Start all trainers; meanwhile check the data's files and compile. Raises DataError and KernelError."""
        in_process = self._wishes.workers == 0
        elsewhere = [] if in_process else self._hire_all()
        if self._cluster is None:
            self._look_after_files()
        for index, trainer in enumerate(elsewhere):
            trainer.set_up(self._setup(index, self.slots))
        if in_process:
            self._numbers = [0]
            self.trainers = [LocalTrainer(self._setup(0, self.slots), self._stop)]

    def get_ready(self, interrupted: Callable[[], None] = lambda: None) -> set[str]:
        """Wait until the trainers that have room have their data; return the checksums.

        Trainers that die meanwhile are replaced, or given up while there are others. `interrupted` is called while
        there is no room, to raise what is to end that. Raises DataError, TrainerLost, and TrainerError when there is no
        room for any of them.
        """
        ready: list[Trainer] = []
        fingerprints: set[str] = set()
        while not ready:
            for trainer in _await_room(self.trainers, interrupted):
                if (answer := self._get_ready(trainer, interrupted)) is not None:
                    ready.append(answer[0])
                    fingerprints.add(answer[1])
        self.slots = min(trainer.slots for trainer in ready)
        if len(fingerprints) == 1:
            (self._fingerprint,) = fingerprints
        for index, trainer in enumerate(self.trainers):
            if trainer not in ready:  # one that joins in later is to know what the others have found
                self.replace(index)
        if self._cluster is not None:
            self._look_around(self._cluster, ready)
        self.notices += self._mishaps
        return fingerprints

    def replace(self, index: int, fewer_slots: bool = False) -> Trainer:
        """End a trainer and start another in its place, on the same device or wherever the cluster has room.

        It has as many slots as the one before, or half of them; the others keep theirs. Raises TrainerLost, and
        RegsearchError where none can work there at all.
        """
        before = self.trainers[index]
        before.close()
        slots = min(self.slots, before.slots)
        setup = self._setup(index, max(1, slots // 2) if fewer_slots else slots)
        if self._wishes.workers == 0:
            self.trainers[index] = LocalTrainer(setup, self._stop)
        else:
            trainer = self.trainers[index] = self._hire()
            trainer.set_up(setup)
        return self.trainers[index]

    def vacate(self) -> None:
        """Take all trials out of all trainers. Those that are found to have failed meanwhile are replaced."""
        for index, trainer in enumerate(self.trainers):
            try:
                trainer.vacate()
            except (TrainerLost, RegsearchError):
                with suppress(TrainerLost, RegsearchError):  # who is to train next finds out, and goes on without it
                    self.replace(index)

    @property
    def where(self) -> str:
        """Where the trainers are, in words."""
        devices = ", ".join(self.devices)
        if self._cluster is None:
            return devices
        return f"{devices} of {self._machines} machine{'s' if self._machines > 1 else ''} of a Ray cluster"

    def describe(self) -> dict[str, str]:
        """Return what the trainers run on, as a report tells it."""
        processors = {"processor": "; ".join(self._processors)} if self._processors else {}
        return describe_machine([self.where]) | processors

    @property
    def has_test(self) -> bool:
        """Whether there is test data."""
        return self._own.data is None or self._own.data.has_test

    def idle(self) -> Trainer:
        """Return a trainer for work between searches: one that lives and has room, or a new one.

        Raises TrainerLost, TrainerStopped, and TrainerError when there is no room.
        """
        for trainer in self.trainers:
            if trainer.lacks is None and trainer.alive:
                return trainer
        trainer = self.replace(0)
        _await_room([trainer], self._heed)
        return trainer

    def close(self) -> None:
        """End all trainers at once."""
        for trainer in self.trainers:
            trainer.close()
        if self._cluster is not None:
            self._cluster.close()

    def _hire(self) -> ProcessTrainer | RayTrainer:
        return ProcessTrainer(self._stop) if self._cluster is None else self._cluster.start_trainer(self._stop)

    def _hire_all(self) -> list[ProcessTrainer | RayTrainer]:
        """Start the trainers, or as many as the system allows. Raises TrainerLost when that is none."""
        hired: list[ProcessTrainer | RayTrainer] = []
        for number in range(self._count):
            try:
                hired.append(self._hire())
            except TrainerDied as error:
                if not hired:
                    raise
                self._mishaps.append(f"The search begins with {len(hired)} of {self._count} trainers: {error}")
                break
            self.trainers.append(hired[-1])  # to be closed even if the next one fails in another way
            self._numbers.append(number)
        return hired

    def _get_ready(self, trainer: Trainer, interrupted: Callable[[], None]) -> tuple[Trainer, str] | None:
        """Return the trainer, or the one that had to take its place, and the checksum of its data.

        None when it is given up, or its successor has to wait for room, while there are others. Errors that a trainer
        tells itself are not tried again, except for full memory, which others may have left by then.
        """
        index = self.trainers.index(trainer)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                if attempt > 1:
                    interrupted()
                    trainer = self.replace(index)
                    if trainer.lacks is not None and len(self.trainers) > 1:
                        return None
                    _await_room([trainer], interrupted)
                return trainer, trainer.get_ready()
            except (TrainerDied, OutOfMemory) as error:
                lacks_memory = isinstance(error, OutOfMemory)
                if len(self.trainers) > 1 and (lacks_memory or attempt == _ATTEMPTS):
                    self._give_up(index, error)
                    return None
                if attempt == _ATTEMPTS:
                    raise
                self._mishaps.append(f"A trainer failed while it started, and was replaced: {error}")
        raise AssertionError("the last attempt returns or raises")

    def _give_up(self, index: int, why: TrainerLost) -> None:
        """Go on without a trainer, whose memory or device the others may need."""
        self.trainers[index].close()
        del self.trainers[index], self._numbers[index]
        self._mishaps.append(f"The search begins with {len(self.trainers)} of {self._count} trainers: {why}")

    def _heed(self) -> None:
        if self._stop():
            raise TrainerStopped

    def _look_after_files(self) -> None:
        if self._own.data is None:
            prepare_files(self._spec.data.name, self._wishes.data_dir)
        self._kernels, notice = find_kernels(self._wishes.kernels, self.devices[0])
        self.notices = [] if notice is None else [notice]

    def _look_around(self, cluster: RayCluster, ready: Sequence[Trainer]) -> None:
        """Take note of where the cluster has put the trainers."""
        places = [trainer.place() for trainer in ready if isinstance(trainer, RayTrainer)]
        self.devices = sorted({place.device for place in places})
        self._processors = sorted({place.processor for place in places})
        self._machines = len({place.machine for place in places})
        told = [cluster.notice, *sorted({place.notice for place in places if place.notice is not None})]
        self.notices = [notice for notice in told if notice is not None]

    def _setup(self, index: int, slots: int) -> TrainerSetup:
        spec, wishes = self._spec, self._wishes
        return TrainerSetup(
            spec.model,
            spec.training,
            self._own.data or StudyData(spec.data, wishes.data_dir, spec.search.seed),
            spec.search.seed,
            slots,
            Assignment(0, 0, spec.textbook()),
            wishes.engine,
            wishes.precision,
            self._kernels,
            self.devices[self._numbers[index] % len(self.devices)],
            # Several trainers share the processor: a thread each. A second one in each would wait for the other's.
            None if self._count == 1 and self._cluster is None else 1,
            -(-self._count // len(self.devices)),
            self._own,
            self._checkpoints,
            fingerprint=self._fingerprint,
            batch_norm=spec.parameters().get("batch_norm", 0) != 0,
        )


def _cluster(wishes: Wishes) -> RayCluster | None:
    if wishes.ray is None:
        return None
    if wishes.workers == 0:
        raise UsageError(
            "--workers 0 trains in the program's own process, and --ray in a cluster: leave one of them out"
        )
    return RayCluster(wishes.ray, wishes.device, wishes.kernels, wishes.workers)


def _await_room(trainers: Sequence[Trainer], interrupted: Callable[[], None] = lambda: None) -> list[Trainer]:
    """Return those that have room, at least one, after giving the others some time. Raises TrainerError."""
    shortage, start = Shortage(logging.getLogger(__name__).warning), time.monotonic()
    while True:
        interrupted()
        lacks = {trainer: lack for trainer in trainers if (lack := trainer.lacks) is not None}
        ready = [trainer for trainer in trainers if trainer not in lacks]
        if not lacks or (ready and time.monotonic() - start > _LATECOMER_SECONDS):
            return ready
        shortage.note([*lacks.values()], len(trainers))
        time.sleep(_POLL_SECONDS)


def plan(
    trials: int,
    workers: int | None,
    population: int | None,
    devices: Sequence[str],
    models: int = 1,
    places: int | None = None,
) -> tuple[int, int]:
    """Return how many trainers a search gets, and how many slots each; a trial has so many models.

    `places` is how many trainers there is room for; None on this machine.

    Enough slots to be efficient, few enough for the sampler to learn from: one that is asked for all trials at once has
    seen nothing, and a quarter of them at a time is a fair bargain. A trainer for each GPU; on a processor one for each
    core, since threads that step together wait for the slowest at every operation.
    """
    kind = devices[0].partition(":")[0]
    if places is None:
        places = len(devices) if kind == "cuda" else cores()
    count = min(max(1, places if workers is None else workers), trials)
    if population is not None:
        if workers is None:  # no more of them than can be filled
            count = min(count, -(-trials // population))
        return count, min(trials, population)
    slots = min(_MOST_SLOTS[kind] // models, -(-trials // 4))
    return count, max(1, slots // count)
