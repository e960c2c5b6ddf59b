"""What the parts of the program tell each other about trials: plain values, no torch, no Optuna, no MLflow.

An `Assignment` travels to a trainer, `EpochResult`s come back, and a finished trial ends as a `TrialRecord`, which
is what the storage keeps, MLflow shows and the report reads. Losses are data losses in nats (cross-entropy alone,
no penalty), taken in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from math import nan, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.ablation import Ablation
    from search.confirmation import Confirmation

Params = Mapping[str, float]
"""A trial's complete configuration by name (constants of the spec included), e.g. ``{"dropout_0": 0.2, "l1": 0.0}``."""


class Reason(StrEnum):
    """Why a trial ended."""

    COMPLETED = "completed"  # reached the last epoch
    EARLY_STOPPED = "early_stopped"  # its own validation loss had not improved for `patience` epochs
    PRUNED = "pruned"  # its siblings did better
    DIVERGED = "diverged"  # a loss was not finite
    INTERRUPTED = "interrupted"  # the search was stopped, or its trainer died; its configuration is to be run again
    LOST = "lost"  # whoever ran it died or was away for too long; its configuration is to be run again
    ERROR = "error"  # an exception, or its trainer died too often

    @property
    def is_no_result(self) -> bool:
        """Whether the trial was cut short, so that its configuration is run again and it does not count."""
        return self in (Reason.INTERRUPTED, Reason.LOST)


class Role(StrEnum):
    """Trials that are not the sampler's: enqueued first, so that every search knows where it started from."""

    BASELINE = "baseline"  # no regularization at all
    TEXTBOOK = "textbook"  # the setting a careful practitioner would try first


@dataclass(frozen=True)
class Assignment:
    """A trial as a trainer sees it."""

    number: int
    seed: int
    """Number of the first attempt at this configuration: with the study's seed it fixes weights, order and noise."""
    params: Params
    role: Role | None = None
    trainer_deaths: int = 0
    """How many trainers have died while they ran this configuration."""
    fold: int | None = None
    """Which fold is held out, where a trial is cross-validated: inside a trainer each of its folds has a slot."""
    val_losses: Sequence[float] = ()
    """Those of its configuration's epochs as far as they are known, for training with nothing held out."""


@dataclass(frozen=True)
class EpochResult:
    """One trial after one epoch."""

    epoch: int
    """1 for the first."""
    train_loss: float
    """Mean data loss over a fixed sample of the training data, without dropout noise."""
    val_loss: float
    val_accuracy: float
    sparsity: float
    """Share of weights (biases and normalization left out) that are exactly zero."""
    val_loss_error: float = nan
    """Standard error of `val_loss`: over the validation examples, or over the folds of a cross-validation."""

    @property
    def gap(self) -> float:
        """Validation loss minus training loss."""
        return self.val_loss - self.train_loss


def best_epoch(epochs: Sequence[EpochResult]) -> EpochResult | None:
    """Return the epoch with the lowest validation loss, the first of several; None when no loss is a number."""
    return min((row for row in epochs if row.val_loss == row.val_loss), key=lambda row: row.val_loss, default=None)


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial, complete: everything that MLflow or a report needs can be had from it."""

    number: int
    params: Params
    reason: Reason
    epochs: tuple[EpochResult, ...]
    started: datetime
    ended: datetime
    role: Role | None = None
    retry_of: int | None = None
    """Number of the first attempt, when this trial is a later one."""
    error: str | None = None
    worker: str | None = None
    """Which of the search's trainers ran it, as text: with several machines, theirs may come before it one day. None
    for trials that no trainer ended, and for those of earlier versions."""

    @property
    def best(self) -> EpochResult | None:
        """The epoch with the lowest validation loss, whose weights were kept; None when no epoch was finished."""
        return best_epoch(self.epochs)

    @property
    def val_losses(self) -> tuple[float, ...]:
        """Validation losses, epoch by epoch."""
        return tuple(row.val_loss for row in self.epochs)

    @property
    def state(self) -> str:
        """Optuna's word for how it ended: `complete`, `pruned` or `failed`."""
        return _STATES[self.reason]


_STATES = {
    Reason.COMPLETED: "complete",
    Reason.EARLY_STOPPED: "complete",
    Reason.PRUNED: "pruned",
    Reason.DIVERGED: "failed",
    Reason.INTERRUPTED: "failed",
    Reason.LOST: "failed",
    Reason.ERROR: "failed",
}


@dataclass(frozen=True)
class LeftOut:
    """A trial in the storage that is left out of the results, since another program has written or changed it."""

    number: int
    why: str


@dataclass(frozen=True)
class News:
    """What has happened in a study that others run too."""

    ended: Sequence[TrialRecord] = ()
    """Trials that others have ended since the last time, by number."""
    to_ask: bool = True
    """Whether there are configurations that nobody runs, as far as is known."""
    again_in: float = 2.0
    """Seconds after which to ask for news again."""
    stop: bool = False
    """Whether somebody has asked this process to leave, by `regsearch stop`."""
    remarks: Sequence[str] = ()
    """Sentences for the user, each once: which trials were refused, or ended by another program."""


@dataclass(frozen=True)
class TimeSpent:
    """Where a search's time went, in seconds."""

    trainers: int
    start_up: float
    """From the program's start to the first training step."""
    training: float
    """Mean over trainers, as are the next two: together all the time from a trainer's first step to the end."""
    evaluation: float
    waiting: float
    """Neither: for configurations, for decisions, for other trainers to end."""
    asking: float
    """The storage thread's, beside training: sampling configurations."""
    recording: float
    """The storage thread's, beside training: writing down what happened."""


@dataclass(frozen=True)
class ModelNoise:
    """The dropout and other noise of a model from Python."""

    layers: Mapping[str, str]
    """Where each rate acts, by parameter: `{"dropout_0": "encoder.layers.0.dropout"}`."""
    functional: Sequence[str] = ()
    """Modules whose dropout has no rate that a trial could set."""
    unknown: Sequence[str] = ()
    """Modules that draw noise which cannot be switched off."""

    @property
    def remark(self) -> str | None:
        """Return what one has to know wherever "without regularization" is said, None where there is nothing."""
        if not self.unknown:
            return None
        return (
            f"The baseline is not without noise: {', '.join(self.unknown)} draws some in training, and it could not be "
            "switched off."
        )

    @property
    def notices(self) -> list[str]:
        """Return what to say at the start of a search, in lines."""
        lines = [", ".join(f"{name} = {layer}" for name, layer in self.layers.items())] if self.layers else []
        if self.functional:
            lines.append(
                f"functional_dropout = dropout inside {', '.join(self.functional)}: trials keep its rates, and the "
                "baseline is without"
            )
        return lines if self.remark is None else [*lines, self.remark]


@dataclass(frozen=True)
class Score:
    """A configuration's result on the test data."""

    trial: int
    accuracy: float
    loss: float
    ece: float | None = None
    """Expected calibration error."""


@dataclass(frozen=True)
class Majority:
    """The most frequent class of some examples: an answer that is always the same has its share as accuracy."""

    share: float
    examples: int

    def __post_init__(self) -> None:
        if not (0 < self.share <= 1 and self.examples >= 1):
            raise ValueError(f"a share of {self.share} of {self.examples} examples")

    def is_clearly_beaten_by(self, accuracy: float) -> bool:
        """Return whether an accuracy on these examples exceeds the share by two standard errors of such a share."""
        return accuracy > self.share + 2 * sqrt(self.share * (1 - self.share) / self.examples)


@dataclass(frozen=True)
class Summary:
    """A study at a glance, from its storage alone: what `show`, the end of `start` and MLflow's parent run print."""

    study: str
    trials: Mapping[str, int]
    """Count by state: complete, pruned, failed, running, waiting."""
    reasons: Mapping[str, int]
    best: TrialRecord | None
    baseline: TrialRecord | None
    test: Mapping[str, Score] = field(default_factory=dict)
    """By `best` and `baseline`; without those that are of another trial, such as of the best before it."""
    trial_epochs: int = 0
    wall_seconds: float = 0.0
    time: TimeSpent | None = None
    """Of the last run that trained anything."""
    regularized: TrialRecord | None = None
    """The best of the trials that are not the baseline."""
    one_standard_error: TrialRecord | None = None
    """The most regularized trial that cannot be told from the best."""
    ablation: Ablation | None = None
    """What each ingredient of a configuration is worth; None as long as nobody has asked."""
    confirmed: Confirmation | None = None
    """What the best configurations reach with other seeds; None as long as nobody has tried."""
    objectives: Sequence[str] = ("val_loss",)
    pareto: Sequence[TrialRecord] = ()
    """With several objectives, the complete trials that no other one beats, the lowest validation loss first."""
    noise: ModelNoise | None = None
    """Of a model from Python; None for others."""
    left_out: Sequence[LeftOut] = ()
    """Trials that count nowhere above, by number."""
    beyond_budget: int = 0
    """Trials that wait in the queue and are not run, since the budget has no room for them."""
    enough_trials: int = 0
    """The least budget that has room for all trials there are."""
    loss: str = "cross_entropy"
    """Name of the loss that was trained."""
    majorities: Mapping[str, Majority] = field(default_factory=dict)
    """Of `validation` and `test` examples, where they are the user's own."""
