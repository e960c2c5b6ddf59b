"""A Chromium as its reader has it: driven over its own protocol, without a debugger.

Playwright turns on parts of the protocol that make scripts slower: with them, V8 works out the place of every function
that is active whenever an exception is thrown, which takes plotly.js several times as long to start.
See https://chromedevtools.github.io/devtools-protocol/, and `--remote-debugging-pipe` there for the transport.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Any

from search.report.static import QUIET

_FLAGS = (*QUIET, "--no-sandbox", "--window-size=1280,800", "--remote-debugging-pipe")
_READS, _WRITES = 3, 4
"""The file descriptors on which the browser expects messages, and sends its own."""
_SETTLE_SECONDS = 1.5
"""So long a browser is busy with itself after its start."""


class Chromium:
    """A browser with a new profile, from `with` to its end."""

    def __init__(self, program: str) -> None:
        self._program = program

    def __enter__(self) -> Chromium:
        self._profile = tempfile.TemporaryDirectory(prefix="regsearch-chromium-", ignore_cleanup_errors=True)
        commands, self._commands = _high_pipe()
        self._answers, answers = _high_pipe()

        def connect() -> None:
            os.dup2(commands, _READS)
            os.dup2(answers, _WRITES)

        self._process = subprocess.Popen(
            [self._program, *_FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(_READS, _WRITES),
            preexec_fn=connect,
        )
        os.close(commands)
        os.close(answers)
        self._unread, self._number = b"", 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)
        self._profile.cleanup()

    def open_tab(self) -> Tab:
        """Return a new, empty tab of a browser that has come to rest."""
        target = self.send("Target.createTarget", {"url": "about:blank"})["targetId"]
        time.sleep(_SETTLE_SECONDS)
        return Tab(self, self.send("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"])

    def send(self, method: str, params: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        """Return the answer to a command, which is waited for."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        text = json.dumps(message | ({} if session is None else {"sessionId": session}))
        os.write(self._commands, text.encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            received = os.read(self._answers, 65536)
            if not received:
                raise RuntimeError(f"{self._program} ended")
            self._unread += received
        text, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message


class Tab:
    """One page of a browser; it is called with a command and its parameters."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser, self._session = browser, session

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.send(method, params, self._session)

    def value(self, expression: str) -> Any:
        """Return what an expression is in the page; plain values only."""
        return self("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")


def _high_pipe() -> tuple[int, int]:
    """Return a pipe's ends, neither of them where the browser's are to be."""
    ends = os.pipe()
    read, write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _WRITES + 1) for end in ends)
    for end in ends:
        os.close(end)
    return read, write
