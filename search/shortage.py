"""Trainers that wait for room in a cluster: the user is told, and it does not go on for ever while nobody works."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from search.errors import TrainerError

_TOLD_AFTER = 5.0
_PATIENCE = 300.0
"""Seconds. A cluster that grows by itself needs minutes for another machine."""


class Shortage:
    """How long trainers have been waiting for room."""

    def __init__(self, say: Callable[[str], None], patience: float = _PATIENCE) -> None:
        """`say` is called once for each shortage."""
        self._say, self._patience = say, patience
        self._since: float | None = None
        self._idle_since: float | None = None
        self._told = False

    def note(self, lacks: Sequence[str], trainers: int) -> None:
        """Take note of what some of so many trainers lack, to be called every now and then.

        Raises TrainerError when none could work for too long. One that has room could, even if it has nothing to do.
        """
        if not lacks:
            self._since = self._idle_since = None
            self._told = False
            return
        now, working = time.monotonic(), len(lacks) < trainers
        self._since = now if self._since is None else self._since
        self._idle_since = None if working else now if self._idle_since is None else self._idle_since
        who = f"{len(lacks)} of {trainers} trainers" if trainers > 1 else "The trainer"
        if self._idle_since is not None and now - self._idle_since > self._patience:
            raise TrainerError(
                f"{who} found no room in {self._patience:.0f} seconds; each needs {lacks[0]}: make room, or ask for "
                "less with --workers and --gpus-per-worker"
            )
        if not self._told and now - self._since > _TOLD_AFTER:
            self._told = True
            others = "the others go on" if working else f"that ends in {self._patience:.0f} seconds"
            self._say(f"{who} must wait for room, {others}; each needs {lacks[0]}")
