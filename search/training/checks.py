"""All checks of what a user brings along in Python that are no matter of form: see `data_checks`, `model_checks`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from search.spec import StudySpec, parameter_of
from search.training.data import Dataset, Split, divide
from search.training.data_checks import (
    check_classes,
    check_held_out,
    check_images,
    check_inputs,
    check_overlap,
    check_repeatable,
)
from search.training.factories import made_under, shared_start
from search.training.losses import CROSS_ENTROPY, LOSSES, Loss
from search.training.model_checks import check_training
from search.training.models import ModelFactory, model_factory
from search.training.noise import Noise, searchable
from search.training.own import Given, NamedExamples, OwnExamples


@dataclass
class Doubts:
    """What is likely wrong with a model or data, in sentences."""

    told: list[str] = field(default_factory=list)
    """For the user, before the search."""
    remarks: list[str] = field(default_factory=list)
    """What results are to be read with."""


def find_doubts(
    spec: StudySpec,
    model: ModelFactory | None,
    noise: Noise | None,
    loss: Loss | None,
    examples: OwnExamples | NamedExamples,
    data: Given | None,
    logits: int,
) -> Doubts:
    """Return what is likely wrong with a user's model (None: a shipped one) on their data (None: a shipped data set).

    Raises DataError and ModelError for what surely is.
    """
    doubts = Doubts()
    if isinstance(examples, OwnExamples):
        assert data is not None
        _look_at_data(doubts, spec, examples, data, logits)
    if model is not None or isinstance(examples, OwnExamples):
        _look_at_model(doubts, spec, model, noise, loss, examples, logits)
    return doubts


def _look_at_data(doubts: Doubts, spec: StudySpec, examples: OwnExamples, data: Given, logits: int) -> None:
    splits = examples.splits
    check_inputs(examples.train.x)
    doubts.told += check_classes(splits, logits)
    doubts.told += check_held_out(_by_classes(spec, splits, logits))
    overlap = check_overlap(splits)
    doubts.told += overlap
    doubts.remarks += [f"{text[0].upper()}{text[1:].partition(';')[0]}." for text in overlap]
    moved = [name for name, setting in spec.parameters().items() if setting != 0 and parameter_of(name).images]
    doubts.told += check_images(examples.train.x, moved)
    for name, given in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        doubts.told += check_repeatable(given, name)
    batch = spec.training.batch_size
    if "batch_size" in spec.training.model_fields_set and batch > len(examples.train):
        doubts.told.append(
            f"training.batch_size = {batch} is more than the {len(examples.train)} examples of train: each step takes "
            "all that are trained on, and an epoch is one step"
        )


def _by_classes(spec: StudySpec, splits: Mapping[str, Split], logits: int) -> Dataset:
    """Return the split that trainers will make, with classes in the place of inputs: nothing large is copied."""
    known = Split(splits["train"].y, splits["train"].y)
    if "validation" not in splits:
        return divide(known, spec.data, spec.search.seed, logits)
    val = splits["validation"].y
    return Dataset(known, Split(val, val), logits, "")


def _look_at_model(
    doubts: Doubts,
    spec: StudySpec,
    model: ModelFactory | None,
    noise: Noise | None,
    loss: Loss | None,
    examples: OwnExamples | NamedExamples,
    logits: int,
) -> None:
    named, train = isinstance(examples, NamedExamples), examples.train
    if model is not None:
        factory = searchable(model, noise)
    else:
        train = Split(train.x.float(), train.y)
        factory = model_factory(spec.model, train.x.shape[1:], logits, spec.parameters().get("batch_norm", 0) != 0)
    loss = (LOSSES.get(spec.training.loss, CROSS_ENTROPY)) if loss is None else loss
    fresh = made_under(factory, 0)
    start = None if model is None else shared_start(fresh, made_under(factory, 1))
    doubts.told += check_training(fresh, train, loss, named)
    if start is not None:
        doubts.told += [] if start.warning is None else [start.warning]
        doubts.remarks.append(start.remark)
