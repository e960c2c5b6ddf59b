"""A command that goes on in a process of its own, in a session of its own: started, and waited for until it has begun.

Its arguments travel through a pipe: everybody on a machine may read a process's command line, and a URL may hold a
password. What it prints goes to a log, see `logs`. It tells that it has begun through a second pipe, and if it ends
without having done so, the log says why.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from search.children import NEUTRAL_FOLDER, describe_exit, start_python
from search.errors import DetachError
from search.logs import NewLog
from search.places import working_directory


@dataclass(frozen=True)
class Launched:
    """A process that has begun with its work, or has failed to."""

    pid: int
    log: Path
    began: bool
    said: str
    """What it tells of itself as it begins; what it printed, if it has not begun."""
    exit_code: int = 0


@dataclass(frozen=True)
class Order:
    """What a process is to do that `launch` has started."""

    arguments: list[str]
    channel: int
    """File descriptor of the pipe on which to tell that it has begun."""

    def tell(self, text: str) -> None:
        """Tell who waits for it that the work has begun."""
        with suppress(OSError), open(self.channel, "w", encoding="utf-8") as channel:  # they may have gone
            channel.write(text)


def launch(arguments: Sequence[str], study: str, home: Path) -> Launched:
    """Start the program with these arguments, and wait until it has begun or failed. Raises DetachError, HomeError.

    When it has failed, its log is removed again.
    """
    log = NewLog(home, study)
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8") as news:
        try:
            process = _start(log, study, writing)
        except OSError as error:
            log.remove()
            raise DetachError(f"the process could not be started: {error}") from error
        finally:
            os.close(writing)
        _hand_over(process, {"arguments": [*arguments], "channel": writing})
        log.give_to(process.pid)
        try:
            said = news.read()
        except KeyboardInterrupt:
            process.terminate()
            raise
    return Launched(process.pid, log.path, True, said) if said else _failed(process, log)


def take_over() -> Order:
    """Return what this process is to do, as it was handed over by `launch`."""
    order = Order(**json.load(sys.stdin))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())
    os.close(nothing)
    return order


def _start(log: NewLog, study: str, channel: int) -> subprocess.Popen[bytes]:
    return start_python(
        "from search.cli import detached; detached()",
        [study],  # for whoever lists processes
        folder=str(working_directory() or NEUTRAL_FOLDER),  # its arguments name files from there
        stdin=subprocess.PIPE,
        stdout=log.file,
        stderr=log.file,
        pass_fds=[channel],
        start_new_session=True,
    )


def _hand_over(process: subprocess.Popen[bytes], order: dict[str, object]) -> None:
    assert process.stdin is not None
    with suppress(OSError), process.stdin as channel:  # when it is dead already, its log tells why
        channel.write(json.dumps(order).encode())


def _failed(process: subprocess.Popen[bytes], log: NewLog) -> Launched:
    code = process.wait()
    said = log.path.read_text(encoding="utf-8", errors="replace")
    if code < 0 or not said:  # it could not say itself why it ended
        said += f"Error: the process ended before the search began ({describe_exit(code)})\n"
    log.remove()
    return Launched(process.pid, log.path, False, said, code if code >= 0 else 128 - code)
