"""A data set as tensors that live on the device, split once by the study's seed, checked by checksum.

The test split is never part of what a search sees: `load_data` returns training and validation data only, and
`load_test` is called once, for the confirmed winner and the baseline. New data sets are functions in `DATASETS`.
"""

import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from search.errors import DataError
from search.spec import DataSpec
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
    def inputs(self) -> int:
        """Numbers in one example."""
        return self.train.x[0].numel()

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
    prepare: Callable[[Path], None]
    """Download what is missing and check sizes and checksums of everything, the test files too."""


def load_data(spec: DataSpec, folder: Path, seed: int) -> Dataset:
    """Return training and validation data, split by the study's seed.

    Raises DataError when files are missing and cannot be downloaded, or are not what they should be.
    """
    source = DATASETS[spec.name]
    source.prepare(folder)
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
    source.prepare(folder)
    return source.load(folder, False)


def _fingerprint(split: Split) -> str:
    digest = hashlib.sha256(split.x.contiguous().numpy().data)
    digest.update(split.y.numpy().data)
    return digest.hexdigest()


def _load_digits(_folder: Path, train: bool) -> Split:
    """UCI handwritten digits, 1,797 images of 8x8, values 0 to 1; a sixth, always the same, is test data."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    known = Split(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels, dtype=torch.int64))
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(0))
    held = len(known) // 6
    return known.take(order[held:] if train else order[:held])


# SHA-256 and size of the four uncompressed files of LeCun, Cortes and Burges' MNIST.
MNIST_FILES = {
    "train-images-idx3-ubyte": (47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    "train-labels-idx1-ubyte": (60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    "t10k-images-idx3-ubyte": (7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    "t10k-labels-idx1-ubyte": (10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}
_MNIST_MEAN, _MNIST_STD = 0.1307, 0.3081


def _prepare_mnist(folder: Path) -> None:
    raw = folder / "MNIST" / "raw"
    if not all((raw / name).exists() for name in MNIST_FILES):
        _download_mnist(folder)
    for name, (size, checksum) in MNIST_FILES.items():
        _check_file(raw / name, size, checksum)


def _download_mnist(folder: Path) -> None:
    from torchvision.datasets import MNIST

    logging.getLogger(__name__).warning("MNIST is missing; downloading it to %s", folder)
    raw = folder / "MNIST" / "raw"
    made = [path for path in (raw, raw.parent, folder) if not path.exists()]
    try:
        MNIST(str(folder), train=True, download=True)
    except Exception as error:  # torchvision raises whatever its mirrors and the file system do
        for path in made:
            with suppress(OSError):  # what holds something stays
                path.rmdir()
        raise DataError(
            f"MNIST is not in {raw} and could not be downloaded ({' '.join(str(error).split())}). Put the files "
            f"{', '.join(MNIST_FILES)} there, or name the folder that holds MNIST/raw with --data-dir or "
            "REGSEARCH_DATA. `--study digits` needs no download."
        ) from error


def _check_file(path: Path, size: int, checksum: str) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) != size:
        raise DataError(
            f"{path} has {len(content):,} bytes instead of {size:,}: delete it, it will be downloaded again"
        )
    if hashlib.sha256(content).hexdigest() != checksum:
        raise DataError(f"{path} is damaged (its SHA-256 is not MNIST's): delete it, it will be downloaded again")


def _load_mnist(folder: Path, train: bool) -> Split:
    from torchvision.datasets import MNIST

    data = MNIST(str(folder), train=train)
    return Split((data.data.float() / 255 - _MNIST_MEAN) / _MNIST_STD, data.targets)


DATASETS = {
    "digits": Source(10, _load_digits, lambda _folder: None),
    "mnist": Source(10, _load_mnist, _prepare_mnist),
}
