"""An HTTP proxy in front of a server that lets a part of all requests fail, in one of several ways."""

import http.client
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = b"<html><h1>Maintenance</h1></html>"
_JSON, _HTML = "application/json", "text/html"


class HostileProxy:
    """Listens on a free port of 127.0.0.1 and passes requests on, but for a share that `way`, such as WAYS, answers."""

    def __init__(self, port: int, way: Callable[["Request"], None], dice: random.Random, share: float = 0.3) -> None:
        self.way = way
        self.requests = 0
        self.failed = 0
        proxy, shared = self, dice

        class Handler(Request):
            upstream = port
            dice = shared

            def handle_one(self) -> None:
                proxy.requests += 1
                if self.dice.random() < share and proxy.way is not pass_on:
                    proxy.failed += 1
                    proxy.way(self)
                else:
                    pass_on(self)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of connections that were broken."""


class Request(BaseHTTPRequestHandler):
    """One request, to be passed on, answered, or both."""

    protocol_version = "HTTP/1.1"
    upstream: int
    dice: random.Random
    body: bytes

    def log_message(self, *_: object) -> None: ...

    def handle_one(self) -> None:
        raise NotImplementedError

    def forward(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.handle_one()

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = forward  # noqa: N815

    def passed_on(self) -> tuple[int, bytes, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        try:
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")
            }
            connection.request(self.command, self.path, self.body, headers | {"Accept-Encoding": "identity"})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.getheader("Content-Type") or _JSON
        except OSError:
            return 502, PAGE, _HTML
        finally:
            connection.close()

    def answer(self, status: int, body: bytes, kind: str = _JSON, retry_after: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def reset(self) -> None:
        """Break the connection, as a crash of the server does."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


def _errors(request: Request) -> None:
    """Answer HTTP 500; half of the requests are carried out all the same."""
    if request.dice.random() < 0.5:
        request.passed_on()
    request.answer(500, b'{"error_code": "INTERNAL_ERROR", "message": "out of order"}')


def _busy(request: Request) -> None:
    request.answer(429, b'{"error_code": "RESOURCE_EXHAUSTED", "message": "slow down"}', retry_after="1")


def _broken(request: Request) -> None:
    """Carry the request out, and break off amid the answer."""
    status, body, _ = request.passed_on()
    head = f"HTTP/1.1 {status} OK\r\nContent-Type: {_JSON}\r\nContent-Length: {len(body)}\r\n\r\n"
    request.wfile.write(head.encode() + body[: len(body) // 2])
    request.reset()


def _unanswered(request: Request) -> None:
    request.passed_on()
    request.reset()


def _pages(request: Request) -> None:
    """Answer as a proxy does whose server is away, with one of several statuses, or with nothing."""
    status = request.dice.choice((200, 502, 503, 504))
    if status == 200:
        request.passed_on()
    request.answer(status, request.dice.choice((PAGE, b"")), _HTML)


def _truncated(request: Request) -> None:
    """Carry the request out, and answer with half of the JSON, its length being right."""
    status, body, kind = request.passed_on()
    request.answer(status, body[: len(body) // 2], kind)


def _twice(request: Request) -> None:
    """Send the request twice, as proxies do that take the first one for lost."""
    request.passed_on()
    request.answer(*request.passed_on())


def _slow(request: Request) -> None:
    answer = request.passed_on()
    time.sleep(1.5)
    request.answer(*answer)


def pass_on(request: Request) -> None:
    request.answer(*request.passed_on())


WAYS: dict[str, Callable[[Request], None]] = {
    "errors": _errors,
    "busy": _busy,
    "broken": _broken,
    "unanswered": _unanswered,
    "pages": _pages,
    "truncated": _truncated,
    "twice": _twice,
    "slow": _slow,
}
"""Ways to fail, by name."""
