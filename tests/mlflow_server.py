"""A throw-away `mlflow server`, for the tests and faults that want a real one: started, killed, started again."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class MLflowServer:
    """A server on a free port of this machine, with its database and artifacts in `home`."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""
        if self._process is not None:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self._home}/mlflow.db"]
        command += ["--artifacts-destination", str(self._home / "artifacts")]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        silent = subprocess.DEVNULL
        self._process = subprocess.Popen(command, env=environment, stdout=silent, stderr=silent, start_new_session=True)
        while not self._answers():
            time.sleep(0.1)

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)  # its session holds it and its workers, nothing else
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()
