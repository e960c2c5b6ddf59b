"""Compiles the kernels with the machine's own C compiler, once; knows nothing of torch.

The library is kept in the user's cache folder, under a name that tells what it was made of: source, flags, compiler and
processor. So a home that several machines share has one library for each kind of them.
"""

import ctypes
import grp
import hashlib
import os
import platform
import pwd
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from search.children import describe_exit, find_program
from search.errors import KernelError
from search.whole_folders import remove_old

SOURCE = Path(__file__).with_name("kernels.c")

_FLAGS = ("-std=c11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
# The processor's own instructions make the difference; not every compiler knows the flag on every processor.
_TUNINGS: Sequence[tuple[str, ...]] = (("-march=native",), ())
_PATIENCE = 60.0
_WORKSHOP = ".compile-"


def kernel_library(folder: Path | None = None) -> Path:
    """Return the compiled kernels, which are made if they are not in `folder` (default: the user's cache) yet.

    Raises KernelError when there is no compiler, or no library that loads comes of it, or others could change it.
    """
    compiler = _compiler()
    try:
        folder = _own_folder(_cache() if folder is None else folder)
        library = folder / f"kernels-{_digest(compiler)}.so"
        if not _loads(library):
            _compile(compiler, library)
            ctypes.CDLL(str(library))
    except OSError as error:
        raise KernelError(f"the kernels cannot be kept in {folder} or loaded from there: {error}") from error
    return library


def _loads(library: Path) -> bool:
    """Return whether the library is there, ours, and a library.

    It is loaded by its name after it was checked: nobody else can put another in its place, see `_own_folder`.
    """
    try:
        state = library.lstat()
        is_ours = stat.S_ISREG(state.st_mode) and state.st_uid == os.getuid() and not _others_write(state)
        return is_ours and ctypes.CDLL(str(library)) is not None
    except OSError:  # none, a damaged one, or from before the system was renewed
        return False


def _compiler() -> str:
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (found := find_program(name)):
            return found
    raise KernelError("there is no C compiler (cc, gcc, clang, or what CC names)")


def _cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("regsearch") / "kernels"


def _own_folder(folder: Path) -> Path:
    """Make the folder and return its real path; refuse one whose content others could change, since that is run.

    It must be the user's own, and each folder above it the user's or the administrator's: who can write to one of
    those can put another folder in the place of this one. Folders as `/tmp`, whose entries only their owners may
    rename, are no danger.
    """
    for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    real = Path(os.path.realpath(folder))
    for each in (real, *real.parents):
        state = each.stat()
        if state.st_uid != os.getuid() and (state.st_uid != 0 or each == real):
            raise KernelError(f"{each} belongs to somebody else, who could change what is run from {folder}")
        if _others_write(state) and not (state.st_mode & stat.S_ISVTX and each != real):
            raise KernelError(f"others can write to {each}, and so change what is run from {folder}: chmod go-w {each}")
    return real


def _others_write(state: os.stat_result) -> bool:
    """Return whether users beside the owner and the administrator can write there."""
    if state.st_mode & stat.S_IWGRP and state.st_gid != 0 and not _is_of_one_user(state.st_gid):
        return True
    return bool(state.st_mode & stat.S_IWOTH)


def _is_of_one_user(group: int) -> bool:
    """Return whether a group is this user's alone, as many systems give each user one, and a umask of 002 with it."""
    try:
        told = grp.getgrgid(group)
        return group == os.getgid() and told.gr_name == pwd.getpwuid(os.getuid()).pw_name and not told.gr_mem
    except KeyError:
        return False


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
    remove_old(library.parent, _WORKSHOP)
    with tempfile.TemporaryDirectory(prefix=_WORKSHOP, dir=library.parent) as workshop:
        made = Path(workshop) / library.name
        for tuning in _TUNINGS:
            error = _run([compiler, *_FLAGS, *tuning, str(SOURCE), "-o", str(made), "-lm"], workshop)
            if error is None:
                made.chmod(0o700)
                os.replace(made, library)
                return
    raise KernelError(f"{compiler} did not compile the kernels: {error}")


def _run(command: Sequence[str], folder: str) -> str | None:
    """Return None, or the first line of what went wrong.

    Compilers look for headers and libraries in the folder that they run in, where a variable such as CPATH is empty.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False, cwd=folder)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [describe_exit(done.returncode)])[0]
