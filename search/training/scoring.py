"""What a population's trials have reached after an epoch: losses and accuracy of all occupied slots, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from search.training.data import Dataset, Split
from search.training.engines import Engine
from search.training.evaluation import parts, score_examples, score_logits, standard_error
from search.training.losses import Loss


class Scores(NamedTuple):
    """Of each slot, [slots], float64."""

    train_loss: Tensor
    val_loss: Tensor
    val_accuracy: Tensor
    val_loss_error: Tensor
    """Standard error of the validation loss over the validation examples."""


class Scoring:
    """Scores the slots of a population on one data set, in parts that suit the device."""

    def __init__(self, data: Dataset, loss: Loss, widest: int) -> None:
        """`widest` is how many numbers a layer has for one example and slot."""
        self._data, self._loss, self._widest = data, loss, widest
        self._train_sample = data.train_sample

    def scores(self, engine: Engine, rows: slice, folds: Sequence[int | None]) -> Scores:
        """Return the scores of these slots; each is told which fold it holds out, if any."""
        held_in = self._data.held_in
        if held_in is not None:
            return self._of_folds(engine, rows, torch.tensor(folds, device=held_in.device), held_in)
        # The training loss is there for the gap, and may be as inexact as training is.
        train_loss, _, _ = self._means(engine, rows, self._train_sample, exact=False)
        val_loss, squares, val_accuracy = self._means(engine, rows, self._data.val, exact=True)
        return Scores(train_loss, val_loss, val_accuracy, standard_error(val_loss, squares, len(self._data.val)))

    def _of_folds(self, engine: Engine, rows: slice, folds: Tensor, held_in: Tensor) -> Scores:
        """Score slots on all examples, and tell those that each holds out from those that it trains on."""
        losses, right = self._of_each(engine, rows, self._data.train)
        held_out = torch.eq(held_in, folds.view(-1, 1))
        count = held_out.sum(1)
        train_loss = losses.masked_fill(held_out, 0).sum(1) / (held_out.shape[1] - count)
        losses, right = losses.masked_fill(~held_out, 0), right & held_out
        val_loss, squares = losses.sum(1) / count, losses.square().sum(1) / count
        return Scores(train_loss, val_loss, right.sum(1) / count, standard_error(val_loss, squares, count))

    def _of_each(self, engine: Engine, rows: slice, split: Split) -> tuple[Tensor, Tensor]:
        """Return these slots' losses and whether their answers are right, [slots, examples]."""
        pieces = parts(split, rows.stop - rows.start, self._widest)
        scores = [score_examples(self._loss, engine.logits(rows, part.x), part.y) for part in pieces]
        losses, right = (torch.cat(each, dim=1) for each in zip(*scores, strict=True))
        return losses, right

    def _means(self, engine: Engine, rows: slice, split: Split, exact: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return each slot's means of loss, squared loss and right answers."""
        pieces = parts(split, rows.stop - rows.start, self._widest)
        scores = (score_logits(self._loss, engine.logits(rows, part.x, exact), part.y) for part in pieces)
        loss, squares, hits = torch.stack([torch.stack(score) for score in scores]).sum(0) / len(split)
        return loss, squares, hits
