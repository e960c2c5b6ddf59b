"""What a search runs on: versions and hardware, as plain text. Imports none of the libraries that it tells of."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LIBRARIES = ("torch", "optuna", "mlflow", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of this program, Python and the libraries that results depend on."""
    from search import __version__

    found = {"regsearch": __version__, "Python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def describe_machine(devices: Iterable[str]) -> dict[str, str]:
    """Return versions, system, processor and devices. No name of the machine or its user: a report is passed on."""
    return versions() | {
        "system": platform.platform(terse=True),
        "processor": f"{_processor()}, {os.cpu_count() or 1} cores",
        "devices": ", ".join(devices),
    }


def _processor() -> str:
    """Return the processor's name; on Linux Python knows only its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
