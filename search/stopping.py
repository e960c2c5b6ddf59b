"""Being asked to stop: Ctrl-C, SIGTERM, the time budget, or `regsearch stop`.

Before the search there is nothing to put back, and Ctrl-C ends the program wherever it is (`Interruptible`). Then the
first signal ends tidily, a second one at once (`StopRequest`).
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Self

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def seconds_of(time: float | str) -> float:
    """Return a time such as 90, "90s", "15m" or "2h" in seconds. Raises ValueError for what is none above zero."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(time).strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if seconds <= 0:
        raise ValueError(f"{time!r} is not a time above zero; write seconds, or 15m, or 2h")
    return seconds


@contextmanager
def terminal_outlived() -> Iterator[None]:
    """Have this process, and those that it starts within the block, survive the closing of their terminal.

    That sends SIGHUP, which ends a program that does not ignore it. Other threads than the main one change no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before or signal.SIG_DFL)  # None: it was not set by Python


class Interruptible:
    """As a context manager, makes sure of the KeyboardInterrupt that Ctrl-C raises.

    Raised amid a destructor or a library's callback, and Ray is full of them while it waits, it is printed and
    forgotten. `check` raises it again.
    """

    def __init__(self) -> None:
        self._heard = False
        self._before: Callable[[int, FrameType | None], object] | None = None

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was one."""
        if self._heard:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        before = signal.getsignal(signal.SIGINT)
        # Other threads hear no signals; and who has nothing to be called, as with `nohup`, wants to hear none.
        if threading.current_thread() is threading.main_thread() and callable(before):
            self._before = before
            signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard = True
        if self._before is not None:
            self._before(number, frame)


class StopRequest:
    """Asked by the runner between two messages and by a trainer between two minibatches; see `requested`.

    As a context manager it listens to SIGINT and SIGTERM. Signals only set a flag: an exception raised wherever the
    program happens to be could tear a write to the storage.
    """

    def __init__(self, timeout: float | None = None, on_signal: Callable[[], None] = lambda: None) -> None:
        """`timeout` in seconds from now; `on_signal` is called once, at the first signal, to say what happens."""
        self.signal: int | None = None
        self.requested = False
        """Whether somebody asked for it through the study, and all that was under way has come to its end."""
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._on_signal = on_signal
        self._before: dict[int, object] = {}

    def __call__(self) -> bool:
        return self.interrupted or self.timed_out or self.requested

    @property
    def interrupted(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    @property
    def timed_out(self) -> bool:
        """Whether the time budget is used up."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def forget_time(self) -> None:
        """Go on past the time budget, now that it has ended what it was for."""
        self._deadline = None

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if self.interrupted:
            with suppress(Exception):  # it may fail, or be amid a write
                sys.stderr.flush()
            os._exit(128 + number)
        self.signal = number
        self._on_signal()
