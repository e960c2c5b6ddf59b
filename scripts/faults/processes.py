"""The processes that faults are injected into: pretended runners, and the real command."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
LIMIT = 300.0


class Process:
    """A child with its output, read as it comes."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None, **options) -> None:
        path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        told = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(environment or {})}
        self.child = subprocess.Popen(
            command, env=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
        )
        self.pid = self.child.pid
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self.child.stdout:
            for line in self.child.stdout:
                with self._news:
                    self.lines.append(line.rstrip())
                    self._news.notify_all()
        self.child.wait()  # else who waits for a text could miss that it will never come
        with self._news:
            self._news.notify_all()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, text: str) -> bool:
        """Wait until it says something, or has ended; return whether it did."""
        with self._news:
            self._news.wait_for(lambda: text in self.output or self.child.poll() is not None, LIMIT)
        return text in self.output

    def kill(self, number: int = signal.SIGKILL) -> float:
        """Send a signal and return when."""
        if self.child.poll() is None:
            os.kill(self.pid, number)
        return time.time()

    def end(self) -> int:
        """Wait for its end and return its exit code."""
        try:
            code = self.child.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.child.kill()
            code = self.child.wait()
            self.lines.append(f"(killed after {LIMIT:.0f} s)")
        self._reader.join(5)
        return code


def pretend(home: Path, storage: str | None = None, prefix: tuple[str, ...] = (), **options: object) -> Process:
    """Start a runner that pretends to train; `options` are those of `scripts.faults.pretend`."""
    told = [f"--{name}={value}" for name, value in options.items()]
    command = [*prefix, sys.executable, "-P", "-m", "scripts.faults.pretend", f"--home={home}", *told]
    return Process(command, {} if storage is None else {"REGSEARCH_STORAGE": storage}, cwd=REPOSITORY)


def regsearch(*arguments: object, prefix: tuple[str, ...] = (), **environment: str) -> Process:
    """Start the real command, in a session of its own."""
    code = "from search.cli import main; main()"
    command = [*prefix, sys.executable, "-P", "-c", code, *map(str, arguments)]
    return Process(command, environment, start_new_session=True)


def processes_of_session(pid: int) -> list[int]:
    """Return the process ids of a session, by that of its leader, which comes first."""
    found = [pid]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != pid:
            try:
                session = int((entry / "stat").read_text().rpartition(")")[2].split()[3])
            except (OSError, IndexError):
                continue
            found += [int(entry.name)] if session == pid else []
    return found


def trainers_of(pid: int) -> list[int]:
    """Return the process ids of a command's trainers."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == pid and "multiprocessing.spawn" in (entry / "cmdline").read_text():
                    found.append(int(entry.name))
            except (OSError, IndexError):
                continue
    return found
