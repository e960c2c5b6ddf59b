"""A parser of CIFAR-10's batches, which are pickles of Python 2. It is no unpickler: it calls nothing that files name.

A batch is a dict with an array of bytes under `data`, one row an image, and a list of whole numbers under `labels`. Of
pickle's operations those are known that write such a dict, and of its values dicts, lists, tuples, text and numbers.
An array is never made as its file describes it: its bytes are taken as bytes, once their number fits the shape.
"""

import pickletools
from collections.abc import Callable
from enum import Enum
from math import prod
from typing import Any

import numpy as np

from search.spec import DATASET_SHAPES

_ROW = prod(DATASET_SHAPES["cifar10"])


class NotABatchError(ValueError):
    """The file holds something else than a batch of images."""


class _Name(Enum):
    """All that a batch may name, as `GLOBAL` writes it."""

    RECONSTRUCT = "numpy.core.multiarray _reconstruct"
    NDARRAY = "numpy ndarray"
    DTYPE = "numpy dtype"


class _Bytes:
    """The type of the array's elements."""


class _Array:
    """An array that is announced, and later has its pixels."""

    pixels: np.ndarray | None = None


class _Mark:
    """Where on the stack a list, a tuple or pairs for a dict begin."""


def read_batch(content: bytes) -> tuple[np.ndarray, list[int]]:
    """Return images [n, 3072] as bytes, and as many labels. Raises ValueError for anything else."""
    batch = _Parser().parse(content)
    array, labels = (batch.get(key) for key in ("data", "labels")) if type(batch) is dict else (None, None)
    pixels = array.pixels if type(array) is _Array else None
    if pixels is None or type(labels) is not list:
        raise NotABatchError("it has no images, or no labels")
    if len(labels) != len(pixels) or not all(type(label) is int and 0 <= label < 256 for label in labels):
        raise NotABatchError("its labels are not one whole number for each image")
    return pixels, labels


class _Parser:
    """The stack of a pickle, and what it remembers by number."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._remembered: dict[int, Any] = {}

    def parse(self, content: bytes) -> Any:
        """Return what the whole pickle amounts to."""
        argument: Any
        for operation, argument, _ in pickletools.genops(content):
            name = operation.name
            if name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name]())
            elif name in _VALUES:
                self._stack.append(argument)
            elif name in _TUPLES:
                self._stack.append(tuple(self._pop_several(_TUPLES[name])))
            elif name in ("BINPUT", "LONG_BINPUT"):
                self._remembered[argument] = self._top()
            elif name in ("BINGET", "LONG_BINGET"):
                self._stack.append(self._recall(argument))
            elif name == "GLOBAL":
                self._stack.append(_named(argument))
            elif name in _CHANGES:
                _CHANGES[name](self)
            elif name not in ("PROTO", "STOP"):
                raise NotABatchError(f"{name} has no place in a data set")
        return self._pop()

    def _top(self) -> Any:
        if not self._stack:
            raise NotABatchError("it takes more values than it has")
        return self._stack[-1]

    def _pop(self) -> Any:
        value = self._top()
        self._stack.pop()
        return value

    def _pop_several(self, count: int) -> list[Any]:
        return [self._pop() for _ in range(count)][::-1]

    def _pop_to_mark(self) -> list[Any]:
        values = []
        while type(value := self._pop()) is not _Mark:
            values.append(value)
        return values[::-1]

    def _recall(self, number: int) -> Any:
        if number not in self._remembered:
            raise NotABatchError(f"it remembers nothing as number {number}")
        return self._remembered[number]

    def _make_tuple(self) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def _append(self) -> None:
        self._extend([self._pop()])

    def _append_several(self) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, values: list[Any]) -> None:
        if type(self._top()) is not list:
            raise NotABatchError("it appends to something else than a list")
        self._top().extend(values)

    def _set_item(self) -> None:
        self._update(self._pop_several(2))

    def _set_items(self) -> None:
        self._update(self._pop_to_mark())

    def _update(self, pairs: list[Any]) -> None:
        keys, values = pairs[::2], pairs[1::2]
        # Other keys than text are not even hashed: a deep tuple's hash has no end but the C stack's.
        if type(self._top()) is not dict or len(keys) != len(values) or any(type(key) is not str for key in keys):
            raise NotABatchError("it sets items of something else than a dict by text")
        self._top().update(zip(keys, values, strict=True))

    def _call(self) -> None:
        """Put an array, or the type of its elements, in the place of what NumPy would be called for."""
        called, arguments = self._pop_several(2)
        if called is _Name.RECONSTRUCT and type(arguments) is tuple:
            self._stack.append(_Array())
        elif called is _Name.DTYPE and type(arguments) is tuple and _is_text(arguments[:1], "u1"):
            self._stack.append(_Bytes())
        else:
            raise NotABatchError("it calls something else than NumPy's makers of arrays of bytes")

    def _build(self) -> None:
        """Give an array its pixels: a version, a shape, a type, an order and the bytes. A type stays what it is."""
        state = self._pop()
        made = self._top()
        if type(made) is _Bytes:
            return
        if type(made) is not _Array or type(state) is not tuple or len(state) != 5:
            raise NotABatchError("it builds something else than an array")
        _, shape, kind, _, text = state
        if type(kind) is not _Bytes or type(text) is not str or type(shape) is not tuple or len(shape) != 2:
            raise NotABatchError("its array is none of rows of bytes")
        if type(shape[0]) is not int or shape[0] < 1 or shape[1] != _ROW or shape[0] * _ROW != len(text):
            raise NotABatchError(f"its array has not {_ROW:,} bytes for each image")
        # `pickletools` has read the bytes as text.
        made.pixels = np.frombuffer(bytearray(text, "latin-1"), np.uint8).reshape(shape)


def _named(name: str) -> _Name:
    try:
        return _Name(name)
    except ValueError:
        raise NotABatchError(f"{name.replace(' ', '.')} has no place in a data set") from None


def _is_text(values: tuple[Any, ...], text: str) -> bool:
    return len(values) == 1 and type(values[0]) is str and values[0] == text


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": _Mark,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_VALUES = ("SHORT_BINSTRING", "BINSTRING", "BINUNICODE", "BININT", "BININT1", "BININT2")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_CHANGES: dict[str, Callable[[_Parser], None]] = {
    "TUPLE": _Parser._make_tuple,
    "APPEND": _Parser._append,
    "APPENDS": _Parser._append_several,
    "SETITEM": _Parser._set_item,
    "SETITEMS": _Parser._set_items,
    "REDUCE": _Parser._call,
    "BUILD": _Parser._build,
}
