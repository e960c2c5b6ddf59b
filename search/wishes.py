"""What the user decides about trainers, from the command line or from Python, checked. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from search.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from search.trainers import RayWishes

CHOICES: Mapping[str, tuple[str, ...]] = {
    "device": ("auto", "cpu", "cuda"),
    "engine": ("auto", "stacked", "looped"),
    "precision": ("auto", "fp32", "bf16"),
    "kernels": ("auto", "compiled", "torch"),
}
"""What there is to choose from, by what is chosen."""


@dataclass(frozen=True)
class Wishes:
    """The user's decisions; None where the program is to choose."""

    data_dir: Path
    device: str = "auto"
    engine: str = "auto"
    precision: str = "auto"
    kernels: str = "auto"
    """`compiled` by the machine's C compiler, `torch` for torch's own operations; by default whatever there is."""
    population: int | None = None
    """Slots of each trainer."""
    workers: int | None = None
    """Trainers, each with a process of its own; 0 for one in this process."""
    ray: RayWishes | None = None
    """The Ray cluster whose machines they are to run on; None for this machine."""

    def __post_init__(self) -> None:
        """Raise UsageError for what cannot be wished for."""
        for name, known in CHOICES.items():
            if (given := getattr(self, name)) not in known:
                near = did_you_mean(given, known) if isinstance(given, str) else ""
                raise UsageError(f"{name}: must be one of {', '.join(known)}, and is {given!r}{near}")
        for name, fewest in (("population", 1), ("workers", 0)):
            count = getattr(self, name)
            if count is not None and not (isinstance(count, int) and count >= fewest):
                raise UsageError(f"{name}: must be a whole number from {fewest}, or None, and is {count!r}")
