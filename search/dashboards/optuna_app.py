"""optuna-dashboard on one of our storages, with the ways from it to a study's report and to its runs in MLflow.

It runs in a process of its own, see `leash`. optuna-dashboard has no login, and nothing that keeps other sites out: a
page that the user visits may give its own name this machine's address, and then read and delete studies ("DNS
rebinding"). So only those requests are answered that call this server by a name it is known to have, and nothing is
changed for a page of another. What is answered stands in no other site's frame, is read by no other site, and files
that somebody has uploaded run no scripts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from search.dashboards.notes import COMPARE_LINK, REPORT_LINK, RUNS_LINK
from search.places import artifact_folder
from search.report import page_path
from search.spec import check_study_name
from search.study import StoredStudy, open_storage
from search.study.annotations import artifact_store
from search.tracking import comparison_link, runs_link

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from optuna.storages import BaseStorage

_THREADS = 8
_DOOR = "REGSEARCH_DOOR"
_READING = ("GET", "HEAD")
_FILES = "/artifacts/"
"""Where optuna-dashboard has the files that were uploaded. It lets all sites read them, and pages among them run."""
_HEADERS = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "SAMEORIGIN", "Referrer-Policy": "same-origin"}
_OF_FILES = {"Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"}
_OPEN_TO_ALL = "access-control-allow-origin"
_MODE = "workflowType=machine_learning"
"""MLflow's UI is made for language models otherwise, whatever the experiment is."""

Link = Callable[[str, str, str | None], str | None]
"""Gives the page of MLflow's UI for its address, a study's name and identity; None where there is none."""


@dataclass(frozen=True)
class Door:
    """What the process is told. Its addresses may hold passwords."""

    home: str
    storage: str | None
    host: str
    port: int
    names: Sequence[str]
    """By which this server may be called."""
    mlflow: str
    """Address of MLflow's UI, empty where there is none."""

    @property
    def environment(self) -> dict[str, str]:
        """All of it for the process's environment, which other users of the machine cannot read."""
        return {_DOOR: json.dumps(asdict(self))}


def serve() -> None:
    """Serve until the process ends, as `Door.environment` says."""
    import waitress
    from optuna_dashboard import wsgi

    told = Door(**json.loads(os.environ[_DOOR]))
    storage = open_storage(told.storage, Path(told.home))
    app = wsgi(storage, artifact_store(artifact_folder(Path(told.home), "optuna")))
    waitress.serve(Doorman(app, told, storage), host=told.host, port=told.port, threads=_THREADS, ident=None)


class Doorman:
    """The application that stands before optuna-dashboard's."""

    def __init__(self, app: WSGIApplication, door: Door, storage: BaseStorage) -> None:
        self._app, self._door, self._storage = app, door, storage

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, or pass it on."""
        host, path = environ.get("HTTP_HOST", ""), environ.get("PATH_INFO", "")
        start_response = _guarded(start_response, path)
        if _name(host) not in self._door.names:
            return _say(start_response, "403 Forbidden", f"{host!r} is no name of this server (--allowed-host)")
        origin = environ.get("HTTP_ORIGIN")
        if environ["REQUEST_METHOD"] not in _READING and origin is not None and not self._is_own(origin):
            return _say(start_response, "403 Forbidden", f"pages of {origin!r} may change nothing here")
        study = parse_qs(environ.get("QUERY_STRING", "")).get("study", [""])[0]
        match path:
            case path if path == REPORT_LINK:
                return self._report(study, start_response)
            case path if path == RUNS_LINK:
                return self._mlflow(runs_link, study, start_response)
            case path if path == COMPARE_LINK:
                return self._mlflow(comparison_link, study, start_response)
            case _:
                return self._app(environ, start_response)

    def _is_own(self, origin: str) -> bool:
        return _name(origin.partition("://")[2]) in self._door.names

    def _report(self, study: str, start_response: StartResponse) -> Iterable[bytes]:
        try:
            page = page_path(Path(self._door.home), check_study_name(study)).read_bytes()
        except Exception:  # no such study, a name that leads out of the home, no such file
            return _say(
                start_response, "404 Not Found", f"There is no report of {study!r}: regsearch report --study ..."
            )
        start_response("200 OK", [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(page)))])
        return [page]

    def _mlflow(self, link: Link, study: str, start_response: StartResponse) -> Iterable[bytes]:
        """Lead to a page of MLflow's UI; to its first one where it has no such page or does not tell."""
        address = self._door.mlflow
        if not address:
            return _say(start_response, "404 Not Found", "MLflow's UI is not running")
        try:
            page = link(address, study, StoredStudy.load(study, self._storage).fact("identity", str))
        except Exception:  # no such study; MLflow raises its own, requests' and more
            page = None
        route = "#/experiments" if page is None else page
        mode = f"{'&' if '?' in route else '?'}{_MODE}"
        start_response("302 Found", [("Location", f"{_without_login(address)}/{route}{mode}")])
        return []


def _guarded(start_response: StartResponse, path: str) -> StartResponse:
    """Return what answers with the headers that keep other sites out."""
    added = [*_HEADERS.items(), *(_OF_FILES.items() if path.startswith(_FILES) else ())]

    def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
        kept = [(name, value) for name, value in headers if name.lower() != _OPEN_TO_ALL]
        return start_response(status, [*kept, *added], *error)

    return start


def _name(host: str) -> str:
    """Return the name that a Host header calls, without port; empty where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _without_login(address: str) -> str:
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _say(start_response: StartResponse, status: str, text: str) -> Iterable[bytes]:
    body = text.encode()
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
