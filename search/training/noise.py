"""Dropout of a user's model: where its rates are, how a trial sets them, and how what has no rate is switched off.

A *rate* is an attribute of a module, as `p` of `nn.Dropout` or `dropout` of `nn.LSTM`. A layer that does nothing but
drop is replaced by one with a rate for each slot (`regularizers.Dropout`). Any other module keeps its own forward pass,
which draws from torch's generators: its attribute is set before each call, so only the looped engine can train it.
*Functional* dropout is a call inside a forward pass that no attribute of a module decides. Trials keep it as the model
has it, and `Quiet` switches it off for the baseline. `noise_search` finds out what a model has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from search.records import ModelNoise
from search.spec import FUNCTIONAL
from search.training.models import ChannelDropout, ModelFactory
from search.training.quiet import KnownRate, Quiet
from search.training.regularizers import ATTRIBUTE_RATES, AlphaDropout, Dropout, StochasticDepth

_BUFFER = "regsearch_rates"

_REPLACED: Mapping[str, Callable[[Any, str], Dropout]] = {
    "torch.nn.modules.dropout.Dropout": lambda _layer, name: Dropout(name),
    "torch.nn.modules.dropout.Dropout1d": lambda _layer, name: ChannelDropout(name, extent=1),
    "torch.nn.modules.dropout.Dropout2d": lambda _layer, name: ChannelDropout(name, extent=2),
    "torch.nn.modules.dropout.Dropout3d": lambda _layer, name: ChannelDropout(name, extent=3),
    "torch.nn.modules.dropout.AlphaDropout": lambda _layer, name: AlphaDropout(name),
    "torch.nn.modules.dropout.FeatureAlphaDropout": lambda _layer, name: AlphaDropout(name, channels=True),
    "torchvision.ops.stochastic_depth.StochasticDepth": lambda layer, name: StochasticDepth(name, layer.mode == "row"),
}
"""Layers that a layer with a rate for each slot replaces. By name, since torchvision need not be imported."""

_HARMLESS = {"__module__", "__doc__", "__init__", "__annotations__", "__firstlineno__", "__static_attributes__"}
"""What a subclass may define and still compute the same."""


@dataclass(frozen=True)
class Rate:
    """An attribute of a module that is a rate of dropout."""

    module: str
    """Path of the module, as in `model.named_modules()`."""
    attribute: str

    def __str__(self) -> str:
        if self.attribute == "p" and self.module:
            return self.module
        return f"{self.module}.{self.attribute}".lstrip(".")

    def of(self, model: nn.Module) -> float:
        """Return its value in a model."""
        return float(getattr(model.get_submodule(self.module), self.attribute))

    def set(self, model: nn.Module, value: float) -> None:
        """Give it a value."""
        setattr(model.get_submodule(self.module), self.attribute, value)


@dataclass(frozen=True)
class Noise:
    """The noise that a model draws in training."""

    rates: tuple[Rate, ...]
    """In the order in which they are `dropout_0`, `dropout_1`, ..."""
    functional: tuple[str, ...] = ()
    """Modules with functional dropout."""
    means: bool = False
    """Whether functional dropout is off where masks of torch's `bernoulli` are replaced by their means."""
    unknown: tuple[str, ...] = ()
    """Modules that draw noise which cannot be switched off."""

    @property
    def told(self) -> ModelNoise:
        """Return it by names, for users."""
        layers = {f"dropout_{index}": str(rate) for index, rate in enumerate(self.rates)}
        return ModelNoise(layers, self.functional, self.unknown)


def known_noise(model: nn.Module) -> Noise:
    """Return the rates that torch's own layers have, and dropout layers: what is known without running the model.

    Of recurrent and attention layers the rates that are not 0: a model that does not use them is trained without.
    """
    return Noise(tuple(Rate(path, name) for path, module in model.named_modules() for name in known_rates(module)))


def known_rates(module: nn.Module) -> Sequence[str]:
    """Return the attributes of one module that are rates for certain."""
    if isinstance(module, _DropoutNd) or _replacement(module) is not None:
        return ["p"]
    if isinstance(module, nn.RNNBase):
        return ["dropout"] if module.num_layers > 1 and module.dropout > 0 else []
    return ["dropout"] if isinstance(module, nn.MultiheadAttention) and module.dropout > 0 else []


def dropout_rates(model: nn.Module, noise: Noise | None = None) -> list[float]:
    """Return the rates of a model, in the order in which they are `dropout_0`, `dropout_1`, ..."""
    return [rate.of(model) for rate in (noise or known_noise(model)).rates]


def with_rates(model: nn.Module, params: Mapping[str, float], noise: Noise | None = None) -> nn.Module:
    """Return a user's model with the rates of a configuration, in place; without functional dropout where that is off.

    All modules stay the user's own.
    """
    noise = noise or known_noise(model)
    for index, rate in enumerate(noise.rates):
        rate.set(model, params[f"dropout_{index}"])
    if params.get(FUNCTIONAL) == 0:
        _attach(model, _AttributeRates((), noise.means), [0.0])
    return model


def searchable(factory: ModelFactory, noise: Noise | None = None) -> ModelFactory:
    """Return a factory of the same models in which dropout has a rate for each trial."""

    def make() -> nn.Module:
        model = factory()
        found = noise or known_noise(model)
        named = [(rate, f"dropout_{index}") for index, rate in enumerate(found.rates)]
        kept = [(rate, name) for rate, name in named if _replacement(model.get_submodule(rate.module)) is None]
        if kept or found.functional:
            _attach(model, _AttributeRates(tuple(kept), found.means), [*(rate.of(model) for rate, _ in kept), 1.0])
        # By the layer, since one may stand in several places.
        layers = {model.get_submodule(rate.module): name for rate, name in named if (rate, name) not in kept}
        return _replace(model, {layer: _make_replacement(layer, name) for layer, name in layers.items()})

    return make


def without_functional_noise(model: nn.Module) -> AbstractContextManager[object]:
    """Return a context in which functional dropout is as it was in the model's last call.

    A backward pass runs parts of the forward pass again where a model saves memory (`torch.utils.checkpoint`).
    """
    state = getattr(model, ATTRIBUTE_RATES, None)
    return nullcontext() if state is None or state.applied[-1] else Quiet(state.means)


def _replacement(layer: nn.Module) -> Callable[[Any, str], Dropout] | None:
    """Return what replaces a layer; for a subclass only where it changes nothing."""
    kind = type(layer)
    while issubclass(kind, _DropoutNd) and kind.__module__ != _DropoutNd.__module__ and vars(kind).keys() <= _HARMLESS:
        (kind,) = kind.__bases__[:1]
    return _REPLACED.get(f"{kind.__module__}.{kind.__qualname__}")


def _make_replacement(layer: nn.Module, parameter: str) -> Dropout:
    make = _replacement(layer)
    assert make is not None, "others keep their forward pass"
    return make(layer, parameter)


def _replace(model: nn.Module, replaced: Mapping[nn.Module, Dropout]) -> nn.Module:
    if model in replaced:
        return replaced[model]
    for owner in list(model.modules()):
        for name, child in list(owner._modules.items()):
            if child is not None and child in replaced:
                owner._modules[name] = replaced[child]
    return model


@dataclass
class _AttributeRates:
    """Rates that a model's forward pass reads from attributes; a buffer of the model has their values.

    The last value of the buffer is the parameter `functional_dropout`.
    """

    rates: tuple[tuple[Rate, str], ...]
    """Each with its parameter."""
    means: bool
    applied: list[float] = field(default_factory=lambda: [1.0])
    """Values that the attributes have now."""
    modes: list[Quiet] = field(default_factory=list)
    """Contexts of the calls that are under way."""

    def configure(self, model: nn.Module, params: Mapping[str, float]) -> None:
        """Set the values that a configuration has."""
        values = [params.get(name, 0.0) for _, name in self.rates] + [params.get(FUNCTIONAL, 0.0)]
        buffer = model.get_buffer(_BUFFER)
        buffer.copy_(torch.tensor(values, dtype=buffer.dtype))

    def apply(self, model: nn.Module) -> None:
        """Set the attributes to what the buffer says. Raises RuntimeError where it has a value for each slot."""
        try:
            values = model.get_buffer(_BUFFER).tolist()
        except RuntimeError as error:
            names = [str(rate) for rate, _ in self.rates] or ["functional dropout"]
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise RuntimeError(f"vmap has one dropout rate for all slots in {names[0]}{more}") from error
        if values != self.applied:
            for (rate, _), value in zip(self.rates, values, strict=False):
                rate.set(model, KnownRate(value))
            self.applied = values


def _attach(model: nn.Module, rates: _AttributeRates, values: Sequence[float]) -> None:
    # A buffer of the model itself: a child would be one more step of an nn.Sequential.
    model.register_buffer(_BUFFER, torch.tensor(values, dtype=torch.float64), persistent=False)
    setattr(model, ATTRIBUTE_RATES, rates)
    model.register_forward_pre_hook(_enter)
    model.register_forward_hook(_leave, always_call=True)


def _enter(model: nn.Module, _inputs: object) -> None:
    state: _AttributeRates = getattr(model, ATTRIBUTE_RATES)
    state.apply(model)
    if not state.applied[-1]:
        state.modes.append(Quiet(state.means))
        state.modes[-1].__enter__()  # type: ignore[no-untyped-call]


def _leave(model: nn.Module, _inputs: object, output: Tensor) -> None:  # noqa: ARG001
    state: _AttributeRates = getattr(model, ATTRIBUTE_RATES)
    if state.modes:
        state.modes.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]
