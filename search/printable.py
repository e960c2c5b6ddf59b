"""Text from elsewhere, a database, a server or an error message, as a terminal shows it and does not obey it."""

import re

# Control characters but for tabs and line ends, by which a terminal is told to do things, in 7 bits or 8; marks that
# turn the direction of what follows, which then reads as something else; halves of surrogate pairs, no character.
_ACTIVE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return the text with an escape, such as `\\x1b`, in the place of every character that is more than shown."""
    return _ACTIVE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def mask_password(url: str) -> str:
    """Return the URL with every password in it replaced by `***`."""
    # Up to the last @: a password may hold one, and showing less is the safe mistake.
    url = re.sub(r"(://[^:/?#@]*):.*@", r"\1:***@", url)
    return re.sub(r"((?:password|passwd|pwd)=)[^&\s]*", r"\1***", url, flags=re.IGNORECASE)
