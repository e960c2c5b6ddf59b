"""The weights worth keeping: of the study's best trial so far, of its winner and of the baseline, as safetensors files.

One file a trial, written before the trial's end is told to the storage and removed only after a better one has
been told: so whenever the program dies, the weights of the trial that the storage calls best are there. A disk that is
full, or may not be written to, is the exception: then there is a notice for the user in their place. Each file says
of which study it is: one that was deleted, or is kept in another storage, may have had the same name.
"""

from __future__ import annotations

import json
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from search.places import write_whole
from search.records import Assignment, Role, Summary
from search.regular_files import MEGABYTE, read_regular
from search.verdict import winner

_MOST_BYTES = 8192 * MEGABYTE
"""Two thousand million weights: a search trains many models of that size at once."""


class WeightStore:
    """Files `trial-00012.safetensors` in a study's artifact folder."""

    def __init__(self, folder: Path, best_loss: float = float("inf"), study: str | None = None) -> None:
        """`best_loss` is the lowest validation loss of the study's complete trials so far; `study` its identity, None
        where the folder is nobody else's.
        """
        self._folder, self._best_loss, self._study = folder, best_loss, study
        self._failed = False
        self._notices: deque[str] = deque()

    def wanted(self, assignment: Assignment, val_loss: float) -> bool:
        """Return whether a complete trial's weights shall be kept, and take note of its loss."""
        better = val_loss < self._best_loss
        self._best_loss = min(val_loss, self._best_loss)
        return better or assignment.role is Role.BASELINE

    def path(self, trial: int, rate_of: int | None = None) -> Path:
        """Return where a trial's weights are, or would be; `rate_of` is as in `Confirmed`."""
        rate = "" if rate_of is None else f"-rate-of-{rate_of:05d}"
        return self._folder / f"trial-{trial:05d}{rate}.safetensors"

    def save(self, trial: int, weights: bytes, rate_of: int | None = None) -> None:
        """Write a trial's weights; the file is whole or not there. What goes wrong is for `take_notice`."""
        try:
            write_whole(self.path(trial, rate_of), weights if self._study is None else _signed(weights, self._study))
        except OSError as error:  # no search is to end for want of what can be trained again
            self._take_note(error)

    def take_notice(self) -> str | None:
        """Return what the user should know and has not been told yet; may be called from another thread."""
        return self._notices.popleft() if self._notices else None

    def load(self, trial: int, rate_of: int | None = None) -> bytes | None:
        """Return a trial's weights, or None when they are not here, damaged, or another study's."""
        from safetensors import SafetensorError, deserialize

        try:
            content = read_regular(self.path(trial, rate_of), _MOST_BYTES)
            deserialize(content)  # type: ignore[no-untyped-call]
        except (OSError, SafetensorError):
            return None
        return content if self._study in (None, _signature(content)) else None

    def tidy(self, summary: Summary) -> None:
        """Remove the files of trials that are no longer the best."""
        wanted = {self.path(record.number) for record in (summary.best, summary.baseline) if record is not None}
        if (best := winner(summary)) is not None:
            wanted.add(self.path(best.trial, best.rate_of))
        for path in self._folder.glob("trial-*.*"):
            if path not in wanted:
                with suppress(OSError):
                    path.unlink()

    def _take_note(self, error: OSError) -> None:
        if not self._failed:
            self._notices.append(
                f"Weights cannot be written to {self._folder} ({error.strerror or error}): where they are needed in "
                "the end, the trial is trained once more"
            )
        self._failed = True


def _signed(weights: bytes, study: str) -> bytes:
    """Return safetensors that say of which study they are, in the metadata that their format has room for.

    Its header is JSON after eight bytes of length; offsets in it count from its end, which is to be a multiple of 8
    (https://huggingface.co/docs/safetensors/index#format).
    """
    header, end = _header(weights)
    text = json.dumps({**header, "__metadata__": {"study": study}}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + weights[end:]


def _signature(weights: bytes) -> str | None:
    """Return which study safetensors say that they are of."""
    told = _header(weights)[0].get("__metadata__", {})
    return told.get("study") if isinstance(told, dict) else None


def _header(weights: bytes) -> tuple[dict[str, Any], int]:
    """Return the header of safetensors, and where it ends."""
    end = 8 + int.from_bytes(weights[:8], "little")
    return json.loads(weights[8:end]), end
