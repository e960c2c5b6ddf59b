"""How much time and memory something takes, measured where other work on the machine does not count."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS, MEGABYTES = 2.0, 100


@contextmanager
def little() -> Iterator[None]:
    """Check that what is done inside takes at most two seconds of processor time, and 100 MB more memory.

    Time and memory are those of this process alone.
    """
    _forget_peak()
    began, before = time.process_time(), _status("VmRSS")
    yield
    took, grown = time.process_time() - began, _status("VmHWM") - before
    # Twice as long on a machine that is busy with others, whose caches it shares.
    assert took < 2 * SECONDS, f"{took:.1f} s"
    assert grown < MEGABYTES, f"{grown:.0f} MB"


def _forget_peak() -> None:
    """Have the kernel measure the most memory from here on (`man 5 proc`, clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(key: str) -> float:
    """Return a figure of this process's memory, in MB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) / 1024
