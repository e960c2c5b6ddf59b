"""CIFAR-10's batches are parsed, and never unpickled: numbers come of them or an error, whatever is in a file."""

import pickle
import random
import struct
import subprocess
import sys

import numpy as np
import pytest
from fuzzing import LONG
from small_data import small_cifar10

from search.training.cifar import NotABatchError, read_batch

IMAGES = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 3072)


class Call:
    """What a pickle calls when it is read."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def batch(**changes) -> bytes:
    """Return a batch as Python 2 wrote it, with what it remembers, and parts of it changed."""
    parts = {
        "shape": b"K\x02M\x00\x0c\x86",
        "type": b"cnumpy\ndtype\nq\x0bU\x02u1q\x0cK\x00K\x01\x87q\rRq\x0e(K\x03U\x01|q\x0fNNN"
        + b"J\xff\xff\xff\xff" * 2,
        "pixels": b"T" + struct.pack("<i", IMAGES.size) + IMAGES.tobytes(),
        "labels": b"](K\x07K\x09e",
        "key": b"U\x04data",
        "maker": b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85q\x08U\x01bq\t\x87q\nR",
    } | changes
    array = parts["maker"] + b"(K\x01" + parts["shape"] + parts["type"] + b"K\x00tq\x10b\x89" + parts["pixels"] + b"tb"
    return (
        b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x16testing batch 1 of 1  " + parts["key"] + array + b"U\x06labels"
        + parts["labels"] + b"U\tfilenames](U\x05a.pngU\x05b.pngeu."
    )  # fmt: skip


def test_a_batch_is_its_pixels_and_its_labels():
    pixels, labels = read_batch(batch())
    assert np.array_equal(pixels, IMAGES)
    assert labels == [7, 9]
    ours = pickle.loads(batch(), encoding="latin1")  # the same as the reader gives that runs what files say
    assert np.array_equal(ours["data"], pixels)


def made(dtype: object, content: bytes) -> bytes:
    return pickle.dumps({"data": Call(np.ndarray, ((1, 3072), dtype, content)), "labels": [0]}, 2)


FIELDS = Call(np.dtype, ("V8", 0, 1), (3, "|", None, ("a",), {"a": (np.dtype("u1"), 1 << 30)}, 8, 1, 0))
HOSTILE = {
    "pointers": made("O", (0x4141414141410000).to_bytes(8, "little") * 3072),
    "foreign memory": made(FIELDS, b"A" * 8 * 3072),
    "objects in an array": batch(type=b"cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R(K\x03U\x01|NNN" + b"K\x01" * 2),
    "wide numbers": batch(type=b"cnumpy\ndtype\nU\x02u8K\x00K\x01\x87R(K\x03U\x01<NNN" + b"K\x01" * 2),
    "a shape of its own": batch(shape=b"K\x01K\x07\x86"),
    "a negative shape": batch(shape=b"J\xff\xff\xff\xffJ\x00\xf4\xff\xff\x86"),
    "a huge shape": batch(shape=b"J\xff\xff\xff\x7fM\x00\x0c\x86"),
    "fewer labels": batch(labels=b"](K\x07e"),
    "labels that are text": batch(labels=b"](K\x07U\x01ae"),
    "a negative label": batch(labels=b"](K\x07J\xff\xff\xff\xffe"),
    "no data": batch(key=b"U\x04date"),
    "a key without hash": batch(key=b"]"),
    "a key as deep as the stack": batch(key=b")" + b"\x85" * 1_000_000),
    "a command": batch(labels=b"cos\nsystem\n(U\x06exit 1tR"),
    "NumPy's own runner of code": batch(maker=b"cnumpy.testing._private.utils\nrunstring\nU\x01a}\x86R"),
    "a call of the array": batch(labels=b"cnumpy\nndarray\n(K\x05tR"),
    "a number without end": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1),
    "a place in memory": b"\x80\x02}r\xff\xff\xff\xff.",
    "nothing remembered": b"\x80\x02h\x05.",
    "text alone": b"\x80\x02U\x01a.",
    "nothing": b"",
    "an end alone": b".",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_anything_but_bytes_and_labels_is_refused(content):
    with pytest.raises(ValueError, match=r"."):
        read_batch(content)


def test_a_refusal_names_what_has_no_place_there():
    with pytest.raises(NotABatchError, match=r"os\.system has no place in a data set"):
        read_batch(HOSTILE["a command"])


CHILD = """
import resource, sys
from test_cifar import mutations, read_batch
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for content in mutations(int(sys.argv[1]), int(sys.argv[2])):
    try:
        pixels, labels = read_batch(content)
    except ValueError:
        continue
    assert pixels.dtype == "u1" and pixels.shape == (len(labels), 3072), (pixels.dtype, pixels.shape)
    assert all(0 <= label < 256 for label in labels)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
assert grown < 100, f"{grown} MB"
"""


def mutations(count: int, seed: int):
    """Give batches with a few bytes changed, mostly of those that are operations."""
    chance, whole = random.Random(seed), batch()
    operations = [i for i in range(len(whole)) if not 200 < i < len(whole) - 60]
    for _ in range(count):
        content = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            place = min(chance.choice(operations), len(content) - 1)
            match chance.randrange(4):
                case 0:
                    content[place] = chance.randrange(256)
                case 1:
                    content[place : place + chance.randint(1, 6)] = b""
                case 2:
                    content[place:place] = bytes(chance.choices(b"}])(0tRbeuosaj\x85\x86\x87\x93\x94q\x01cOU", k=8))
                case 3:
                    content[place:place] = content[place : place + chance.randint(1, 40)] * chance.randint(1, 9)
        yield bytes(content)


def test_changed_bytes_crash_no_process_and_fill_no_memory():
    """Seen from outside: what unpickling such files did ended the process without a word."""
    seed = random.randrange(2**31) if LONG else 0
    given = [str(10_000 if LONG else 1_000), str(seed)]
    done = subprocess.run([sys.executable, "-c", CHILD, *given], cwd=__file__.rpartition("/")[0], capture_output=True)
    assert done.returncode == 0, (seed, done.returncode, done.stderr.decode()[-2000:])


def test_a_whole_file_of_the_small_data_set_is_read(tmp_path):
    small_cifar10(tmp_path)
    pixels, labels = read_batch((tmp_path / "cifar-10-batches-py/test_batch").read_bytes())
    assert pixels.shape == (6, 3072)
    assert labels == [0, 1, 2, 3, 4, 5]
