"""What is wrong with a study file, in lines that its author can act on: key, value and the way out.

Turns pydantic's findings into those lines, and lets the spec's own checks report findings the same way, so that all
problems of a file come out together. Knows how a spec is validated, but no field of it.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from search.errors import did_you_mean
from search.spec.parameters import OWN

Location = tuple[int | str, ...]

MOST_FINDINGS = 50
"""More are only counted: whoever mends so many looks again."""
_LONGEST_VALUE = 60  # characters of a value that a message repeats: enough to find it in the file

# What a value must be, by pydantic's type of finding; the limits come from the finding's context.
_MUST = {
    "value": "{text}",
    "bool_type": "must be true or false",
    "finite_number": "must be a finite number",
    "float_type": "must be a finite number",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_type": "must be a whole number",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "model_type": "must be a table, as in [{key}]",
    "string_too_long": "must have at most {max_length} characters",
    "string_type": "must be text in quotes",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least one entry, as in [128, 64]",
    "tuple_type": "must be a list, as in [128, 64]",
}


def bad_value(text: str) -> PydanticCustomError:
    """Return the finding that is told as `key = value: text`."""
    return PydanticCustomError("value", "{text}", {"text": text})


def bad_key(text: str) -> PydanticCustomError:
    """Return the finding that is told as `key text`, for keys that should not be there, or are missing."""
    return PydanticCustomError("key", "{text}", {"text": text})


class Findings:
    """Collects findings inside one pydantic validator, each at a place below the validated field."""

    def __init__(self) -> None:
        self._details: list[InitErrorDetails] = []

    def __len__(self) -> int:
        return len(self._details)

    def add(self, finding: PydanticCustomError, place: Location, value: object = None) -> None:
        """Note that `value` at `place` is wrong."""
        self._details.append(InitErrorDetails(type=finding, loc=place, input=value))

    def raise_any(self) -> None:
        """Raise all that was found; pydantic puts the field's own place in front."""
        if self._details:
            raise ValidationError.from_exception_data("findings", self._details)


def not_a_field(word: str, known: Iterable[str]) -> str:
    """Return `is not a field`, with the nearest of the `known` ones, or all of them when none is near."""
    known = list(known)
    return "is not a field" + (did_you_mean(word, known) or f"; known are {', '.join(known)}")


def as_lines(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return a line for each of the first findings in `error`, which came from validating a `model`."""
    details = [detail for detail in error.errors(include_url=False) if not _follows(detail)]
    lines = [_line(detail, model) for detail in details[:MOST_FINDINGS]]
    return [*lines, f"and {more:,} problems more"] if (more := len(details) - MOST_FINDINGS) > 0 else lines


def as_toml(value: object) -> str:
    """Write a value as it would stand in a study file, shortened when it is long."""
    text = _toml(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def _follows(detail: ErrorDetails) -> bool:
    """Tell whether this follows from another finding: a default that was not made, a list short of its bad entries."""
    if detail["type"] == "too_short":
        return len(detail["input"]) > 0
    return detail["type"] == "default_factory_not_called"


def _line(detail: ErrorDetails, model: type[BaseModel]) -> str:
    place, kind = detail["loc"], detail["type"]
    key = _dotted(place)
    match kind:
        case "missing":
            return f"{key} is missing; add {_addition(place)}"
        case "extra_forbidden":
            word, home = str(place[-1]), _section_with(str(place[-1]), model)
            if home is not None:
                return f"{key} is not a field here; it belongs to [{home}]"
            return f"{key} {not_a_field(word, _fields(model, place[:-1]))}"
        case "key":
            return f"{key} {detail['ctx']['text']}"
        case _:
            return f"{key} = {as_toml(detail['input'])}: {_must(detail, key)}"


def _must(detail: ErrorDetails, key: str) -> str:
    context = detail.get("ctx", {})
    if detail["type"] == "literal_error":
        # What comes by Python is nothing that a file may say.
        choices = [name for name in re.findall(r"'([^']*)'", context["expected"]) if name != OWN]
        return f"must be one of {', '.join(choices)}{did_you_mean(as_toml(detail['input']), choices)}"
    template = _MUST.get(detail["type"])
    return template.format(key=key, **context) if template else detail["msg"]


def _addition(place: Location) -> str:
    return f"a table [{place[0]}]" if len(place) == 1 else f"it to [{_dotted(place[:-1])}]"


def _fields(model: type[BaseModel], place: Location) -> list[str]:
    """Return the fields of the section of `model` that stands at `place`."""
    for name in place:
        section: Any = model.model_fields[str(name)].annotation
        model = section
    return list(model.model_fields)


def _section_with(field: str, model: type[BaseModel], place: Location = ()) -> str | None:
    """Return the section of `model`, as `search.pruner`, that has such a field or section; None when none has it."""
    for name, info in model.model_fields.items():
        section: Any = info.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            if field in section.model_fields:
                return _dotted((*place, name))
            if (inner := _section_with(field, section, (*place, name))) is not None:
                return inner
    return None


def _dotted(place: Location) -> str:
    """Write a place as a key: `space.dropout.high`, `model.hidden[0]`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{_bare(part)}" for part in place]
    return "".join(parts).removeprefix(".") or "spec"


def _bare(key: str) -> str:
    return key if len(key) <= _LONGEST_VALUE and re.fullmatch(r"[A-Za-z0-9_-]+", key) else as_toml(key)


def _toml(value: object, depth: int = 0) -> str:
    match value:
        case str() | bool():
            return json.dumps(value)  # escapes control characters, which must not reach a terminal
        case Mapping() | list() | tuple() if depth == _LONGEST_VALUE:
            return "..."  # what is inside would not be shown, and Python's stack has an end
        case Mapping():
            items = (f"{_bare(str(key))} = {_toml(item, depth + 1)}" for key, item in value.items())
            return "{" + ", ".join(items) + "}"
        case list() | tuple():
            return "[" + ", ".join(_toml(item, depth + 1) for item in value) + "]"
        case int() if abs(value) >= 10**_LONGEST_VALUE:
            return "a very large number"  # Python refuses to print integers of more than 4300 digits
        case _:
            return str(value)
