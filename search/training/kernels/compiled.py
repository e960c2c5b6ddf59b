"""The compiled kernels on tensors. One library for a process, as torch has one set of operations for it.

`compiled_for` says whether they can work on a tensor; whoever asks has torch's operations for the other case.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_POINTER, _COUNT, _REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
_TYPES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}
_STEPS = {(torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.float64, torch.float64)}
"""Types of parameters and of their gradients that there are steps for."""

_WIDEST = 32
"""Numbers that a tile of a product is wide, at most."""

KINDS = {"adam": 0, "adamw": 1, "sgd": 2}
"""Optimizers, as `kernels.c` numbers them."""


@dataclass(frozen=True)
class Update:
    """What all steps of an optimizer have in common. Parameters and moments are [slots, size], and lie without gaps."""

    kind: int
    penalty: bool
    """Whether L1 is a term of the loss; otherwise weights are thresholded after the step."""
    weights: int
    """How many leading numbers of a slot are decayed and have L1."""
    rates: tuple[float, float]
    """Of Adam's moments how much is new in each step; of SGD's how much is kept, and nothing."""


class Kernels:
    """The functions of one library."""

    def __init__(self, library: Path) -> None:
        """Raises OSError when it cannot be loaded."""
        functions = ctypes.CDLL(str(library))
        self._drop, self._loss, self._step, self._multiply = {}, {}, {}, {}

        def declared(name: str, *arguments: Any) -> Any:
            function = functions[name]
            function.argtypes, function.restype = arguments, None
            return function

        matrix, vector = (_POINTER, _COUNT, _COUNT), (_POINTER, _COUNT)
        for dtype, name in _TYPES.items():
            self._drop[dtype] = declared(f"drop_{name}", *[_POINTER] * 2, *[_COUNT] * 2, *[_POINTER] * 3)
            self._loss[dtype] = declared(f"loss_{name}", *[_POINTER] * 3, *[_COUNT] * 3)
            lists = (_COUNT, _POINTER, _POINTER, _POINTER)
            self._step[dtype] = declared(f"step_{name}", *[_COUNT] * 5, *[_POINTER] * 3, *lists, _REAL, _REAL)
            if hasattr(functions, f"multiply_{name}"):
                operands = (*matrix, _COUNT, *matrix, *vector)
                self._multiply[dtype] = declared(f"multiply_{name}", *[_COUNT] * 4, *operands, _POINTER, _POINTER)

    def drop(self, x: Tensor, keys: Tensor, bounds: Tensor, scales: Tensor) -> Tensor:
        """Return `x` [slots, ...] with elements dropped and the rest scaled, as `Dropout` says.

        Keys (int32), bounds (int16) and scales (of the type of x) are [slots]; or [], and x is one slot's.
        """
        if not x.is_contiguous():
            x = x.contiguous()
        result, slots = torch.empty_like(x), keys.numel()
        pointers = keys.data_ptr(), bounds.data_ptr(), scales.data_ptr()
        self._drop[x.dtype](x.data_ptr(), result.data_ptr(), slots, x.numel() // slots, *pointers)
        return result

    def can_multiply(self, dtype: torch.dtype) -> bool:
        """Return whether there are products of such numbers, which is where they are faster than torch's."""
        return dtype in self._multiply

    def multiply(
        self, a: Tensor, b: Tensor, bias: Tensor | None = None, a_transposed: bool = False, b_transposed: bool = False
    ) -> Tensor:
        """Return each slot's ``a b + bias``, with a or b transposed if so said; for types that `can_multiply` names.

        Shapes: a [slots, m, k], b [slots, k, n], each as it is after transposing, and bias [slots, n]. It is made for
        matrices that fit into a core's caches.
        """
        a, b = _without_gaps(a), _without_gaps(b)
        slots, m, k = a.shape[0], a.shape[2 if a_transposed else 1], a.shape[1 if a_transposed else 2]
        n = b.shape[1 if b_transposed else 2]
        result, panel = a.new_empty(slots, m, n), a.new_empty(k, _WIDEST)
        of_a = (a.data_ptr(), a.stride(0), *((1, m) if a_transposed else (k, 1)))
        of_bias = (None, 0) if bias is None else (bias.data_ptr(), bias.stride(0))
        of_b = (b.data_ptr(), b.stride(0), b_transposed)
        self._multiply[a.dtype](slots, m, n, k, *of_a, *of_b, *of_bias, result.data_ptr(), panel.data_ptr())
        return result

    def loss_gradients(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the derivative of each slot's mean cross-entropy by its logits.

        Shapes: logits [slots, batch, classes] and targets [slots, batch], or those of one slot.
        """
        logits, targets = logits.contiguous(), targets.contiguous()
        result = torch.empty_like(logits)
        pointers = logits.data_ptr(), targets.data_ptr(), result.data_ptr()
        self._loss[logits.dtype](*pointers, targets.numel(), logits.shape[-1], targets.shape[-1])
        return result

    def step(
        self,
        update: Update,
        slots: slice,
        parameters: Tensor,
        moments: Sequence[Tensor],
        gradients: Sequence[Tensor],
        table: Tensor,
    ) -> None:
        """Take an optimizer's step, in place; the gradients are kept.

        `parameters` and `moments` are those of all slots, `gradients` those of the slots in question, one tensor
        [slots, ...] for each of the model's in the order in which they lie in a row; `steps_for` tells of which types.
        `table` [4, slots] in the type of the parameters is what the step multiplies with: see `Optimizer`.
        """
        size, start, count = parameters.shape[1], slots.start, slots.stop - slots.start
        pieces = [piece if piece.is_contiguous() else piece.contiguous() for piece in gradients]
        sizes = (_COUNT * len(pieces))(*(piece.numel() // count for piece in pieces))
        pointers = (_POINTER * len(pieces))(*(piece.data_ptr() for piece in pieces))
        offset = start * size * parameters.element_size()
        places = [tensor.data_ptr() + offset for tensor in (parameters, *moments)]
        self._step[pieces[0].dtype](
            update.kind,
            update.penalty,
            count,
            size,
            update.weights,
            *places[:2],
            places[-1],
            len(pieces),
            sizes,
            pointers,
            table.data_ptr(),
            *update.rates,
        )


def _without_gaps(tensor: Tensor) -> Tensor:
    """Return a tensor whose slots lie without gaps, each for itself."""
    rows, columns = tensor.shape[1:]
    return tensor if tensor.stride()[1:] == (columns, 1) and rows else tensor.contiguous()


_active: Kernels | None = None


def use(library: Path | None) -> None:
    """Compute by this library from now on, or by torch's operations for None. Raises OSError."""
    global _active
    _active = None if library is None else Kernels(library)


@contextmanager
def suspended() -> Iterator[None]:
    """Do without them, as under `vmap`, whose tensors have no memory of their own."""
    global _active
    before, _active = _active, None
    try:
        yield
    finally:
        _active = before


def compiled_for(tensor: Tensor) -> Kernels | None:
    """Return the kernels if they can work on such tensors."""
    if _active is None or tensor.device.type != "cpu" or tensor.dtype not in _TYPES:
        return None
    return _active


def products_for(*operands: Tensor) -> Kernels | None:
    """Return the kernels if they can multiply and add such matrices, which must all be of one type."""
    first, *others = operands
    kernels = compiled_for(first)
    if kernels is None or any(other.dtype != first.dtype for other in others):
        return None
    return kernels if kernels.can_multiply(first.dtype) else None


def steps_for(parameters: Tensor, gradients: Sequence[Tensor]) -> Kernels | None:
    """Return the kernels if they can take an optimizer's step on such parameters; gradients are of one type."""
    return compiled_for(parameters) if (parameters.dtype, gradients[0].dtype) in _STEPS else None


class Dropped(torch.autograd.Function):
    """`Kernels.drop` with its gradient: the same factors once more, so that no mask has to be kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keys: Tensor, bounds: Tensor, scales: Tensor, kernels: Kernels) -> Tensor:
        # The key moves on with the next step, which may come before this one's gradient is asked for.
        ctx.drawn = keys.clone(), bounds, scales
        ctx.kernels = kernels
        return kernels.drop(x, keys, bounds, scales)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        # A gradient that is to be differentiated itself needs a graph of its own.
        if torch.is_grad_enabled():
            return Dropped.apply(gradients[0], *ctx.drawn, ctx.kernels), None, None, None, None
        return ctx.kernels.drop(gradients[0], *ctx.drawn), None, None, None, None
