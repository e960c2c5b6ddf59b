"""The trainers of one search: how many, of how many slots, on which devices; started, replaced and ended here.

Nothing here knows what a search does with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.errors import KernelError, UsageError
from search.records import Assignment
from search.spec import StudySpec
from search.trainers import (
    NOTHING_OWN,
    LocalTrainer,
    Own,
    ProcessTrainer,
    StudyData,
    Trainer,
    TrainerLost,
    TrainerSetup,
    cores,
    pick_devices,
)
from search.training.files import prepare_files
from search.training.kernels.building import kernel_library

_MOST_SLOTS = {"cpu": 32, "cuda": 128}
"""Of all trainers of a kind together. On a processor more of them are not more efficient, on a GPU they are."""


@dataclass(frozen=True)
class Wishes:
    """What the user decides about trainers; None where the program is to choose."""

    data_dir: Path
    device: str = "auto"
    engine: str = "auto"
    precision: str = "auto"
    kernels: str = "auto"
    """`compiled` by the machine's C compiler, `torch` for torch's own operations; by default whatever there is."""
    population: int | None = None
    """Slots of each trainer."""
    workers: int | None = None
    """Trainers, each with a process of its own; 0 for one in this process."""


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
        """Decide who is needed. Raises DeviceError, and UsageError when the spec is not enough to go by.

        `stop` is asked amid an epoch by a trainer in this process. `checkpoints` is the folder that trials are kept in,
        None to keep none.
        """
        if spec.is_own and own == NOTHING_OWN:
            raise UsageError(
                f'study "{spec.name}" was made in Python, with a model or data of its own: go on with it there'
            )
        self._spec, self._wishes, self._stop, self._own = spec, wishes, stop, own
        self._checkpoints = checkpoints
        self.devices = pick_devices(wishes.device)
        models = spec.data.folds or 1
        count, self.slots = plan(spec.search.trials, wishes.workers, wishes.population, self.devices, models)
        self.trainers: list[Trainer] = []
        self.notice: str | None = None
        """What the user should know of how the trainers work, once they are started."""
        self._count = count
        self._kernels: Path | None = None

    def start(self) -> None:
        """Start all trainers; meanwhile check the data's files and compile. Raises DataError and KernelError."""
        in_process = self._wishes.workers == 0
        processes = [] if in_process else [ProcessTrainer() for _ in range(self._count)]
        self.trainers = list(processes)
        if self._own.data is None:
            prepare_files(self._spec.data.name, self._wishes.data_dir)
        self._kernels = self._compile()
        for index, process in enumerate(processes):
            process.set_up(self._setup(index))
        if in_process:
            self.trainers = [LocalTrainer(self._setup(0), self._stop)]

    def get_ready(self) -> set[str]:
        """Wait until all trainers have their data; return the checksums. Raises DataError and TrainerLost."""
        fingerprints = {trainer.get_ready() for trainer in self.trainers}
        self.slots = min(trainer.slots for trainer in self.trainers)
        return fingerprints

    def replace(self, index: int, fewer_slots: bool = False) -> Trainer:
        """End a trainer and start another in its place, on the same device. Raises TrainerLost."""
        self.trainers[index].close()
        self.slots = max(1, self.slots // 2) if fewer_slots else self.slots
        if self._wishes.workers == 0:
            self.trainers[index] = LocalTrainer(self._setup(index), self._stop)
        else:
            process = self.trainers[index] = ProcessTrainer()
            process.set_up(self._setup(index))
        return self.trainers[index]

    def vacate(self) -> None:
        """Take all trials out of all trainers. Those that have died since they were last asked are replaced."""
        for index, trainer in enumerate(self.trainers):
            try:
                trainer.vacate()
            except TrainerLost:
                self.replace(index)

    @property
    def has_test(self) -> bool:
        """Whether there is test data."""
        return self._own.data is None or self._own.data.has_test

    def idle(self) -> Trainer:
        """Return a trainer for work between searches: one whose process lives, or a new one."""
        if not self.trainers[0].alive:
            return self.replace(0)
        return self.trainers[0]

    def close(self) -> None:
        """End all trainers at once."""
        for trainer in self.trainers:
            trainer.close()

    def _compile(self) -> Path | None:
        if self._wishes.kernels == "torch" or self.devices != ["cpu"]:
            return None
        try:
            return kernel_library()
        except KernelError as error:
            if self._wishes.kernels == "compiled":
                raise
            self.notice = f"Steps take up to twice as long without compiled kernels: {error}"
            return None

    def _setup(self, index: int) -> TrainerSetup:
        spec, wishes = self._spec, self._wishes
        return TrainerSetup(
            spec.model,
            spec.training,
            self._own.data or StudyData(spec.data, wishes.data_dir, spec.search.seed),
            spec.search.seed,
            self.slots,
            Assignment(0, 0, spec.textbook()),
            wishes.engine,
            wishes.precision,
            self._kernels,
            self.devices[index % len(self.devices)],
            # Several trainers share the processor: a thread each. A second one in each would wait for the other's.
            None if self._count == 1 else 1,
            -(-self._count // len(self.devices)),
            self._own,
            self._checkpoints,
        )


def plan(
    trials: int, workers: int | None, population: int | None, devices: Sequence[str], models: int = 1
) -> tuple[int, int]:
    """Return how many trainers a search gets, and how many slots each; a trial has so many models.

    Enough slots to be efficient, few enough for the sampler to learn from: one that is asked for all trials at once has
    seen nothing, and a quarter of them at a time is a fair bargain. A trainer for each GPU; on a processor one for each
    core, since threads that step together wait for the slowest at every operation.
    """
    kind = devices[0].partition(":")[0]
    places = len(devices) if kind == "cuda" else cores()
    count = min(places if workers is None else max(1, workers), trials)
    if population is not None:
        if workers is None:  # no more of them than can be filled
            count = min(count, -(-trials // population))
        return count, min(trials, population)
    slots = min(_MOST_SLOTS[kind] // models, -(-trials // 4))
    return count, max(1, slots // count)
