"""Compiles the kernels with the machine's own C compiler, once; knows nothing of torch.

The library is kept in the user's cache folder, under a name that tells what it was made of: source, flags, compiler and
processor. So a home that several machines share has one library for each kind of them.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from search.errors import KernelError

SOURCE = Path(__file__).with_name("kernels.c")

_FLAGS = ("-std=c11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
# The processor's own instructions make the difference; not every compiler knows the flag on every processor.
_TUNINGS: Sequence[tuple[str, ...]] = (("-march=native",), ())
_PATIENCE = 60.0


def kernel_library(folder: Path | None = None) -> Path:
    """Return the compiled kernels, which are made if they are not in `folder` (default: the user's cache) yet.

    Raises KernelError when there is no compiler, or no library that loads comes of it.
    """
    compiler = _compiler()
    folder = _cache() if folder is None else folder
    library = folder / f"kernels-{_digest(compiler)}.so"
    try:
        _own(folder)
        if not _loads(library):
            _compile(compiler, library)
            ctypes.CDLL(str(library))
    except OSError as error:
        raise KernelError(f"the kernels cannot be kept in {folder} or loaded from there: {error}") from error
    return library


def _loads(library: Path) -> bool:
    try:
        return library.exists() and ctypes.CDLL(str(library)) is not None
    except OSError:  # a damaged one, or from before the system was renewed
        return False


def _compiler() -> str:
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (found := shutil.which(name)):
            return found
    raise KernelError("there is no C compiler (cc, gcc, clang, or what CC names)")


def _cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("regsearch") / "kernels"


def _own(folder: Path) -> None:
    """Make the folder; refuse one that others can write to, since what lies there is run."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.stat()
    if hasattr(os, "getuid") and (state.st_uid != os.getuid() or state.st_mode & 0o022):
        raise KernelError(f"{folder} belongs to somebody else, or others can write to it; what lies there is not run")


def _digest(compiler: str) -> str:
    made_of = [SOURCE.read_text(), *_FLAGS, *map(str, _TUNINGS), os.path.realpath(compiler), *_processor()]
    return hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:16]


def _processor() -> list[str]:
    """Return what tells kinds of processors apart: two of one architecture may know different instructions."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        known = {line for line in lines if line.lower().startswith(("flags", "features", "model name", "cpu part"))}
        return [platform.machine(), *sorted(known)]
    return [platform.machine(), platform.processor()]


def _compile(compiler: str, library: Path) -> None:
    # Whoever is first puts it in place as a whole; another who was as early puts the same there.
    with tempfile.TemporaryDirectory(dir=library.parent) as workshop:
        made = Path(workshop) / library.name
        for tuning in _TUNINGS:
            error = _run([compiler, *_FLAGS, *tuning, str(SOURCE), "-o", str(made), "-lm"])
            if error is None:
                os.replace(made, library)
                return
    raise KernelError(f"{compiler} did not compile the kernels: {error}")


def _run(command: Sequence[str]) -> str | None:
    """Return None, or the first line of what went wrong."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
