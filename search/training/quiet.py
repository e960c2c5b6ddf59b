"""A mode of torch in which its random functions return what they return on average: dropout drops nothing.

It stands for the calls in a model's forward pass that no attribute of a module decides, as `F.dropout(x, 0.4)`.
Whatever draws by other means (`torch.rand`, NumPy) is not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class KnownRate(float):
    """A rate that a configuration sets: calls that are given it, or one minus it, are let through."""

    def __rsub__(self, other: float) -> KnownRate:
        return KnownRate(other - float(self))


class Call:
    """A call of a function of torch, whose arguments are read and changed by place or by name."""

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.args, self.kwargs = list(args), dict(kwargs)

    def get(self, index: int, default: Any, *names: str) -> Any:
        """Return an argument."""
        if index < len(self.args):
            return self.args[index]
        return next((self.kwargs[name] for name in names if name in self.kwargs), default)

    def set(self, index: int, value: Any, name: str) -> None:
        """Change an argument."""
        if index < len(self.args):
            self.args[index] = value
        else:
            self.kwargs[name] = value


class Quiet(TorchFunctionMode):
    """Switches random functions of torch off, but for those that are given a `KnownRate`."""

    def __init__(self, means: bool = False, note: Callable[[], None] = lambda: None) -> None:
        """`means` has `bernoulli` return its probabilities. `note` is called for each call that is switched off."""
        super().__init__()
        self._means, self._note = means, note

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        call = Call(args, kwargs or {})
        name = str(_NAMES.get(func) or getattr(func, "__name__", ""))
        rule = _RULES.get(name) or (_MEANS.get(name) if self._means else None)
        if rule is None:
            return func(*args, **call.kwargs)
        result = rule(call)
        if result is _UNCHANGED:
            return func(*args, **call.kwargs)
        self._note()
        return func(*call.args, **call.kwargs) if result is _CHANGED else result


_UNCHANGED, _CHANGED = object(), object()


def _drop_nothing(trains: bool) -> Callable[[Call], Any]:
    """Return the rule of a function (input, p, training) whose default for training is given."""

    def rule(call: Call) -> Any:
        rate = call.get(1, 0.5, "p")
        active = call.get(2, trains, "training", "train") and rate != 0 and not isinstance(rate, KnownRate)
        return call.get(0, None, "input") if active else _UNCHANGED

    return rule


def _set_to_zero(index: int, name: str, training: int | None = None) -> Callable[[Call], Any]:
    """Return the rule of a function with a rate at a place; `training` is where it is told that it trains."""

    def rule(call: Call) -> Any:
        rate = call.get(index, 0.0, name)
        idle = training is not None and not call.get(training, True, "training")
        if rate == 0 or idle or isinstance(rate, KnownRate):
            return _UNCHANGED
        call.set(index, 0.0, name)
        return _CHANGED

    return rule


def _recurrent(call: Call) -> Any:
    if len(call.args) < 8:  # torch's layers name none of them
        return _UNCHANGED
    # Of a padded batch the fourth argument tells of biases, of a packed one it is the fifth.
    index = 5 if isinstance(call.args[3], bool) else 6
    layers, rate, training = call.args[index - 1 : index + 2]
    if layers == 1 or rate == 0 or not training or isinstance(rate, KnownRate):
        return _UNCHANGED
    call.args[index] = 0.0
    return _CHANGED


def _slope_in_the_middle(call: Call) -> Any:
    if not call.get(3, False, "training"):
        return _UNCHANGED
    call.set(3, False, "training")
    return _CHANGED


def _regions_in_the_middle(sides: int) -> Callable[[Call], Any]:
    def rule(call: Call) -> Any:
        if call.get(5, None, "_random_samples") is not None:
            return _UNCHANGED
        x: Tensor = call.get(0, None, "input")
        images = x.shape[:-sides] if x.dim() > sides + 1 else (1, x.shape[0])
        call.set(5, x.new_full((*images, sides), 0.5), "_random_samples")
        return _CHANGED

    return rule


def _softmax(call: Call) -> Any:
    logits, dim = call.get(0, None, "logits"), call.get(4, -1, "dim")
    soft = (logits / call.get(1, 1.0, "tau")).softmax(dim)
    if not call.get(2, False, "hard"):
        return soft
    chosen = torch.zeros_like(soft).scatter_(dim, soft.argmax(dim, keepdim=True), 1.0)
    return chosen - soft.detach() + soft


def _mean_of_new(call: Call) -> Any:
    x, rate = call.get(0, None, "input", "self"), call.get(1, None, "p")
    if isinstance(rate, KnownRate):
        return _UNCHANGED
    return x.clone() if rate is None else torch.full_like(x, rate)


def _mean_in_place(call: Call) -> Any:
    x, rate = call.get(0, None, "self"), call.get(1, 0.5, "p")
    if isinstance(rate, KnownRate):
        return _UNCHANGED
    return x.copy_(rate) if isinstance(rate, Tensor) else x.fill_(rate)


_DROPOUTS = {"dropout": True, "dropout1d": True, "dropout2d": True, "dropout3d": True, "feature_dropout": True}
_ALPHA_DROPOUTS = {"alpha_dropout": False, "feature_alpha_dropout": False}

_NAMES: Mapping[Any, str] = {
    F.fractional_max_pool2d: "fractional_max_pool2d",
    F.fractional_max_pool2d_with_indices: "fractional_max_pool2d",
    F.fractional_max_pool3d: "fractional_max_pool3d",
    F.fractional_max_pool3d_with_indices: "fractional_max_pool3d",
}
"""Functions that do not know their names."""

_RULES: Mapping[str, Callable[[Call], Any]] = {
    **{
        f"{name}{end}": _drop_nothing(trains)
        for name, trains in (_DROPOUTS | _ALPHA_DROPOUTS).items()
        for end in ("", "_")
    },
    "scaled_dot_product_attention": _set_to_zero(4, "dropout_p"),
    "multi_head_attention_forward": _set_to_zero(10, "dropout_p", training=13),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    **dict.fromkeys(("rrelu", "rrelu_"), _slope_in_the_middle),
    "fractional_max_pool2d": _regions_in_the_middle(2),
    "fractional_max_pool3d": _regions_in_the_middle(3),
    "gumbel_softmax": _softmax,
}
"""What becomes of a call, by the function's name in `torch`, `torch.nn.functional` or `torch.Tensor`."""

_MEANS: Mapping[str, Callable[[Call], Any]] = {"bernoulli": _mean_of_new, "bernoulli_": _mean_in_place}
