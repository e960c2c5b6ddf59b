"""A data set is split once, the test split is the same for everyone, and files are trusted only after a checksum.

MNIST is read by torchvision's own loader, from small files in its format; the real files where they are at hand.
"""

import hashlib
import os
import struct
from pathlib import Path

import pytest
import torch

from search.errors import DataError
from search.spec import DataSpec
from search.training import files
from search.training.data import load_data, load_test
from search.training.files import MNIST_FILES

DIGITS = DataSpec(name="digits")
MNIST = DataSpec(name="mnist")
TRAIN, TEST = 60, 10


def rows(x: torch.Tensor) -> list[bytes]:
    return sorted(row.numpy().tobytes() for row in x.reshape(len(x), -1))


def idx(values: torch.Tensor) -> bytes:
    """Return bytes in the format of LeCun's files: a magic number, the sizes, the values."""
    return struct.pack(f">I{values.dim()}I", 0x800 + values.dim(), *values.shape) + bytes(values.flatten().tolist())


@pytest.fixture
def mnist(tmp_path, monkeypatch) -> Path:
    """A data folder with a small MNIST, whose checksums are the ones to expect."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        images = torch.randint(256, (count, 28, 28), generator=generator)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(torch.arange(count) % 10))
    contents = {name: (raw / name).read_bytes() for name in MNIST_FILES}
    expected = {name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in contents.items()}
    monkeypatch.setattr(files, "MNIST_FILES", expected)
    return tmp_path


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
    with pytest.raises(DataError, match=r"data\.validation = 0\.9999 leaves 0 training examples"):
        load_data(DataSpec(name="digits", validation=0.9999), tmp_path, 0)


def test_the_training_sample_is_part_of_the_training_data(tmp_path):
    dataset = load_data(DIGITS, tmp_path, 0)
    assert len(dataset.train_sample) == len(dataset.val)
    assert set(rows(dataset.train_sample.x)) <= set(rows(dataset.train.x))


def test_mnist_is_read_from_its_files(mnist, no_network):
    dataset, test = load_data(MNIST, mnist, 0), load_test(MNIST, mnist)
    assert (len(dataset.train), len(dataset.val), len(test)) == (50, 10, TEST)
    assert dataset.train.x.shape[1:] == (28, 28)
    assert dataset.shape == (28, 28)
    assert test.y.tolist() == list(range(10))
    pixel = (mnist / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16]
    assert test.x[0, 0, 0].item() == pytest.approx((pixel / 255 - 0.1307) / 0.3081, rel=1e-5)


def test_searching_never_decodes_test_images(mnist, monkeypatch):
    from torchvision.datasets import mnist as torchvision_mnist

    opened = []
    read = torchvision_mnist.read_sn3_pascalvincent_tensor
    monkeypatch.setattr(
        torchvision_mnist,
        "read_sn3_pascalvincent_tensor",
        lambda path, strict=True: (opened.append(Path(path).name), read(path, strict))[1],
    )
    load_data(MNIST, mnist, 0)
    assert opened == ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]
    load_test(MNIST, mnist)
    assert opened[2:] == ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


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


def test_the_real_mnist(real_mnist):
    dataset = load_data(MNIST, real_mnist, 0)
    assert (len(dataset.train), len(dataset.val)) == (50_000, 10_000)
    assert dataset.train.x.mean().item() == pytest.approx(0, abs=0.01)
    assert dataset.train.x.std().item() == pytest.approx(1, abs=0.01)
    assert len(dataset.train_sample) == 4096
    test = load_test(MNIST, real_mnist)
    assert len(test) == 10_000
    assert test.y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
