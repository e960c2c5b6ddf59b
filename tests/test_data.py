"""A data set is split once, the test split is the same for everyone, and files are trusted only after a checksum.

Files are small ones in the format of the real ones; and the real MNIST where it is at hand.
"""

import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import urllib.request
import zlib
from pathlib import Path

import pytest
import torch

from search.errors import DataError
from search.spec import DATASET_SHAPES, DataSpec
from search.training import data, files, sources
from search.training.data import load_data, load_test
from search.training.files import MNIST_FILES

DIGITS = DataSpec(name="digits")
MNIST = DataSpec(name="mnist")


def rows(x: torch.Tensor) -> list[bytes]:
    return sorted(row.numpy().tobytes() for row in x.reshape(len(x), -1))


@pytest.fixture(scope="module")
def real_mnist() -> Path:
    beside = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    for folder in (os.environ.get("REGSEARCH_DATA"), beside):
        if folder and (Path(folder) / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
            return Path(folder)
    pytest.skip("no MNIST at hand; name the folder that holds MNIST/raw with REGSEARCH_DATA")


def test_digits_are_split_into_training_validation_and_test(tmp_path):
    dataset, test = load_data(DIGITS, tmp_path, 0), load_test(DIGITS, tmp_path)
    assert (len(dataset.train), len(dataset.val), len(test)) == (1248, 250, 299)
    assert (dataset.classes, dataset.shape) == (10, (8, 8))
    assert (dataset.train.x.dtype, dataset.train.y.dtype) == (torch.float32, torch.int64)
    assert 0 <= dataset.train.x.min() < dataset.train.x.max() <= 1
    assert set(dataset.val.y.tolist()) == set(range(10))
    assert not list(tmp_path.iterdir())


def test_the_parts_are_disjoint_and_together_are_all_digits(tmp_path):
    from sklearn.datasets import load_digits

    dataset, test = load_data(DIGITS, tmp_path, 5), load_test(DIGITS, tmp_path)
    together = torch.cat([dataset.train.x, dataset.val.x, test.x])
    everything = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    assert rows(together) == rows(everything)
    assert len(set(rows(everything))) == len(everything)  # no digit is there twice, so the parts share none


def test_the_seed_fixes_the_split_and_nothing_else(tmp_path):
    one, same, other = (load_data(DIGITS, tmp_path, seed) for seed in (1, 1, 2))
    assert torch.equal(one.train.x, same.train.x)
    assert torch.equal(one.val.y, same.val.y)
    assert rows(one.val.x) != rows(other.val.x)
    assert one.fingerprint == other.fingerprint
    known = rows(torch.cat([one.train.x, one.val.x]))
    assert known == rows(torch.cat([other.train.x, other.val.x]))


def test_the_share_of_validation_data_is_the_specs(tmp_path):
    assert len(load_data(DataSpec(name="digits", validation=0.5), tmp_path, 0).val) == 749
    with pytest.raises(DataError, match=r"data\.validation = 0\.9999 leaves 0 examples to train on"):
        load_data(DataSpec(name="digits", validation=0.9999), tmp_path, 0)


def test_the_training_sample_is_part_of_the_training_data(tmp_path):
    dataset = load_data(DIGITS, tmp_path, 0)
    assert len(dataset.train_sample) == len(dataset.val)
    assert set(rows(dataset.train_sample.x)) <= set(rows(dataset.train.x))


def test_mnist_is_read_from_its_files(mnist, no_network):
    dataset, test = load_data(MNIST, mnist, 0), load_test(MNIST, mnist)
    assert (len(dataset.train), len(dataset.val), len(test)) == (50, 10, 10)
    assert dataset.train.x.shape[1:] == (28, 28)
    assert dataset.shape == (28, 28)
    assert test.y.tolist() == list(range(10))
    pixel = (mnist / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16]
    assert test.x[0, 0, 0].item() == pytest.approx((pixel / 255 - 0.1307) / 0.3081, rel=1e-5)


def test_searching_never_decodes_test_images(mnist, monkeypatch):
    opened = []
    read = sources.read_file
    monkeypatch.setattr(sources, "read_file", lambda *place: (opened.append(place[-1]), read(*place))[1])
    load_data(MNIST, mnist, 0)
    assert opened == ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]
    load_test(MNIST, mnist)
    assert opened[2:] == ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def test_mnist_is_what_torchvision_reads(mnist):
    from torchvision import datasets

    theirs = datasets.MNIST(str(mnist), train=False)
    images, labels = sources.SOURCES["mnist"].load(mnist, False)
    assert torch.equal(images, theirs.data)
    assert torch.equal(labels, theirs.targets)


@pytest.mark.parametrize("missing", [list(MNIST_FILES), ["t10k-labels-idx1-ubyte"]])
def test_missing_files_without_network_say_where_they_go(mnist, no_network, missing):
    for name in missing:
        (mnist / "MNIST/raw" / name).unlink()
    with pytest.raises(DataError) as caught:
        load_data(MNIST, mnist, 0)
    message = str(caught.value)
    assert f"MNIST is not in {mnist / 'MNIST' / 'raw'}" in message
    assert all(name in message for name in MNIST_FILES)
    for way_out in ("--data-dir", "REGSEARCH_DATA", "`--study digits` needs no download"):
        assert way_out in message


def test_a_failed_download_leaves_nothing_behind(tmp_path, no_network):
    with pytest.raises(DataError):
        load_data(MNIST, tmp_path / "data", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_data_folder_that_cannot_be_made_is_told(tmp_path, no_network):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"MNIST is not in .*file"):
        load_data(MNIST, tmp_path / "file", 0)


@pytest.mark.parametrize("name", MNIST_FILES)
def test_a_truncated_file_is_told(mnist, name):
    path = mnist / "MNIST/raw" / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=f"{name} has [0-9,]+ bytes instead of [0-9,]+: delete it"):
        load_data(MNIST, mnist, 0)


@pytest.mark.parametrize("name", MNIST_FILES)
def test_one_wrong_byte_is_told(mnist, name):
    path = mnist / "MNIST/raw" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{name} is damaged .*delete it"):
        load_data(MNIST, mnist, 0)


def test_a_file_that_cannot_be_read_is_told(mnist):
    path = mnist / "MNIST/raw/train-images-idx3-ubyte"
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="train-images-idx3-ubyte cannot be read: Is a directory"):
        load_data(MNIST, mnist, 0)


def test_the_test_data_is_checked_again_before_it_is_read(mnist):
    load_data(MNIST, mnist, 0)
    (mnist / "MNIST/raw/t10k-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte has 0 bytes"):
        load_test(MNIST, mnist)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "newsgroups"])
def test_a_file_that_is_another_once_it_was_checked_is_not_read(name, request, monkeypatch):
    folder, spec = request.getfixturevalue(name), DataSpec(name=name)
    check = data.prepare_files

    def swap(*place):
        check(*place)
        for path in (folder / files.FOLDERS[name]).iterdir():
            path.write_bytes(path.read_bytes()[:-1] + b"!")

    monkeypatch.setattr(data, "prepare_files", swap)
    with pytest.raises(DataError, match="is damaged"):
        load_data(spec, folder, 0)


def test_the_real_mnist(real_mnist):
    dataset = load_data(MNIST, real_mnist, 0)
    assert (len(dataset.train), len(dataset.val)) == (50_000, 10_000)
    assert dataset.train.x.mean().item() == pytest.approx(0, abs=0.01)
    assert dataset.train.x.std().item() == pytest.approx(1, abs=0.01)
    assert len(dataset.train_sample) == 4096
    test = load_test(MNIST, real_mnist)
    assert len(test) == 10_000
    assert test.y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_fashion_mnist_is_what_torchvision_reads(fashion, no_network):
    from torchvision.datasets import FashionMNIST

    spec = DataSpec(name="fashion-mnist")
    dataset, test = load_data(spec, fashion, 0), load_test(spec, fashion)
    theirs = FashionMNIST(str(fashion), train=False)
    torch.testing.assert_close(test.x, (theirs.data / 255 - 0.2860) / 0.3530)
    assert dataset.fill.item() == pytest.approx(-0.2860 / 0.3530)
    (fashion / "FashionMNIST/raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"Fashion-MNIST is not in .*FashionMNIST"):
        load_data(spec, fashion, 0)


def test_cifar10_is_what_torchvision_reads_normalized_by_colour(cifar10, no_network):
    from torchvision.datasets import CIFAR10

    spec = DataSpec(name="cifar10")
    dataset, test = load_data(spec, cifar10, 0), load_test(spec, cifar10)
    assert (len(dataset.train), len(dataset.val), len(test), dataset.shape) == (25, 5, 6, (3, 32, 32))
    pixels = torch.tensor(CIFAR10(str(cifar10), train=False).data[2]).movedim(-1, 0) / 255
    mean, std = (torch.tensor(row).view(3, 1, 1) for row in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))
    torch.testing.assert_close(test.x[2], (pixels - mean) / std)
    torch.testing.assert_close(dataset.fill, -mean / std)


def test_a_cifar10_file_that_is_not_the_publishers_is_never_unpickled(cifar10):
    (cifar10 / "cifar-10-batches-py/data_batch_3").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(DataError, match=r"data_batch_3 is damaged \(its MD5 is not CIFAR-10's\): delete it"):
        load_data(DataSpec(name="cifar10"), cifar10, 0)


def test_of_a_pickle_only_numbers_are_read(cifar10, monkeypatch):
    path = cifar10 / "cifar-10-batches-py/test_batch"
    path.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    monkeypatch.setitem(files.CIFAR10_FILES, "test_batch", (None, None))  # as if the checksum were right
    with pytest.raises(DataError, match=r"cannot be read \(os\.system has no place in a data set\)"):
        load_test(DataSpec(name="cifar10"), cifar10)


def test_a_pickle_that_would_fill_the_memory_is_refused(cifar10, monkeypatch):
    path = cifar10 / "cifar-10-batches-py/test_batch"
    path.write_bytes(pickle.PROTO + b"\2" + pickle.EMPTY_DICT + pickle.LONG_BINPUT + b"\xff\xff\xff\0" + pickle.STOP)
    monkeypatch.setitem(files.CIFAR10_FILES, "test_batch", (None, None))  # as if the checksum were right
    with pytest.raises(DataError, match=r"cannot be read \(it has no images, or no labels\)"):
        load_test(DataSpec(name="cifar10"), cifar10)


@pytest.mark.parametrize("part", ["train", "test"])
def test_newsgroups_are_what_scikit_learn_reads(newsgroups, tmp_path, monkeypatch, part):
    from sklearn.datasets import _twenty_newsgroups, fetch_20newsgroups

    taken = tmp_path / "taken.tar.gz"
    shutil.copyfile(newsgroups / "20news" / files.NEWSGROUPS_ARCHIVE, taken)  # which it removes
    monkeypatch.setattr(_twenty_newsgroups, "_fetch_remote", lambda *_, **__: str(taken))
    without = ("headers", "footers", "quotes")
    theirs = fetch_20newsgroups(data_home=str(tmp_path / "theirs"), subset=part, remove=without)
    texts, labels = sources._read_newsgroups((newsgroups / "20news" / files.NEWSGROUPS_ARCHIVE).read_bytes(), part)
    assert texts == list(theirs.data)
    assert labels.tolist() == theirs.target.tolist()


def test_the_archive_of_newsgroups_is_the_publisher_s():
    from sklearn.datasets._twenty_newsgroups import ARCHIVE

    assert {ARCHIVE.filename: (None, ARCHIVE.checksum)} == files.NEWSGROUPS_FILES
    assert ARCHIVE.url == files._NEWSGROUPS_ADDRESS


def test_newsgroups_are_downloaded_whole_or_not_at_all(newsgroups, tmp_path, monkeypatch):
    content = (newsgroups / "20news" / files.NEWSGROUPS_ARCHIVE).read_bytes()
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(content))
    load_test(DataSpec(name="newsgroups"), tmp_path / "new")
    assert [path.name for path in (tmp_path / "new/20news").iterdir()] == [files.NEWSGROUPS_ARCHIVE]


def _a_process_downloads(folder, ends):
    """Download MNIST in a process of its own, whose "download" is an extraction in two halves."""
    code = f"""
import os, signal, sys
from pathlib import Path
from search.training import files
def fetch(folder):
    raw = folder / files.FOLDERS["mnist"]
    raw.mkdir(parents=True)
    for name, (size, _) in files.MNIST_FILES.items():
        (raw / name).write_bytes(bytes(size // 2))
        if {ends!r} == "killed": os.kill(os.getpid(), signal.SIGKILL)
        (raw / name).write_bytes(bytes(size))
sizes = {{name: (size, None) for name, (size, _) in files.MNIST_FILES.items()}}
files._DOWNLOADS["mnist"] = files._Download("MNIST", lambda: sizes, fetch)
files.prepare_files("mnist", Path(sys.argv[1]))
"""
    return subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)


def test_a_download_that_was_killed_is_repeated_by_the_next_start(tmp_path):
    assert _a_process_downloads(tmp_path, "killed").returncode == -signal.SIGKILL
    raw = tmp_path / "MNIST/raw"
    [abandoned] = raw.iterdir()
    os.utime(abandoned, (0, 0))
    assert _a_process_downloads(tmp_path, "well").stderr.count("\n") == 1  # that it is downloaded
    assert sorted(path.name for path in raw.iterdir()) == sorted(MNIST_FILES)


def test_a_pickle_of_scikit_learn_s_is_not_read(tmp_path, no_network):
    (tmp_path / "20news").mkdir()
    (tmp_path / "20news/20news-bydate_py3.pkz").write_bytes(zlib.compress(b"cos\nsystem\n(S'exit 1'\ntR."))
    with pytest.raises(DataError, match="20 newsgroups is not in"):
        load_data(DataSpec(name="newsgroups"), tmp_path, 0)


def test_newsgroups_are_tf_idf_of_words_in_training(newsgroups, no_network):
    spec = DataSpec(name="newsgroups")
    dataset, test = load_data(spec, newsgroups, 0), load_test(spec, newsgroups)
    assert (len(dataset.train), len(dataset.val), dataset.shape, dataset.classes) == (50, 10, (4096,), 20)
    torch.testing.assert_close(dataset.train.x.norm(dim=1), torch.ones(50))
    assert (dataset.train.x > 0).any(0).sum() == 9  # neither the header's words nor those of the test data
    assert sorted((test.x > 0).sum(1).tolist()) == [1, 2]


def test_missing_newsgroups_say_where_they_go(tmp_path, no_network):
    with pytest.raises(DataError, match=r"20 newsgroups is not in .*20news and could not be downloaded"):
        load_data(DataSpec(name="newsgroups"), tmp_path, 0)
    assert list(tmp_path.iterdir()) == []


def test_wide_has_few_features_that_tell_something(tmp_path):
    spec = DataSpec(name="wide", validation=0.25)
    dataset, test = load_data(spec, tmp_path, 0), load_test(spec, tmp_path)
    assert (len(dataset.train), len(dataset.val), len(test)) == (750, 250, 2000)
    assert dataset.shape == DATASET_SHAPES["wide"]
    means = torch.stack([test.x[test.y == label].mean(0) for label in range(dataset.classes)])
    spread = means.std(0)
    told = spread > 3 * spread[sources.WIDE_INFORMATIVE :].mean()
    assert told[: sources.WIDE_INFORMATIVE].float().mean() >= 0.8
    assert not told[sources.WIDE_INFORMATIVE :].any()


def test_every_data_set_has_a_source():
    assert set(sources.SOURCES) == set(DATASET_SHAPES)


def test_how_inputs_are_made_can_be_told():
    told = {name: source.preparation for name, source in sources.SOURCES.items()}
    assert told["digits"] == "The pixels' values, 0 to 16, divided by 16"
    assert told["mnist"] == "The pixels' values, 0 to 255, divided by 255, less 0.1307, divided by 0.3081"
    assert told["cifar10"].endswith("divided by 0.247, 0.2435, 0.2616 by colour (red, green, blue)")
