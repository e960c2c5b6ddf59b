"""Folders whose files belong together: all of them are there or none, whenever the process is killed.

The files are written into a folder that nobody takes for the result, `.NAME.RANDOM.part`. It is locked as long as its
process lives, so that what a killed one has left is recognized and removed by the next.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_DAY = 86_400.0
_SHORTENED = 40
"""Characters of a folder's name that the unfinished one's has: the whole could be too long with more around it."""


@contextmanager
def whole_folder(path: Path, last: str | None = None) -> Iterator[Path]:
    """Yield a folder to write files into; once the block has ended, they are in `path`. Raises OSError.

    A new folder is renamed as a whole. One that is there stays, since it may be a mount point or somebody's working
    directory: the files are moved into it, in the place of those of the same names, and `last` is the last of them.
    """
    is_new = not os.path.lexists(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path)
    folder = (path.parent if is_new else path) / f".{path.name[:_SHORTENED]}.{secrets.token_hex(8)}.part"
    folder.mkdir()
    with _held(folder):
        try:
            yield folder
            if is_new:
                os.rename(folder, path)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if not is_new:  # as long as the unfinished folder is there, what lies beside it may not be all
            for file in sorted(folder.iterdir(), key=lambda file: file.name == last):
                os.replace(file, path / file.name)
            folder.rmdir()


def remove_unfinished(path: Path, files: Collection[str] = ()) -> None:
    """Remove what processes that were killed have left of `path`: beside it and in it.

    Those of `files` that one of them has moved to `path` already are removed as well.
    """
    pattern = f".{glob.escape(path.name[:_SHORTENED])}.{'[0-9a-f]' * 16}.part"
    for folder in path.parent.glob(pattern):
        if _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
    for folder in path.glob(pattern):
        if _is_abandoned(folder):
            for name in files:
                (path / name).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)


def remove_old(place: Path, prefix: str) -> None:
    """Remove temporary folders whose processes were killed, on whatever machine: none is in use for a day."""
    for folder in place.glob(f"{glob.escape(prefix)}*"):
        with suppress(OSError):
            if time.time() - folder.lstat().st_mtime > _DAY:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock a folder within the block, where its file system knows locks."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_abandoned(folder: Path) -> bool:
    """Return whether nobody holds the lock of a folder; without locks, whether it is a day old."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # a link, somebody else's, or gone
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        held = error.errno in (errno.EWOULDBLOCK, errno.EACCES)
        return not held and time.time() - os.fstat(descriptor).st_mtime > _DAY
    finally:
        os.close(descriptor)
