"""MLflow's own pages, as an application for the process that serves them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from search.tracking.location import artifact_root

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # for language models; it would be one more process
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",  # a model that is a pickle runs whatever it says
    # Ours are stricter (`search.dashboards.guard`): MLflow's would let in pages of all ports of this machine.
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
}
"""Environment of the process that serves MLflow's pages."""

_HEAD = """<script>
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true")
localStorage.getItem("mlflow.workflowType_v1") ?? localStorage.setItem("mlflow.workflowType_v1", '"machine_learning"')
</script><style>[data-assistant-ui] { display: none !important }</style></head>"""
"""Set-up of MLflow's page: the Assistant, which is not served, does not open; experiments are of machine learning."""
_PAGE_POLICY = (
    "default-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'; object-src 'none'"
)
"""The page loads nothing from elsewhere and sends nothing there, as its measurements of use would be. HTML among the
artifacts is shown in a frame that has this policy too, with scripts, and without access to the page."""


def mlflow_application(uri: str, artifacts: str) -> WSGIApplication:
    """Return MLflow's Flask application on a database, with artifacts in a folder that is given as a URI.

    It has the pages and MLflow's own interface. The application that `mlflow server` runs wraps it in another, with the
    Assistant (which runs commands), the gateway to language models, jobs and traces: that one is never imported, and
    nothing that `mlflow server` starts beside it is started. Raises what MLflow does when the database does not answer.
    """
    import mlflow.store.db.utils
    from mlflow.server import app, constants, handlers

    from search.tracking.database import opened

    # A database that does not answer is reported at once; MLflow's own ten attempts would take 100 s.
    mlflow.store.db.utils.MAX_RETRY_COUNT = 1
    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = uri
    os.environ[constants.REGISTRY_STORE_URI_ENV_VAR] = uri
    os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
    os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = artifacts
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
    with suppress(OSError, sqlite3.Error), opened(uri, artifact_root(uri)):  # MLflow says what is wrong
        pass
    handlers.initialize_backend_stores(uri, uri, "mlflow-artifacts:/")
    page = Path(app.static_folder or "", "index.html").read_text("utf-8").replace("</head>", _HEAD, 1).encode()

    def with_page(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/":
            return app(environ, start_response)
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Length": str(len(page)),
            "Content-Security-Policy": _PAGE_POLICY,
        }
        start_response("200 OK", list(headers.items()))
        return [page]

    return with_page
