"""Ways to run one population's models, with the same results: all slots as one batched model, or slot by slot.

An engine knows how to get gradients and logits for rows of parameters; which is faster depends on model, device and
number of slots, so `choosing` measures. All take an ordinary module as template and never change it. Parameters and
buffers belong to the population: engines hold views on them.

With precision `bf16` the forward and backward passes of training are computed in bfloat16; parameters, optimizer and
evaluation stay in single precision, so that steps smaller than a bfloat16's resolution are not lost.
"""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from search.training.kernels.compiled import suspended
from search.training.layout import Layout
from search.training.losses import CROSS_ENTROPY, Loss, loss_gradients
from search.training.noise import without_functional_noise
from search.training.recomputation import has_reentrant_checkpoint
from search.training.stacking import Places, stacked_twin

Buffers = Mapping[str, Tensor]
"""Buffers by name, each [slots, ...]; running statistics are updated in place."""

PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16}
"""What training computes in; None for the parameters' own type."""


@dataclass(frozen=True)
class Models:
    """A population's models: the template, and parameters [slots, n] and buffers of all slots, updated in place."""

    template: nn.Module
    layout: Layout
    rows: Tensor
    buffers: Buffers
    example: Tensor
    """A few inputs, [batch, ...]."""
    loss: Loss = CROSS_ENTROPY

    @cached_property
    def twin(self) -> nn.Module | None:
        """The template's twin for many slots, if it has one: where some parameters are not trained it has none."""
        all_trained = all(parameter.requires_grad for parameter in self.template.parameters())
        return stacked_twin(self.template, self.example) if all_trained else None


class Leaves:
    """The parameters of some slots as what gradients are asked for: views, or views on a copy in another type."""

    def __init__(self, models: Models, slots: slice | int, compute: torch.dtype | None) -> None:
        """For one slot by its number, shapes are those of the template; for a slice they have a leading dimension."""
        self._rows = models.rows[slots]
        self._copy = None if compute is None else torch.empty_like(self._rows, dtype=compute)
        views = models.layout.views(self._rows if self._copy is None else self._copy)
        self.parameters = {name: view.detach().requires_grad_() for name, view in views.items()}
        self.buffers = {name: buffer[slots] for name, buffer in models.buffers.items()}
        self._loss = models.loss
        self._accumulates: bool | None = None
        """Whether gradients must be accumulated in the leaves; known from the first step on."""

    def refresh(self) -> None:
        """Bring a copy up to date: one pass over the parameters."""
        if self._copy is not None:
            self._copy.copy_(self._rows)

    def cast(self, x: Tensor) -> Tensor:
        """Return inputs in the type that is computed in."""
        return x if self._copy is None or not x.is_floating_point() else x.to(self._copy.dtype)

    def gradients(self, logits: Tensor, targets: Tensor) -> Sequence[Tensor]:
        """Return the gradients of each slot's mean loss by each parameter; 0 where the model does not use it."""
        # Slots share nothing, so what flows back from all of them together is each slot's own gradient.
        root = _Root.apply(logits, loss_gradients(self._loss, logits, targets))
        parameters = list(self.parameters.values())
        if self._accumulates is None:
            self._accumulates = has_reentrant_checkpoint(logits)
        found: Sequence[Tensor | None]
        if self._accumulates:
            root.backward()
            found = [parameter.grad for parameter in parameters]
            for parameter in parameters:
                parameter.grad = None
        else:
            found = torch.autograd.grad(root, parameters, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


class _Root(torch.autograd.Function):
    """A scalar for a backward pass to begin with, given the gradients that are to come of it.

    `torch.autograd.grad` takes such gradients as an argument too, but then imports sympy, for half a second.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, gradients: Tensor) -> Tensor:
        ctx.gradients = gradients
        return logits.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_one: Tensor) -> tuple[Tensor, None]:
        return ctx.gradients, None


class Engine(ABC):
    """What a population needs of an engine. Shapes: x and y [slots, batch, ...] for the slots of a slice."""

    def __init__(self, models: Models, compute: torch.dtype | None = None) -> None:
        """`compute` is what training computes in; None for the parameters' own type."""
        self._models, self._compute = models, compute
        self._known: dict[tuple[object, torch.dtype | None], Leaves] = {}

    @abstractmethod
    def chunk(self, slots: int) -> int:
        """Return how many slots go through an epoch together."""

    @abstractmethod
    def gradients(self, slots: slice, x: Tensor, y: Tensor) -> Sequence[Tensor]:
        """Return the gradients of each slot's mean data loss over its own batch, in the type that is computed in.

        A tensor [slots, *shape] for each parameter, in the order in which they lie in a row; to be read alone, since
        several may share memory. `x` may be in that type.
        """

    @abstractmethod
    def logits(self, slots: slice, x: Tensor, exact: bool = True) -> Tensor:
        """Return logits [slots, batch, classes] in evaluation mode; `x` [batch, ...] is the same for all slots.

        `exact` computes in the parameters' own type, otherwise it is done as in training.
        """

    def _leaves(self, slots: slice | int, compute: torch.dtype | None) -> Leaves:
        """Return views on these slots, which are made only once: that costs as much as some layers do."""
        key = ((slots.start, slots.stop) if isinstance(slots, slice) else slots, compute)
        if key not in self._known:
            self._known[key] = Leaves(self._models, slots, compute)
        return self._known[key]


class _ModuleEngine(Engine):
    """Calls a module whose parameters and buffers are, for the time of a call, views on some slots' rows."""

    def __init__(self, models: Models, module: nn.Module, compute: torch.dtype | None) -> None:
        super().__init__(models, compute)
        self._module, self._places = module, Places(module)
        self._bound: Leaves | None = None

    def _gradients(self, slots: slice | int, x: Tensor, y: Tensor) -> Sequence[Tensor]:
        leaves = self._leaves(slots, self._compute)
        leaves.refresh()
        logits = self._call(leaves, x, training=True)
        with without_functional_noise(self._module):
            return leaves.gradients(logits, y)

    def _logits(self, slots: slice | int, x: Tensor, exact: bool) -> Tensor:
        leaves = self._leaves(slots, None if exact else self._compute)
        leaves.refresh()
        return self._call(leaves, leaves.cast(x), training=False).to(self._models.rows.dtype)

    def _call(self, leaves: Leaves, x: Tensor, training: bool) -> Tensor:
        if self._module.training != training:
            self._module.train(training)
        if self._bound is not leaves:
            self._places.bind({**leaves.parameters, **leaves.buffers})
            self._bound = leaves
        logits: Tensor = self._module(x)
        return logits


class TwinEngine(_ModuleEngine):
    """All slots as one batched model, by the template's twin."""

    def __init__(self, models: Models, compute: torch.dtype | None = None) -> None:
        if models.twin is None:
            raise ValueError("the model has layers, or steps between them, that have no stacked form")
        # A copy: what is bound to a module is its engine's alone.
        super().__init__(models, copy.deepcopy(models.twin), compute)

    def chunk(self, slots: int) -> int:
        return max(1, slots)

    def gradients(self, slots: slice, x: Tensor, y: Tensor) -> Sequence[Tensor]:
        return self._gradients(slots, x, y)

    def logits(self, slots: slice, x: Tensor, exact: bool = True) -> Tensor:
        return self._logits(slots, x.expand(slots.stop - slots.start, *x.shape), exact)


class LoopedEngine(_ModuleEngine):
    """Slot by slot: each trial an ordinary call of a plain module. Takes every model."""

    def __init__(self, models: Models, compute: torch.dtype | None = None) -> None:
        super().__init__(models, copy.deepcopy(models.template), compute)

    def chunk(self, slots: int) -> int:  # noqa: ARG002
        # A whole epoch of one trial before the next: its weights and moments stay in the cache.
        return 1

    def gradients(self, slots: slice, x: Tensor, y: Tensor) -> Sequence[Tensor]:
        each = [self._gradients(slots.start + i, *own) for i, own in enumerate(zip(x, y, strict=True))]
        # A chunk is one slot: nothing is copied.
        return [pieces[0][None] if len(pieces) == 1 else torch.stack(pieces) for pieces in zip(*each, strict=True)]

    def logits(self, slots: slice, x: Tensor, exact: bool = True) -> Tensor:
        return torch.stack([self._logits(slot, x, exact) for slot in range(slots.start, slots.stop)])


class VmappedEngine(Engine):
    """All slots as one batched model, by `vmap` over functional calls of the template: for models without a twin."""

    def __init__(self, models: Models, compute: torch.dtype | None = None) -> None:
        super().__init__(models, compute)

        def call(parameters: Mapping[str, Tensor], buffers: Buffers, x: Tensor) -> Tensor:
            result: Tensor = functional_call(models.template, (dict(parameters), dict(buffers)), (x,))
            return result

        self._own_batches: Callable[..., Tensor] = vmap(call)
        self._same_batch: Callable[..., Tensor] = vmap(call, in_dims=(0, 0, None))

    def chunk(self, slots: int) -> int:
        return max(1, slots)

    def gradients(self, slots: slice, x: Tensor, y: Tensor) -> Sequence[Tensor]:
        self._models.template.train()
        leaves = self._leaves(slots, self._compute)
        leaves.refresh()
        # One ordinary backward pass over the batched graph is a quarter faster than vmap(grad(...)).
        with suspended(), _slow_rules_allowed():  # nobody can ask a tensor under vmap where it lies
            logits = self._own_batches(leaves.parameters, leaves.buffers, x)
        return leaves.gradients(logits, y)

    def logits(self, slots: slice, x: Tensor, exact: bool = True) -> Tensor:
        self._models.template.eval()
        leaves = self._leaves(slots, None if exact else self._compute)
        leaves.refresh()
        with _slow_rules_allowed():
            logits = self._same_batch(leaves.parameters, leaves.buffers, leaves.cast(x))
        return logits.to(self._models.rows.dtype)


@contextmanager
def _slow_rules_allowed() -> Iterator[None]:
    """Let `vmap` go slot by slot where it has no rule: `choosing` measures what that costs, nobody need be warned."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        yield


def stacked_engine(models: Models, compute: torch.dtype | None = None) -> Engine:
    """Return the faster of the two engines that make one batched model of all slots: the twin's, where there is one."""
    return (VmappedEngine if models.twin is None else TwinEngine)(models, compute)


ENGINES: dict[str, Callable[[Models, torch.dtype | None], Engine]] = {
    "stacked": stacked_engine,
    "looped": LoopedEngine,
}
