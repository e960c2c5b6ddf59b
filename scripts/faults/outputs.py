"""Progress that `regsearch start` cannot write: its results must be complete all the same."""

import os
import pty
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scripts.faults.processes import LIMIT, REPOSITORY, trainers_of
from scripts.faults.tally import Tally
from scripts.faults.whole import SMALL

_TRIALS = 24
_QUICK = ("--no-confirm", "--workers=1", "--engine=stacked", "--precision=fp32", "--tracking-uri=http://127.0.0.1:9")


def _command(home: Path, *more: str) -> list[str]:
    study = home.with_suffix(".toml")
    study.write_text(SMALL.format(trials=_TRIALS))
    code = "from search.cli import main; main()"
    return [sys.executable, "-P", "-c", code, "start", f"--study={study}", f"--home={home}", *_QUICK, *more]


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "TERM": "xterm"}


def _wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not happened() and time.monotonic() < end:
        time.sleep(0.05)


def _at_work(home: Path) -> bool:
    """Return whether trials have been reported to the study."""
    with suppress(OSError):
        return (home / "optuna.journal").read_bytes().count(b'"intermediate_value"') > 3
    return False


def redirected(how: str, code: int) -> Callable:
    """Return a fault: output goes where a shell sends it, and the exit code says whether the answer got there."""

    def inject(dice: random.Random, home: Path, tally: Tally) -> None:  # noqa: ARG001
        script = f"set -o pipefail; {shlex.join(_command(home))} {how}"
        quiet = subprocess.DEVNULL
        done = subprocess.run(
            ["bash", "-c", script], env=_environment(), stdin=quiet, stdout=quiet, stderr=quiet, timeout=LIMIT
        )
        if done.returncode != code:
            tally.complaints.append(f"ended with {done.returncode}")
        tally.count(home, None, _TRIALS)

    return inject


def terminal_closed(dice: random.Random, home: Path, tally: Tally) -> None:
    """Close the terminal that the search controls: SIGHUP to all of its processes, and EIO at each write."""
    command, environment = _command(home), _environment()
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(command[0], command, environment)
    seen = b""
    with suppress(OSError):
        while b"trial-epochs/s" not in seen:
            seen += os.read(terminal, 65536)
    time.sleep(dice.uniform(0, 0.5))
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    if (code := os.waitstatus_to_exitcode(status)) != 1:  # its answer could not be printed
        tally.complaints.append(f"ended with {code}: {seen[-500:]!r}")
    tally.count(home, None, _TRIALS)


def folder_deleted(dice: random.Random, home: Path, tally: Tally) -> None:
    """Delete the working directory, and kill a trainer, which is to be replaced all the same."""
    folder = home.with_name("working-directory")
    folder.mkdir()
    command = _command(home)
    searching = subprocess.Popen(
        command, cwd=folder, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    _wait_for(lambda: _at_work(home) or searching.poll() is not None)
    time.sleep(dice.uniform(0, 0.3))
    folder.rmdir()
    for trainer in trainers_of(searching.pid):
        os.kill(trainer, signal.SIGKILL)
    output, _ = searching.communicate(timeout=LIMIT)
    if searching.returncode or "Traceback" in output:
        tally.complaints.append(f"ended with {searching.returncode}: {output[-500:]}")
    tally.count(home, None, _TRIALS)


@contextmanager
def mounted(home: Path, size: str) -> Iterator[tuple[str, ...]]:
    """Have the home on a file system in a mount namespace; yield what runs a command there."""
    home.mkdir()
    script = f'mount -t tmpfs -o size={size} none "$0" && echo mounted && exec sleep 600'
    keeper = subprocess.Popen(["unshare", "-m", "sh", "-c", script, str(home)], stdout=subprocess.PIPE)
    keeper.stdout.readline()
    try:
        yield ("nsenter", f"--mount=/proc/{keeper.pid}/ns/mnt")
    finally:
        keeper.kill()
        keeper.wait()
        keeper.stdout.close()


def log_full(dice: random.Random, home: Path, tally: Tally) -> None:
    """Fill the disk that has home and log of a detached search, as soon as it is at work, for 8 s."""
    copy = home.with_name("copy")
    with mounted(home, "6m") as enter:
        started = subprocess.run([*enter, *_command(home, "--detach")], env=_environment(), capture_output=True)
        fill = (
            f"until grep -q intermediate_value {home}/optuna.journal; do sleep 0.05; done; "
            f"sleep {dice.uniform(0, 0.3)}; dd if=/dev/zero of={home}/ballast bs=1k 2>/dev/null; sleep 8; "
            f"rm {home}/ballast; until flock -s -n {home}/logs/*.log true; do sleep 0.2; done; cp -a {home} {copy}"
        )
        subprocess.run([*enter, "timeout", str(LIMIT), "sh", "-c", fill], check=True)
    (log,) = (copy / "logs").iterdir()
    printed = log.read_text(errors="replace")
    if started.returncode or "Trials ended" not in printed:
        tally.complaints.append(f"{started.stderr.decode()} {printed[-500:]}")
    tally.count(copy, None, _TRIALS)
