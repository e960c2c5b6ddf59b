"""Learning-rate schedules for a population: the rate of each slot at each step of an epoch.

Slots start at different times, so every schedule counts a slot's own steps and epochs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from search.spec import TrainingSpec


class Schedule:
    """What the learning rates of a population are multiplied with: by itself always 1."""

    def factors(self, rows: slice, done: Tensor, steps: int) -> Tensor:  # noqa: ARG002
        """Return the factors of the next `steps` steps of some slots, [steps or 1, slots, 1], float64.

        `done` is how many steps each of them has taken, [slots, 1].
        """
        return done.new_ones(1, len(done), 1)

    @property
    def history(self) -> dict[str, Tensor]:
        """What is remembered of the slots, by name, each [slots, ...]."""
        return {}

    def reset(self, slot: int) -> None:
        """Forget a slot's history."""

    def epoch_ended(self, slot: int, val_loss: float) -> None:
        """Learn what a slot has reached."""


class Cosine(Schedule):
    """Down to 0 at the last step of the last epoch, along half a cosine (Loshchilov and Hutter 2017), no restarts."""

    def __init__(self, max_epochs: int) -> None:
        self._max_epochs = max_epochs

    def factors(self, rows: slice, done: Tensor, steps: int) -> Tensor:  # noqa: ARG002
        """Return ``(1 + cos(pi * t / T)) / 2`` for the steps t, of T in all."""
        step = done + torch.arange(steps, device=done.device, dtype=done.dtype).view(-1, 1, 1)
        return (1 + torch.cos(math.pi * step / (self._max_epochs * steps))) / 2


_AT_FIRST = (1.0, math.inf, 0.0)


class Plateau(Schedule):
    """Down by a factor whenever the validation loss has not improved for more than so many epochs.

    As `torch.optim.lr_scheduler.ReduceLROnPlateau` with `threshold` 0.
    """

    def __init__(self, slots: int, factor: float, epochs: int) -> None:
        self._factor, self._epochs = factor, epochs
        # Factor, best loss and epochs without a better one.
        self._slots = torch.tensor(_AT_FIRST, dtype=torch.float64).repeat(slots, 1)

    @property
    def history(self) -> dict[str, Tensor]:
        """What the slots have come to, on the CPU."""
        return {"plateau": self._slots}

    def factors(self, rows: slice, done: Tensor, steps: int) -> Tensor:  # noqa: ARG002
        """Return each slot's factor, the same for all steps."""
        return self._slots[rows, 0].to(done.device).view(1, -1, 1)

    def reset(self, slot: int) -> None:
        """Start at the full rate."""
        self._slots[slot] = self._slots.new_tensor(_AT_FIRST)

    def epoch_ended(self, slot: int, val_loss: float) -> None:
        """Count epochs without improvement."""
        factor, best, waited = self._slots[slot].tolist()
        waited = 0 if val_loss < best else waited + 1
        if waited > self._epochs:
            factor, waited = factor * self._factor, 0
        self._slots[slot] = self._slots.new_tensor((factor, min(best, val_loss), waited))


def make_schedule(spec: TrainingSpec, slots: int) -> Schedule:
    """Return the spec's schedule for so many slots."""
    match spec.schedule:
        case "cosine":
            return Cosine(spec.max_epochs)
        case "plateau":
            return Plateau(slots, spec.plateau_factor, spec.plateau_epochs)
        case _:
            return Schedule()
