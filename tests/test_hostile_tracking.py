"""A tracking server that somebody else runs: it leads nowhere, fills no memory, and names no folder of this machine."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from test_tracking import STUDY, a_trial, wait_for_notice

from search.children import start_python
from search.tracking import Tracker, tracker
from search.tracking.location import check_artifact_address

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def serving(answer: Answer) -> Iterator[tuple[str, list[str]]]:
    """Give the address of a server that answers like this, and the paths that it is asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            asked.append(self.path)
            answer(self)

        do_POST = do_GET  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_that_redirects_leads_to_no_other_address() -> None:
    def nothing(request: BaseHTTPRequestHandler) -> None:
        request.send_error(404)

    with serving(nothing) as (inside, asked_inside):

        def elsewhere(request: BaseHTTPRequestHandler) -> None:
            request.send_response(307)
            request.send_header("Location", f"{inside}/metadata")
            request.send_header("Content-Length", "0")
            request.end_headers()

        with serving(elsewhere) as (uri, asked):
            tracking = Tracker(uri, None, STUDY, [a_trial(0)])
            assert "cannot be written" in wait_for_notice(tracking)
            tracking.abandon()
    assert asked
    assert asked_inside == []


def test_an_answer_without_end_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.end_headers()
        try:
            while True:
                request.wfile.write(b" " * 2**20)
        except OSError:
            return

    def with_less(code: str, **options: object) -> object:
        return start_python(
            f"from search.tracking import process; process.MOST_MEMORY = 700 * 2**20; {code}", **options
        )

    monkeypatch.setattr(tracker, "start_python", with_less)
    with serving(endless) as (uri, _):
        tracking = Tracker(uri, None, STUDY, [a_trial(0)])
        assert "MemoryError" in wait_for_notice(tracking)
        tracking.abandon()


@pytest.mark.parametrize(
    "address", ["/home/ada", "file:///home/ada/.config", "FILE:/x", "runs:/1/x", "models:/x/1", "x"]
)
def test_a_server_elsewhere_names_no_folder_of_this_machine(address: str) -> None:
    with pytest.raises(ValueError, match="folder of this machine"):
        check_artifact_address(address, "https://mlflow.example.org")
    assert check_artifact_address(address, "http://localhost:5000") == address
    assert check_artifact_address(address, "sqlite:////home/ada/mlflow.db") == address


@pytest.mark.parametrize("address", ["mlflow-artifacts:/1/2/artifacts", "s3://bucket/x", "https://h/x"])
def test_other_places_are_the_server_s_to_choose(address: str) -> None:
    assert check_artifact_address(address, "https://mlflow.example.org") == address
