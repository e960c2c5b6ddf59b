"""Adam, AdamW and SGD for a population: one row a slot, and learning rate, decay and L1 strength a vector over slots.

All parameters of a slot lie in one row of a matrix [slots, parameters], weights first; what is exempt from decay and
L1 (biases, normalization) comes last. Each update equals torch.optim's single-tensor arithmetic to rounding. Steps are
counted per slot: slots start at different times.

What a step multiplies with is worked out for a whole epoch at once (`begin`): as single numbers, one step at a time,
it would cost as much as the update of a small model. The update itself is one pass by the compiled kernels where there
are any, otherwise a handful of torch's operations over the whole population.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from search.spec import TrainingSpec
from search.training.kernels.compiled import KINDS, Update, steps_for
from search.training.regularizers import soft_threshold_

_LEAST_STEP = 1e-36
"""A step size as good as none, whose reciprocal is still a number in single precision."""

Coefficients = Tensor
"""What one step multiplies with: [4, slots, 1], two of the optimizer's own, then decay, then L1."""


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

    def __init__(self, parameters: Tensor, weights: int, l1_mode: str, kind: str, rates: tuple[float, float]) -> None:
        """`parameters` [slots, n] is updated in place; the first `weights` columns are decayed and thresholded.

        `kind` and `rates` are what the compiled kernels call the optimizer and its constants.
        """
        self._parameters, self._weights, self._penalty = parameters, weights, l1_mode == "penalty"
        self._compiled = Update(KINDS[kind], self._penalty, weights, rates)
        self.state = [torch.zeros_like(parameters) for _ in range(self.moments)]
        self.steps = parameters.new_zeros((len(parameters), 1), dtype=torch.float64)

    @property
    def history(self) -> dict[str, Tensor]:
        """What is remembered of the slots, by name, each [slots, ...]."""
        return {f"moment_{index}": moment for index, moment in enumerate(self.state)} | {"steps": self.steps}

    def reset(self, slot: int) -> None:
        """Forget a slot's history."""
        for tensor in self.history.values():
            tensor[slot].zero_()

    def begin(self, rows: slice, strengths: Strengths, steps: int) -> Sequence[Coefficients]:
        """Return what the next `steps` steps of some slots multiply with, one after the other; all must be taken."""
        counts = self.steps[rows] + torch.arange(1, steps + 1, device=self.steps.device).view(-1, 1, 1)
        self.steps[rows] += steps
        l1 = strengths.l1 if self._penalty else strengths.learning_rate * strengths.l1
        columns = [*self._columns(counts, strengths), l1]
        table = torch.stack([column.expand_as(counts) for column in columns], dim=1)
        return table.to(self._parameters.dtype).unbind()

    def step(self, rows: slice, gradients: Sequence[Tensor], now: Coefficients) -> None:
        """Update some slots from the gradients of the data loss.

        One tensor [slots, ...] for each of the model's parameters, in the order in which they lie in a row.
        """
        kernels = steps_for(self._parameters, gradients)
        if kernels is not None:
            kernels.step(self._compiled, rows, self._parameters, self.state, gradients, now)
            return
        parameters = self._parameters[rows]
        weights = parameters[:, : self._weights]
        flat = torch.cat([piece.flatten(1) for piece in gradients], dim=1).to(parameters.dtype)
        *own, decay, l1 = now.unbind()
        if self._penalty:
            flat[:, : self._weights].addcmul_(weights.sign(), l1)
        self._decay(weights, flat[:, : self._weights], decay)
        self._update(rows, parameters, flat, *own)
        if not self._penalty:
            soft_threshold_(weights, l1, flat[:, : self._weights])

    @abstractmethod
    def _columns(self, counts: Tensor, strengths: Strengths) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the steps with these counts (from 1, [steps, slots, 1]) multiply with: two numbers and decay."""

    @abstractmethod
    def _update(self, rows: slice, parameters: Tensor, gradients: Tensor, a: Tensor, b: Tensor) -> None:
        """Do the optimizer's own step; `gradients` are used up."""

    def _decay(self, weights: Tensor, gradients: Tensor, decay: Tensor) -> None:
        """L2 as a term of the loss: its gradient joins the data's."""
        gradients.addcmul_(weights, decay)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015) with L2 in the gradient, as torch.optim.Adam."""

    moments = 2
    betas = (0.9, 0.999)
    eps = 1e-8

    def __init__(self, parameters: Tensor, weights: int, l1_mode: str, kind: str = "adam") -> None:
        super().__init__(parameters, weights, l1_mode, kind, (1 - self.betas[0], 1 - self.betas[1]))

    def _columns(self, counts: Tensor, strengths: Strengths) -> tuple[Tensor, Tensor, Tensor]:
        beta1, beta2 = self.betas
        step_size = (strengths.learning_rate / (1 - beta1**counts)).clamp(min=_LEAST_STEP)
        # p -= step_size * m / (sqrt(v / c) + eps), with -step_size moved into the denominator: two passes less.
        return -1 / (step_size * (1 - beta2**counts).sqrt()), self.eps / step_size, strengths.weight_decay

    def _update(self, rows: slice, parameters: Tensor, gradients: Tensor, a: Tensor, b: Tensor) -> None:
        first, second = (tensor[rows] for tensor in self.state)
        beta1, beta2 = self.betas
        first.lerp_(gradients, 1 - beta1)
        second.mul_(beta2).addcmul_(gradients, gradients, value=1 - beta2)
        denominator = torch.sqrt(second, out=gradients).mul_(a).sub_(b)
        parameters.addcdiv_(first, denominator)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), as torch.optim.AdamW."""

    def __init__(self, parameters: Tensor, weights: int, l1_mode: str) -> None:
        super().__init__(parameters, weights, l1_mode, "adamw")

    def _columns(self, counts: Tensor, strengths: Strengths) -> tuple[Tensor, Tensor, Tensor]:
        scale, shift, decay = super()._columns(counts, strengths)
        return scale, shift, 1 - strengths.learning_rate * decay

    def _decay(self, weights: Tensor, gradients: Tensor, decay: Tensor) -> None:  # noqa: ARG002
        weights.mul_(decay)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and L2 in the gradient, as torch.optim.SGD without dampening."""

    moments = 1

    def __init__(self, parameters: Tensor, weights: int, l1_mode: str, momentum: float) -> None:
        super().__init__(parameters, weights, l1_mode, "sgd", (momentum, 0.0))
        self._momentum = momentum

    def _columns(self, counts: Tensor, strengths: Strengths) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG002
        return -strengths.learning_rate, torch.zeros_like(strengths.learning_rate), strengths.weight_decay

    def _update(self, rows: slice, parameters: Tensor, gradients: Tensor, a: Tensor, b: Tensor) -> None:  # noqa: ARG002
        velocity = self.state[0][rows].mul_(self._momentum).add_(gradients)
        parameters.addcmul_(velocity, a)


MOMENTS = {"adam": Adam.moments, "adamw": AdamW.moments, "sgd": SGD.moments}
"""How many numbers each of the spec's optimizers remembers for a parameter."""


def make_optimizer(spec: TrainingSpec, parameters: Tensor, weights: int) -> Optimizer:
    """Return the spec's optimizer for `parameters` [slots, n] whose first `weights` columns are regularized."""
    if spec.optimizer == "sgd":
        return SGD(parameters, weights, spec.l1_mode, spec.momentum)
    adam = AdamW if spec.optimizer == "adamw" else Adam
    return adam(parameters, weights, spec.l1_mode)
