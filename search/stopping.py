"""Being asked to stop: Ctrl-C, SIGTERM, the time budget, or `regsearch stop`.

The first signal ends tidily, a second one at once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Self


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

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if self.interrupted:
            sys.stderr.flush()
            os._exit(128 + number)
        self.signal = number
        self._on_signal()
