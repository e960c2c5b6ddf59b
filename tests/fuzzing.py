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


TRAPS = [
    *("-rf", "~x", "CON", "a*?", "a:b", "x.", "mlflow", "..", "../../x", "/etc/passwd", "a/../b", "x" * 5000),
    *("a\0b", "\x1b[31m", "\x9b2J", "a\rb", "a\nregsearch: done", "a\u2028b", "\u202e", "\u061c", "\u200f", "\u2066x"),
    *("a\u200bb", "\U000e0041", "\ud800", "\udfff\ud800", "e\u0301", "\ufeff", "[red]", "<img src=x>", "[x](//y)"),
]
"""Names that shells, file systems, terminals and pages take for more than names."""
WORDS = st.sampled_from(["", " ", "é" * 200, "漢字" * 60, "nan", "own"]) | st.sampled_from(TRAPS) | st.text(max_size=20)
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
        place = draw(st.sampled_from(places(document)))
        document = _with(document, place, draw(st.sampled_from(["value", "gone", "renamed", "added"])), draw)
    return document


def places(document: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the place of each table, list and value in a document, the document's own first, as keys from above."""
    items = {}
    if isinstance(document, dict | list):
        items = document if isinstance(document, dict) else dict(enumerate(document))
    return [above, *(place for key, value in items.items() for place in places(value, (*above, key)))]


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


MOST_BYTES = 1_000_000
"""Of files that are made large on purpose."""
_COUNTS = st.integers(1, 300) | st.integers(1, MOST_BYTES)


@st.composite
def repeated(draw: st.DrawFn, unit: str, most: int = MOST_BYTES, between: str = "") -> str:
    """Return a text many times, a hundred or a million bytes of it; `{i}` in it is another number each time."""
    length = len(unit.encode("utf-8", "surrogatepass")) + len(between)
    if "{i}" not in unit:
        return between.join([unit] * min(draw(_COUNTS), most // length))
    count = min(draw(_COUNTS), most // (length + 4))
    return between.join(unit.replace("{i}", str(i)) for i in range(count))


LONG_TEXTS = ["x", "\\u202e", "\\ud800", "\\u001b[2J", "a\\n", "漢"]
SMALL = [
    "0",
    "1e308",
    "NaN",
    "-Infinity",
    "null",
    "[]",
    "{}",
    '""',
    '"{i}"',
    '"\\u202e{i}"',
    "{i}",
    '{"a": {i}}',
    "[[{i}]]",
]


@st.composite
def large_json(draw: st.DrawFn, most: int = MOST_BYTES) -> str:
    """Return a JSON value as text: long, deep, wide, or only odd."""
    match draw(st.sampled_from(["odd", "text", "digits", "lists", "tables", "list", "table"])):
        case "odd":
            return json.dumps(draw(VALUES))
        case "text":
            return f'"{draw(repeated(draw(st.sampled_from(LONG_TEXTS)), most))}"'
        case "digits":
            return draw(st.sampled_from(["", "0.", "-1e"])) + draw(repeated("9", most))
        case "lists":
            opened = draw(repeated("[", most // 2))
            return opened + "]" * len(opened)
        case "tables":
            opened = draw(repeated('{"a":', most * 5 // 6))
            return f"{opened}0{'}' * (len(opened) // 5)}"
        case "list":
            return f"[{draw(repeated(draw(st.sampled_from(SMALL)), most, ','))}]"
        case _:
            entry = json.dumps(draw(WORDS))[:-1] + '{i}": ' + draw(st.sampled_from(SMALL))
            return f"{{{draw(repeated(entry, most, ','))}}}"
