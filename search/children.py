"""Child processes: no file of the working directory runs in them, whoever starts them.

Python puts the working directory first on its path when it is started with `-c` or `-m`, which multiprocessing, MLflow
and Ray do; uvicorn and Ray add it themselves. A folder that was cloned from a stranger could then replace any module.
So children find modules where this process does and nowhere else, and those that need no file of the user's run in a
folder that only the system's administrator writes to.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from search.places import module_path, working_directory

NEUTRAL_FOLDER = os.path.abspath(os.sep)
"""Working directory of children: it always exists, and no unprivileged user can put files there."""


def start_python(
    code: str,
    arguments: Sequence[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
    without: tuple[str, ...] = (),
    folder: str = NEUTRAL_FOLDER,
    **settings: Any,
) -> subprocess.Popen[bytes]:
    """Start Python with a line of code, in this process's environment and `environment`. Raises OSError.

    Of this process's, variables whose names begin as `without` says are left out.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(without)}
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, *arguments],
        env={**inherited, **(environment or {}), **_search_path()},
        cwd=folder,
        **settings,
    )


@contextmanager
def safe_children() -> Iterator[None]:
    """Give the block's child processes, those of libraries included, this process's module path."""
    before = {name: os.environ.get(name) for name in _search_path()}
    os.environ.update(_search_path())
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def drop_accidental_folder() -> None:
    """Take the working directory off the module path where only an empty entry of PYTHONPATH put it there.

    `export PYTHONPATH=$PYTHONPATH:/my/modules` in a shell's profile leaves such an entry; nobody means it.
    """
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if len(entries) == 1 or "" not in entries:  # none at all is no entry
        return
    if working_directory() is None:
        return
    here, own = os.path.abspath(""), os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if here not in (own, *map(os.path.abspath, filter(None, entries))):
        sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]


def describe_exit(code: int | None) -> str:
    """Return how a child process has ended, in words, by its exit code as Python has it: negative after a signal."""
    if code is None:
        return "no exit code"
    if code >= 0:
        return f"exit code {code}"
    try:
        name, text = signal.Signals(-code).name, signal.strsignal(-code)
    except ValueError:  # a real-time signal
        return f"signal {-code}"
    if -code == signal.SIGKILL:
        return f"{name}, from somebody or from the kernel, which sends it when memory is full"
    return f"{name}: {text}"


def find_program(name: str) -> str | None:
    """Return the absolute path of a program; relative folders in PATH do not count, a path in `name` does."""
    folders = filter(os.path.isabs, os.environ.get("PATH", os.defpath).split(os.pathsep))
    found = shutil.which(name, path=os.pathsep.join(folders))
    return None if found is None else os.path.abspath(found)


def _search_path() -> dict[str, str]:
    # The second keeps Python itself from adding the working directory, also in the children of children.
    return {"PYTHONPATH": module_path(), "PYTHONSAFEPATH": "1"}
