"""How a model's parameters lie in one row of numbers, so that a population is a matrix [slots, parameters].

Weights come first, then what is never decayed, thresholded or counted in the sparsity: biases and the parameters of
normalization layers. Parameters that need no gradient are not trained, and in no row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from math import prod

import torch
from torch import Tensor, nn

from search.training.regularizers import BatchNorm

_NORMALIZATION = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
    BatchNorm,
)

_UNITS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Layout:
    """Names and shapes of a model's parameters in the order in which they lie in a row."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    weights: int
    """How many leading numbers of a row are regularized weights."""
    of_units: frozenset[str] = frozenset()
    """Names of the weights whose first dimension is that of units: those of linear layers and convolutions."""

    @property
    def size(self) -> int:
        """Length of a row."""
        return sum(self._sizes())

    def _sizes(self) -> list[int]:
        return [prod(shape) for shape in self.shapes]

    def row(self, model: nn.Module) -> Tensor:
        """Return a model's parameters as one row [parameters]."""
        parameters = dict(model.named_parameters())
        return torch.cat([parameters[name].detach().flatten() for name in self.names])

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the parameters by name as views on `rows` [..., parameters], each [..., *shape]."""
        pieces = torch.split(rows, self._sizes(), dim=-1)
        shaped = (piece.view(*rows.shape[:-1], *shape) for piece, shape in zip(pieces, self.shapes, strict=True))
        return dict(zip(self.names, shaped, strict=True))


def layout_of(model: nn.Module) -> Layout:
    """Return the layout that fits a model and every other one of the same shape."""
    exempt = _exempt(model)
    trained = ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    named = sorted(trained, key=lambda item: item[0] in exempt)
    weights = sum(p.numel() for name, p in named if name not in exempt)
    units = (f"{prefix}.weight".lstrip(".") for prefix, module in model.named_modules() if isinstance(module, _UNITS))
    of_units = frozenset(units) & {name for name, _ in named}
    return Layout(tuple(name for name, _ in named), tuple(p.shape for _, p in named), weights, of_units)


def state_dict(template: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the `state_dict`, on the CPU, of a model with these parameters and buffers; the rest is the template's."""
    # Tied weights have several names, of which the first is known.
    first = {id(tensor): name for name, tensor in chain(template.named_parameters(), template.named_buffers())}
    whole = template.state_dict(keep_vars=True)
    return {name: tensors.get(first[id(own)], own).detach().to("cpu", copy=True) for name, own in whole.items()}


def _exempt(model: nn.Module) -> set[str]:
    # Recurrent layers call theirs bias_ih_l0, attention in_proj_bias.
    last = ((name, name.rpartition(".")[2]) for name, _ in model.named_parameters())
    names = {name for name, own in last if own.startswith("bias") or own.endswith("bias")}
    for prefix, module in model.named_modules():
        if isinstance(module, _NORMALIZATION):
            names |= {f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)}
    return names
