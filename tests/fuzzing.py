"""What damage is done to files and values, and how often: the short form always, the long one with REGSEARCH_LONG=1."""

import json
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

LONG = os.environ.get("REGSEARCH_LONG") == "1"


def tries(short: int, long: int) -> Callable[[Any], Any]:
    """Return a decorator: so many cases, in the short form always the same ones."""
    return settings(
        max_examples=long if LONG else short,
        derandomize=not LONG,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


WORDS = st.sampled_from(
    ["", " ", "..", "../x", "/etc/passwd", "a\0b", "\x1b[31m", "[red]", "\u202e", "é" * 200, "漢字" * 60, "nan", "own"]
) | st.text(max_size=20)
NUMBERS = (
    st.integers()
    | st.integers(-3, 300)
    | st.sampled_from([10**4000, -(10**400), 2**63, 2**64, -1, 0])
    | st.floats()
    | st.sampled_from([float("nan"), float("inf"), float("-inf"), 1e308, 5e-324, -0.0])
)
VALUES = st.recursive(
    WORDS | NUMBERS | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """Return a document of tables and lists in which something is gone, renamed, added or something else."""
    document = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.sampled_from(_places(document)))
        document = _with(document, place, draw(st.sampled_from(["value", "gone", "renamed", "added"])), draw)
    return document


def _places(document: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = {}
    if isinstance(document, dict | list):
        items = document if isinstance(document, dict) else dict(enumerate(document))
    return [above, *(place for key, value in items.items() for place in _places(value, (*above, key)))]


def _with(document: Any, place: tuple[Any, ...], change: str, draw: st.DrawFn) -> Any:
    if len(place) > 1:
        document[place[0]] = _with(document[place[0]], place[1:], change, draw)
        return document
    if not place or not isinstance(document, dict):
        return document if not place else [draw(VALUES) if i == place[0] else item for i, item in enumerate(document)]
    match change:
        case "value":
            document[place[0]] = draw(VALUES)
        case "gone":
            del document[place[0]]
        case "renamed":
            document[draw(WORDS)] = document.pop(place[0])
        case _:
            document[draw(WORDS)] = draw(VALUES)
    return document


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Return a file's content cut short, with bits flipped, with something else in it, or as nothing of the kind."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(len(content), start + 64)))
        match draw(st.sampled_from(["cut", "flip", "head", "insert", "remove", "repeat", "garbage"])):
            case "cut":
                content = content[:start]
            case "flip" if start < len(content):
                content = content[:start] + bytes([content[start] ^ draw(st.integers(1, 255))]) + content[start + 1 :]
            case "head" if content:  # where formats say what they are, and how much of it there is
                place = draw(st.integers(0, min(15, len(content) - 1)))
                content = content[:place] + bytes([draw(st.integers(0, 255))]) + content[place + 1 :]
            case "insert":
                content = content[:start] + draw(st.binary(max_size=40)) + content[start:]
            case "remove":
                content = content[:start] + content[end:]
            case "repeat":
                content = content[:end] + content[start:end] * draw(st.integers(1, 50)) + content[end:]
            case "garbage":
                content = draw(st.binary(max_size=200))
    return content
