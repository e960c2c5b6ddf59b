"""The application that a dashboards' process serves: optuna-dashboard, MLflow's pages, and the ways between them.

Both run in this process, behind one guard, so that neither has a port by which it could be reached without.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from search.dashboards.guard import Access, Reply, RequestGuard
from search.dashboards.read_only import open_as_allowed
from search.dashboards.routes import (
    COMPARE_LINK,
    MLFLOW,
    MLFLOW_ROOT,
    NO_GATEWAY,
    OPTUNA_DASHBOARD,
    OURS,
    REPORT_LINK,
    RUNS_LINK,
)
from search.places import artifact_folder
from search.report import page_path
from search.spec import check_study_name
from search.study import StoredStudy
from search.study.annotations import artifact_store
from search.tracking import comparison_link, is_server, runs_link
from search.tracking.server import mlflow_application

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from optuna.storages import BaseStorage

_CONFIG = "REGSEARCH_DASHBOARDS"
_THREADS = 12
_LARGEST_REQUEST = 1 << 20
"""Bytes. Notes and searches are all that is sent."""
_MODE = "workflowType=machine_learning"
"""MLflow's UI is made for language models otherwise, whatever the experiment is."""
EXPERIMENTS = f"#/experiments?{_MODE}"
"""MLflow's list of experiments, to be put behind its UI's address."""

Link = Callable[[str, str, str | None], str | None]
"""Gives the page of MLflow's UI for its address, a study's name and identity; None where there is none."""


@dataclass(frozen=True)
class ServerConfig:
    """Configuration of the process. Addresses may hold passwords, and the token is one."""

    home: str
    storage: str | None
    tracking_uri: str
    names: Sequence[str]
    """By which this server may be called."""
    token: str
    port: int
    socket: int
    """Number of the open file that listens."""

    @property
    def environment(self) -> dict[str, str]:
        """All of it for the process's environment, which other users of the machine cannot read."""
        return {_CONFIG: json.dumps(asdict(self))}


def serve() -> None:
    """Serve until the process ends, as `ServerConfig.environment` says."""
    import waitress

    config = ServerConfig(**json.loads(os.environ.pop(_CONFIG)))
    waitress.serve(
        application(config),
        sockets=[socket.socket(fileno=config.socket)],
        threads=_THREADS,
        max_request_body_size=_LARGEST_REQUEST,
        ident=None,
        # A proxy's headers are dropped, but for the one that says that its visitors use TLS: the cookie then needs it.
        trusted_proxy="*",
        trusted_proxy_headers={"x-forwarded-proto"},
        clear_untrusted_proxy_headers=True,
    )


def application(config: ServerConfig) -> WSGIApplication:
    """Return both dashboards behind their guard. Raises StorageError, and what MLflow does when it has no database."""
    from optuna_dashboard import wsgi

    home = Path(config.home)
    storage = open_as_allowed(config.storage, home)
    optuna_dashboard = wsgi(storage, artifact_store(artifact_folder(home, "optuna")))
    mlflow = None
    if not is_server(config.tracking_uri):
        mlflow = mlflow_application(config.tracking_uri, artifact_folder(home, "mlflow").absolute().as_uri())
    access = Access(config.names, config.token, f"regsearch-{config.port}")
    routes = (*OURS, *OPTUNA_DASHBOARD, *(() if mlflow is None else MLFLOW))
    return RequestGuard(Dashboards(optuna_dashboard, mlflow, config, storage), routes, access)


class Dashboards:
    """Leads to the dashboards, and has what connects them: the report, and links from a study to its runs."""

    def __init__(
        self,
        optuna_dashboard: WSGIApplication,
        mlflow: WSGIApplication | None,
        config: ServerConfig,
        storage: BaseStorage,
    ) -> None:
        self._optuna_dashboard, self._mlflow, self._config, self._storage = optuna_dashboard, mlflow, config, storage

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request that the guard has let through."""
        path = environ.get("PATH_INFO", "")
        study = parse_qs(environ.get("QUERY_STRING", "")).get("study", [""])[0]
        reply = self._reply(path, study)
        if reply is not None:
            return reply.send(environ, start_response)
        if self._mlflow is not None and path.startswith(f"{MLFLOW_ROOT}/"):
            return self._mlflow(_below(MLFLOW_ROOT, environ), start_response)
        return self._optuna_dashboard(environ, start_response)

    def _reply(self, path: str, study: str) -> Reply | None:
        """Return the answer to what is asked of neither dashboard; None for all else."""
        if path == "/":
            return _redirect("/dashboard")
        if path == REPORT_LINK:
            return self._report(study)
        if path == RUNS_LINK:
            return self._page_of_mlflow(runs_link, study)
        if path == COMPARE_LINK:
            return self._page_of_mlflow(comparison_link, study)
        if path == NO_GATEWAY:
            return Reply("200 OK", '{"endpoints": []}', "application/json")
        return None

    def _report(self, study: str) -> Reply:
        try:
            page = page_path(Path(self._config.home), check_study_name(study)).read_text("utf-8")
        except Exception:  # no such study, a name that leads out of the home, no such file
            told = f"regsearch report --study {shlex.quote(study)} --home {shlex.quote(str(self._config.home))}"
            return Reply("404 Not Found", f"There is no report of {study!r}: `{told}` makes one")
        return Reply("200 OK", page, "text/html")

    def _page_of_mlflow(self, link: Link, study: str) -> Reply:
        """Lead to a page of MLflow's UI; to its first one where it has no such page or does not answer."""
        uri = self._config.tracking_uri
        try:
            page = link(uri, study, StoredStudy.load(study, self._storage).fact("identity", str))
        except Exception:  # no such study; MLflow raises its own, requests' and more
            page = None
        route = "#/experiments" if page is None else page
        root = MLFLOW_ROOT if self._mlflow is not None else _without_login(uri.rstrip("/"))
        return _redirect(f"{root}/{route}{'&' if '?' in route else '?'}{_MODE}")


def _below(root: str, environ: WSGIEnvironment) -> WSGIEnvironment:
    """Return the request for an application that stands below a path."""
    return {
        **environ,
        "SCRIPT_NAME": environ.get("SCRIPT_NAME", "") + root,
        "PATH_INFO": environ["PATH_INFO"].removeprefix(root),
    }


def _redirect(location: str) -> Reply:
    return Reply("302 Found", "", headers=[("Location", location)])


def _without_login(address: str) -> str:
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
