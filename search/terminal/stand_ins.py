"""For terminals and pipes whose encoding lacks our few symbols: each has a stand-in in ASCII. Knows no layout."""

import codecs
import io
from typing import TextIO

_STAND_INS = {
    **dict(zip("▁▂▃▄▅▆▇█", "_.-:=+*#", strict=True)),
    "░": ".",
    "×": "x",
    "·": "|",
    "…": ".",
    "±": "~",
}
_ERRORS = "regsearch"


def readable(stream: TextIO) -> None:
    """Have a stream write stand-ins for what its encoding lacks, where Python would raise UnicodeEncodeError."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=_ERRORS)


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_STAND_INS.get(symbol, "?") for symbol in error.object[error.start : error.end]), error.end


codecs.register_error(_ERRORS, _stand_in)
