"""Text from elsewhere, a database, a server or an error message, as a terminal shows it and does not obey it."""

import re
from collections.abc import Sequence

# Control characters but for tabs and line ends, by which a terminal is told to do things, in 7 bits or 8; marks that
# turn the direction of what follows, which then reads as something else; halves of surrogate pairs, no character.
_ACTIVE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


_LONGEST = 20_000
"""Characters of a message, or of a text from elsewhere."""


def shortened(text: str, most: int = _LONGEST) -> str:
    """Return the beginning of a text, and how much more there is of it; all of one that is no longer than that."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text) - most:,} characters more)"


def enumerated(names: Sequence[str], most: int = 20) -> str:
    """Return names behind each other, and of many how many more there are."""
    told = ", ".join(shortened(name, 100) for name in names[:most])
    return told if len(names) <= most else f"{told} and {len(names) - most:,} more"


def printable(text: str) -> str:
    """Return the text with an escape, such as `\\x1b`, in the place of every character that is more than shown."""
    return _ACTIVE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def mask_password(url: str) -> str:
    """Return the URL with every password in it replaced by `***`."""
    # Up to the last @: a password may hold one, and showing less is the safe mistake.
    url = re.sub(r"(://[^:/?#@]*):.*@", r"\1:***@", url)
    return re.sub(r"((?:password|passwd|pwd)=)[^&\s]*", r"\1***", url, flags=re.IGNORECASE)
