"""A data set as tensors that live on the device, split once by the study's seed, checked by checksum.

The test split is never part of what a search sees: `load_data` returns training and validation data only, and
`load_test` is called once, for the confirmed winner and the baseline. Where they come from stands in `sources`.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from search.errors import DataError
from search.records import Majority
from search.spec import DATASET_SHAPES, DataSpec
from search.training.files import prepare_files
from search.training.seeds import derive_seed
from search.training.sources import SOURCES, Source

_TRAIN_SAMPLE = 4096


@dataclass(frozen=True)
class Split:
    """Examples: inputs [n, ...] float32, targets [n] int64."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device | str) -> "Split":
        """Return the same examples on a device."""
        return Split(self.x.to(device), self.y.to(device))

    def take(self, rows: Tensor | slice) -> "Split":
        """Return some of the examples."""
        return Split(self.x[rows], self.y[rows])


@dataclass(frozen=True)
class Dataset:
    """Training and validation data of a study. With folds, both are all there is, and each fold holds out its own."""

    train: Split
    val: Split
    classes: int
    fingerprint: str
    """SHA-256 of training and validation data together, before they were split."""
    fill: Tensor = field(default_factory=lambda: torch.zeros(1, 1, 1))
    """Where there is no image, [colours or 1, 1, 1]: what augmentation puts there."""
    held_in: Tensor | None = None
    """The fold that holds out each example, int64 [n]; None where there are no folds."""

    @property
    def shape(self) -> torch.Size:
        """Shape of one example."""
        return self.train.x.shape[1:]

    @property
    def train_sample(self) -> Split:
        """A fixed sample of the training data on which the training loss is measured.

        As many as validation examples, at most 4,096: all of them would cost a third of the epoch itself, and the
        sample's standard error is far below the differences that a gap is read for.
        """
        return self.train.take(slice(min(len(self.val), _TRAIN_SAMPLE)))

    @property
    def merged(self) -> "Dataset":
        """Return training and validation data together as training data; for validation a sample of them is left."""
        if self.held_in is not None:
            return replace(self, val=self.train_sample, held_in=None)
        together = Split(torch.cat([self.train.x, self.val.x]), torch.cat([self.train.y, self.val.y]))
        return replace(self, train=together, val=together.take(slice(len(self.val))))

    @property
    def folds(self) -> int | None:
        """How many folds there are, if there are any."""
        return None if self.held_in is None else int(self.held_in.max()) + 1

    def train_rows(self, fold: int | None) -> Tensor:
        """Return which examples are trained on, int64 [n], when this fold is held out."""
        if self.held_in is None:
            return torch.arange(len(self.train))
        return torch.nonzero(torch.ne(self.held_in.cpu(), -1 if fold is None else fold)).squeeze(1)

    @property
    def fewest_to_train(self) -> int:
        """How many examples there are to train on, in the fold that has the fewest."""
        if self.held_in is None:
            return len(self.train)
        return len(self.train) - int(self.held_in.bincount().max())

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the same data on a device."""
        held_in = None if self.held_in is None else self.held_in.to(device)
        train = self.train.to(device)
        val = train if self.val is self.train else self.val.to(device)
        return replace(self, train=train, val=val, fill=self.fill.to(device), held_in=held_in)


def load_data(spec: DataSpec, folder: Path, seed: int) -> Dataset:
    """Return training and validation data, split by the study's seed.

    Raises DataError when files are missing and cannot be downloaded, or are not what they should be.
    """
    source = SOURCES[spec.name]
    known = _read(spec.name, folder, train=True)
    divided = divide(known, spec, seed, source.classes, lambda part: _prepared(source, part))
    return replace(divided, fill=source.fill)


def divide(
    known: Split, spec: DataSpec, seed: int, classes: int, prepare: Callable[[Split], Split] = lambda part: part
) -> Dataset:
    """Return what a search may see as training and validation data, or as folds; each part is prepared by itself.

    Raises DataError when there are too few examples for that.
    """
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(derive_seed(seed, 0, "split")))
    if spec.folds is not None:
        held_in = _folds(order, known.y, spec.folds)
        everything = prepare(known)
        return Dataset(everything, everything, classes, fingerprint(known), held_in=held_in)
    held = round(len(known) * spec.validation)
    if not 0 < held < len(known):
        what = f"{len(known) - held} examples to train on and {held} to validate with"
        raise DataError(f"data.validation = {spec.validation} leaves {what}: choose another share")
    train, val = (prepare(known.take(part)) for part in (order[held:], order[:held]))
    return Dataset(train, val, classes, fingerprint(known))


def _folds(order: Tensor, y: Tensor, folds: int) -> Tensor:
    """Return the fold of each example. Each class is dealt out evenly, as scikit-learn's `StratifiedKFold` does."""
    if folds > len(y):
        raise DataError(f"data.folds = {folds} are more than there are examples, {len(y)}: choose fewer")
    by_class = order[torch.argsort(y[order], stable=True)]
    return torch.empty_like(by_class).scatter_(0, by_class, torch.arange(len(y)) % folds)


def load_test(spec: DataSpec, folder: Path) -> Split:
    """Return the test data: the same for every seed, and read only once the search has ended."""
    return _prepared(SOURCES[spec.name], _read(spec.name, folder, train=False))


def _read(name: str, folder: Path, train: bool) -> Split:
    """Return a part of a data set as its files have it, once they are there, if they are what they should be."""
    prepare_files(name, folder)
    try:
        part = Split(*SOURCES[name].load(folder, train))
        _check(part, name)
    except DataError:
        raise
    except Exception as error:  # not all checksums are known, and damage makes readers raise whatever they do
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"the files of {name} in {folder} cannot be read ({reason}): delete them, they will be downloaded again"
        ) from error
    return part


def _check(part: Split, name: str) -> None:
    """Raise ValueError unless there is a class for each example, and all have their shape."""
    shape, classes = tuple(part.x.shape[1:]), SOURCES[name].classes
    if shape != DATASET_SHAPES[name] or len(part.x) != len(part.y) or not len(part):
        raise ValueError(f"{len(part.x)} examples of shape {shape} and {len(part.y)} classes")
    if not 0 <= int(part.y.min()) <= int(part.y.max()) < classes:
        raise ValueError(f"its classes go from {int(part.y.min())} to {int(part.y.max())}, and there are {classes}")


def _prepared(source: Source, split: Split) -> Split:
    return Split(source.inputs(split.x), split.y)


def majority(split: Split) -> Majority:
    """Return the share of the most frequent class."""
    return Majority(int(split.y.bincount().max()) / len(split), len(split))


def fingerprint(split: Split) -> str:
    """Return the SHA-256 (hex) of examples."""
    # By its bytes: NumPy has no bfloat16.
    digest = hashlib.sha256(split.x.contiguous().view(torch.uint8).numpy().data)
    digest.update(split.y.numpy().data)
    return digest.hexdigest()
