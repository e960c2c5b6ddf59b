"""Adam, AdamW and SGD for a population: one row a slot, and learning rate, decay and L1 strength a vector over slots.

All parameters of a slot lie in one row of a matrix [slots, parameters], weights first; what is exempt from decay and
L1 (biases, normalization) comes last. So an update is a handful of operations over the whole population, and each
equals torch.optim's single-tensor arithmetic to rounding. Steps are counted per slot: slots start at different times.

What a step multiplies with is worked out for a whole epoch at once (`begin`): as single numbers, one step at a time,
it would cost as much as the update of a small model.

One slot by itself on a processor, as the looped engine has it, is updated by torch's own fused kernels: they go over
the memory once, which for a large model is twice as fast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from search.spec import TrainingSpec
from search.training.regularizers import soft_threshold_


@dataclass(frozen=True)
class Alone:
    """What one step of a single slot takes, for a fused kernel."""

    learning_rate: float
    weight_decay: float
    l1: float
    count: Tensor
    """How many steps the slot has taken with this one, float32 []."""


Table = Mapping[str, Tensor]
"""What one step of several slots multiplies with, by name, each [slots, 1]."""

Coefficients = Table | Alone


@dataclass(frozen=True)
class Strengths:
    """What differs from slot to slot, each [slots, 1], float64: `1 - 0.999` in float32 is off by 5e-5 already."""

    learning_rate: Tensor
    weight_decay: Tensor
    l1: Tensor

    def rows(self, rows: slice) -> Strengths:
        """Return views on some of the slots."""
        return Strengths(self.learning_rate[rows], self.weight_decay[rows], self.l1[rows])


class Optimizer(ABC):
    """Common to all: what decay and L1 do, and the state of each slot.

    `l1_mode`: ``proximal`` thresholds softly by learning rate times strength after the update (decoupled, exact zeros);
    ``penalty`` adds the strength times sign(w) to the gradient, as a term in the loss would.
    """

    moments = 0
    _kernel: str
    """Name of torch's fused kernel, the one that torch.optim calls with `fused=True`."""

    def __init__(self, parameters: Tensor, weights: int, l1_mode: str) -> None:
        """`parameters` [slots, n] is updated in place; the first `weights` columns are decayed and thresholded."""
        self._parameters, self._weights, self._l1_mode = parameters, weights, l1_mode
        self.state = [torch.zeros_like(parameters) for _ in range(self.moments)]
        self.steps = parameters.new_zeros((len(parameters), 1), dtype=torch.float64)

    def reset(self, slot: int) -> None:
        """Forget a slot's history."""
        for tensor in (*self.state, self.steps):
            tensor[slot].zero_()

    def move(self, source: int, target: int) -> None:
        """Copy a slot's history to another slot."""
        for tensor in (*self.state, self.steps):
            tensor[target].copy_(tensor[source])

    def begin(self, rows: slice, strengths: Strengths, steps: int) -> Sequence[Coefficients]:
        """Return what the next `steps` steps of some slots multiply with, one after the other; all must be taken."""
        counts = self.steps[rows] + torch.arange(1, steps + 1, device=self.steps.device).view(-1, 1, 1)
        self.steps[rows] += steps
        if self._fused() is not None and counts[0].numel() == 1 and counts.device.type == "cpu":
            rate, decay, l1 = (float(tensor) for tensor in vars(strengths).values())
            return [Alone(rate, decay, l1, count) for count in counts.float().flatten()]
        table = self._table(counts, strengths)
        if self._l1_mode == "proximal":
            table["threshold"] = strengths.learning_rate * strengths.l1
        else:
            table["l1"] = strengths.l1
        # Views on one tensor, in the parameters' own type: the only work left for each step is to look them up.
        columns = torch.stack([column.expand_as(counts) for column in table.values()], dim=1)
        whole = columns.to(self._parameters.dtype)
        return [dict(zip(table, step.unbind(), strict=True)) for step in whole.unbind()]

    def step(self, rows: slice, gradients: Tensor, now: Coefficients) -> None:
        """Update some slots from their gradients [slots, n] of the data loss, which are used up."""
        if isinstance(now, Alone):
            self._step_alone(rows.start, gradients[0], now)
            return
        parameters = self._parameters[rows]
        weights = parameters[:, : self._weights]
        if self._l1_mode == "penalty":
            gradients[:, : self._weights].addcmul_(weights.sign(), now["l1"])
        self._update(rows, parameters, weights, gradients, now)
        if self._l1_mode == "proximal":
            soft_threshold_(weights, now["threshold"], gradients[:, : self._weights])

    @classmethod
    def _fused(cls) -> Any:
        return getattr(torch, cls._kernel, None)

    def _step_alone(self, slot: int, gradients: Tensor, now: Alone) -> None:
        weights = self._parameters[slot, : self._weights]
        if self._l1_mode == "penalty":
            gradients[: self._weights].add_(weights.sign(), alpha=now.l1)
        for part, decay in ((slice(0, self._weights), now.weight_decay), (slice(self._weights, None), 0.0)):
            state = [[tensor[slot, part]] for tensor in self.state]
            self._call_fused([self._parameters[slot, part]], [gradients[part]], state, decay, now)
        if self._l1_mode == "proximal":
            threshold = now.learning_rate * now.l1
            weights.sub_(torch.clamp(weights, -threshold, threshold, out=gradients[: self._weights]))

    @abstractmethod
    def _call_fused(
        self, parameters: list[Tensor], gradients: list[Tensor], state: list[list[Tensor]], decay: float, now: Alone
    ) -> None:
        """Have torch's kernel do the optimizer's own step, on some of one slot's numbers."""

    @abstractmethod
    def _table(self, counts: Tensor, strengths: Strengths) -> dict[str, Tensor]:
        """Return the coefficients of `_update` as float64 [steps, slots, 1], given each step's count, from 1."""

    @abstractmethod
    def _update(self, rows: slice, parameters: Tensor, weights: Tensor, gradients: Tensor, now: Table) -> None:
        """Do the optimizer's own step; `weights` is the decayed part of `parameters`."""

    def _couple_decay(self, gradients: Tensor, weights: Tensor, now: Table) -> None:
        """L2 as a term of the loss: its gradient joins the data's."""
        gradients[:, : self._weights].addcmul_(weights, now["decay"])


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015) with L2 in the gradient, as torch.optim.Adam."""

    moments = 2
    betas = (0.9, 0.999)
    eps = 1e-8
    _kernel = "_fused_adam_"

    def _call_fused(
        self, parameters: list[Tensor], gradients: list[Tensor], state: list[list[Tensor]], decay: float, now: Alone
    ) -> None:
        beta1, beta2 = self.betas
        self._fused()(
            parameters,
            gradients,
            *state,
            [],
            [now.count],
            lr=now.learning_rate,
            beta1=beta1,
            beta2=beta2,
            weight_decay=decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    def _table(self, counts: Tensor, strengths: Strengths) -> dict[str, Tensor]:
        beta1, beta2 = self.betas
        step_size = strengths.learning_rate / (1 - beta1**counts)
        # p -= step_size * m / (sqrt(v / c) + eps), with -step_size moved into the denominator: two passes less.
        return {
            "scale": -1 / (step_size * (1 - beta2**counts).sqrt()),
            "shift": self.eps / step_size,
            "decay": strengths.weight_decay,
        }

    def _update(self, rows: slice, parameters: Tensor, weights: Tensor, gradients: Tensor, now: Table) -> None:
        self._couple_decay(gradients, weights, now)
        self._adam(rows, parameters, gradients, now)

    def _adam(self, rows: slice, parameters: Tensor, gradients: Tensor, now: Table) -> None:
        first, second = (tensor[rows] for tensor in self.state)
        beta1, beta2 = self.betas
        first.lerp_(gradients, 1 - beta1)
        second.mul_(beta2).addcmul_(gradients, gradients, value=1 - beta2)
        denominator = torch.sqrt(second, out=gradients).mul_(now["scale"]).sub_(now["shift"])
        parameters.addcdiv_(first, denominator)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), as torch.optim.AdamW."""

    _kernel = "_fused_adamw_"

    def _table(self, counts: Tensor, strengths: Strengths) -> dict[str, Tensor]:
        kept = 1 - strengths.learning_rate * strengths.weight_decay
        return super()._table(counts, strengths) | {"decay": kept}

    def _update(self, rows: slice, parameters: Tensor, weights: Tensor, gradients: Tensor, now: Table) -> None:
        weights.mul_(now["decay"])
        self._adam(rows, parameters, gradients, now)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and L2 in the gradient, as torch.optim.SGD without dampening."""

    moments = 1

    def __init__(self, parameters: Tensor, weights: int, l1_mode: str, momentum: float) -> None:
        super().__init__(parameters, weights, l1_mode)
        self._momentum = momentum

    _kernel = "_fused_sgd_"

    def _call_fused(
        self, parameters: list[Tensor], gradients: list[Tensor], state: list[list[Tensor]], decay: float, now: Alone
    ) -> None:
        self._fused()(
            parameters,
            gradients,
            *state,
            weight_decay=decay,
            momentum=self._momentum,
            lr=now.learning_rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,
        )

    def _table(self, counts: Tensor, strengths: Strengths) -> dict[str, Tensor]:  # noqa: ARG002
        return {"change": -strengths.learning_rate, "decay": strengths.weight_decay}

    def _update(self, rows: slice, parameters: Tensor, weights: Tensor, gradients: Tensor, now: Table) -> None:
        self._couple_decay(gradients, weights, now)
        velocity = self.state[0][rows].mul_(self._momentum).add_(gradients)
        parameters.addcmul_(velocity, now["change"])


MOMENTS = {"adam": Adam.moments, "adamw": AdamW.moments, "sgd": SGD.moments}
"""How many numbers each of the spec's optimizers remembers for a parameter."""


def make_optimizer(spec: TrainingSpec, parameters: Tensor, weights: int) -> Optimizer:
    """Return the spec's optimizer for `parameters` [slots, n] whose first `weights` columns are regularized."""
    if spec.optimizer == "sgd":
        return SGD(parameters, weights, spec.l1_mode, spec.momentum)
    return {"adam": Adam, "adamw": AdamW}[spec.optimizer](parameters, weights, spec.l1_mode)
