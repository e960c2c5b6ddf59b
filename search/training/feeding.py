"""What each step of an epoch learns from: minibatches of all slots, augmented, mixed, and with softened targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from search.training.augmentation import Augmentation
from search.training.data import Dataset
from search.training.seeds import batch_order
from search.training.turns import Turn

Batch = tuple[Tensor, Tensor]
"""Inputs [slots, batch, ...], and targets: classes, int64 [slots, batch], or shares of them [slots, batch, classes]."""


class Feed:
    """Training data in minibatches. Every trial has an order of its own; an incomplete last batch is left out."""

    def __init__(self, data: Dataset, batch_size: int) -> None:
        self._data = data
        self._batch = min(batch_size, data.fewest_to_train)
        self.steps = data.fewest_to_train // self._batch
        """In an epoch."""
        self._inputs: dict[torch.dtype, Tensor] = {data.train.x.dtype: data.train.x}
        self._rows: dict[int | None, Tensor] = {}
        """What there is to train on, by the fold that is held out."""

    def prepare(self, compute: torch.dtype | None, only: bool = False) -> None:
        """Have the inputs in the type that is computed in, None for their own: cast once, not at every step.

        With `only`, what other types need is given up.
        """
        kind = self._kind(compute)
        if kind not in self._inputs:
            self._inputs[kind] = self._data.train.x.to(kind)
        if only:
            own = self._data.train.x.dtype
            self._inputs = {own: self._data.train.x, kind: self._inputs[kind]}

    def batches(self, turns: Sequence[Turn], compute: torch.dtype | None) -> Iterator[Batch]:
        """Yield the minibatches of an epoch of some slots."""
        device, shape = self._data.train.x.device, self._data.shape
        slots = len(turns)
        order = (
            torch.stack([self._order(turn) for turn in turns])
            .view(slots, self.steps, self._batch)
            .transpose(0, 1)
            .reshape(self.steps, -1)
        )
        augmentation = Augmentation(turns, self.steps, self._batch, shape, self._data.fill, device)
        mixing = Mixing(turns, self.steps, self._data.classes, device)
        kind = self._kind(compute)
        source = self._data.train.x if augmentation else self._inputs[kind]
        for step, chosen in enumerate(order.to(device)):
            x = source.index_select(0, chosen).view(slots, self._batch, *shape)
            y = self._data.train.y.index_select(0, chosen).view(slots, self._batch)
            if augmentation:
                x = augmentation(step, x).to(kind)
            yield mixing(step, x, y) if mixing else (x, y)

    def _order(self, turn: Turn) -> Tensor:
        """Return which examples a trial learns from in an epoch, one minibatch after the other."""
        if turn.fold not in self._rows:
            self._rows[turn.fold] = self._data.train_rows(turn.fold)
        rows = self._rows[turn.fold]
        order = batch_order(turn.study_seed, turn.seed, turn.epoch, len(rows))
        return rows[order[: self.steps * self._batch]]

    def _kind(self, compute: torch.dtype | None) -> torch.dtype:
        own = self._data.train.x.dtype
        return own if compute is None or not own.is_floating_point else compute


class Mixing:
    """Mixup (Zhang et al. 2018) and label smoothing (Szegedy et al. 2016) for the minibatches of an epoch.

    An example is mixed with the one that stands as far from the batch's end as it from the beginning: minibatches are
    in random order already. As in the paper all examples of a minibatch share one weight.
    """

    def __init__(self, turns: Sequence[Turn], steps: int, classes: int, device: torch.device) -> None:
        smoothing, alphas = ([turn.strength(name) for turn in turns] for name in ("label_smoothing", "mixup"))
        self._active, self._mixes, self._classes = any(smoothing) or any(alphas), any(alphas), classes
        if not self._active:
            return
        self._smoothing = torch.tensor(smoothing, device=device).view(-1, 1, 1)
        self._shares = torch.tensor(
            np.stack([_shares(turn, alpha, steps) for turn, alpha in zip(turns, alphas, strict=True)]),
            dtype=torch.float32,
            device=device,
        )

    def __bool__(self) -> bool:
        """Return whether there is anything to do."""
        return self._active

    def __call__(self, step: int, x: Tensor, y: Tensor) -> Batch:
        """Return inputs and shares of classes [slots, batch, classes]."""
        targets = F.one_hot(y, self._classes).to(torch.float32)
        targets = targets * (1 - self._smoothing) + self._smoothing / self._classes
        if self._mixes:
            share = self._shares[:, step]
            of_x = share.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
            x = x * of_x + x.flip(1) * (1 - of_x)
            share = share.view(-1, 1, 1)
            targets = targets * share + targets.flip(1) * (1 - share)
        return x, targets


def _shares(turn: Turn, alpha: float, steps: int) -> np.ndarray:
    if alpha == 0:
        return np.ones(steps)
    return np.random.default_rng(turn.derive("mixup")).beta(alpha, alpha, steps)
