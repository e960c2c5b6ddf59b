"""Regularizers that act inside a model or on its weights, with a strength per slot.

A strength is data, not structure: dropout keeps its rate in a buffer, so that stacking the modules of a population
stacks their rates. Decay and L1 act in the optimizer (see `optimizers`), by the formulas that stand here.
"""

import torch
from torch import Tensor, nn

from search.training.seeds import derive_seed

_NOISE_BITS = 31
_WORD = 2**32


def _int32(word: int) -> int:
    """Return an unsigned 32-bit constant as the signed one with the same bits, which is what torch multiplies by."""
    return word - _WORD if word >= _WORD // 2 else word


_ODD, _MIX_1, _MIX_2 = _int32(0x9E3779B1), _int32(0x7FEB352D), _int32(0x846CA68B)
_STEP_FACTOR, _STEP_TERM = 1664525, 1013904223


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) whose rate is a buffer and whose noise is a function of a key.

    The mask is a hash of (key, position), with the mixing constants of Wellons' `lowbias32`; the key moves on with each
    step, by a linear congruential generator (Numerical Recipes' constants). So a trial's noise does not depend on the
    slot it lives in, on its neighbours, on the engine or on the device, there is no generator to keep for each slot,
    and it costs less than drawing from torch's generator.

    `parameter` is the name under which the spec searches its rate, e.g. ``dropout_0``.
    """

    rate: Tensor
    key: Tensor

    def __init__(self, parameter: str) -> None:
        super().__init__()
        self.parameter = parameter
        self.register_buffer("rate", torch.zeros(()))
        self.register_buffer("key", torch.zeros((), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (any shape) with each element dropped with probability `rate` and the rest scaled up."""
        if not self.training:
            return x
        self.key.mul_(_STEP_FACTOR).add_(_STEP_TERM)
        dropped_below = (self.rate * 2**_NOISE_BITS).to(torch.int32)
        keep = (self._noise(x) >= dropped_below).to(x.dtype)
        dropped: Tensor = x * (keep * (1 / (1 - self.rate)).to(x.dtype))
        return dropped

    def _noise(self, x: Tensor) -> Tensor:
        """Return uniform integers in [0, 2**31), in the shape of `x`."""
        position = torch.arange(x.numel(), dtype=torch.int32, device=x.device).view(x.shape)
        # The key goes in before and amid the mixing: steps are not shifted copies of each other.
        word = position * _ODD + self.key
        word = (word ^ (word >> 16)) * _MIX_1 + (self.key ^ _ODD)
        word = (word ^ (word >> 15)) * _MIX_2
        # The shift is arithmetic, so this also clears the sign bit.
        uniform: Tensor = word ^ (word >> 16)
        return uniform


def configure(model: nn.Module, params: dict[str, float], study_seed: int, trial_seed: int) -> None:
    """Set the rate and the noise key of every `Dropout` in a trial's model, in place."""
    for name, module in model.named_modules():
        if isinstance(module, Dropout):
            module.rate.fill_(params.get(module.parameter, 0.0))
            module.key.fill_(derive_seed(study_seed, trial_seed, "noise", name) % 2**31)


def soft_threshold_(weights: Tensor, threshold: Tensor) -> None:
    """Move each weight towards zero by `threshold` and stop there, in place: the proximal step of the L1 norm.

    ``prox(w) = sign(w) * max(|w| - t, 0)`` (Parikh and Boyd 2014, section 6.5.2), written as ``w - clamp(w, -t, t)``:
    one pass less, and zeros are exact. Shapes: weights [slots, n], threshold [slots, 1].
    """
    weights.sub_(torch.clamp(weights, -threshold, threshold))
