"""Two ways to run one population's models, with the same results: all slots as one batched model, or slot by slot.

An engine knows how to get gradients and logits for rows of parameters; which is faster depends on model, device and
number of slots, so `choosing` measures. Both take an ordinary module as template and never change it.

With precision `bf16` the forward and backward passes of training are computed in bfloat16; parameters, optimizer and
evaluation stay in single precision, so that steps smaller than a bfloat16's resolution are not lost.
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


PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16}
"""What training computes in; None for the parameters' own type."""


class StackedEngine:
    """All slots as one batched model: `vmap` over functional calls of the template."""

    name = "stacked"

    def __init__(self, template: nn.Module, layout: Layout, compute: torch.dtype | None = None) -> None:
        self._template, self._layout, self._compute = template, layout, compute
        call = _caller(template)
        self._own_batches: Callable[..., Tensor] = vmap(call)
        self._same_batch: Callable[..., Tensor] = vmap(call, in_dims=(0, 0, None))

    def chunk(self, slots: int) -> int:
        return max(1, slots)

    def gradients(self, rows: Tensor, buffers: Buffers, x: Tensor, y: Tensor) -> Tensor:
        # Slots share nothing, so the gradient of the sum of their losses holds each slot's own gradient. One ordinary
        # backward pass over the batched graph is a quarter faster than vmap(grad(...)).
        self._template.train()
        leaves = _leaves(self._layout, rows, self._compute)
        logits = self._own_batches(leaves, buffers, _cast(x, self._compute))
        loss = _losses(_cast(logits, rows.dtype), y).mean(1).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        return _cast(torch.cat([gradient.flatten(1) for gradient in gradients], dim=1), rows.dtype)

    def logits(self, rows: Tensor, buffers: Buffers, x: Tensor) -> Tensor:
        self._template.eval()
        return self._same_batch(self._layout.views(rows), buffers, x)


class LoopedEngine:
    """Slot by slot: each trial an ordinary call of a plain module. Takes every model, also those vmap cannot."""

    name = "looped"

    def __init__(self, template: nn.Module, layout: Layout, compute: torch.dtype | None = None) -> None:
        self._template, self._layout, self._compute = template, layout, compute
        self._call = _caller(template)

    def chunk(self, slots: int) -> int:  # noqa: ARG002
        # A whole epoch of one trial before the next: its weights and moments stay in the cache.
        return 1

    def gradients(self, rows: Tensor, buffers: Buffers, x: Tensor, y: Tensor) -> Tensor:
        self._template.train()
        return torch.stack([self._gradient(row, _of(buffers, i), x[i], y[i]) for i, row in enumerate(rows)])

    def _gradient(self, row: Tensor, buffers: Buffers, x: Tensor, y: Tensor) -> Tensor:
        leaves = _leaves(self._layout, row, self._compute)
        logits = self._call(leaves, buffers, _cast(x, self._compute))
        loss = F.cross_entropy(_cast(logits, row.dtype), y)
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        return _cast(torch.cat([gradient.flatten() for gradient in gradients]), row.dtype)

    def logits(self, rows: Tensor, buffers: Buffers, x: Tensor) -> Tensor:
        self._template.eval()
        views = (self._layout.views(row) for row in rows)
        return torch.stack([self._call(view, _of(buffers, i), x) for i, view in enumerate(views)])


ENGINES: dict[str, Callable[[nn.Module, Layout, torch.dtype | None], Engine]] = {
    "stacked": StackedEngine,
    "looped": LoopedEngine,
}


def per_slot_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy in nats of each example, [slots, batch], for targets [slots, batch] or [batch]."""
    return _losses(logits, targets.expand(logits.shape[:2]))


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    flat = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return flat.view(targets.shape)


def _leaves(layout: Layout, rows: Tensor, compute: torch.dtype | None) -> dict[str, Tensor]:
    """Return the parameters by name, cast in one pass, as what gradients are asked for."""
    views = layout.views(_cast(rows, compute))
    return {name: view.detach().requires_grad_() for name, view in views.items()}


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)


def _caller(template: nn.Module) -> Callable[..., Tensor]:
    def call(parameters: Mapping[str, Tensor], buffers: Buffers, x: Tensor) -> Tensor:
        result: Tensor = functional_call(template, (dict(parameters), dict(buffers)), (x,))
        return result

    return call


def _of(buffers: Buffers, slot: int) -> Buffers:
    return {name: tensor[slot] for name, tensor in buffers.items()}
