"""Checks of a user's examples: mistakes that train without an error and give a result that means something else.

What is surely wrong raises DataError. What is likely wrong is returned as a sentence that says what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from search.errors import DataError
from search.training.data import Dataset, Split

_READ_TWICE = 32
"""Items of a torch data set that are read twice: a flip of every other image is missed once in four billion."""
_NAMED = 5
"""Classes that a message names."""
_SHARED = 0.01
"""Of a split's examples may be found in another split without a word: public data sets have a few duplicates."""
_REPEATED = 0.1
"""Of the training examples may be copies of others where a part of them is held out."""
_FEWEST_VALUES = 20
"""Different numbers that inputs have at least if equal examples are no coincidence."""
_NARROWEST, _MOST_COLOURS, _LONGEST = 5, 4, 8
"""Pixels that an image has at least, colours that it has at most, and how many times longer one side may be."""


def check_classes(splits: Mapping[str, Split], logits: int) -> list[str]:
    """Return what is likely wrong with the classes of splits, by name with `train` first, for a model's logits.

    Raises DataError where training has a single class.
    """
    train = splits["train"].y
    known = set(train.tolist())
    if len(known) == 1:
        raise DataError(
            f"train: all {len(train)} examples are of class {known.pop()}, so that there is nothing to learn: give "
            "examples of two classes at least"
        )
    told = []
    for name, split in splits.items():
        unknown = sorted(set(split.y.tolist()) - known)
        if unknown:
            count = int(torch.isin(split.y, torch.tensor(unknown)).sum())
            told.append(
                f"{name}: {count} of {len(split)} examples are of classes that train lacks ({_listed(unknown)}), which "
                "no model can learn: check how classes are numbered, or move examples of them to train"
            )
    everywhere = known.union(*(split.y.tolist() for split in splits.values()))
    if 0 not in everywhere:
        told.append(
            f"train: no example is of class 0, and classes begin with {min(everywhere)}: number them from 0 "
            f"(y - {min(everywhere)}), and give the model no output more than there are classes"
        )
    elif len(known) > len(train) / 2:
        told.append(
            f"train: there are {len(known)} classes for {len(train)} examples: if they are quantities, this is "
            "regression, and only classification is searched here; put them into a few classes"
        )
    elif missing := sorted(set(range(logits)) - everywhere):
        told.append(
            f"train: the model has {logits} outputs, and no example is of {_classes(missing)}: number classes from 0 "
            "without gaps, and give the model as many outputs as there are classes"
        )
    return told


def check_held_out(data: Dataset) -> list[str]:
    """Return what is likely wrong with how classes fall on what is trained on and what is validated with."""
    count = data.classes
    if data.held_in is not None:
        folds = data.held_in.max() + 1
        fewest = data.train.y.bincount(minlength=count)
        rare = torch.nonzero((fewest > 0) & (fewest < folds)).flatten().tolist()
        if not rare:
            return []
        return [
            f"folds: there are {int(folds)}, and fewer examples of {_classes(rare)}: some folds have none to validate "
            "with; choose fewer folds"
        ]
    trained, held = (split.y.bincount(minlength=count) > 0 for split in (data.train, data.val))
    told = []
    for name, lacking, other in (("validation", trained & ~held, "train"), ("train", held & ~trained, "validation")):
        classes = torch.nonzero(lacking).flatten().tolist()
        if classes:
            told.append(
                f"{name}: no example is of {_classes(classes)}, and {other} has some: "
                + ("hold out more, or use folds" if name == "validation" else "hold out less, or use folds")
            )
    return told


def check_overlap(splits: Mapping[str, Split]) -> list[str]:
    """Return which splits have examples in common, by comparing the inputs' bytes.

    Where examples are equal by coincidence, as in a table of few categories, as many are expected as train itself has.
    """
    rows = {name: _rows(split.x) for name, split in splits.items()}
    unique = set(rows["train"])
    counts: dict[int, int] = {}
    for row in rows["train"]:
        counts[row] = counts.get(row, 0) + 1
    coincidence = sum(count for count in counts.values() if count > 1) / len(rows["train"])
    told = []
    for name, other in (("test", "train"), ("test", "validation"), ("validation", "train")):
        if name not in rows or other not in rows:
            continue
        known = unique if other == "train" else set(rows[other])
        shared, total = sum(row in known for row in rows[name]), len(rows[name])
        expected = coincidence * total
        if shared - expected > max(_SHARED * total, 3 * (expected * (1 - coincidence)) ** 0.5):
            told.append(
                f"{name}: {shared} of {total} examples are in {other}, too: {_consequence(name, other)}; "
                f"take them out of one of both"
            )
    held_out_of_train = "validation" not in splits
    if held_out_of_train and coincidence > _REPEATED and _many_values(splits["train"].x):
        copies = len(rows["train"]) - len(unique)
        told.append(
            f"train: {copies} of {len(rows['train'])} examples are copies of others, and what is held out of them for "
            "validation has copies in what is trained on: take the copies out, or give validation examples"
        )
    return told


def _consequence(name: str, other: str) -> str:
    if (name, other) == ("test", "validation"):
        return "its score is of data that the search has chosen by"
    return "its score is of data that the model has learned by heart"


def check_inputs(x: Tensor) -> None:
    """Raise DataError where all training inputs are equal."""
    if bool((x == x[:1]).all()):
        raise DataError(
            f"train: all {len(x)} inputs are equal, so that there is nothing to learn: check how they are read"
        )


def check_images(x: Tensor, names: Sequence[str]) -> list[str]:
    """Return why inputs look as if they were no images, for parameters that are for images; `names` are these."""
    if not names:
        return []
    *colours, height, width = x.shape[1:]
    shape, which = list(x.shape[1:]), ", ".join(f"space.{name}" for name in names)
    if colours and width <= _MOST_COLOURS < colours[0]:
        return [
            f"{which}: inputs {shape} are taken for images of {colours[0]} colours and {height} x {width} pixels: if "
            "colours come last, put them first, as by x.permute(0, 3, 1, 2)"
        ]
    short, long = sorted((height, width))
    if short < _NARROWEST or long >= _LONGEST * short:
        return [
            f"{which}: inputs {shape} are taken for images of {height} x {width} pixels: if they are series, leave "
            f"{'these parameters' if len(names) > 1 else 'this parameter'} out, which would move their values about"
        ]
    return []


def check_repeatable(examples: TorchDataset[Any] | object, name: str) -> list[str]:
    """Return whether items of a torch data set differ from one reading to the next."""
    if not isinstance(examples, TorchDataset):
        return []
    size = len(examples)  # type: ignore[arg-type]
    chosen = {round(i * (size - 1) / (_READ_TWICE - 1)) for i in range(_READ_TWICE)}
    differ = sum(not _is_same(examples[index], examples[index]) for index in sorted(chosen))
    if not differ:
        return []
    return [
        f"{name}: {differ} of {len(chosen)} items differ when they are read again, so their transforms draw at random. "
        "Examples are read once, and what is drawn then stays for all epochs"
        + (
            ": leave such transforms out, and search augmentation in `space` instead"
            if name == "train"
            else ", which scores altered examples: leave such transforms out"
        )
    ]


def _is_same(one: Any, other: Any) -> bool:
    return all(torch.equal(*map(torch.as_tensor, parts)) for parts in zip(one, other, strict=True))


def _rows(x: Tensor) -> list[int]:
    """Return a number for each example, by its bytes."""
    table = x.contiguous().view(len(x), -1).view(torch.uint8).numpy()
    return [hash(row.tobytes()) for row in table]


def _many_values(x: Tensor) -> bool:
    return x.is_floating_point() and len(set(x[:100].flatten()[:10_000].tolist())) >= _FEWEST_VALUES


def _classes(classes: Sequence[int]) -> str:
    return f"class {classes[0]}" if len(classes) == 1 else f"classes {_listed(classes)}"


def _listed(classes: Sequence[int]) -> str:
    more = len(classes) - _NAMED
    return ", ".join(map(str, classes[:_NAMED])) + (f" and {more} more" if more > 0 else "")
