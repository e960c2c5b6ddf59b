"""Stochastic weight averaging (Izmailov et al. 2018) for a population: what is scored and kept is the mean of the
weights at the ends of a trial's last epochs, while training itself goes on from where it is.

Running statistics of normalization layers are averaged like weights, as torch's `AveragedModel` with `use_buffers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from search.spec.parameters import epochs_before_averaging
from search.training.turns import Turn


class Averages:
    """The mean weights of the slots that have some."""

    def __init__(self, state: Mapping[str, Tensor], max_epochs: int) -> None:
        """`state` is what is averaged, [slots, ...], as trained; whole numbers stay as they are."""
        self._state = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
        self._max_epochs = max_epochs
        self.means: dict[str, Tensor] = {}
        """By name, each [slots, ...]; empty until a trial has some."""

    @contextmanager
    def in_place(self, turns: Sequence[Turn]) -> Iterator[None]:
        """Take the epoch that has just ended into the averages, and put these into the weights' place for a while."""
        counts = {slot: count for slot, turn in enumerate(turns) if (count := self._count(turn))}
        if not counts:
            yield
            return
        slots = torch.tensor(list(counts), device=next(iter(self._state.values())).device)
        share = 1 / torch.tensor(list(counts.values()), device=slots.device)
        kept = {name: tensor[slots] for name, tensor in self._state.items()}
        means = self._made()
        for name, now in kept.items():
            mean = means[name]
            # The first of an average is itself, whatever stood there before.
            old = torch.where(_like(share, now) == 1, now, mean[slots])
            mean[slots] = old + (now - old) * _like(share, now)
            self._state[name][slots] = mean[slots]
        try:
            yield
        finally:
            for name, now in kept.items():
                self._state[name][slots] = now

    def history(self, turn: Turn) -> dict[str, Tensor]:
        """Return the means, [slots, ...], if a trial has some at the end of this epoch."""
        return self._made() if self._count(turn) else {}

    def _made(self) -> dict[str, Tensor]:
        if not self.means:
            self.means = {name: torch.zeros_like(tensor) for name, tensor in self._state.items()}
        return self.means

    def _count(self, turn: Turn) -> int:
        """Return how many epochs a trial's average has after this one: the last share of all that it may have."""
        return max(0, turn.epoch - epochs_before_averaging(turn.strength("weight_averaging"), self._max_epochs))


def _like(share: Tensor, other: Tensor) -> Tensor:
    return share.to(other.dtype).view(-1, *[1] * (other.dim() - 1))
