"""What users bring along in Python: their model and their data as splits, both checked.

Nothing here is for models and data sets that a study names; those are known to fit. A model's dropout is the business
of `noise`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import Dataset as TorchDataset

from search.errors import DataError, ModelError, UsageError, did_you_mean
from search.records import Majority, Params
from search.spec import DATASET_SHAPES, OWN, DataSpec, StudySpec, parameter_of
from search.training.data import Dataset, Split, divide, fingerprint, majority
from search.training.factories import IsolatedFactory, other_generators_left_alone
from search.training.kernels import compiled
from search.training.losses import Loss, on_device
from search.training.models import ModelFactory
from search.training.noise import Noise, with_rates
from search.training.noise import dropout_rates as dropout_rates
from search.training.noise import searchable as searchable
from search.training.seeds import generators_left_alone, seeded
from search.training.sources import SOURCES

Examples = tuple[object, object] | TorchDataset[Any]
"""Inputs and classes, as tensors or what `torch.as_tensor` takes; or a data set whose items are such pairs."""


class Given(Protocol):
    """The fields of `api.Data`."""

    @property
    def train(self) -> Examples: ...

    @property
    def validation(self) -> Examples | float | None: ...

    @property
    def folds(self) -> int | None: ...

    @property
    def test(self) -> Examples | None: ...


@contextmanager
def torch_left_alone() -> Iterator[None]:
    """Leave torch's threads, operations and random numbers as they were, in the process of somebody who has plans."""
    threads = torch.get_num_threads()
    try:
        with generators_left_alone(), other_generators_left_alone():
            yield
    finally:
        torch.set_num_threads(threads)
        compiled.use(None)


def finished(factory: ModelFactory, params: Params, weights: bytes, noise: Noise | None = None) -> nn.Module:
    """Return the user's own model with the dropout rates of a configuration and these weights, in evaluation mode."""
    model = with_rates(factory(), params, noise)
    model.load_state_dict(load(weights))
    return model.eval()


def as_split(examples: Examples, what: str) -> Split:
    """Return examples as tensors, float64 as float32. Raises DataError, which calls them `what`."""
    try:
        pair = _pair(examples) if isinstance(examples, TorchDataset) else examples
        x, y = (torch.as_tensor(part).detach().cpu().contiguous() for part in pair)
    except Exception as error:  # whatever a user's data set may raise
        told = f"{type(error).__name__}: {error}"
        raise DataError(
            f"{what}: must be inputs and classes, a pair of tensors or arrays, or a torch data set of pairs ({told})"
        ) from error
    return _checked(Split(x.float() if x.dtype == torch.float64 else x, y), what)


def _pair(examples: TorchDataset[Any]) -> tuple[object, object]:
    inputs, classes = zip(*(examples[index] for index in range(len(examples))), strict=True)  # type: ignore[arg-type]
    return torch.stack([torch.as_tensor(x) for x in inputs]), torch.as_tensor(classes)


def _checked(split: Split, what: str) -> Split:
    x, y = split.x, split.y
    if x.dim() < 2 or len(x) < 2:
        raise DataError(f"{what}: inputs must be [examples, ...] with two examples at least, not {list(x.shape)}")
    if y.dim() != 1 or y.is_floating_point() or y.is_complex():
        shape = f"{list(y.shape)} of {y.dtype}"
        raise DataError(f"{what}: classes must be whole numbers [examples], not {shape}{_as_numbers(y)}")
    if len(x) != len(y):
        raise DataError(f"{what}: there are {len(x)} inputs and {len(y)} classes")
    if x.is_floating_point() and not bool(x.isfinite().all()):
        raise DataError(f"{what}: inputs must be finite, and some are nan or infinite")
    if int(y.min()) < 0:
        raise DataError(f"{what}: classes must be numbered from 0, and one is {int(y.min())}")
    return Split(x, y.long())


def _as_numbers(y: Tensor) -> str:
    """Return how classes in another form become whole numbers, where that is plain."""
    if y.dim() == 2 and y.shape[1] == 1:
        return "; write y.squeeze(1)" + (".long()" if y.is_floating_point() else "")
    if y.dim() == 2:
        return "; if they are one-hot, write y.argmax(1)"
    whole = y.dim() == 1 and y.is_floating_point() and bool((y == y.round()).all())
    return "; write y.long()" if whole else ""


@dataclass(frozen=True)
class OwnData:
    """The user's examples as a trainer's source of data; see `trainers.DataSource`."""

    spec: DataSpec
    seed: int
    classes: int
    known: Split
    val: Split | None = None
    """Where it is None, part of `known` is held out."""
    test: Split | None = None

    @property
    def has_test(self) -> bool:
        return self.test is not None

    @property
    def test_fingerprint(self) -> str | None:
        return None if self.test is None else fingerprint(self.test)

    @property
    def majorities(self) -> dict[str, Majority]:
        """The most frequent class's share; of what is held out for validation it is that of all it is taken from."""
        known = {"validation": self.known if self.val is None else self.val, "test": self.test}
        return {name: majority(split) for name, split in known.items() if split is not None}

    def load(self) -> Dataset:
        """Return training and validation data. Raises DataError."""
        if self.val is None:
            return divide(self.known, self.spec, self.seed, self.classes)
        # Shuffled, as `divide` does: the training loss is measured on the first of them, which may be all of a class.
        order = torch.randperm(len(self.known), generator=torch.Generator().manual_seed(self.seed))
        prints = fingerprint(self.known) + fingerprint(self.val)
        return Dataset(self.known.take(order), self.val, self.classes, prints)

    def load_test(self) -> Split:
        """Return the test data."""
        assert self.test is not None, "asked for only where there is some"
        return self.test


@dataclass(frozen=True)
class OwnExamples:
    """The user's examples, read and checked."""

    section: dict[str, Any]
    """[data] of the study's spec."""
    train: Split
    val: Split | None = None
    test: Split | None = None

    @staticmethod
    def read(data: Given) -> OwnExamples:
        """Return examples as tensors. Raises DataError."""
        train = as_split(data.train, "train")
        share, val = None, None
        if isinstance(data.validation, float):
            share = data.validation
        elif data.validation is not None:
            val = as_split(data.validation, "validation")
            share = len(val) / (len(train) + len(val))
        test = None if data.test is None else as_split(data.test, "test")
        section: dict[str, Any] = {"name": OWN, "shape": list(train.x.shape[1:])}
        if data.folds is not None:
            section["folds"] = data.folds
        if share is not None:
            section["validation"] = share
        for what, split in (("validation", val), ("test", test)):
            if split is not None and _kind(split) != _kind(train):
                raise DataError(f"{what}: examples are {_kind(split)}, and those of train {_kind(train)}")
        return OwnExamples(section, train, val, test)

    @property
    def splits(self) -> dict[str, Split]:
        """Those that there are, by name."""
        splits = {"train": self.train, "validation": self.val, "test": self.test}
        return {name: split for name, split in splits.items() if split is not None}

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return 1 + max(int(split.y.max()) for split in self.splits.values())

    def source(self, spec: StudySpec, logits: int) -> OwnData:
        """Return them as what trainers load, for a model of so many logits; raises UsageError when they do not fit."""
        examples = self if spec.model.name == OWN else self._for_shipped(spec.model.name)
        _refuse_mixtures(spec, examples.train.x.dtype)
        return OwnData(spec.data, spec.search.seed, logits, examples.train, examples.val, examples.test)

    def _for_shipped(self, model: str) -> OwnExamples:
        """Return them in the type of shipped models' weights. Raises UsageError for whole numbers."""
        kind = self.train.x.dtype
        if not kind.is_floating_point:
            raise UsageError(
                f'model "{model}" needs inputs of a floating-point type, and they are {kind}: convert them, as pixels '
                "by x.float() / 255, or bring a model of your own"
            )
        single = (None if split is None else Split(split.x.float(), split.y) for split in (self.val, self.test))
        return OwnExamples(self.section, Split(self.train.x.float(), self.train.y), *single)


@dataclass(frozen=True)
class NamedExamples:
    """What is known of a data set by its name."""

    section: dict[str, Any]
    train: Split
    """Stands for its examples."""
    classes: int

    def source(self, spec: StudySpec, logits: int) -> None:
        """Return None: trainers load it by its name."""


def known_examples(name: str) -> NamedExamples:
    """Return a data set's examples as far as a model can be checked by them. Raises UsageError."""
    if name not in SOURCES:
        raise UsageError(f'there is no data set "{name}"{did_you_mean(name, SOURCES)}; there are {", ".join(SOURCES)}')
    # Not zeros, of which models that differ make the same.
    x = torch.rand(2, *DATASET_SHAPES[name], generator=torch.Generator().manual_seed(0))
    return NamedExamples({"name": name}, Split(x, torch.zeros(2, dtype=torch.int64)), SOURCES[name].classes)


def _kind(split: Split) -> str:
    return f"{list(split.x.shape[1:])} of {split.x.dtype}"


def _refuse_mixtures(spec: StudySpec, kind: torch.dtype) -> None:
    """Raise UsageError where inputs of a type that does not allow it would have to be mixed or moved."""
    for name, setting in spec.parameters().items():
        if setting == 0:
            continue
        if name == "mixup" and not kind.is_floating_point:
            raise UsageError(f"space.{name}: needs inputs of a floating-point type, and they are {kind}")
        if parameter_of(name).images and kind != torch.float32:
            raise UsageError(f"space.{name}: needs inputs of {torch.float32}, and they are {kind}")


def check_model(factory: ModelFactory, examples: OwnExamples | NamedExamples) -> tuple[nn.Module, int]:
    """Return a fresh model and how many logits it has. Raises ModelError when it cannot be trained on such examples."""
    if isinstance(factory, nn.Module):
        kind = type(factory).__name__
        raise ModelError(f"pass a function that makes the model, not a model: lambda: {kind}(...), and not {kind}(...)")
    factory = IsolatedFactory(factory)
    model, other = factory(), factory()
    if not isinstance(model, nn.Module):
        raise ModelError(f"the factory must return an nn.Module, and returned a {type(model).__name__}")
    if any(map(is_lazy, model.parameters())):
        raise ModelError("the model has lazy layers, whose sizes are not known yet: give their sizes")
    if not _trained(model):
        raise ModelError("the model has no parameters to train")
    if {*map(id, _trained(model))} & {*map(id, _trained(other))}:
        raise ModelError("the factory must make a fresh model at each call, and returned the same parameters again")
    x = examples.train.x[:2]
    count = _logits(model.eval(), x).shape[1]
    if count < examples.classes or (count > examples.classes and isinstance(examples, NamedExamples)):
        raise ModelError(
            f"the model returns {count} logits, and there are {examples.classes} classes{_numbered(examples)}"
        )
    _check_buffers(other.train(), x)
    _check_state(other.eval(), model, x)
    return model, count


def _numbered(examples: OwnExamples | NamedExamples) -> str:
    """Return a way out where classes are numbered from 1."""
    first = 0 if isinstance(examples, NamedExamples) else min(int(split.y.min()) for split in examples.splits.values())
    return f", counted from 0: yours begin with {first}; number them from 0 (y - {first})" if first else ""


@torch.no_grad()
def _logits(model: nn.Module, x: Tensor) -> Tensor:
    """Return a model's logits for two examples, always with the same random numbers. Raises ModelError."""
    mode = " in training" if model.training else ""
    try:
        with seeded(0, x.device):
            logits = model(x.clone())  # it may write into its inputs
    except Exception as error:
        raise ModelError(f"the model fails on inputs {list(x.shape)}{mode}: {type(error).__name__}: {error}") from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"the model must return logits [batch, classes], and returned {got} for a batch of 2{mode}")
    return logits


def _check_state(model: nn.Module, fresh: nn.Module, x: Tensor) -> None:
    """Raise ModelError when a fresh model with the state of one that has seen training is another: it is scored so."""
    try:
        fresh.load_state_dict(model.state_dict())
    except Exception as error:  # whatever a user's model may raise
        raise ModelError(
            f"the factory must make the same model at each call, and the state of one does not fit another: {error}"
        ) from error
    logits, copied = _logits(model, x), _logits(fresh, x)
    if logits.shape != copied.shape or not torch.allclose(logits, copied, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise ModelError(
            "a model differs from its copy: what is not in its state_dict is lost; register it as a persistent buffer, "
            "or make it the same at each call of the factory"
        )


def _check_buffers(model: nn.Module, x: Tensor) -> None:
    """Raise ModelError when training puts others in the place of a model's buffers: each slot has its own there."""
    before = {name: (buffer, buffer.data_ptr()) for name, buffer in model.named_buffers()}
    _logits(model, x)
    for name, buffer in model.named_buffers():
        own, place = before.get(name, (None, None))
        if buffer is not own or buffer.data_ptr() != place:
            raise ModelError(
                f'training puts another tensor in the place of the buffer "{name}", which would be lost: register it '
                "in __init__ and update it in place, as by copy_, mul_, add_"
            )


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def check_loss(loss: Loss, classes: int) -> str:
    """Return a digest of what a user's loss computes. Raises ModelError when nothing can be trained by it."""
    generator = torch.Generator().manual_seed(0)
    logits, y = torch.randn(6, classes, generator=generator), torch.arange(6) % classes
    loss = on_device(loss, "cpu")
    try:
        losses = loss(logits, y)
        alone = [loss(logits[i : i + 1], y[i : i + 1]) for i in range(len(y))]
    except Exception as error:
        raise ModelError(f"the loss fails on logits {list(logits.shape)}: {type(error).__name__}: {error}") from error
    if not isinstance(losses, Tensor) or losses.shape != y.shape:
        got = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ModelError(
            f'the loss must return a number for each example, as torch\'s do with reduction="none", and returned {got}'
        )
    if not torch.allclose(losses, torch.cat(alone), rtol=1e-4, atol=1e-6):
        raise ModelError("the loss of an example must not depend on the others in its minibatch")
    return hashlib.sha256(repr([f"{value:.4g}" for value in losses.tolist()]).encode()).hexdigest()[:16]
