"""What a storage holds as our own types. Others may write to a shared one, so nothing in it is taken for granted.

What is not as regsearch writes it is a StorageError. Text becomes printable and parameters stay within their limits
here, so that whoever prints, draws or computes need not think of it again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter

from search.errors import SpecError, StorageError
from search.printable import printable
from search.records import ModelNoise, Params
from search.spec import parameter_of

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_LONGEST_REASON = 200
MISREAD = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading raises, Optuna's reading included, where values are of other kinds than they should be."""


@contextmanager
def as_written(subject: str) -> Iterator[None]:
    """Raise StorageError where what is read inside is not as regsearch writes it."""
    try:
        yield
    except MISREAD as error:
        raise StorageError(
            f"{subject} holds what regsearch does not write ({describe_misread(error)}); whoever can write to it may "
            "have changed it: name another --study, or another --storage (should it be a mistake of regsearch's own, "
            "REGSEARCH_DEBUG=1 tells where)"
        ) from error


def legible(names: Iterable[str], read: Callable[[str], _T]) -> Iterator[_T]:
    """Give what is read of each study; one that is not as regsearch writes it is left out, and that is said."""
    for name in names:
        try:
            yield read(name)
        except (SpecError, *MISREAD) as error:
            _log.warning(
                'study "%s" is left out, it holds what regsearch does not write (%s)', name, describe_misread(error)
            )


def describe_misread(error: Exception) -> str:
    """Return what is wrong with something that was read, on a line that a terminal can show."""
    return printable(" ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_REASON])


def read_as(kind: type[_T], value: Any) -> _T:
    """Return a JSON value as a dataclass, or as another type that pydantic knows. Raises ValueError."""
    hashable: Any = kind
    told: _T = _adapter(hashable).validate_python(value)
    return told


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read_params(value: Any) -> Params:
    """Return a configuration: known parameters, each with a number within its limits. Raises ValueError, KeyError."""
    params = read_as(dict[str, int | float], value)
    for name, number in params.items():
        row = parameter_of(name)
        if not row.low <= number <= row.high:
            raise ValueError(f"{name} = {number}")
    return params


def read_text(value: Any) -> str | None:
    """Return text that a terminal can show; None where there is none. Raises ValueError."""
    return None if value is None else printable(read_as(str, value))


def read_texts(texts: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return texts by name so that a terminal can show them; none where nothing is kept."""
    return {printable(name): printable(text) for name, text in (texts or {}).items()}


def read_noise(noise: ModelNoise | None) -> ModelNoise | None:
    """Return the noise of a model so that a terminal can show it; None where nothing is kept."""
    if noise is None:
        return None
    functional, unknown = (tuple(map(printable, names)) for names in (noise.functional, noise.unknown))
    return ModelNoise(read_texts(noise.layers), functional, unknown)
