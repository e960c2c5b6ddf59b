"""What a study may be called: its name is a folder's, part of URLs and commands, and stands on terminals and pages."""

import re
import unicodedata

from search.errors import UsageError
from search.printable import printable
from search.spec.problems import as_toml

_LONGEST_NAME = 100
_LONGEST_FILE_NAME = 220
"""In bytes. File systems take 255, and a search's log has the time and a process behind the study's name."""
_RESERVED_NAMES = ("mlflow", "optuna")
_NO_FILES = '<>:"|?*'
"""What Windows and its file servers refuse in names; two of these are patterns of shells, too."""
_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)
"""What Windows takes for a device, whatever ending it has."""


def check_study_name(name: str) -> str:
    """Return `name` when it can serve as a study's name and a folder's. Raises `UsageError` otherwise."""
    if refusal := name_refusal(name):
        raise UsageError(f"study name {as_toml(name)}: {refusal}")
    return name


def is_study_name(name: str) -> bool:
    """Return whether `check_study_name` lets a name pass."""
    return name_refusal(name) is None


def check_new_study_name(name: str) -> str:
    """Return `name` when a new study may have it; those that are there already keep theirs. Raises `UsageError`."""
    if refusal := name_refusal(name) or _trap(name):
        raise UsageError(f"study name {as_toml(name)}: {refusal}; choose another: --name NEW")
    return name


def name_refusal(name: str) -> str | None:
    """Return what a study's name must be instead, None when it is safe as a folder, on a terminal and in a URL."""
    if not name or len(name) > _LONGEST_NAME:
        return f"must have 1 to {_LONGEST_NAME} characters"
    if "/" in name or "\\" in name:
        return "must not contain a path separator"
    if not name.isprintable() or name != name.strip():
        return "must not contain control characters, nor begin or end with a space"
    if name.startswith("."):
        return "must not begin with a dot, which would hide its files"
    if len(name.encode()) > _LONGEST_FILE_NAME:
        return f"must have at most {_LONGEST_FILE_NAME} bytes, of which letters of many scripts have three each"
    if name.lower() in _RESERVED_NAMES:  # not every file system tells them apart
        return f"must be none of {', '.join(_RESERVED_NAMES)}, which are folders beside those of the studies"
    return None


def _trap(name: str) -> str | None:
    """Return what a name must be instead that is safe for regsearch, but a trap for those who handle its folder."""
    if name.startswith(("-", "~")):
        return 'must not begin with "-" or "~", which shells and their commands take for more than a name'
    if found := sorted({*name} & {*_NO_FILES}):
        return f"must not contain {' '.join(found)}: shells take it for a pattern, or other file systems refuse it"
    if name.endswith("."):
        return "must not end with a dot, which other file systems drop"
    if _DEVICE.fullmatch(name):
        return "must not be the name of a device, as other systems have them"
    if printable(name) != name:
        return "must not contain characters that nobody sees"
    if not unicodedata.is_normalized("NFC", name):
        return "must be in Unicode's composed form (NFC), in which the same letters are the same name"
    return None
