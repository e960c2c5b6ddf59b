"""A trial's turn in training: all that decides what is random in its next epoch."""

from __future__ import annotations

from dataclasses import dataclass

from search.records import Params
from search.training.seeds import derive_seed


@dataclass(frozen=True)
class Turn:
    """A trial's next epoch."""

    study_seed: int
    seed: int
    """The trial's."""
    epoch: int
    """1 for the first."""
    params: Params
    fold: int | None = None
    """The fold that is held out, if there are folds."""

    def strength(self, name: str) -> float:
        """Return a regularizer's strength: 0 when it is off."""
        return self.params.get(name, 0.0)

    def derive(self, purpose: str) -> int:
        """Return the seed of what is random in this epoch for some purpose."""
        return derive_seed(self.study_seed, self.seed, purpose, self.epoch)
