"""What a storage holds as our own types. Others may write to a shared one, so nothing in it is taken for granted.

What is not as regsearch writes it is a StorageError. Text becomes printable and parameters stay within their limits
here, so that whoever prints, draws or computes need not think of it again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from search.errors import DamagedError, SpecError, StorageError
from search.printable import one_line, printable, shortened
from search.records import ModelNoise, Params
from search.spec import parameter_of

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_LONGEST_REASON = 200
_MOST_TEXTS = 5000
_MOST_ENTRIES = 30_000
"""The runs of a confirmation of 30 configurations with 1,000 seeds; to check more takes seconds."""
_MOST_LEFT_OUT = 20
MISREAD = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading raises, Optuna's reading included, where values are of other kinds than they should be."""


@contextmanager
def as_written(subject: str, advice: str = "") -> Iterator[None]:
    """Raise StorageError where what is read inside is not as regsearch writes it; with advice what to do then."""
    try:
        yield
    except MISREAD as error:
        raise StorageError(
            f"{subject} holds what regsearch does not write ({describe_misread(error)}); whoever can write to it may "
            f"have changed it: {advice}name another --study, or another --storage (should it be a mistake of "
            "regsearch's own, REGSEARCH_DEBUG=1 tells where)"
        ) from error


def legible(names: Iterable[str], read: Callable[[str], _T]) -> Iterator[_T]:
    """Give what is read of each study; one that is not as regsearch writes it is left out, and that is said."""
    left_out = 0
    for name in names:
        try:
            yield read(name)
        except (DamagedError, SpecError, *MISREAD) as error:
            left_out += 1
            if left_out <= _MOST_LEFT_OUT:
                _log.warning(
                    'study "%s" is left out, it holds what regsearch does not write (%s)', name, describe_misread(error)
                )
    if left_out > _MOST_LEFT_OUT:
        _log.warning("%d studies more are left out", left_out - _MOST_LEFT_OUT)


def describe_misread(error: Exception) -> str:
    """Return what is wrong with something that was read, on a line that a terminal can show."""
    text = _first_finding(error) if isinstance(error, ValidationError) else str(error)
    return one_line(" ".join(f"{type(error).__name__}: {text[: 10 * _LONGEST_REASON]}".split())[:_LONGEST_REASON])


def _first_finding(error: ValidationError) -> str:
    """Return the beginning of what pydantic says, whose text of all findings is many times as long as what it read."""
    count = error.error_count()
    if count <= _MOST_LEFT_OUT:
        return str(error)
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{count} validation errors, {'.'.join(map(str, first['loc']))}: {first['msg']}"


def read_as(kind: type[_T], value: Any) -> _T:
    """Return a JSON value as a dataclass, or as another type that pydantic knows. Raises ValueError."""
    for entries in value.values() if isinstance(value, dict) else [value]:
        if isinstance(entries, list | dict) and len(entries) > _MOST_ENTRIES:
            raise ValueError(f"{len(entries):,} entries, and at most {_MOST_ENTRIES:,} are read")
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
    return None if value is None else printable(shortened(read_as(str, value)))


def read_line(value: Any) -> str | None:
    """Return text that stays on its line on a terminal; None where there is none. Raises ValueError."""
    return None if value is None else one_line(shortened(read_as(str, value)))


def read_texts(texts: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return lines by name so that a terminal can show them; none where nothing is kept."""
    some = islice((texts or {}).items(), _MOST_TEXTS)
    return {one_line(shortened(name)): one_line(shortened(text)) for name, text in some}


def read_noise(noise: ModelNoise | None) -> ModelNoise | None:
    """Return the noise of a model so that a terminal can show it; None where nothing is kept."""
    if noise is None:
        return None
    functional, unknown = (tuple(map(one_line, names)) for names in (noise.functional, noise.unknown))
    return ModelNoise(read_texts(noise.layers), functional, unknown)
