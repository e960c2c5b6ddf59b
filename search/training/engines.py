"""Two ways to run one population's models, with the same results: all slots as one batched model, or slot by slot.

An engine knows how to get gradients and logits for rows of parameters; which is faster depends on model, device and
number of slots, so `population.choose_engine` measures. Both take an ordinary module as template and never change it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from search.training.layout import Layout

Buffers = Mapping[str, Tensor]
"""Buffers by name, each [slots, ...]; running statistics are updated in place."""


class Engine(Protocol):
    """What a population needs of an engine. Shapes: rows [slots, parameters], x and y [slots, batch, ...]."""

    name: str

    def chunk(self, slots: int) -> int:
        """Return how many slots go through an epoch together."""
        ...

    def gradients(self, rows: Tensor, buffers: Buffers, x: Tensor, y: Tensor) -> Tensor:
        """Return the gradients of each slot's mean data loss over its own batch, [slots, parameters]."""
        ...

    def logits(self, rows: Tensor, buffers: Buffers, x: Tensor) -> Tensor:
        """Return logits [slots, batch, classes] in evaluation mode; `x` [batch, ...] is the same for all slots."""
        ...


class StackedEngine:
    """All slots as one batched model: `vmap` over functional calls of the template."""

    name = "stacked"

    def __init__(self, template: nn.Module, layout: Layout) -> None:
        self._template, self._layout = template, layout
        call = _caller(template)
        self._own_batches: Callable[..., Tensor] = vmap(call)
        self._same_batch: Callable[..., Tensor] = vmap(call, in_dims=(0, 0, None))

    def chunk(self, slots: int) -> int:
        return max(1, slots)

    def gradients(self, rows: Tensor, buffers: Buffers, x: Tensor, y: Tensor) -> Tensor:
        # Slots share nothing, so the gradient of the sum of their losses holds each slot's own gradient. One ordinary
        # backward pass over the batched graph is a quarter faster than vmap(grad(...)).
        self._template.train()
        leaves = {name: view.detach().requires_grad_() for name, view in self._layout.views(rows).items()}
        logits = self._own_batches(leaves, buffers, x)
        loss = _losses(logits, y).mean(1).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        return torch.cat([gradient.flatten(1) for gradient in gradients], dim=1)

    def logits(self, rows: Tensor, buffers: Buffers, x: Tensor) -> Tensor:
        self._template.eval()
        return self._same_batch(self._layout.views(rows), buffers, x)


class LoopedEngine:
    """Slot by slot: each trial an ordinary call of a plain module. Takes every model, also those vmap cannot."""

    name = "looped"

    def __init__(self, template: nn.Module, layout: Layout) -> None:
        self._template, self._layout = template, layout
        self._call = _caller(template)

    def chunk(self, slots: int) -> int:  # noqa: ARG002
        # A whole epoch of one trial before the next: its weights and moments stay in the cache.
        return 1

    def gradients(self, rows: Tensor, buffers: Buffers, x: Tensor, y: Tensor) -> Tensor:
        self._template.train()
        return torch.stack([self._gradient(row, _of(buffers, i), x[i], y[i]) for i, row in enumerate(rows)])

    def _gradient(self, row: Tensor, buffers: Buffers, x: Tensor, y: Tensor) -> Tensor:
        leaves = {name: view.detach().requires_grad_() for name, view in self._layout.views(row).items()}
        loss = F.cross_entropy(self._call(leaves, buffers, x), y)
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        return torch.cat([gradient.flatten() for gradient in gradients])

    def logits(self, rows: Tensor, buffers: Buffers, x: Tensor) -> Tensor:
        self._template.eval()
        views = (self._layout.views(row) for row in rows)
        return torch.stack([self._call(view, _of(buffers, i), x) for i, view in enumerate(views)])


ENGINES: dict[str, Callable[[nn.Module, Layout], Engine]] = {"stacked": StackedEngine, "looped": LoopedEngine}


def per_slot_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy in nats of each example, [slots, batch], for targets [slots, batch] or [batch]."""
    return _losses(logits, targets.expand(logits.shape[:2]))


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    flat = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return flat.view(targets.shape)


def _caller(template: nn.Module) -> Callable[..., Tensor]:
    def call(parameters: Mapping[str, Tensor], buffers: Buffers, x: Tensor) -> Tensor:
        result: Tensor = functional_call(template, (dict(parameters), dict(buffers)), (x,))
        return result

    return call


def _of(buffers: Buffers, slot: int) -> Buffers:
    return {name: tensor[slot] for name, tensor in buffers.items()}
