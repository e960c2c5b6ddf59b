"""optuna-dashboard on one of our storages, with the ways from it to a study's report and to its runs in MLflow.

It runs in a process of its own, see `leash`. optuna-dashboard has no login, and nothing that keeps other sites out: a
page that the user visits may give its own name this machine's address, and then read and delete studies ("DNS
rebinding"). So only those requests are answered that call this server by a name it is known to have.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

from search.dashboards.notes import COMPARE_LINK, REPORT_LINK, RUNS_LINK
from search.report import page_path
from search.spec import check_study_name
from search.tracking import comparison_link

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_THREADS = 8
_SECONDS = 5.0
_MODE = "workflowType=machine_learning"
"""MLflow's UI is made for language models otherwise, whatever the experiment is."""


@dataclass(frozen=True)
class Door:
    """What the process is told."""

    home: str
    host: str
    port: int
    names: Sequence[str]
    """Patterns of the names, with ports, by which this server may be called."""
    mlflow: str
    """Address of MLflow's UI, empty where there is none."""

    @property
    def text(self) -> str:
        """All of it as an argument."""
        return json.dumps(self.__dict__)


def serve(door: str) -> None:
    """Serve until the process ends; what is `Door.text` says how. The storage's URL is in REGSEARCH_STORAGE."""
    import os

    import waitress
    from optuna_dashboard import wsgi

    from search.dashboards.content import artifact_folder
    from search.study import open_storage
    from search.study.annotations import artifact_store

    told = Door(**json.loads(door))
    home = Path(told.home)
    storage = open_storage(os.environ.get("REGSEARCH_STORAGE"), home)
    app = Doorman(wsgi(storage, artifact_store(artifact_folder(home))), told)
    waitress.serve(app, host=told.host, port=told.port, threads=_THREADS, ident=None)


class Doorman:
    """The application that stands before optuna-dashboard's."""

    def __init__(self, app: WSGIApplication, door: Door) -> None:
        self._app, self._door = app, door

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, or pass it on."""
        host = environ.get("HTTP_HOST", "")
        if not any(fnmatch(host, name) for name in self._door.names):
            return _say(start_response, "403 Forbidden", f"{host!r} is no name of this server (--allowed-host)")
        study = parse_qs(environ.get("QUERY_STRING", "")).get("study", [""])[0]
        match environ.get("PATH_INFO", ""):
            case path if path == REPORT_LINK:
                return self._report(study, start_response)
            case path if path == RUNS_LINK:
                return self._mlflow(_runs_page, study, start_response)
            case path if path == COMPARE_LINK:
                return self._mlflow(_comparison_page, study, start_response)
            case _:
                return self._app(environ, start_response)

    def _report(self, study: str, start_response: StartResponse) -> Iterable[bytes]:
        try:
            page = page_path(Path(self._door.home), check_study_name(study)).read_bytes()
        except Exception:  # no such study, a name that leads out of the home, no such file
            return _say(
                start_response, "404 Not Found", f"There is no report of {study!r}: regsearch report --study ..."
            )
        start_response("200 OK", [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(page)))])
        return [page]

    def _mlflow(self, page: Callable[[str, str], str], study: str, start_response: StartResponse) -> Iterable[bytes]:
        if not self._door.mlflow:
            return _say(start_response, "404 Not Found", "MLflow's UI is not running")
        start_response("302 Found", [("Location", f"{self._door.mlflow}/{page(self._door.mlflow, study)}")])
        return []


def _runs_page(mlflow: str, study: str) -> str:
    """Return the page of a study's runs; that of all experiments where MLflow has none or does not tell."""
    address = f"{mlflow}/api/2.0/mlflow/experiments/get-by-name?experiment_name={quote(study, safe='')}"
    try:
        with urllib.request.urlopen(address, timeout=_SECONDS) as answer:
            found: dict[str, Any] = json.load(answer)
        return f"#/experiments/{quote(str(found['experiment']['experiment_id']))}/runs?{_MODE}"
    except (OSError, ValueError, KeyError):
        return f"#/experiments?{_MODE}"


def _comparison_page(mlflow: str, study: str) -> str:
    """Return the page on which a study's best, pick and baseline are compared; that of its runs where none is saved."""
    try:
        link = comparison_link(mlflow, study)
        return _runs_page(mlflow, study) if link is None else f"{link}&{_MODE}"
    except Exception:  # MLflow raises its own, requests' and more
        return _runs_page(mlflow, study)


def _say(start_response: StartResponse, status: str, text: str) -> Iterable[bytes]:
    body = text.encode()
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]
