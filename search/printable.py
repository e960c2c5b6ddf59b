"""Text from elsewhere, a database, a server or an error message, as a terminal shows it and does not obey it."""

import re
from collections.abc import Sequence
from urllib.parse import unquote

# Control characters but for tabs and line ends, by which a terminal is told to do things, in 7 bits or 8; marks that
# turn the direction of what follows or separate lines; characters that nobody sees; halves of surrogate pairs.
_ACTIVE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e"
    r"\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U0001bca0-\U0001bca3\U000e0000-\U000e0fff]"
    # Persian, Indian scripts and emoji are written with joiners; after a letter of ours one only hides.
    r"|(?<![^\x00-\x7f])[\u200c\u200d]"
)
_LINE_ENDS = re.compile(r"[\t\n]")
_SECRET = re.compile(r"pass|pwd|secret|token|credential|api_?key", re.IGNORECASE)
_ASSIGNED_SECRET = re.compile(rf"(?:{_SECRET.pattern})[\w.-]{{0,50}}=", re.IGNORECASE)
_ASSIGNED = re.compile(r"(?<![^\s?&;='\"])([^\s?&;='\"]+)=('[^']*'|\"[^\"]*\"|[^&\s]*)")


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
    return _ACTIVE.sub(_escape, text)


def one_line(text: str) -> str:
    """Return text that belongs on a line, such as a host's name, so that it stays there: line ends are escaped too."""
    return _LINE_ENDS.sub(_escape, printable(text))


def first_line(error: BaseException | str) -> str:
    """Return the first line of what an error says, or its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def mask_password(url: str) -> str:
    """Return the URL with every password in it replaced by `***`."""
    # Up to the last @: a password may hold one, and showing less is the safe mistake.
    return mask_assignments(re.sub(r"(://[^:/?#@]*:).*@", r"\1***@", url))


def mask_assignments(text: str) -> str:
    """Return text with `***` in the place of every value that is a secret or holds one, by the words about it.

    `sslpassword=x` is one, and so is `options=-c%20app.token%3Dx`, encoded once or twice.
    """
    return _ASSIGNED.sub(_mask_in_url, text)


def secret_values(assigned: str) -> set[str]:
    """Return the secrets among assignments such as `-c app.token=x`, without their names."""
    return {value.strip("'\"") for name, value in _ASSIGNED.findall(assigned) if is_secret(name)} - {""}


def is_secret(name: str) -> bool:
    """Return whether a parameter of this name, percent-encoded or not, holds a secret."""
    return _SECRET.search(_decoded(name)) is not None


def _decoded(text: str) -> str:
    return unquote(unquote(text))


def _mask_in_url(found: re.Match[str]) -> str:
    name, value = found.groups()
    if "://" in value and not is_secret(name):  # `--storage=URL`: a parameter of the URL may be one
        return f"{name}={_ASSIGNED.sub(_mask_assigned, value)}"
    return _mask_assigned(found)


def _mask_assigned(found: re.Match[str]) -> str:
    name, value = found.groups()
    return f"{name}=***" if is_secret(name) or _ASSIGNED_SECRET.search(_decoded(value)) else found[0]
