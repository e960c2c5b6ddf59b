"""Models as a user's factory makes them: in memory of their own, from one seed, and what of them no seed changes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, UntypedStorage, nn
from torch.nn.parameter import is_lazy

from search.training.models import ModelFactory
from search.training.seeds import derive_seed, seeded

_NAMED = 3
"""Parameters that a message names."""


@contextmanager
def factory_seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Start torch's, NumPy's and Python's generators at a seed, as a factory may draw from all; then put them back."""
    with seeded(seed, device), other_generators_left_alone():
        np.random.seed(seed % 2**32)
        random.seed(seed)
        yield


@contextmanager
def other_generators_left_alone() -> Iterator[None]:
    """Put NumPy's and Python's global generators back in the end."""
    state, python_state = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        np.random.set_state(state)
        random.setstate(python_state)


@dataclass(frozen=True)
class IsolatedFactory:
    """A factory of the same models, whose parameters and buffers share memory with nothing outside a model.

    The user's may wrap a tensor of the caller's, as `nn.Embedding.from_pretrained` does: training and loading weights
    would write into that, and into every other model.
    """

    factory: ModelFactory

    def __call__(self) -> nn.Module:
        """Return a fresh model."""
        model = self.factory()
        if isinstance(model, nn.Module):  # anything else is refused elsewhere
            _copy_storages(model)
        return model


@torch.no_grad()
def _copy_storages(model: nn.Module) -> None:
    """Give a model's tensors storages of their own. Those that share one with each other go on sharing one."""
    _copy_buffers(model)
    by_storage: dict[int, list[Tensor]] = {}
    for tensor in (*model.parameters(), *model.buffers()):  # a tied weight once
        if tensor.layout is torch.strided and not is_lazy(tensor) and not tensor.is_meta:
            by_storage.setdefault(tensor.untyped_storage()._cdata, []).append(tensor)
    for tensors in by_storage.values():
        if len(tensors) == 1:
            tensors[0].data = tensors[0].data.clone()  # of a large storage only the part that the model has
            continue
        storage = tensors[0].untyped_storage().clone()  # type: ignore[no-untyped-call]
        for tensor in tensors:
            tensor.data = _view(storage, tensor)


def _copy_buffers(model: nn.Module) -> None:
    """Put other tensors with the same storages in the place of buffers: those registered may be the caller's own."""
    others: dict[int, Tensor] = {}
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and not is_lazy(buffer):
                module._buffers[name] = others.setdefault(id(buffer), buffer.detach())


def _view(storage: UntypedStorage, tensor: Tensor) -> Tensor:
    """Return a tensor that lies in a storage as another one does in its own."""
    place = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return place.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())


@dataclass(frozen=True)
class SharedStart:
    """Initial weights that are the same under every seed."""

    names: Sequence[str]
    """The parameters, largest first."""
    share: float
    """Their part of all numbers that are trained and are not constants such as zeros; 1 where all are the same."""

    @property
    def warning(self) -> str | None:
        """What the user is warned of: nothing where a part is the same, as in a pretrained model with a new head."""
        if self.share < 1:
            return None
        return (
            "The model has the same initial weights under every seed: they are pretrained, or the factory seeds "
            "torch itself. The seeds of a confirmation then differ in batch order and noise alone, and its "
            "intervals do not cover the initialization. If that is not intended, remove torch.manual_seed and the "
            "like from the factory: it is called under a seed for each trial."
        )

    @property
    def remark(self) -> str:
        """What a result is to be read with."""
        if self.share == 1:
            return (
                "All seeds start from the same initial weights: intervals cover batch order and noise, and not the "
                "initialization."
            )
        return (
            f"All seeds share {self._part} of the initial weights ({self._which}): intervals do not cover their "
            "initialization."
        )

    @property
    def _part(self) -> str:
        return f"{min(99.9, 100 * self.share):.3g} %"

    @property
    def _which(self) -> str:
        more = len(self.names) - _NAMED
        return ", ".join(self.names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def made_under(factory: ModelFactory, seed: int) -> nn.Module:
    """Return a model that a factory makes when all generators begin at a seed."""
    with factory_seeded(derive_seed(seed, seed, "check"), torch.device("cpu")):
        return factory()


def shared_start(one: nn.Module, other: nn.Module) -> SharedStart | None:
    """Return which initial weights no seed changes, by two models of a factory; None where there are none to speak of.

    Parameters of which every number is the same, as biases and scales of normalizations begin, are left out.
    """
    ours, theirs = _trained(one), _trained(other)
    same = {name: torch.equal(tensor, theirs[name]) for name, tensor in ours.items() if name in theirs}
    if same and all(same.values()):
        return SharedStart(_by_size(ours, list(same)), 1.0)
    drawn = {name: tensor for name, tensor in ours.items() if not bool((tensor == tensor.flatten()[:1]).all())}
    equal = [name for name in drawn if same.get(name, False)]
    if not equal:
        return None
    share = sum(drawn[name].numel() for name in equal) / sum(tensor.numel() for tensor in drawn.values())
    return SharedStart(_by_size(drawn, equal), share)


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: each.detach() for name, each in model.named_parameters() if each.requires_grad and each.numel()}


def _by_size(tensors: dict[str, Tensor], names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: -tensors[name].numel())
