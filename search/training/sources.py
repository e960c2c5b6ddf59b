"""Where data sets come from: each as inputs and classes, read from its files by the library that knows them.

What is random here is the same for everyone: the split into what a search may see and test data does not depend on a
study's seed. Whether files are there, and what they should be, is checked in `files`.
"""

from __future__ import annotations

import struct
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from search.spec import DATASET_SHAPES
from search.training.cifar import read_batch
from search.training.files import NEWSGROUPS_ARCHIVE, read_file

Arrays = tuple[Tensor, Tensor]
"""Inputs [n, ...], float32, or uint8 for pixels that are yet to be normalized; and classes [n], int64."""

WIDE_INFORMATIVE = 20
"""The first so many features of `wide` tell something; the others are noise."""


@dataclass(frozen=True)
class Source:
    """A data set. `load` takes the data folder, and which part: True for what a search may see, False for test data."""

    classes: int
    load: Callable[[Path, bool], Arrays]
    mean: Sequence[float] = (0.0,)
    """Of the training pixels by colour, as shares of the brightest; so is their standard deviation."""
    std: Sequence[float] = (1.0,)
    made: str = "The pixels' values, 0 to 255, divided by 255"
    """What is loaded, in words."""

    @property
    def preparation(self) -> str:
        """How a model's inputs are made, in words."""
        if len(self.mean) == 1 and self.mean[0] == 0:
            return self.made
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        colours = " by colour (red, green, blue)" if len(self.mean) > 1 else ""
        return f"{self.made}, less {mean}, divided by {std}{colours}"

    def inputs(self, x: Tensor) -> Tensor:
        """Return what a model is given for what was loaded, float32."""
        if x.dtype != torch.uint8:
            return x
        mean, std = (self._by_colour(values, x.dim()) for values in (self.mean, self.std))
        return x.float().div_(255).sub_(mean).div_(std)

    @property
    def fill(self) -> Tensor:
        """A model's inputs where there is no image: black, [colours, 1, 1]."""
        return self._by_colour(self.mean, 3).neg() / self._by_colour(self.std, 3)

    @staticmethod
    def _by_colour(values: Sequence[float], dims: int) -> Tensor:
        return torch.tensor(values) if dims < 3 else torch.tensor(values).view(-1, 1, 1)


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


def _load_digits(_folder: Path, train: bool) -> Arrays:
    """UCI handwritten digits, 1,797 images of 8x8, values 0 to 1; a sixth, always the same, is test data."""
    table = _digits_table()
    images = torch.tensor(table[:, :-1], dtype=torch.float32).view(-1, 8, 8) / 16
    labels = torch.tensor(table[:, -1], dtype=torch.int64)
    return _part(images, labels, len(labels) // 6, train)


def _load_idx(name: str) -> Callable[[Path, bool], Arrays]:
    """Return the loader of a data set in the format of LeCun's MNIST.

    torchvision reads it too, but takes longer to import than all of this.
    """

    def load(folder: Path, train: bool) -> Arrays:
        part = "train" if train else "t10k"
        images, labels = (
            _read_idx(read_file(name, folder, f"{part}-{kind}-ubyte")) for kind in ("images-idx3", "labels-idx1")
        )
        return images, labels.long()

    return load


def _read_idx(file: bytes) -> Tensor:
    """Return bytes as an array: a magic number whose last byte is the number of dimensions, their sizes, the bytes."""
    content = bytearray(file)
    start = 4 + 4 * content[3]
    sizes = struct.unpack(f">{content[3]}I", content[4:start])
    return torch.frombuffer(content, dtype=torch.uint8, offset=start).view(sizes)


def _load_cifar10(folder: Path, train: bool) -> Arrays:
    """torchvision reads it too, but its pickles by a reader that runs whatever they say."""
    names = [f"data_batch_{i}" for i in range(1, 6)] if train else ["test_batch"]
    batches = [read_batch(read_file("cifar10", folder, name)) for name in names]
    images = torch.cat([torch.from_numpy(pixels) for pixels, _ in batches])
    labels = torch.tensor([label for _, labels in batches for label in labels])
    return images.view(-1, *DATASET_SHAPES["cifar10"]), labels


_WIDE_CLASSES = 4


def _load_wide(_folder: Path, train: bool) -> Arrays:
    """Guyon's clusters from scikit-learn: few of many features tell something, and there are few examples."""
    from sklearn.datasets import make_classification

    x, y = make_classification(
        n_samples=3000,
        n_features=DATASET_SHAPES["wide"][0],
        n_informative=WIDE_INFORMATIVE,
        n_redundant=0,
        n_classes=_WIDE_CLASSES,
        n_clusters_per_class=1,
        class_sep=1.0,
        flip_y=0.0,
        shuffle=False,  # keeps the informative features in front
        random_state=0,
    )
    return _part(torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.int64), 2000, train)


def _load_newsgroups(folder: Path, train: bool) -> Arrays:
    """20 newsgroups by date, without headers, footers and quotes, as TF-IDF of the most frequent words in training."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    archive, words = read_file("newsgroups", folder, NEWSGROUPS_ARCHIVE), DATASET_SHAPES["newsgroups"][0]
    vectorizer = TfidfVectorizer(max_features=words, sublinear_tf=True, stop_words="english", dtype=np.float32)
    texts, labels = _read_newsgroups(archive, "train")
    table = vectorizer.fit_transform(texts)
    if not train:
        texts, labels = _read_newsgroups(archive, "test")
        table = vectorizer.transform(texts)
    # A small collection has fewer words; a feature that is always 0 changes nothing.
    dense = torch.zeros(len(labels), words)
    dense[:, : table.shape[1]] = torch.from_numpy(table.toarray())
    return dense, torch.tensor(labels, dtype=torch.int64)


def _read_newsgroups(archive: bytes, part: str) -> tuple[list[str], np.ndarray]:
    """Return posts and groups as scikit-learn's `fetch_20newsgroups` does, in its order, from the archive itself."""
    from sklearn.datasets._twenty_newsgroups import (
        strip_newsgroup_footer,
        strip_newsgroup_header,
        strip_newsgroup_quoting,
    )

    posts: dict[tuple[str, str], bytes] = {}
    with tarfile.open(fileobj=BytesIO(archive), mode="r:gz") as files:
        for member in files:
            folder, _, place = member.name.partition("/")
            group, _, name = place.partition("/")
            if member.isfile() and folder == f"20news-bydate-{part}" and name:
                posts[group, name] = files.extractfile(member).read()  # type: ignore[union-attr]  # it is a file
    groups = {group: label for label, group in enumerate(sorted({group for group, _ in posts}))}
    labels = np.array([groups[group] for group, _ in sorted(posts)])
    order = np.arange(len(posts))
    for seed in (0, 42):  # it is shuffled when it is taken in, and when it is given out
        order = order[_shuffled(len(posts), seed)]
    texts = [posts[place].decode("latin1") for place in sorted(posts)]
    plain = [strip_newsgroup_quoting(strip_newsgroup_footer(strip_newsgroup_header(text))) for text in texts]
    return [plain[i] for i in order], labels[order]


def _shuffled(count: int, seed: int) -> np.ndarray:
    order = np.arange(count)
    np.random.RandomState(seed).shuffle(order)
    return order


def _part(x: Tensor, y: Tensor, held: int, train: bool) -> Arrays:
    """Return one of two parts of a data set that has no test part of its own: always the same `held` examples."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    chosen = order[held:] if train else order[:held]
    return x[chosen], y[chosen]


SOURCES = {
    "digits": Source(10, _load_digits, made="The pixels' values, 0 to 16, divided by 16"),
    "mnist": Source(10, _load_idx("mnist"), (0.1307,), (0.3081,)),
    "fashion-mnist": Source(10, _load_idx("fashion-mnist"), (0.2860,), (0.3530,)),
    "cifar10": Source(10, _load_cifar10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "wide": Source(_WIDE_CLASSES, _load_wide, made="The features as scikit-learn's make_classification gives them"),
    "newsgroups": Source(
        20, _load_newsgroups, made="TF-IDF of the most frequent words of the training posts (sublinear, no stop words)"
    ),
}
