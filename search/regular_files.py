"""Regular files, opened to be read: no pipe that keeps waiting, no device without end, no file larger than it can be.

Kind and size are those of the file that was opened, not of what the path names a moment before or after.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MEGABYTE = 2**20

_KINDS = (
    (stat.S_ISDIR, errno.EISDIR, os.strerror(errno.EISDIR)),
    (stat.S_ISFIFO, errno.EINVAL, "it is a pipe and no file"),
    (stat.S_ISSOCK, errno.EINVAL, "it is a socket and no file"),
    (lambda _: True, errno.EINVAL, "it is a device and no file"),
)


def open_regular(path: Path, most_bytes: int) -> BinaryIO:
    """Open a file to read it. Raises OSError for what is no file or has more bytes, as its `strerror` says."""
    # A pipe that nobody writes to is opened at once, too; a regular file heeds no O_NONBLOCK.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            code, text = next((code, text) for is_kind, code, text in _KINDS if is_kind(found.st_mode))
            raise (IsADirectoryError if code == errno.EISDIR else OSError)(code, text, str(path))
        if found.st_size > most_bytes:
            raise _too_large(path, found.st_size, most_bytes)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, most_bytes: int) -> bytes:
    """Return a file's content, see `open_regular`; one that grows while it is read is refused as well."""
    with open_regular(path, most_bytes) as file:
        content = file.read(most_bytes + 1)
        if len(content) > most_bytes:
            raise _too_large(path, os.fstat(file.fileno()).st_size, most_bytes)
        return content


def _too_large(path: Path, size: int, most_bytes: int) -> OSError:
    return OSError(errno.EFBIG, f"it has {size:,} bytes, and at most {most_bytes:,} are read", str(path))
