"""The files of data sets that are downloaded: whether they are there, and what they should be. Needs no torch.

So a search can check them while its trainers are still starting. What is in them is read in `data`.
"""

import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from search.errors import DataError

# SHA-256 and size of the four uncompressed files of LeCun, Cortes and Burges' MNIST.
MNIST_FILES = {
    "train-images-idx3-ubyte": (47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    "train-labels-idx1-ubyte": (60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    "t10k-images-idx3-ubyte": (7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    "t10k-labels-idx1-ubyte": (10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}


def prepare_files(name: str, folder: Path) -> None:
    """Download what is missing of a data set and check sizes and checksums of everything, the test files too.

    Raises DataError when files are missing and cannot be downloaded, or are not what they should be.
    """
    if name in _PREPARE:
        _PREPARE[name](folder)


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


_PREPARE: dict[str, Callable[[Path], None]] = {"mnist": _prepare_mnist}
