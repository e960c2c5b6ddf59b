"""Checkpoints: files from which trials go on where they were, one for each (safetensors, never pickle).

What is in a trial's state is the population's business, and when to write that of its trainer. A file says what it was
written for: one that was written for anything else, or is not whole, counts as if it were not there. The trial then
begins anew, which costs time and never a wrong result.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.places import replace_file
from search.records import Assignment, EpochResult
from search.regular_files import MEGABYTE, open_regular

if TYPE_CHECKING:
    from torch import Tensor

_FORMAT = 1
"""To be counted up when a trial would go on otherwise from an older file than it did then."""
_COLUMNS = [field.name for field in fields(EpochResult)]
_ABOUT, _ROWS = "regsearch", "rows"
_FILES = "trial-*"
_MOST_BYTES = 3 * 8192 * MEGABYTE
"""Weights, and as much again for each of an optimizer's two moments."""
_NOT_OURS = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)
"""What reading raises where a file is a whole one, but not as it is written here."""


@dataclass(frozen=True)
class Checkpoint:
    """A trial as it was between two epochs."""

    rows: tuple[EpochResult, ...]
    """Of the epochs so far."""
    state: Mapping[str, Tensor]
    """See `Population.state`."""


class CheckpointFolder:
    """The checkpoints of one study's trials."""

    def __init__(self, folder: Path, setting: Mapping[str, Any]) -> None:
        """`setting` is all that trials with the same configuration and seed have to have in common, as JSON."""
        self.folder = folder
        self._setting = setting

    def path(self, assignment: Assignment) -> Path:
        """Return where a trial's checkpoint is, or would be: the same for all attempts at it."""
        # Trials of a search differ in their seeds, but those that confirm its results do not.
        digest = blake2b(json.dumps(_params(assignment), sort_keys=True).encode(), digest_size=4).hexdigest()
        return self.folder / f"trial-{assignment.seed:05d}-{digest}.safetensors"

    def make_room(self, size: int) -> None:
        """Make the folder, and see that so many bytes are at most half of what is free: others write there too.

        Raises OSError, also where there is no home: on a machine that does not share it nobody would tidy up.
        """
        home = self.folder.parent.parent
        if not home.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(home))
        self.folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self.folder).free < 2 * size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))

    def write(self, assignment: Assignment, checkpoint: Checkpoint) -> None:
        """Write a trial's checkpoint: the file is a whole one, the one before or this. Raises OSError."""
        import torch
        from safetensors.torch import save

        rows = torch.tensor([astuple(row) for row in checkpoint.rows], dtype=torch.float64)
        tensors = {**checkpoint.state, _ROWS: rows}
        about = json.dumps({**self._about(assignment), "checksum": _checksum(tensors)})
        replace_file(self.path(assignment), save(tensors, {_ABOUT: about}))

    def read(self, assignment: Assignment) -> Checkpoint | None:
        """Return a trial's checkpoint; None where there is none that is whole and was written for it."""
        from safetensors import SafetensorError, safe_open

        try:
            path = self.path(assignment)
            # Of what is no file, opening does not come back. The library opens by path, and what it reads it checks.
            with open_regular(path, _MOST_BYTES), safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {}).get(_ABOUT, "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
            if about != {**self._about(assignment), "checksum": _checksum(tensors)}:
                return None
            return Checkpoint(_results(tensors.pop(_ROWS).tolist()), tensors)
        except (OSError, SafetensorError, *_NOT_OURS):
            return None

    def remove(self, assignment: Assignment) -> None:
        """Remove a trial's checkpoint, if there is one."""
        with suppress(OSError):
            self.path(assignment).unlink()

    def _about(self, assignment: Assignment) -> dict[str, Any]:
        about = {"format": _FORMAT, "seed": assignment.seed, "params": _params(assignment), _ROWS: _COLUMNS}
        return about | dict(self._setting)


def discard(folder: Path) -> None:
    """Remove a study's checkpoints, and what is left of cut-off writes; then the folder, and its parent if empty."""
    with suppress(OSError):
        for path in folder.glob(_FILES):
            path.unlink(missing_ok=True)
        folder.rmdir()
        folder.parent.rmdir()


def _params(assignment: Assignment) -> dict[str, float]:
    return {name: float(value) for name, value in assignment.params.items()}


def _results(rows: Sequence[Sequence[float]]) -> tuple[EpochResult, ...]:
    return tuple(EpochResult(int(epoch), *scores) for epoch, *scores in rows)


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    """Return a checksum of all there is: after a power cut a file may have its full size, but not its content."""
    import torch

    checksum = 0
    for name, tensor in sorted(tensors.items()):
        checksum = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), checksum)
        checksum = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return checksum
