"""The Ray cluster of this machine: the one that its user, or the administrator, has begun with `ray start`.

Ray would also join one that anybody else names: by its file in a folder that all users write to, or by a process that
only looks like Ray's. To join a cluster is to run what it sends, so its address must come from somebody trusted.
"""

import os
import stat
import tempfile
from pathlib import Path

from search.errors import UsageError

_LONGEST_ADDRESS = 300


def ray_folder() -> str:
    """Return the folder in which Ray makes its own, as Ray finds it."""
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()


def cluster_of_this_machine() -> str | None:
    """Return the address that `ray start` has written down, None where there is none.

    Raises UsageError when others could have written it.
    """
    path = Path(ray_folder()) / "ray" / "ray_current_cluster"
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _not_trusted(path, f"it cannot be read: {error.strerror}") from error
    with open(file, encoding="utf-8", errors="replace") as opened:
        state = os.fstat(file)
        if not stat.S_ISREG(state.st_mode):
            raise _not_trusted(path, "it is no file")
        if state.st_uid not in (0, os.getuid()):
            raise _not_trusted(path, f"it belongs to user {state.st_uid}")
        if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise _not_trusted(path, "others can write to it")
        return opened.read(_LONGEST_ADDRESS).strip() or None


def _not_trusted(path: Path, why: str) -> UsageError:
    return UsageError(
        f"{path} names this machine's Ray cluster, and {why}. A cluster that is joined can run code here, so name the "
        "one that you trust by its address: --ray HOST:PORT; --ray local starts another"
    )
