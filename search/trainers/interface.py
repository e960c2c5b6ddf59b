"""What a runner and a trainer tell each other: plain values, no torch, so that the runner's process needs none.

One round per epoch: `begin` (free these slots, admit these trials, train an epoch), wait, `collect`. Weights travel as
the bytes of a safetensors file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from search.records import Assignment, EpochResult, Majority
from search.spec import DataSpec, ModelSpec, TrainingSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from search.training.data import Dataset, Split
    from search.training.noise import Noise


class TrainerLost(Exception):
    """The trainer failed or died; its trials are unfinished and it is of no further use."""


class TrainerDied(TrainerLost):
    """The trainer's process or actor ended without a word, or could not be started: another may do better."""


class OutOfMemory(TrainerLost):
    """The device's memory does not hold so many slots."""


class KilledForMemory(OutOfMemory, TrainerDied):
    """The kernel killed the trainer's process, since the memory of the machine or of its container was full."""


class TrainerStopped(Exception):
    """An epoch, or what else takes long, was given up because somebody wants to stop."""


class DataSource(Protocol):
    """Where a trainer gets its data: each loads them for itself, so that only their description travels."""

    @property
    def has_test(self) -> bool:
        """Whether there is test data."""
        ...

    @property
    def test_fingerprint(self) -> str | None:
        """Checksum of the test data; None where there is none, or none but what the data set's name says."""
        ...

    @property
    def majorities(self) -> Mapping[str, Majority]:
        """The most frequent class of `validation` and `test` examples; none of the data sets that have a name."""
        ...

    def load(self) -> Dataset:
        """Return training and validation data. Raises DataError."""
        ...

    def load_test(self) -> Split:
        """Return the test data."""
        ...


@dataclass(frozen=True)
class StudyData:
    """A spec's data set in a folder, split by the study's seed."""

    spec: DataSpec
    folder: Path
    seed: int

    @property
    def has_test(self) -> bool:
        return True

    @property
    def test_fingerprint(self) -> str | None:
        return None

    @property
    def majorities(self) -> Mapping[str, Majority]:
        return {}

    def load(self) -> Dataset:
        """Return training and validation data. Raises DataError."""
        from search.training.data import load_data

        return load_data(self.spec, self.folder, self.seed)

    def load_test(self) -> Split:
        """Return the test data."""
        from search.training.data import load_test

        return load_test(self.spec, self.folder)


@dataclass(frozen=True)
class Own:
    """What a user brings along in Python instead of naming it in a study file."""

    model: Callable[[], nn.Module] | None = None
    data: DataSource | None = None
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    noise: Noise | None = None
    """The dropout that the model has; None where nothing was looked for."""
    remarks: tuple[str, ...] = ()
    """What results with these are to be read with, in sentences."""


NOTHING_OWN = Own()
"""For studies whose file says it all."""


@dataclass(frozen=True)
class TrainerSetup:
    """All that a trainer needs to know, once."""

    model: ModelSpec
    training: TrainingSpec
    data: DataSource
    seed: int
    """The study's seed."""
    slots: int
    """Trials at once; a cross-validated one has as many models as folds."""
    probe: Assignment
    """A configuration to measure with."""
    engine: str = "auto"
    precision: str = "auto"
    kernels: Path | None = None
    """The library of compiled kernels; None to compute by torch's operations alone."""
    device: str = "cpu"
    threads: int | None = None
    """Threads of torch within the trainer; None to measure whether more than one is worth it."""
    sharers: int = 1
    """Trainers on the device, this one included."""
    own: Own = NOTHING_OWN
    """Takes the place of what the spec's sections name."""
    checkpoints: Path | None = None
    """Folder from which trials that were cut off go on, and where they are kept for that; None for neither."""
    checkpoint_seconds: float = 60.0
    """Between two times that they are written, or more where that takes long."""
    fingerprint: str | None = None
    """What the data must be, where that is known; see `Trainer.get_ready`."""
    batch_norm: bool = False
    """Whether any configuration may switch batch norms on: shipped models have them only then."""


@dataclass(frozen=True)
class Report:
    """What an epoch brought."""

    results: dict[int, EpochResult]
    failed: dict[int, str] = field(default_factory=dict)
    """Trials that could not even be admitted, with the error."""
    engine: str = ""
    """How the trainer works, in words: engine, precision, threads and kernels."""
    training: float = 0.0
    """Seconds of the epoch spent in training steps."""
    evaluation: float = 0.0
    """Seconds of the epoch spent in evaluating."""
    resumed: dict[int, tuple[EpochResult, ...]] = field(default_factory=dict)
    """Of trials that were admitted before the epoch and went on from a checkpoint, the epochs until then."""
    notice: str = ""
    """What the user should know; said once."""


class Trainer(Protocol):
    """See the package's docstring. All but `begin` and `close` wait, and are for the time between two epochs."""

    slots: int

    @staticmethod
    def first_done(trainers: Sequence[Any], timeout: float) -> Sequence[Trainer]:
        """Return those of some trainers of this home whose `collect` will not wait for others; see `wait_for_any`."""
        ...

    @property
    def lacks(self) -> str | None:
        """What it must wait for before it can start, in words: it is given no trials then. None once it has all."""
        ...

    @property
    def alive(self) -> bool:
        """Whether the trainer can still be asked something."""
        ...

    def get_ready(self) -> str:
        """Load the data and return their checksum; from then on `slots` is what the device's memory holds.

        Raises TrainerLost, and DataError as `load_data`.
        """
        ...

    def begin(self, admit: Sequence[Assignment], free: Sequence[int]) -> None:
        """Free slots, admit trials, from their checkpoints where there are some, and start an epoch; returns at once.

        Raises TrainerLost.
        """
        ...

    def collect(self) -> Report:
        """Wait for the epoch's end. Raises TrainerLost, TrainerStopped."""
        ...

    def best_weights(self, number: int) -> bytes:
        """Return the weights of a trial's best epoch. Raises TrainerLost."""
        ...

    def vacate(self) -> None:
        """Free all slots; trials can still go on from their checkpoints. Raises TrainerLost."""
        ...

    def checkpoint(self, free: Sequence[int]) -> None:
        """Free slots, then write checkpoints of all other trials at once. Raises TrainerLost."""
        ...

    def retrain(self, assignment: Assignment, epochs: int) -> bytes:
        """Train one trial by itself for so many epochs and return the weights of its best one.

        With folds it is trained on all of the data, and the weights are those of its last epoch. Raises TrainerLost,
        TrainerStopped.
        """
        ...

    def test(self, weights: bytes) -> tuple[float, float, float | None]:
        """Return accuracy, mean loss (the one that is trained) and calibration error of these weights on the test data.

        There is no calibration error where the loss is not cross-entropy: outputs are no probabilities then. Raises
        TrainerLost, TrainerStopped, and DataError.
        """
        ...

    def close(self) -> None:
        """End the trainer at once, whatever it is doing."""
        ...


def wait_for_any(trainers: Sequence[Trainer], timeout: float) -> list[Trainer]:
    """Return trainers whose `collect` will not wait for another process, within `timeout` seconds; maybe none."""
    homes: dict[type[Trainer], list[Trainer]] = {}
    for trainer in trainers:
        homes.setdefault(type(trainer), []).append(trainer)
    return [done for home, own in homes.items() for done in home.first_done(own, timeout / len(homes))]
