"""A server that runs beside this process: started on an open port, waited for, ended with all its processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress

from search.children import describe_exit, start_python
from search.errors import DashboardError

_OF_OTHER_SERVERS = ("_MLFLOW_", "MLFLOW_SERVER_", "MLFLOW_ENABLE_", "prometheus_multiproc_dir")
"""Variables that are meant for other servers of MLflow, and would turn on or change something in ours."""
_POLL_SECONDS = 0.1
_START_SECONDS = 60.0
_END_SECONDS = 5.0
_LAST_WORDS = 5
"""Lines of a dead server's output that are shown."""
_LAST_BYTES = 8192
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""The servers are on this machine, whatever proxy leads from it to others."""


def listen(host: str, wanted: int | None, usual: int) -> socket.socket:
    """Listen on the port that is wanted; if none is, on the usual one, or a free one where that is in use.

    The process that serves is given this open port. Nobody else can take it in between, and be sent its token.
    Raises DashboardError when the one that is wanted is in use, or the address is none of this machine's.
    """
    if wanted is not None:
        try:
            return _listen(host, wanted)
        except OSError as error:
            raise DashboardError(
                f"port {wanted} of {host} cannot be used ({_reason(error)}); choose another, or none"
            ) from error
    with suppress(OSError):
        return _listen(host, usual)
    try:
        return _listen(host, 0)
    except OSError as error:
        raise DashboardError(f"{host} cannot be listened on ({_reason(error)})") from error


def _listen(host: str, port: int) -> socket.socket:
    return socket.create_server((host, port), family=_family(host))


def _reason(error: OSError) -> str:
    """Return the system's words alone; Python adds to them what we say ourselves."""
    return os.strerror(error.errno) if error.errno is not None and error.errno > 0 else str(error)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class Server:
    """One server in a process group of its own."""

    def __init__(
        self,
        name: str,
        health: urllib.request.Request,
        listener: socket.socket,
        environment: Mapping[str, str],
        mask: Callable[[str], str],
    ) -> None:
        """`health` is what it answers at once it is ready, `listener` its port; `mask` hides passwords."""
        self.name = name
        self._health, self._mask = health, mask
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the server runs
        self._process = start_python(
            "from search.dashboards.leash import main; main()",
            environment={**environment, **_no_proxy()},
            without=_OF_OTHER_SERVERS,
            stdin=subprocess.PIPE,  # its closing ends the server, should this process be killed
            stdout=self._output,
            stderr=subprocess.STDOUT,
            pass_fds=[listener.fileno()],
            process_group=0,  # Ctrl-C is for this process, which then ends them in order
        )

    def wait_until_ready(self, stop: Callable[[], bool]) -> None:
        """Return when it answers, or a stop is requested. Raises DashboardError when it dies or takes too long."""
        deadline = time.monotonic() + _START_SECONDS
        while not (self._answers() or stop()):
            self.check()
            if time.monotonic() > deadline:
                raise DashboardError(f"{self.name} does not answer after {_START_SECONDS:.0f} s{self._last_words()}")
            time.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """Raise DashboardError when it has ended."""
        if self._process.poll() is not None:
            raise DashboardError(
                f"{self.name} has ended ({describe_exit(self._process.returncode)}){self._last_words()}"
            )

    def end(self) -> None:
        """End it and all that it started; returns when they are gone."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            deadline = time.monotonic() + _END_SECONDS
            while self._is_alive() and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._output.close()

    def _is_alive(self) -> bool:
        """Return whether any process of the group is left."""
        self._process.poll()
        try:
            os.killpg(self._process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _answers(self) -> bool:
        try:
            with _NO_PROXY.open(self._health, timeout=1.0):
                return True
        except (OSError, ValueError):
            return False

    def _last_words(self) -> str:
        self._output.seek(max(0, self._output.seek(0, os.SEEK_END) - _LAST_BYTES))
        lines = self._mask(self._output.read().decode("utf-8", "replace")).strip().splitlines()
        return "".join(f"\n  {line}" for line in lines[-_LAST_WORDS:])


def _no_proxy() -> dict[str, str]:
    """Return what keeps one server's requests to the other on this machine."""
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    names = ",".join(filter(None, [given, "127.0.0.1", "localhost", "::1"]))
    return {"no_proxy": names, "NO_PROXY": names}
