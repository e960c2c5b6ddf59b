"""Runs a command and measures it from outside: wall time, and the peak memory of its whole process tree.

Knows nothing of what is run. Where a command fails, its own words are shown; where this process is interrupted, what
it started ends with it.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import click

_SAMPLE_SECONDS = 0.5
_TAIL_LINES = 30
_PROC = Path("/proc")


@dataclass(frozen=True)
class Finished:
    """A command that went well."""

    stdout: str
    stderr: str
    started: float
    """Seconds since the epoch."""
    wall_s: float
    peak_mib: float | None
    """Proportional set size of the process tree, sampled; None where the system does not tell."""


class CommandFailed(click.ClickException):
    """A command ended with an error; says which, and the end of what it said."""

    def __init__(self, command: Sequence[str], code: int, stderr: str) -> None:
        tail = "\n".join(stderr.splitlines()[-_TAIL_LINES:])
        super().__init__(f"this command failed (exit code {code}):\n  {shlex.join(command)}\n{tail}")


def run_command(command: Sequence[str], scratch: Path) -> Finished:
    """Run a command to its end, with `scratch` for its temporary files. Raises CommandFailed.

    Settings of the program in this environment do not reach it.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("REGSEARCH_", "MLFLOW_"))}
    environment["TMPDIR"] = str(scratch)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started, start = time.time(), time.perf_counter()
        # A session of its own: Ctrl-C reaches this process alone, which then ends the command.
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment, start_new_session=True)
        memory = _Memory(process.pid)
        try:
            code = process.wait()
        except BaseException:
            _kill(process)
            raise
        finally:
            memory.stop()
        wall = time.perf_counter() - start
        stdout, stderr = _content(out), _content(err)
    if code:
        raise CommandFailed(command, code, stderr)
    return Finished(stdout, stderr, started, wall, memory.peak_mib)


def _content(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that descends from it, also what has a session of its own."""
    for pid in process_tree(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


class _Memory:
    """Samples the memory of a process tree in a thread, until stopped."""

    def __init__(self, root: int) -> None:
        self.peak_mib: float | None = None
        self._root, self._stopped = root, threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory", daemon=True)
        if (_PROC / "self/smaps_rollup").exists():
            self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _sample(self) -> None:
        while not self._stopped.wait(_SAMPLE_SECONDS):
            total = sum(_pss_kib(pid) for pid in process_tree(self._root)) / 1024
            self.peak_mib = max(self.peak_mib or 0.0, total)


def process_tree(root: int) -> list[int]:
    """Return a process's id and those of all that descend from it; its own alone where there is no /proc."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):  # it has ended
            # The command's name, in parentheses, may hold anything; state and parent follow it.
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    tree = [root]
    for pid in tree:  # grows as it is walked
        tree += children.get(pid, [])
    return tree


def _pss_kib(pid: int) -> int:
    """Return a process's share of memory: pages that several processes share are counted once, in parts."""
    with suppress(OSError):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0
