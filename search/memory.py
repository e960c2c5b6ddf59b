"""Memory that this process may use: its container's limit, the kernel's kills for want of it, errors that tell of it.

A limit is that of a control group (cgroup), which is what containers and services run in. Both versions of control
groups are read; where there are none, as on macOS, nothing is known and nothing is limited.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from search.regular_files import MEGABYTE

_OWN_GROUPS = Path("/proc/self/cgroup")
_CONTROLLERS = Path("/sys/fs/cgroup")
_KERNEL_COUNTS = Path("/proc/vmstat")
_FULL = ("out of memory", "allocate memory", "not enough memory", "ALLOC_FAILED", "low on memory")
"""Messages of torch's allocators, of the system (ENOMEM), of cuBLAS and cuDNN, and of Ray."""
_NO_LIMIT = 2**60
"""In bytes; the first version writes a number beyond this one where there is no limit."""
_EXPENDABLE = 500
"""Of 1000. Processes that are replaced when they die are killed before the one that replaces them."""


@dataclass(frozen=True)
class _Version:
    """File names of one version of control groups, and the keys in them."""

    limit: str
    usage: str
    reclaimable: str
    kills: str


_FIRST = _Version("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "memory.oom_control")
_SECOND = _Version("memory.max", "memory.current", "inactive_file", "memory.events")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of a device, or of this process, is full."""
    # CUDA has a type of its own for it; the processor's allocator only says so.
    text = str(error)
    return isinstance(error, MemoryError) or any(phrase in text for phrase in _FULL)


def memory_limit() -> int | None:
    """Return how many bytes the process's control group may use; None without a limit."""
    return min((limit for limit, _ in _limits()), default=None)


def memory_left() -> int:
    """Return how many bytes the process's control group may still use; without a limit, a number beyond all memory."""
    return max(0, min((limit - used for limit, used in _limits()), default=sys.maxsize))


def memory_kills() -> int:
    """Return how many processes the kernel has killed for want of memory: of this control group, else of the machine.

    Compare with an earlier count: a rise between two moments explains a process that died between them.
    """
    for version, folder in _groups():
        with suppress(OSError, ValueError, LookupError):
            return _entry(folder / version.kills, "oom_kill")
    with suppress(OSError, ValueError, LookupError):
        return _entry(_KERNEL_COUNTS, "oom_kill")
    return 0


def describe_limit() -> str:
    """Return which memory is full, in words, when some is."""
    limit = memory_limit()
    limited = "the machine has no memory left"
    return limited if limit is None else f"its control group has used up the {limit // MEGABYTE} MB that it may use"


def be_expendable() -> None:
    """Have the kernel kill this process rather than others of the program when memory is full."""
    with suppress(OSError, ValueError):
        path = Path("/proc/self/oom_score_adj")
        path.write_text(str(max(_EXPENDABLE, int(path.read_text()))))


def _limits() -> Iterator[tuple[int, int]]:
    """Yield limit and use of each control group that limits this process's memory."""
    for version, folder in _groups():
        with suppress(OSError, ValueError, LookupError):  # there is no limit: "max"
            limit = int((folder / version.limit).read_text())
            used = int((folder / version.usage).read_text())
            if limit < _NO_LIMIT:
                # Cached content of files is given back as soon as somebody needs the memory.
                yield limit, used - _entry(folder / "memory.stat", version.reclaimable)


def _groups() -> Iterator[tuple[_Version, Path]]:
    """Yield the control groups that this process is in, its own first, then those around it."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            version, top = _SECOND, _CONTROLLERS
        elif "memory" in controllers.split(","):
            version, top = _FIRST, _CONTROLLERS / "memory"
        else:
            continue
        own = top / name.lstrip("/")
        # Within a container the name may be that on the host, while only the container's own group is to be seen.
        for folder in (own, *own.parents) if own.is_dir() else (top,):
            if not folder.is_relative_to(top):
                break
            if (folder / version.usage).exists():
                yield version, folder


def _entry(path: Path, key: str) -> int:
    """Return a number from a file with a key and a number on each line."""
    entries = dict(line.split() for line in path.read_text().splitlines())
    return int(entries[key])
