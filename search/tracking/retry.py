"""Requests to a tracking server: each is sent again until it is answered, or has failed for too long.

MLflow sends all of its requests by `requests`. Its own retries are switched off: they wait for minutes, ignore
truncated answers and pages of proxies, and do not tell that a request may have been carried out twice. Repeating is
safe for all requests but the creation of a run. `RepeatedRequests.creations` counts those; `writer` deletes doubles.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from mlflow.exceptions import MlflowException
from requests import PreparedRequest, Response
from requests import exceptions as failures
from requests.adapters import HTTPAdapter
from requests.utils import rewind_body
from urllib3.exceptions import InvalidHeader, NewConnectionError
from urllib3.util import Retry

from search.printable import first_line

_SECONDS = 15.0
"""A request that has failed for so long is given up. After its first failure it is sent again in any case."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 3.0
_REPEATED = frozenset({408, 425, 429, 500, 502, 503, 504})
_REFUSED = frozenset({401, 403})
_INTERFACE, _ARTIFACTS = "/api/2.0/mlflow/", "/api/2.0/mlflow-artifacts/"
_LONGEST_QUOTE = 60
_E = TypeVar("_E", bound=Exception)


class BusyError(Exception):
    """The server asks for a longer pause than a request may take."""

    def __init__(self, status: int, seconds: float) -> None:
        super().__init__(f"HTTP {status}: the server is to be asked again in {seconds:.0f} s")
        self.seconds = seconds


class RefusedError(Exception):
    """The server does not accept the credentials, or they lack a permission. Repeating changes nothing."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"HTTP {status} {reason}: the server refuses the credentials, or they lack a permission")


class TooLargeError(Exception):
    """The server, or a proxy in front of it, does not take a request of this size."""


class UnreadableError(Exception):
    """Successful answers that are not MLflow's, such as pages of a proxy."""


def raised_by(error: BaseException | None, kind: type[_E]) -> _E | None:
    """Return the error of that kind among those that led to `error`: MLflow wraps all that a request raises."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


@contextmanager
def done_already(error_code: str) -> Iterator[None]:
    """Ignore the error that says that there is nothing left to do: a request may have been done and not answered."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != error_code:
            raise


class RepeatedRequests:
    """Has this process send each request to one server until it is answered. `answered` is called after each answer."""

    def __init__(self, uri: str, answered: Callable[[], None] = lambda: None) -> None:
        self._server = _address(urlsplit(uri))
        self._answered = answered
        self.answers = 0
        """Requests that were answered."""
        self.creations = 0
        """Requests for a new run that were sent again, so that there may be a second run."""

    def install(self) -> Callable[[], None]:
        """Put this in the place of `requests`' own way to send a request. Return what puts that back."""
        send = HTTPAdapter.send
        server = self._server

        def repeated(adapter: HTTPAdapter, request: PreparedRequest, *args: Any, **options: Any) -> Response:
            if server is None or _address(urlsplit(request.url or "")) != server:
                return send(adapter, request, *args, **options)
            if adapter.max_retries.total == 0:  # else the user has asked for retries of MLflow's own
                adapter.max_retries = Retry(0, read=False)  # returns every status, so that headers can be read

            def once() -> Response:
                answer = send(adapter, request, *args, **options)
                if not options.get("stream"):
                    answer.content  # noqa: B018  # reads it: the connection may break amid the answer
                return answer

            return self._repeat(once, request)

        def put_back() -> None:
            HTTPAdapter.send = send  # type: ignore[method-assign]

        HTTPAdapter.send = repeated  # type: ignore[assignment,method-assign]
        return put_back

    def _repeat(self, once: Callable[[], Response], request: PreparedRequest) -> Response:
        start, is_first = time.monotonic(), True
        for pause in _pauses():
            answer: Response | None = None
            try:
                answer = once()
            except (failures.ConnectionError, failures.Timeout, failures.ChunkedEncodingError) as error:
                if _is_away(error):
                    raise
                failure: Exception = error
            except (failures.ContentDecodingError, failures.RetryError) as error:
                failure = error
            else:
                problem = _problem(answer, request)
                if problem is None:
                    self._count_answer()
                    return answer
                failure = problem
            asked = _asked_pause(answer)
            left = start + _SECONDS - time.monotonic()
            if asked is not None and answer is not None and asked > left:
                raise BusyError(answer.status_code, asked)
            pause = max(pause, asked or 0.0)
            if pause > left and not is_first:
                if answer is None or answer.ok:
                    raise failure
                return answer  # MLflow makes an error of it, with the server's words
            time.sleep(pause)
            is_first = False
            self._prepare_again(request, answer)
        raise AssertionError("pauses have no end")

    def _count_answer(self) -> None:
        self.answers += 1
        self._answered()

    def _prepare_again(self, request: PreparedRequest, answer: Response | None) -> None:
        if answer is not None:
            answer.close()
        if hasattr(request.body, "read"):
            rewind_body(request)
        self.creations += (request.path_url or "").split("?")[0].endswith("/runs/create")


def _address(url: SplitResult) -> tuple[str, int] | None:
    """Return host and port; None for what is no server."""
    if url.scheme not in ("http", "https") or url.hostname is None:
        return None
    return url.hostname, url.port or {"http": 80, "https": 443}[url.scheme]


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE
    while True:
        # By chance, so that those who were turned away together do not come back together.
        yield pause * random.uniform(0.5, 1.0)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _is_away(error: Exception) -> bool:
    """Return whether there is no server, or not the right one: nothing that goes by within a second."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(error, (failures.SSLError, failures.ProxyError)) or isinstance(reason, NewConnectionError)


def _problem(answer: Response, request: PreparedRequest) -> Exception | None:
    """Return why a request should be sent again; None if it was answered. Raises where repeating changes nothing."""
    path = request.path_url
    is_interface = _INTERFACE in path
    if answer.status_code in _REFUSED and is_interface:
        raise RefusedError(answer.status_code, answer.reason or "")
    if answer.status_code == 413:
        raise TooLargeError("HTTP 413: the request is too large")
    if answer.status_code in _REPEATED:
        return UnreadableError(f"HTTP {answer.status_code}")
    is_upload = _ARTIFACTS in path and request.method == "PUT"  # answered with nothing
    if answer.ok and (is_interface or (is_upload and answer.content)) and not _is_object(answer.content):
        said = answer.content[:_LONGEST_QUOTE].decode(errors="replace").strip()
        quoted = first_line(said or "nothing")
        return UnreadableError(f"HTTP {answer.status_code} with an answer that is not MLflow's: {quoted}")
    return None


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _asked_pause(answer: Response | None) -> float | None:
    """Return the seconds of the header Retry-After, which may also be a date."""
    if answer is None or answer.status_code not in _REPEATED:
        return None
    try:
        value = answer.headers.get("Retry-After")
        return None if value is None else float(Retry().parse_retry_after(value))
    except (InvalidHeader, ValueError, OverflowError):
        return None
