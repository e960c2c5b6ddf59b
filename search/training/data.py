"""A data set as tensors that live on the device, split once by the study's seed, checked by checksum.

The test split is never part of what a search sees: `load_data` returns training and validation data only, and
`load_test` is called once, for the confirmed winner and the baseline. New data sets are functions in `DATASETS`.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from search.errors import DataError
from search.spec import DataSpec
from search.training.files import prepare_files
from search.training.seeds import derive_seed

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
    """Training and validation data of a study."""

    train: Split
    val: Split
    classes: int
    fingerprint: str
    """SHA-256 of training and validation data together, before they were split."""

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

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the same data on a device."""
        return replace(self, train=self.train.to(device), val=self.val.to(device))


@dataclass(frozen=True)
class Source:
    """Where a data set comes from. Both functions take the data folder; `load` takes which part: train or test."""

    classes: int
    load: Callable[[Path, bool], Split]


def load_data(spec: DataSpec, folder: Path, seed: int) -> Dataset:
    """Return training and validation data, split by the study's seed.

    Raises DataError when files are missing and cannot be downloaded, or are not what they should be.
    """
    source = DATASETS[spec.name]
    prepare_files(spec.name, folder)
    known = source.load(folder, True)
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(derive_seed(seed, 0, "split")))
    held = round(len(known) * spec.validation)
    if not 0 < held < len(known):
        raise DataError(
            f"data.validation = {spec.validation} leaves {len(known) - held} training examples: choose another share"
        )
    return Dataset(known.take(order[held:]), known.take(order[:held]), source.classes, _fingerprint(known))


def load_test(spec: DataSpec, folder: Path) -> Split:
    """Return the test data: the same for every seed, and read only once the search has ended."""
    source = DATASETS[spec.name]
    prepare_files(spec.name, folder)
    return source.load(folder, False)


def _fingerprint(split: Split) -> str:
    digest = hashlib.sha256(split.x.contiguous().numpy().data)
    digest.update(split.y.numpy().data)
    return digest.hexdigest()


def _digits_table() -> np.ndarray:
    """Return scikit-learn's table of the digits, [n, 65]: pixels and label."""
    # Read from the file: importing scikit-learn for it takes a second, and every trainer would pay.
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if file.exists():
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])


def _load_digits(_folder: Path, train: bool) -> Split:
    """UCI handwritten digits, 1,797 images of 8x8, values 0 to 1; a sixth, always the same, is test data."""
    table = _digits_table()
    images = torch.tensor(table[:, :-1], dtype=torch.float32).view(-1, 8, 8) / 16
    known = Split(images, torch.tensor(table[:, -1], dtype=torch.int64))
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(0))
    held = len(known) // 6
    return known.take(order[held:] if train else order[:held])


_MNIST_MEAN, _MNIST_STD = 0.1307, 0.3081


def _load_mnist(folder: Path, train: bool) -> Split:
    from torchvision.datasets import MNIST

    data = MNIST(str(folder), train=train)
    return Split((data.data.float() / 255 - _MNIST_MEAN) / _MNIST_STD, data.targets)


DATASETS = {
    "digits": Source(10, _load_digits),
    "mnist": Source(10, _load_mnist),
}
