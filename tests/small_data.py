"""Small data sets in the files of the large ones. Each function writes one and returns what its files should be."""

import hashlib
import io
import pickle
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from search.training.files import CIFAR10_FILES, MNIST_FILES, NEWSGROUPS_ARCHIVE

Expected = dict[str, tuple[int | None, str | None]]
"""Size and checksum by name."""


def small_mnist(folder: Path) -> Expected:
    """Write 60 images to search with and 10 to test with."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 60), ("t10k", 10)):
        images = torch.randint(256, (count, 28, 28), generator=generator)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(_idx(images))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(_idx(torch.arange(count) % 10))
    contents = {name: (raw / name).read_bytes() for name in MNIST_FILES}
    return {name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in contents.items()}


def _idx(values: torch.Tensor) -> bytes:
    """Return bytes in the format of LeCun's files: a magic number, the sizes, the values."""
    return struct.pack(f">I{values.dim()}I", 0x800 + values.dim(), *values.shape) + bytes(values.flatten().tolist())


def small_fashion(folder: Path) -> Expected:
    """Write the same as Fashion-MNIST, of whose files only the sizes are known."""
    expected = small_mnist(folder)
    (folder / "MNIST").rename(folder / "FashionMNIST")
    return {name: (size, None) for name, (size, _) in expected.items()}


def small_cifar10(folder: Path) -> Expected:
    """Write six images in each file."""
    place = folder / "cifar-10-batches-py"
    place.mkdir()
    generator = np.random.default_rng(0)
    expected: Expected = {}
    for name in CIFAR10_FILES:
        content = _batch(generator.integers(0, 256, (6, 3072), dtype=np.uint8), [0, 1, 2, 3, 4, 5])
        names = pickle.dumps({"label_names": [str(i) for i in range(10)]})
        (place / name).write_bytes(names if name == "batches.meta" else content)
        expected[name] = (None, hashlib.md5((place / name).read_bytes(), usedforsecurity=False).hexdigest())
    return expected


def _batch(images: np.ndarray, labels: list[int]) -> bytes:
    """Return what Python 2 and its NumPy wrote, byte by byte: a dict of an array [n, 3072] and a list."""
    pixels, rows = images.tobytes(), struct.pack("<i", len(images))
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(J" + rows + b"M\x00\x0ct"
        b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + struct.pack("<i", len(pixels)) + pixels + b"tb"
    )
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + listed + b"u."


def small_newsgroups(folder: Path) -> Expected:
    """Write 60 posts to search with and two to test with."""
    texts = {
        f"train/group{i % 20}/{1000 - i}": f"From: me\n\ngraphics pixel{i % 5} render{i % 3}\n> no caf\xe9\n\n-- \nme"
        for i in range(60)
    }
    texts |= {"test/group0/7": "From: you\n\npixel1 render2 unheard", "test/group1/8": "Subject: x\n\ngraphics"}
    place = folder / "20news"
    place.mkdir()
    _archive(place / NEWSGROUPS_ARCHIVE, texts)
    return {NEWSGROUPS_ARCHIVE: (None, hashlib.sha256((place / NEWSGROUPS_ARCHIVE).read_bytes()).hexdigest())}


def _archive(path: Path, texts: Mapping[str, str]) -> None:
    """Write texts by place as the archive of 20 newsgroups has them."""
    with tarfile.open(path, "w:gz") as file:
        for place, text in texts.items():
            member = tarfile.TarInfo(f"20news-bydate-{place}")
            member.size = len(text.encode("latin1"))
            file.addfile(member, io.BytesIO(text.encode("latin1")))
