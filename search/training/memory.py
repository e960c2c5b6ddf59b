"""How many slots fit into a device's memory, worked out from one model and one minibatch before any is trained."""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from search.memory import memory_left

_SHARE = 0.5
"""Of the memory that is free: libraries and other programs need some, and an estimate is one."""
# Rows of a slot: parameters, best epoch's weights, gradients and their concatenation, a copy to compute in.
_ROWS = 5
# An activation is kept for the backward pass, has a gradient, and dropout makes a mask and a product of it.
_COPIES = 4


def fitting_slots(template: nn.Module, batch: Tensor, moments: int, slots: int, device: str, sharers: int = 1) -> int:
    """Return how many of `slots` fit, at least 1.

    `batch` [batch, ...] is a minibatch, `moments` the optimizer's numbers per parameter; `sharers` trainers, this one
    included, share the device.
    """
    row = sum(p.numel() * p.element_size() for p in template.parameters())
    needed = row * (_ROWS + moments) + _COPIES * _activation_bytes(template, batch)
    return max(1, min(slots, int(_SHARE * free_bytes(device) / sharers / needed)))


def free_bytes(device: str) -> int:
    """Return how much memory a device has left; without limit where that cannot be known."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    return min(_available(Path("/proc/meminfo")), memory_left())


@torch.no_grad()
def _activation_bytes(template: nn.Module, batch: Tensor) -> int:
    """Return the size of all layers' outputs for a minibatch, found with its first example."""
    total = 0

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal total
        if isinstance(output, Tensor):
            total += output.numel() * output.element_size()

    handles = [module.register_forward_hook(note) for module in template.modules() if not list(module.children())]
    training = template.training
    try:
        template.eval()(batch[:1])
    finally:
        for handle in handles:
            handle.remove()
        template.train(training)
    return total * len(batch)


def _available(meminfo: Path) -> int:
    try:
        lines = meminfo.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return sys.maxsize
