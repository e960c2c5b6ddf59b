"""`regsearch ui` at work, asked as a browser or a program would ask it."""

import http.client
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

COMMAND = [sys.executable, "-P", "-c", "from search.cli import main; main()"]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message
    text: str


@dataclass(frozen=True)
class RunningUi:
    """The process, and the two links as it has printed them."""

    process: subprocess.Popen
    optuna: str
    mlflow: str

    @property
    def base(self) -> str:
        return f"http://{urlsplit(self.optuna).netloc}"

    @property
    def port(self) -> int:
        return urlsplit(self.optuna).port

    @property
    def token(self) -> str:
        return parse_qs(urlsplit(self.optuna).query)["token"][0]

    @contextmanager
    def connection(self) -> Iterator[http.client.HTTPConnection]:
        opened = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            yield opened
        finally:
            opened.close()

    def ask(self, path: str, method: str = "GET", *, body: str = "", token: str | None = "", **headers: str) -> Answer:
        """Send one request, with the right token unless another is given, or None."""
        with self.connection() as connection:
            return self.ask_on(connection, path, method, body=body, token=token, **headers)

    def ask_on(
        self,
        connection: http.client.HTTPConnection,
        path: str,
        method: str = "GET",
        *,
        body: str = "",
        token: str | None = "",
        **headers: str,
    ) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent["Authorization"] = f"Bearer {token or self.token}"
        if body:
            sent["Content-Type"] = "application/json"
        connection.request(method, path, body or None, sent)
        with connection.getresponse() as answer:
            return Answer(answer.status, answer.headers, answer.read().decode("utf-8", "replace"))


@contextmanager
def running_ui(folder: Path, *options: str) -> Iterator[RunningUi]:
    """Run `regsearch ui` and wait for its two links; it is killed if it has not ended by itself."""
    process = subprocess.Popen(
        [*COMMAND, "ui", "--home", str(folder / "runs"), "--port", str(free_port()), *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = [process.stdout.readline(), process.stdout.readline()]
        links = [found[0] for line in lines if (found := re.search(r"http://\S+", line))]
        assert len(links) == 2, (lines, process.communicate(timeout=60)[1])
        yield RunningUi(process, *links)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def ending_tidily(folder: Path, *options: str) -> Iterator[RunningUi]:
    """As `running_ui`, ended by Ctrl-C."""
    with running_ui(folder, *options) as ui:
        yield ui
        ui.process.send_signal(signal.SIGINT)
        assert ui.process.wait(30) == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
