"""A trial in a slot: who it is and how far it has come, and whether a state that was kept is one of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from search.records import Assignment
from search.training.turns import Turn


@dataclass
class Occupant:
    """A trial that has a slot."""

    assignment: Assignment
    epoch: int = 0
    """Epochs that it has trained for."""
    best_loss: float = float("inf")

    @property
    def known_loss(self) -> float | None:
        """The validation loss that is known of its last epoch from an earlier training."""
        losses = self.assignment.val_losses
        return losses[self.epoch - 1] if self.epoch <= len(losses) else None

    def turn(self, study_seed: int, epoch: int) -> Turn:
        """Return its turn in one of its epochs."""
        own = self.assignment
        return Turn(study_seed, own.seed, epoch, own.params, own.fold)

    def progress(self) -> dict[str, Tensor]:
        """Return how far it has come, as part of its state."""
        return {"epoch": torch.tensor(self.epoch), "best_loss": torch.tensor(self.best_loss, dtype=torch.float64)}

    def has_state(self, state: Mapping[str, Tensor], memory: Mapping[str, Tensor]) -> bool:
        """Return whether a state consists of its progress and of what slots remember of it, each [slots, ...]."""
        kinds = {name: (tensor.dtype, tensor.shape[1:]) for name, tensor in memory.items()}
        kinds |= {name: (tensor.dtype, tensor.shape) for name, tensor in self.progress().items()}
        return {name: (tensor.dtype, tensor.shape) for name, tensor in state.items()} == kinds


def resumed(assignment: Assignment, state: Mapping[str, Tensor]) -> Occupant:
    """Return a trial that has come as far as its state tells. Raises ValueError."""
    try:
        occupant = Occupant(assignment, int(state["epoch"]), float(state["best_loss"]))
    except (KeyError, OverflowError, RuntimeError) as error:
        raise ValueError("this is no trial's state") from error
    if occupant.epoch < 0:
        raise ValueError("a trial has no less than no epochs")
    return occupant
