"""Standard output and error that may fail without ending a search: a full disk, a closed pipe, a terminal that is gone.

Progress, notices and warnings are not essential: what cannot be written is dropped, and a file says where. Results are
essential: outside `progress_only` a failing standard output raises OutputError. The streams are replaced below Python's
buffers, so this holds for all that prints: rich, logging, warnings, a user's model.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from search.errors import OutputError

_STANDARD = (0, 1, 2)


class _Raw(io.RawIOBase):
    """Writes to a file descriptor of a standard stream, which stays open."""

    def __init__(self, descriptor: int, essential: bool) -> None:
        self.essential = essential
        """Whether what is written now is a result: a failure is raised, once, and all that follows is dropped."""
        self._descriptor = descriptor
        self._given_up = False
        self._failure: str | None = None

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        if not self._given_up:
            try:
                self._mark_gap()
                self._write_all(data)
            except OSError as error:
                self._take_note(error)
        return len(data)

    def _write_all(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # somebody else has made the pipe or the terminal non-blocking
                select.select([], [self._descriptor], [])

    def _mark_gap(self) -> None:
        """Have a file say where lines are missing; a terminal shows the present again anyway."""
        if self._failure is not None and not self.isatty():
            self._write_all(f"\n[output is missing here: {self._failure}]\n".encode())
        self._failure = None

    def _take_note(self, error: OSError) -> None:
        if self.essential:
            self._given_up = True
            raise OutputError.of(error) from error
        self._failure = error.strerror or str(error)


class SteadyText(io.TextIOBase):
    """Writes to a stream that is not ours to replace, such as standard error in a notebook; what fails is dropped."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str, /) -> int:
        if self._stream is not None:
            with suppress(OSError, ValueError):  # it fails, or is closed
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            with suppress(OSError, ValueError):
                self._stream.flush()

    def isatty(self) -> bool:
        with suppress(OSError, ValueError):
            return self._stream is not None and self._stream.isatty()
        return False

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()


@contextmanager
def steady_streams(results: bool = True) -> Iterator[None]:
    """Replace standard output and error within the block; `results` says whether output is essential to begin with.

    Streams that lead to no file descriptor, such as those of a test, are left alone.
    """
    occupy_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout = _steady(sys.stdout, 1, essential=results)
    sys.stderr = _steady(sys.stderr, 2, essential=False)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, OutputError):
                stream.flush()
        sys.stdout, sys.stderr = before


@contextmanager
def progress_only() -> Iterator[None]:
    """Let standard output fail within the block, where nothing is a result."""
    raw = _raw(sys.stdout)
    if raw is None or not raw.essential:
        yield
        return
    sys.stdout.flush()
    raw.essential = False
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        raw.essential = True


def _raw(stream: TextIO) -> _Raw | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Raw) else None


def _steady(stream: TextIO | None, descriptor: int, essential: bool) -> TextIO:
    if stream is None:  # it was closed when the program began
        return io.TextIOWrapper(_buffered(descriptor, essential), encoding="utf-8", errors="backslashreplace")
    if not isinstance(stream, io.TextIOWrapper) or not _leads_to(stream, descriptor):
        return stream
    with suppress(OSError, ValueError):
        stream.flush()
    return io.TextIOWrapper(
        _buffered(descriptor, essential),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _buffered(descriptor: int, essential: bool) -> io.BufferedWriter:
    raw: io.RawIOBase = _Raw(descriptor, essential)
    return io.BufferedWriter(raw)


def _leads_to(stream: TextIO, descriptor: int) -> bool:
    with suppress(OSError, ValueError):
        return stream.fileno() == descriptor
    return False


def occupy_descriptors() -> None:
    """Open something in the place of a closed standard stream.

    The next file to be opened would get its number, and what is printed would end up in a database. It cannot be
    written, so that lost results are noticed.
    """
    for descriptor in _STANDARD:
        try:
            os.fstat(descriptor)
        except OSError as error:
            if error.errno == errno.EBADF:
                opened = os.open(os.devnull, os.O_RDONLY)
                if opened != descriptor:  # a lower number is free
                    os.dup2(opened, descriptor)
                    os.close(opened)
                os.set_inheritable(descriptor, True)
