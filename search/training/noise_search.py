"""Finds the noise that a user's model draws in training, by running it.

With all rates at 0 and torch's random functions quiet (see `quiet`), a model is run several times on the same inputs,
with other seeds: where the outputs differ, it draws noise that cannot be switched off. A generator that has moved tells
which module drew; that alone is no noise, since a model may draw numbers that make no difference.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from search.errors import ModelError
from search.training.models import ModelFactory
from search.training.noise import Noise, Rate, known_rates
from search.training.quiet import Call, Quiet
from search.training.seeds import seeded

_PASSES = 8
"""Outputs that are compared where a generator has moved."""
_ROWS, _CLOSER_PASSES = 64, 3
"""Examples and outputs where a generator has moved, and no output differed."""
_NEARLY = 1e-7


def find_noise(factory: ModelFactory, x: Tensor) -> Noise:
    """Return the noise of a factory's models in training; `x` [batch, ...] are a few inputs on the CPU.

    Raises ModelError when copies of a model cannot be run.
    """
    try:
        return _find(factory, x)
    except Exception as error:  # whatever a user's model may raise
        raise ModelError(f"a copy of the model fails in training: {type(error).__name__}: {error}") from error


def _find(factory: ModelFactory, x: Tensor) -> Noise:
    model = _made(factory, x)
    known, others = _rates(model)
    order = [rate for path, module in model.named_modules() for rate in _attributes(path, module)]
    for rate in known:
        rate.set(model, 0.0)
    seen = _look(model, x)
    if others and (seen.calls or seen.drew):
        verified = _verified(model, others, x)
        for rate in verified:
            rate.set(model, 0.0)
        known |= verified
        seen = _look(model, x)
    unknown = _named(model, _noisy(model, x, seen))
    noise = Noise(tuple(rate for rate in order if rate in known), _named(model, seen.calls), unknown=unknown)
    return _with_means(noise, model, x) if unknown else noise


def _made(factory: ModelFactory, x: Tensor) -> nn.Module:
    """Return a model in training whose parameters are not what they begin with: zeros hide noise.

    One that does not work with others, as for want of a root of a negative number, has those that it begins with.
    """
    with seeded(0, x.device), suppress(Exception):
        model = factory().train()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.is_floating_point():
                    parameter.add_(0.1 * torch.randn_like(parameter))
        if _run(model, x, 0, means=False).isfinite().all():
            return model
    with seeded(0, x.device):
        return factory().train()


@dataclass(frozen=True)
class _Seen:
    """A look at modules, by path."""

    calls: frozenset[str]
    """They called random functions of torch that were switched off."""
    drew: frozenset[str]
    """While they ran, a generator moved."""
    first: Tensor
    """Output."""
    jitter: float
    """Largest difference to another output with the same seed."""


def _rates(model: nn.Module) -> tuple[set[Rate], list[list[Rate]]]:
    """Return the rates that are known for certain, and attributes that may be some, those of one kind together."""
    known: set[Rate] = set()
    others: dict[tuple[type[nn.Module], str], list[Rate]] = {}
    for path, module in model.named_modules():
        for rate in _attributes(path, module):
            if rate.attribute in known_rates(module):
                known.add(rate)
            else:
                others.setdefault((type(module), rate.attribute), []).append(rate)
    return known, list(others.values())


def _attributes(path: str, module: nn.Module) -> list[Rate]:
    """Return the attributes of a module that are rates, or have a rate's name and a value between 0 and 1."""
    known = known_rates(module)
    is_layer = re.search("drop|depth", type(module).__name__, re.IGNORECASE)
    pattern = "drop|^(p|prob|rate)$" if is_layer else "drop"
    torchs = isinstance(module, nn.RNNBase | nn.MultiheadAttention)
    likely = [
        name
        for name, value in vars(module).items()
        if not torchs
        and isinstance(value, float)
        and 0 < value < 1
        and re.search(pattern, name, re.IGNORECASE)
        and not re.search("keep|kept|surviv", name, re.IGNORECASE)  # 0 would drop everything
    ]
    return [Rate(path, name) for name in dict.fromkeys([*known, *likely])]


def _verified(model: nn.Module, groups: list[list[Rate]], x: Tensor) -> set[Rate]:
    """Return the attributes without which a model draws less noise; all have the values that they had."""
    groups = [group for group in groups if _works_without(model, group, x)]
    verified: set[Rate] = set()
    with _changed(model, [rate for group in groups for rate in group]) as values:
        without = _look(model, x)
        noise = _noisy(model, x, without)
        for group in groups:
            for rate in group:
                rate.set(model, values[rate])
            seen = _look(model, x)
            if seen.calls - without.calls or seen.drew - without.drew or _noisy(model, x, seen) - noise:
                verified |= {*group}
            for rate in group:
                rate.set(model, 0.0)
    return verified


def _works_without(model: nn.Module, group: list[Rate], x: Tensor) -> bool:
    """Return whether attributes may be 0: what a model divides by may not."""
    with _changed(model, group), suppress(Exception):
        return bool(_run(model, x, 0, means=False).isfinite().all())
    return False


@contextmanager
def _changed(model: nn.Module, rates: list[Rate]) -> Iterator[dict[Rate, float]]:
    """Set attributes to 0 for a while; their values are given."""
    values = {rate: rate.of(model) for rate in rates}
    try:
        for rate in rates:
            rate.set(model, 0.0)
        yield values
    finally:
        for rate, value in values.items():
            rate.set(model, value)


def _with_means(noise: Noise, model: nn.Module, x: Tensor) -> Noise:
    """Return the noise of a model where masks of `bernoulli` count as functional dropout, if that switches it off.

    It does where training then computes what evaluation does: a mask must be divided by its mean.
    """
    seen = _look(model, x, means=True)
    if _noisy(model, x, seen, means=True):
        return noise
    fixed = copy.deepcopy(model)
    for layer in fixed.modules():
        if isinstance(layer, nn.modules.batchnorm._NormBase):
            layer.eval()
    with torch.no_grad(), seeded(0, x.device):
        with Quiet(means=True):
            trained = fixed(x)
        evaluated = fixed.eval()(x)
    if not torch.allclose(trained, evaluated, rtol=1e-3, atol=1e-5):
        return noise
    return replace(noise, functional=_named(model, seen.calls), means=True, unknown=())


def _named(model: nn.Module, paths: frozenset[str]) -> tuple[str, ...]:
    """Return modules as a reader can find them, in the model's order."""
    there = [(path, type(module).__name__) for path, module in model.named_modules() if path in paths]
    return tuple(f"{path} ({kind})" if path else kind for path, kind in there)


def _look(model: nn.Module, x: Tensor, means: bool = False) -> _Seen:
    """Run a model twice with the same seed, and return what there is to see."""
    watch = _Watch()
    first = _run(model, x, 0, means, watch)
    jitter = _distance(first, _run(model, x, 0, means))
    return _Seen(frozenset(watch.calls), frozenset(watch.drew), first, jitter)


def _noisy(model: nn.Module, x: Tensor, seen: _Seen, means: bool = False) -> frozenset[str]:
    """Return the modules whose noise makes a difference."""
    # The same seed may give other last bits; much more than that comes from a generator that has no seed.
    if seen.jitter > 1e-4 * (1 + seen.first.abs().max()):
        return seen.drew or _first_to_differ(model, x, means)
    many = x.repeat(-(-_ROWS // len(x)), *[1] * (x.dim() - 1))
    noisy = bool(seen.drew) and (
        _differs(model, x, means, seen.jitter, _PASSES) or _differs(model, many, means, seen.jitter, _CLOSER_PASSES)
    )
    return seen.drew if noisy else frozenset()


def _differs(model: nn.Module, x: Tensor, means: bool, jitter: float, passes: int) -> bool:
    first = _run(model, x, 0, means)
    return any(_distance(first, _run(model, x, seed, means)) > 10 * jitter for seed in range(1, passes))


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).nan_to_num().abs().max())


@torch.no_grad()
def _run(model: nn.Module, x: Tensor, seed: int, means: bool, watch: _Watch | None = None) -> Tensor:
    """Return the logits of a copy, which may keep what it has seen; all generators begin at a seed."""
    trial = copy.deepcopy(model)
    with ExitStack() as stack:
        stack.enter_context(_generators(seed, x.device, coins=seed % 2 == 1))
        if seed % 2:  # what is rare shows with coins, and what is in between without
            stack.enter_context(_Coins())
        stack.enter_context(Quiet(means, watch.note if watch else lambda: None))
        if watch is not None:
            watch.attach(trial)
        logits: Tensor = trial(x)
    return logits.double()


@contextmanager
def _generators(seed: int, device: torch.device, coins: bool) -> Iterator[None]:
    """Have torch's, Python's and NumPy's generators begin at a seed, then put them back; `coins` are for Python's."""
    python, numpy = random.getstate(), np.random.get_state()
    draw = random.random
    tossed = {"random": lambda: _coin(draw()), "uniform": lambda low, high: low + (high - low) * _coin(draw())}
    try:
        with seeded(seed, device), patch.dict(vars(random), tossed if coins else {}):
            random.seed(seed)
            np.random.seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _coin(number: float) -> float:
    return _NEARLY if number < 0.5 else 1 - _NEARLY


class _Coins(TorchFunctionMode):
    """Makes rare events as likely as not: numbers from [0, 1) lie at its ends, and masks have as many ones as zeros."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in ("rand", "rand_like"):
            return result.round_().clamp_(_NEARLY, 1 - _NEARLY)
        if name == "uniform_":
            low, high = result.min(), result.max()
            return result.copy_(torch.where(_coins(result), low, high))
        if name in ("bernoulli", "bernoulli_"):
            rate = Call(args, kwargs or {}).get(1, args[0] if name == "bernoulli" else 0.5, "p")
            rate = torch.as_tensor(rate)
            return result.copy_(torch.where((rate > 0) & (rate < 1), _coins(result).to(result.dtype), result))
        return result


def _coins(like: Tensor) -> Tensor:
    return torch.rand(like.shape) < 0.5


@dataclass
class _Watch:
    """Takes note of which module, the innermost, draws numbers or calls what is switched off."""

    calls: set[str] = field(default_factory=set)
    drew: set[str] = field(default_factory=set)
    _stack: list[str] = field(default_factory=list)
    _last: tuple[bytes, ...] = ()

    def attach(self, model: nn.Module) -> None:
        """Watch a model's modules."""
        self._last = _states()
        for path, module in model.named_modules():
            module.register_forward_pre_hook(self._entered(path))
            module.register_forward_hook(self._left)

    def note(self) -> None:
        """Take note of a call by the module that is running."""
        self.calls.update(self._stack[-1:])

    def _entered(self, path: str) -> Callable[[nn.Module, object], None]:
        def hook(_module: nn.Module, _inputs: object) -> None:
            self._check()
            self._stack.append(path)

        return hook

    def _left(self, _module: nn.Module, _inputs: object, _output: object) -> None:
        self._check()
        self._stack.pop()

    def _check(self) -> None:
        states = _states()
        if states != self._last:
            self.drew.update(self._stack[-1:])
        self._last = states


def _states() -> tuple[bytes, ...]:
    numpy: Any = np.random.get_state(legacy=False)
    return (
        torch.default_generator.get_state().numpy().tobytes(),
        repr(random.getstate()).encode(),
        repr(numpy["state"]["pos"]).encode() + numpy["state"]["key"].tobytes(),
    )


def _first_to_differ(model: nn.Module, x: Tensor, means: bool) -> frozenset[str]:
    """Return the first module to finish whose output alone differs in two passes: no known generator has moved."""
    passes: list[list[_Traced]] = []
    for _ in range(2):
        trial, calls = copy.deepcopy(model), list[_Traced]()
        for path, module in trial.named_modules():
            module.register_forward_hook(_keep(path, calls))
        _run(trial, x, 0, means)
        passes.append(calls)
    pairs = zip(*passes, strict=False)
    odd = (one[0] for one, other in pairs if _same(one[1], other[1]) and not _same(one[2], other[2]))
    return frozenset({next(odd, "")})


_Traced = tuple[str, list[Tensor], list[Tensor]]
"""A module, and the tensors that went in and came out."""


def _keep(path: str, calls: list[_Traced]) -> Callable[[nn.Module, tuple[object, ...], object], None]:
    def hook(_module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        calls.append((path, _tensors(inputs), _tensors((output,))))

    return hook


def _tensors(values: tuple[object, ...]) -> list[Tensor]:
    return [value.detach().double() for value in values if isinstance(value, Tensor)]


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(a.shape == b.shape and _distance(a, b) == 0 for a, b in zip(one, other, strict=False))
