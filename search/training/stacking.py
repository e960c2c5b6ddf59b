"""A model's twin for many trials at once: the same forward pass with a leading dimension of slots.

`vmap` can stack any module, but goes through its rules at every operation, which for small layers costs as much as the
arithmetic. Here each layer that knows how to work on [slots, batch, ...] takes the place of the ordinary one, and the
model's own `forward` runs as it is. That is right as long as everything between the layers works element by element and
does not depend on the numbers: so a user's model must let itself be traced, and twin and model are compared on examples
before the twin is used. Models that have no twin are left to `vmap` or to the looped engine (see `engines`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Tracer

from search.training.kernels.compiled import products_for
from search.training.models import SHIPPED, Patches, Positions
from search.training.recomputation import without_backward_pass
from search.training.regularizers import BatchNorm, Dropout, normalize_batch
from search.training.seeds import own_generators


class _Affine(torch.autograd.Function):
    """``x W^T + b`` for each slot, with a gradient of W that lies in memory as W does.

    The gradient that autograd finds by itself is transposed, and has to be copied into order before it can be used.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.kernels = kernels = products_for(x, weight, bias)
        if kernels is not None:
            return kernels.multiply(x, weight, bias, b_transposed=True)
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        # A gradient that is to be differentiated itself needs torch's own operations.
        if ctx.kernels is not None and not torch.is_grad_enabled():
            of_x = ctx.kernels.multiply(gradient, weight) if ctx.needs_input_grad[0] else None
            return of_x, ctx.kernels.multiply(gradient, x, a_transposed=True), gradient.sum(1)
        of_x = torch.bmm(gradient, weight) if ctx.needs_input_grad[0] else None
        return of_x, torch.bmm(gradient.transpose(1, 2), x), gradient.sum(1)


class StackedLinear(nn.Linear):
    """`nn.Linear` with weights [slots, outputs, inputs] and inputs [slots, batch, inputs]."""

    def forward(self, x: Tensor) -> Tensor:
        """Map each slot's inputs [slots, ..., inputs] by its own weights."""
        bias: Tensor | None = self.bias
        flat = x if x.dim() == 3 else x.flatten(1, -2)
        if bias is None:
            result = torch.bmm(flat, self.weight.transpose(1, 2))
        else:
            result = _Affine.apply(flat, self.weight, bias)
        return result if x.dim() == 3 else result.view(*x.shape[:-1], -1)


class StackedLayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` of the last dimension, for parameters [slots, numbers] and inputs [slots, ..., numbers]."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each slot's inputs, and scale them by its own weights."""
        own = (len(x), *[1] * (x.dim() - 2), -1)
        normal = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        return normal * self.weight.view(own) + self.bias.view(own)


class StackedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """`nn.BatchNorm1d`, `2d` or `3d` with parameters and statistics [slots, features]."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each slot's inputs [slots, batch, features, ...] by its own minibatch or running statistics."""
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        if self.training:
            self.num_batches_tracked.add_(1)
        return normalize_batch(self, x, self.momentum, self.eps)


def _stacked_linear(layer: nn.Module) -> nn.Module:
    layer.__class__ = StackedLinear
    return layer


def _stacked_layer_norm(layer: nn.Module) -> nn.Module:
    layer.__class__ = StackedLayerNorm
    return layer


def _stacked_batch_norm(layer: nn.Module) -> nn.Module:
    layer.__class__ = StackedBatchNorm
    return layer


def _stacked_flatten(layer: nn.Module) -> nn.Module:
    assert isinstance(layer, nn.Flatten)
    ends = (layer.start_dim, layer.end_dim)
    return nn.Flatten(*(dim + 1 if dim >= 0 else dim for dim in ends))


def _as_it_is(layer: nn.Module) -> nn.Module:
    return layer


STACKED: dict[type[nn.Module], Callable[[nn.Module], nn.Module]] = {
    nn.Linear: _stacked_linear,
    nn.Flatten: _stacked_flatten,
    nn.LayerNorm: _stacked_layer_norm,
    nn.BatchNorm1d: _stacked_batch_norm,
    nn.BatchNorm2d: _stacked_batch_norm,
    nn.BatchNorm3d: _stacked_batch_norm,
    BatchNorm: _as_it_is,
    Dropout: _as_it_is,
    Patches: _as_it_is,
    Positions: _as_it_is,
    nn.ReLU: _as_it_is,
    nn.GELU: _as_it_is,
    nn.SiLU: _as_it_is,
    nn.Tanh: _as_it_is,
    nn.Identity: _as_it_is,
}
"""What takes an ordinary layer's place; by exact type, since a subclass may compute something else."""


def stacked_twin(template: nn.Module, example: Tensor) -> nn.Module | None:
    """Return the twin of a model, or None when it has none.

    `example` [batch, ...] has two inputs or more to compare both on. The twin's parameters and buffers are to be
    replaced by ones with a leading dimension of slots before it is called.
    """
    if not all(_is_known(layer) for layer in template.modules() if _is_leaf(layer)):
        return None
    if type(template) not in SHIPPED and not _is_traceable(template):
        return None
    twin = _convert(copy.deepcopy(template))
    return twin if _agree(template, twin, example) else None


def _is_traceable(template: nn.Module) -> bool:
    """Return whether the steps of a forward pass are the same whatever the numbers are."""
    try:
        for training in (True, False):
            _Tracer().trace(copy.deepcopy(template).train(training))
    except Exception:  # whatever a user's code does with what is no tensor yet
        return False
    return True


class _Tracer(Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return type(m) in STACKED


def _is_leaf(layer: nn.Module) -> bool:
    """Return whether a module computes by itself; what has its own parameters beside children must be known too."""
    own = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
    return bool(own) or not list(layer.children())


def _is_known(layer: nn.Module) -> bool:
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        usual = bool(layer.affine and layer.track_running_stats and layer.momentum)
    elif isinstance(layer, nn.LayerNorm):
        usual = layer.weight is not None and layer.bias is not None and len(layer.normalized_shape) == 1
    else:
        usual = True
    return usual and type(layer) in STACKED


def _convert(layer: nn.Module) -> nn.Module:
    for name, child in layer.named_children():
        setattr(layer, name, _convert(child))
    return STACKED.get(type(layer), _as_it_is)(layer)


@torch.no_grad()
def _agree(template: nn.Module, twin: nn.Module, example: Tensor) -> bool:
    """Return whether both compute the same, in training and evaluation, for two slots that have nothing in common."""
    half = len(example) // 2
    generator = torch.Generator().manual_seed(0)
    try:
        models = [_disturbed(template, slot, generator) for slot in range(2)]
        inputs = [_plus_noise(part, generator) for part in (example[:half], example[half : 2 * half])]
        trial = copy.deepcopy(twin)
        states = [dict(model.named_parameters()) | dict(model.named_buffers()) for model in models]
        Places(trial).bind({name: torch.stack([state[name] for state in states]) for name in states[0]})
        generators = own_generators(example.device)
        before = [generator.get_state() for generator in generators]
        with without_backward_pass():
            same = half > 0 and all(_is_same(trial, models, inputs, training) for training in (True, False))
        # What draws from torch's generators would draw for all slots together.
        return same and all(map(torch.equal, before, (generator.get_state() for generator in generators)))
    except Exception:  # whatever a forward pass that is not made for slots may raise: the twin is not needed
        return False


def _is_same(trial: nn.Module, models: list[nn.Module], inputs: list[Tensor], training: bool) -> bool:
    ours = trial.train(training)(torch.stack(inputs))
    expected = torch.stack([model.train(training)(x) for model, x in zip(models, inputs, strict=True)])
    return ours.shape == expected.shape and torch.allclose(ours, expected, rtol=1e-3, atol=1e-5)


def _disturbed(template: nn.Module, slot: int, generator: torch.Generator) -> nn.Module:
    """Return a copy with other numbers everywhere, so that no part of it is hidden behind zeros."""
    model = copy.deepcopy(template)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.copy_(_plus_noise(tensor, generator).abs() if tensor.min() > 0 else _plus_noise(tensor, generator))
    for layer in model.modules():
        if isinstance(layer, Dropout):
            layer.configure(0.25 * (1 + slot), 1 + slot)
        elif isinstance(layer, BatchNorm):
            layer.on.fill_(slot == 0)
    return model


def _plus_noise(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return floats with noise added, and everything else as it is."""
    if not tensor.is_floating_point():
        return tensor
    noise = torch.randn(tensor.shape, generator=generator).to(tensor)
    return tensor + 0.1 * noise


class Places:
    """Where a module keeps its parameters and buffers, so that others can be put there without copying."""

    def __init__(self, module: nn.Module) -> None:
        self._places: dict[str, list[tuple[dict[str, Any], str]]] = {}
        # A tensor that stands in several places, as tied weights do, goes by the name of the first.
        names: dict[int, str] = {}
        for prefix, owner in module.named_modules():
            for place in (owner._parameters, owner._buffers):
                for last, tensor in place.items():
                    if tensor is None:
                        continue
                    name = names.setdefault(id(tensor), f"{prefix}.{last}".lstrip("."))
                    self._places.setdefault(name, []).append((place, last))

    def bind(self, tensors: Mapping[str, Tensor]) -> None:
        """Put these tensors in, by name."""
        for name, tensor in tensors.items():
            for place, last in self._places[name]:
                place[last] = tensor
