"""The files of data sets that are downloaded: whether they are there, and what they should be. Needs no torch.

So a search can check them while its trainers are still starting. What is in them is read in `sources`.
"""

import hashlib
import logging
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from search.errors import DataError
from search.regular_files import MEGABYTE, read_regular
from search.whole_folders import remove_old

# SHA-256 and size of the four uncompressed files of LeCun, Cortes and Burges' MNIST.
MNIST_FILES = {
    "train-images-idx3-ubyte": (47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    "train-labels-idx1-ubyte": (60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    "t10k-images-idx3-ubyte": (7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    "t10k-labels-idx1-ubyte": (10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}

# The same sizes; whoever publishes them gives checksums of the compressed files, which torchvision checks.
FASHION_FILES: dict[str, tuple[int, str | None]] = {name: (size, None) for name, (size, _) in MNIST_FILES.items()}

# The MD5 sums of those who publish it, as torchvision checks them.
CIFAR10_FILES = {
    "data_batch_1": (None, "c99cafc152244af753f735de768cd75f"),
    "data_batch_2": (None, "d4bba439e000b95fd0a9bffe97cbabec"),
    "data_batch_3": (None, "54ebc095f3ab1f0389bbae665268c751"),
    "data_batch_4": (None, "634d18415352ddfa80567beed471001a"),
    "data_batch_5": (None, "482c414d41f54cd18b22e5b47cb7c3cb"),
    "test_batch": (None, "40351d587109b95175f43aff81a1287e"),
    "batches.meta": (None, "5ff9c542aee3614f3951f8cda6e48888"),
}

# The publisher's archive. scikit-learn keeps it as a pickle of its own making, which nobody could check.
NEWSGROUPS_ARCHIVE = "20news-bydate.tar.gz"
NEWSGROUPS_FILES: dict[str, tuple[int | None, str | None]] = {
    NEWSGROUPS_ARCHIVE: (None, "8f1b2514ca22a5ade8fbb9cfa5727df95fa587f4c87b786e15c759fa66d95610")
}
_NEWSGROUPS_ADDRESS = "https://ndownloader.figshare.com/files/5975967"
_DOWNLOAD_SECONDS = 60.0
_MOST_BYTES = 64 * MEGABYTE
"""Of a file of a data set: the largest has 47 million."""
_WORKSHOP = ".download-"

FOLDERS = {
    "mnist": "MNIST/raw",
    "fashion-mnist": "FashionMNIST/raw",
    "cifar10": "cifar-10-batches-py",
    "newsgroups": "20news",
}
"""Where in the data folder each of them is."""


@dataclass(frozen=True)
class _Download:
    """A data set that is downloaded."""

    title: str
    files: Callable[[], Mapping[str, tuple[int | None, str | None]]]
    """Size and checksum (SHA-256, or MD5 where publishers give that) by name, where they are known."""
    fetch: Callable[[Path], object]
    """Download all of it to a data folder; raises whatever mirrors and file systems do."""


def prepare_files(name: str, folder: Path) -> None:
    """Download what is missing of a data set and check sizes and checksums of everything, the test files too.

    Raises DataError when files are missing and cannot be downloaded, or are not what they should be.
    """
    if name not in _DOWNLOADS:
        return
    download, place = _DOWNLOADS[name], folder / FOLDERS[name]
    if not _complete(download, place):
        with _one_at_a_time():
            if not _complete(download, place):
                _download(download, folder, place)
    for file in download.files():
        read_file(name, folder, file)


def read_file(name: str, folder: Path, file: str) -> bytes:
    """Return a file of a data set, after checking size and checksum of the very bytes. Raises DataError.

    A file that was checked and is then opened again could be another by then.
    """
    download = _DOWNLOADS[name]
    size, checksum = download.files()[file]
    return _checked(folder / FOLDERS[name] / file, size, checksum, download.title)


def _complete(download: _Download, place: Path) -> bool:
    return all(os.path.exists(place / file) for file in download.files())


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Keep trainers of one machine, or of machines with a common home folder, from downloading side by side."""
    from filelock import FileLock
    from platformdirs import user_cache_path

    with ExitStack() as stack:
        with suppress(OSError):  # nobody is kept from downloading because that folder cannot be written to
            cache = user_cache_path("regsearch", ensure_exists=True)
            stack.enter_context(FileLock(cache / "download.lock"))
        yield


def _fetch_mnist(folder: Path) -> None:
    from torchvision.datasets import MNIST

    MNIST(str(folder), train=True, download=True)


def _fetch_fashion(folder: Path) -> None:
    from torchvision.datasets import FashionMNIST

    FashionMNIST(str(folder), train=True, download=True)


def _fetch_cifar10(folder: Path) -> None:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_and_extract_archive

    # No more than that: the class would also unpickle what it finds there.
    download_and_extract_archive(CIFAR10.url, str(folder), filename=CIFAR10.filename, md5=CIFAR10.tgz_md5)


def _fetch_newsgroups(folder: Path) -> None:
    place = folder / FOLDERS["newsgroups"]
    place.mkdir(parents=True, exist_ok=True)
    with (
        urllib.request.urlopen(_NEWSGROUPS_ADDRESS, timeout=_DOWNLOAD_SECONDS) as answer,
        open(place / NEWSGROUPS_ARCHIVE, "wb") as file,
    ):
        shutil.copyfileobj(answer, file)


def _download(download: _Download, folder: Path, place: Path) -> None:
    """Download a data set to a folder that nobody else can enter, and move its files to their place.

    Libraries write to names that everybody knows: others who may write to the data folder could have put links there.
    """
    logging.getLogger(__name__).warning("%s is missing; downloading it to %s", download.title, folder)
    made = [path for path in (place, *place.parents) if path.is_relative_to(folder) and not os.path.exists(path)]
    try:
        place.mkdir(parents=True, exist_ok=True)
        remove_old(place, _WORKSHOP)
        # A process killed while it downloads or extracts leaves no file of the data set that is not whole.
        with tempfile.TemporaryDirectory(prefix=_WORKSHOP, dir=place) as workshop:
            there = Path(workshop, place.relative_to(folder))
            _copy_archives(folder, Path(workshop))
            _copy_archives(place, there)
            download.fetch(Path(workshop))
            for file in download.files():
                if not os.path.exists(place / file):
                    os.replace(there / file, place / file)
    except Exception as error:
        for path in made:
            with suppress(OSError):  # what holds something stays
                path.rmdir()
        raise DataError(
            f"{download.title} is not in {place} and could not be downloaded ({' '.join(str(error).split())}). "
            f"Put the files {', '.join(download.files())} there, or name the folder that holds "
            f"{place.relative_to(folder)} with --data-dir or REGSEARCH_DATA. `--study digits` needs no download."
        ) from error


def _copy_archives(source: Path, target: Path) -> None:
    """Copy what somebody has downloaded already: libraries check it, and unpack it without the network."""
    for path in source.glob("*.gz"):
        if path.is_file():
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / path.name)


def _checked(path: Path, size: int | None, checksum: str | None, title: str) -> bytes:
    try:
        content = read_regular(path, max(size or 0, _MOST_BYTES))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if size is not None and len(content) != size:
        raise DataError(
            f"{path} has {len(content):,} bytes instead of {size:,}: delete it, it will be downloaded again"
        )
    if checksum is not None and _digest(content, len(checksum)) != checksum:
        kind = "SHA-256" if len(checksum) == _SHA256 else "MD5"
        raise DataError(f"{path} is damaged (its {kind} is not {title}'s): delete it, it will be downloaded again")
    return content


_SHA256 = 64


def _digest(content: bytes, length: int) -> str:
    return (hashlib.sha256(content) if length == _SHA256 else hashlib.md5(content, usedforsecurity=False)).hexdigest()


_DOWNLOADS = {
    "mnist": _Download("MNIST", lambda: MNIST_FILES, _fetch_mnist),
    "fashion-mnist": _Download("Fashion-MNIST", lambda: FASHION_FILES, _fetch_fashion),
    "cifar10": _Download("CIFAR-10", lambda: CIFAR10_FILES, _fetch_cifar10),
    "newsgroups": _Download("20 newsgroups", lambda: NEWSGROUPS_FILES, _fetch_newsgroups),
}
