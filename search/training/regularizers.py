"""Regularizers that act inside a model or on its weights, with a strength per slot.

A strength is data, not structure: dropout keeps its rate in a buffer, so that stacking the modules of a population
stacks their rates. Decay and L1 act in the optimizer (see `optimizers`), by the formulas that stand here.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.training.kernels.compiled import Dropped, compiled_for
from search.training.quiet import KnownRate
from search.training.recomputation import KeysOfUses, may_be_recomputed
from search.training.seeds import derive_seed
from search.training.turns import Turn

_WORD = 2**32
_LEVELS = 2**15
"""Rates are rounded to multiples of one part in this."""


def _int32(word: int) -> int:
    """Return an unsigned 32-bit constant as the signed one with the same bits, which is what torch multiplies by."""
    return word - _WORD if word >= _WORD // 2 else word


_ODD, _MIX_1, _MIX_2 = _int32(0x9E3779B1), _int32(0x7FEB352D), _int32(0x846CA68B)
_STEP_FACTOR, _STEP_TERM = 1664525, 1013904223


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) whose rate is a buffer and whose noise is a function of a key.

    The mask is a hash of (key, position), with the mixing constants of Wellons' `lowbias32`; each 32-bit word gives the
    noise of two elements. The key moves on with each use, by a linear congruential generator (Numerical Recipes'
    constants); what is computed again for the backward pass has the same key again (see `recomputation`). So a trial's
    noise does not depend on the slot it lives in, on its neighbours, on the engine or on the device, there is no
    generator to keep for each slot, and it costs a sixth of drawing from torch's generator, or compiled (see `kernels`)
    a hundredth.

    `parameter` is the name under which the spec searches its rate, e.g. ``dropout_0``. The buffers may have a leading
    dimension of slots, and are then as many as the inputs have.
    """

    key: Tensor
    dropped_below: Tensor
    scale: Tensor

    def __init__(self, parameter: str) -> None:
        super().__init__()
        self.parameter = parameter
        # Not persistent: they are the training's, and a saved model's state is that of its layers alone.
        self.register_buffer("key", torch.zeros((), dtype=torch.int32), persistent=False)
        self.register_buffer("dropped_below", torch.zeros((), dtype=torch.int16), persistent=False)
        self.register_buffer("scale", torch.zeros(()), persistent=False)
        self._uses = KeysOfUses()
        _know_compiler()
        self.configure(0.0, 0)

    def configure(self, rate: float, key: int) -> None:
        """Set the rate, in [0, 1), and where the noise begins."""
        dropped = min(round(rate * _LEVELS), _LEVELS - 1)
        self.dropped_below.fill_(dropped - _LEVELS // 2)
        self.scale.fill_(_LEVELS / (_LEVELS - dropped))
        self.key.fill_(key)

    @property
    def p(self) -> float:
        """The rate, as `nn.Dropout` has it: for models that read it. Under vmap there is no one number."""
        return KnownRate((self.dropped_below.item() + _LEVELS // 2) / _LEVELS)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` ([batch, ...] or [slots, batch, ...]) with elements dropped and the rest scaled up."""
        if not self.training:
            return x
        if torch.compiler.is_compiling() and _eagerly is not None:
            return _eagerly(self, x)
        return self._drop(x)

    def _drop(self, x: Tensor) -> Tensor:
        key = self._key_of_use()
        kernels = compiled_for(x)
        if kernels is not None:
            result: Tensor = Dropped.apply(x, key, self.dropped_below, self.scale.to(x.dtype), kernels)
            return result
        solo = x.shape[key.dim() :]
        ones = (1,) * len(solo)
        # -1 where noise is below the bound and 0 elsewhere, from the sign of a difference: comparing takes several
        # times as long on a CPU, and so does multiplying by what comes of it.
        below = (_noise(key, solo.numel()).view(x.shape) - self.dropped_below.view(*key.shape, *ones)) >> 15
        # One factor that is 0 or the scale, so that the backward pass is one multiplication.
        return x * ((below + 1).to(x.dtype) * self.scale.to(x.dtype).view(*key.shape, *ones))

    def _key_of_use(self) -> Tensor:
        """Return the key of this use of the layer. Raises RuntimeError for a recomputation that cannot find it."""
        if not may_be_recomputed():
            return self._next_key()
        key = self._uses.key(self._next_key)
        if key is not None:
            return key
        if bool((self.scale == 1).all()):  # nothing is dropped, whatever the key
            return self.key
        raise RuntimeError(
            f"{self.parameter} is computed again in the backward pass, by a checkpoint that has not kept torch's "
            "random numbers, and would drop other units than in the forward pass: leave out preserve_rng_state=False"
        )

    def _next_key(self) -> Tensor:
        return self.key.mul_(_STEP_FACTOR).add_(_STEP_TERM)


_eagerly: Callable[[Dropout, Tensor], Tensor] | None = None
"""Dropout left out of compiled graphs, which compute masks again in the backward pass, from a key that has moved on."""


def _know_compiler() -> None:
    """Prepare for `torch.compile` where it is in use: importing it takes a second, and few models need it."""
    global _eagerly
    if _eagerly is None and "torch._dynamo" in sys.modules:
        _eagerly = torch.compiler.disable(Dropout._drop)  # type: ignore[no-untyped-call]


class AlphaDropout(Dropout):
    """Dropout to SELU's negative limit, which keeps mean and variance (Klambauer et al. 2017), as `nn.AlphaDropout`."""

    def __init__(self, parameter: str, channels: bool = False) -> None:
        """`channels` drops whole channels, as `nn.FeatureAlphaDropout`."""
        super().__init__(parameter)
        self._channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` [batch, ...] with elements dropped, scaled and shifted."""
        if not self.training:
            return x
        rate = 1 - 1 / self.scale.to(x.dtype)
        ones = x.new_ones((*x.shape[:2], *[1] * (x.dim() - 2))) if self._channels else torch.ones_like(x)
        kept = (super().forward(ones) != 0).to(x.dtype)
        factor = ((1 - rate) * (1 + rate * _SELU_LIMIT**2)).rsqrt()
        return factor * (x * kept + _SELU_LIMIT * (1 - kept - rate))


_SELU_LIMIT = -1.7580993408473766
"""What SELU tends to: minus its scale times its alpha."""


class StochasticDepth(Dropout):
    """Dropout of whole examples (Huang et al. 2016), or of the whole batch, as torchvision's `StochasticDepth`."""

    def __init__(self, parameter: str, rows: bool) -> None:
        """`rows` drops each example by itself."""
        super().__init__(parameter)
        self._rows = rows

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` [batch, ...] with examples dropped and the rest scaled up."""
        if not self.training:
            return x
        return x * super().forward(x.new_ones((len(x) if self._rows else 1, *[1] * (x.dim() - 1))))


class BatchNorm(nn.Module):
    """Batch normalization (Ioffe and Szegedy 2015) of the second dimension, with a switch; off, it changes nothing.

    It is computed in single precision. The switch and the running statistics are buffers; these and the parameters may
    have a leading dimension of slots, then inputs have one too.
    """

    on: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None

    def __init__(self, features: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self._momentum, self._eps = momentum, eps
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.register_buffer("on", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` [batch, features, ...] or [slots, batch, features, ...], normalized where the switch is on."""
        normal = normalize_batch(self, x, self._momentum, self._eps)
        on = self.on != 0
        return torch.where(on if on.dim() == 0 else on.view(-1, *[1] * (x.dim() - 1)), normal, x)


class Normalization(Protocol):
    """What batch normalization has: parameters and running statistics, [features] or [slots, features]."""

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor | None
    running_var: Tensor | None
    training: bool


def normalize_batch(layer: Normalization, x: Tensor, momentum: float, eps: float) -> Tensor:
    """Return `x` [batch, features, ...], or [slots, batch, features, ...] if the layer has slots too, normalized.

    Computed in the type of the running statistics, which are updated in training.
    """
    mean, variance = layer.running_mean, layer.running_var
    assert mean is not None
    assert variance is not None
    # Many slots are to torch one batch of many features.
    merged = x.to(mean.dtype) if mean.dim() == 1 else x.to(mean.dtype).transpose(0, 1).flatten(1, 2)
    weight, bias = (parameter.to(mean.dtype).reshape(-1) for parameter in (layer.weight, layer.bias))
    statistics = (mean.view(-1), variance.view(-1))
    normal = F.batch_norm(merged, *statistics, weight, bias, layer.training, momentum, eps).to(x.dtype)
    if mean.dim() == 1:
        return normal
    return normal.view(len(normal), len(mean), *x.shape[2:]).transpose(0, 1)


def _noise(key: Tensor, count: int) -> Tensor:
    """Return uniform integers in [-2**14, 2**14), int16 [..., count]: differences of such do not overflow."""
    word = (_positions((count + 1) // 2, key.device) ^ key.unsqueeze(-1)) * _MIX_1
    word = (word ^ (word >> 15)) * _MIX_2
    return word.view(torch.int16)[..., :count] >> 1


@lru_cache(maxsize=64)
def _positions(count: int, device: torch.device) -> Tensor:
    """Return the first round of the hash, which depends on the position alone: the same for all slots and steps."""
    word = torch.arange(count, dtype=torch.int32, device=device) * _ODD
    return (word ^ (word >> 16)) * _MIX_1


def configure(model: nn.Module, params: dict[str, float], study_seed: int, trial_seed: int) -> None:
    """Set the rate and the noise key of all dropout in a trial's model, and switch its batch norms, in place."""
    for name, module in model.named_modules():
        if isinstance(module, Dropout):
            key = derive_seed(study_seed, trial_seed, "noise", name) % 2**31
            module.configure(params.get(module.parameter, 0.0), key)
        elif isinstance(module, BatchNorm):
            module.on.fill_(float(params.get("batch_norm", 0) != 0))
    attributes = getattr(model, ATTRIBUTE_RATES, None)
    if attributes is not None:
        attributes.configure(model, params)


ATTRIBUTE_RATES = "_regsearch_attribute_rates"
"""Name under which a user's model keeps the rates that its own forward pass reads; see `noise`."""


def soft_threshold_(weights: Tensor, threshold: Tensor, scratch: Tensor | None = None) -> None:
    """Move each weight towards zero by `threshold` and stop there, in place: the proximal step of the L1 norm.

    ``prox(w) = sign(w) * max(|w| - t, 0)`` (Parikh and Boyd 2014, section 6.5.2), written as ``w - clamp(w, -t, t)``:
    one pass less, and zeros are exact. Shapes: weights and scratch [slots, n], threshold [slots, 1].
    """
    # Two passes, since torch.clamp with tensors as bounds is not vectorised on the CPU.
    clamped = torch.maximum(weights, -threshold, out=scratch)
    weights.sub_(torch.minimum(clamped, threshold, out=clamped))


class GradientNoise:
    """Gaussian noise in the gradients that fades (Neelakantan et al. 2015), for an epoch of some slots.

    Its variance at step t, from 0, is ``strength / (1 + t)^0.55``.
    """

    def __init__(self, turns: Sequence[Turn], steps: int, device: torch.device) -> None:
        self._active = {slot: turn for slot, turn in enumerate(turns) if turn.strength("gradient_noise")}
        self._done = {slot: (turn.epoch - 1) * steps for slot, turn in self._active.items()}
        self._generators = {
            slot: torch.Generator(device).manual_seed(turn.derive("gradient noise"))
            for slot, turn in self._active.items()
        }

    def added(self, step: int, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return gradients, each [slots, *shape], with a step's noise added: the same tensors where there is none."""
        if not self._active:
            return gradients
        # Not in place: what autograd returns for several parameters may be one tensor, or parts of one.
        noisy = [piece.clone(memory_format=torch.contiguous_format) for piece in gradients]
        for slot, turn in self._active.items():
            deviation = (turn.strength("gradient_noise") / (1 + self._done[slot] + step) ** 0.55) ** 0.5
            for piece in noisy:
                noise = torch.randn(
                    piece.shape[1:], generator=self._generators[slot], device=piece.device, dtype=torch.float32
                )
                piece[slot].add_(noise.to(piece.dtype), alpha=deviation)
        return noisy


class NormLimits:
    """Max-norm: no unit's incoming weights become longer than a limit (Srivastava et al. 2014, section 5.1)."""

    def __init__(self, turns: Sequence[Turn], device: torch.device) -> None:
        limits = [turn.strength("max_norm") for turn in turns]
        self._active = any(limits)
        self._limits = torch.tensor([limit or torch.inf for limit in limits], device=device).view(-1, 1, 1)

    def __bool__(self) -> bool:
        """Return whether there is anything to do."""
        return self._active

    def apply_(self, weights: Mapping[str, Tensor]) -> None:
        """Scale back each unit that is too long, in place. Shapes: [slots, units, ...]."""
        for weight in weights.values():
            units = weight.flatten(2)
            norms = torch.linalg.vector_norm(units, dim=2, keepdim=True)
            units.mul_((self._limits / norms).clamp_(max=1))
