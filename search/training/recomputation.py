"""Dropout keys of model parts that are computed again for the backward pass, as `torch.utils.checkpoint` does.

A key that moves on with each use would give another mask when a part is computed again. `checkpoint` puts torch's own
generator back before it does so. A number drawn from that generator therefore marks a use: the same number comes again
in the recomputation, and finds the key there. Parts that nobody recomputes draw nothing, so that models without
checkpoints leave torch's generator alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointFunction

_MOST_USES = 4096
"""Uses of one layer between the forward pass and the end of the backward pass; older ones are forgotten."""

_marking = True


@contextmanager
def without_backward_pass() -> Iterator[None]:
    """Mark no uses: for forward passes that no backward pass follows, and that must leave torch's generator alone."""
    global _marking
    before, _marking = _marking, False
    try:
        yield
    finally:
        _marking = before


def may_be_recomputed() -> bool:
    """Return whether this code may run again, or runs again, in a backward pass. Takes a quarter of a microsecond."""
    # A checkpoint computes with hooks on saved tensors, or (use_reentrant=True) without gradients.
    hooked = torch._C._autograd._top_saved_tensors_default_hooks(False) is not None
    return hooked or not torch.is_grad_enabled() or _in_backward_pass()


def has_reentrant_checkpoint(result: Tensor) -> bool:
    """Return whether a result was computed with `checkpoint(..., use_reentrant=True)`, by its graph.

    The backward pass of such a checkpoint refuses `torch.autograd.grad`, and takes `Tensor.backward` alone.
    """
    reentrant = CheckpointFunction._backward_cls
    seen, stack = set(), [result.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        if isinstance(node, reentrant):
            return True
        seen.add(node)
        stack += [each for each, _ in node.next_functions]
    return False


def _in_backward_pass() -> bool:
    return torch._C._current_graph_task_id() != -1


class KeysOfUses:
    """The keys with which one dropout layer was used in parts that may be computed again."""

    def __init__(self) -> None:
        self._keys: dict[int, Tensor] = {}

    def key(self, advance: Callable[[], Tensor]) -> Tensor | None:
        """Return the key of this use: the one of the forward pass where this is a recomputation, or else the next.

        Return None for a recomputation whose forward pass is not known.
        """
        if not _marking:
            return advance()
        mark = int(torch.empty((), dtype=torch.int64).random_())
        if _in_backward_pass():
            return self._keys.get(mark)
        self._keys.pop(mark, None)
        self._keys[mark] = key = advance().clone()  # the key itself moves on in place
        while len(self._keys) > _MOST_USES:
            del self._keys[next(iter(self._keys))]
        return key
