"""Limits of study files and stored specs: a multiple of what any real one has, and little enough to be read at once.

Readers of TOML take time by the square of a key's parts, and what is wrong is looked up for each key: without limits a
small file keeps them busy for minutes. So size and keys are checked before a file is parsed, and what it holds before
it is validated.
"""

import re
from collections.abc import Mapping

MOST_BYTES = 2**18
"""Of a study file. One with 200 layers, each with a range of its own, has 20,000."""
MOST_STORED = 2**20
"""Characters of a stored spec: a model from Python may have thousands of layers with a range of their own."""
MOST_DROPOUTS = 4096
"""Dropout layers of a model from Python."""
MOST_TEXT = 10_000
"""Characters of a description."""
MOST_VALUES = 2000
"""Keys and entries of lists in a study file. One with 200 layers, each with a range of its own, has 1,300."""
MOST_STORED_VALUES = 40_000
"""Likewise of a stored spec. `MOST_DROPOUTS` layers with a range of seven keys each have 33,000."""
_MOST_PARTS = 16
_BARE, _QUOTED = r"[A-Za-z0-9_-]++", r""""(?:[^"\\\n]|\\.)*+"|'[^'\n]*+'"""
_LONG_KEY = re.compile(rf"(?:^|[\[{{,])[ \t]*+(?:(?:{_BARE}|{_QUOTED})[ \t]*+\.[ \t]*+){{{_MOST_PARTS}}}", re.MULTILINE)
"""A key of too many parts where keys may stand: in text between quotes it does no harm, unless that begins with it."""


def key_refusal(text: str) -> str | None:
    """Return why a file's keys are not read; None when they are."""
    if (found := _LONG_KEY.search(text)) is None:
        return None
    line = text.count("\n", 0, found.end()) + 1
    return f"line {line} has a key of more than {_MOST_PARTS} parts; a study's keys have at most four"


def content_refusal(given: object, most: int = MOST_VALUES) -> str | None:
    """Return why a file's content is too much for a study; None when it is not. `most` values are enough."""
    count, level = 0, [given]
    while level:
        inner: list[object] = []
        for value in level:
            inner += value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
        count += len(inner)
        if count > most:
            return f"holds more than {most:,} values; a study of 200 layers with ranges of their own has 1,300"
        level = inner
    return None
