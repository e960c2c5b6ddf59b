"""The routes of both dashboards that are served: those that their pages need to show studies. All others are refused.

optuna-dashboard and MLflow serve far more than regsearch uses: deleting, webhooks, gateways to language models, jobs.
Each row below was seen to be asked for by a page, or follows from one that was (`tests/test_dashboard_pages.py` opens
the pages, `tests/test_dashboard_routes.py` tries all other routes that the two know).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

MLFLOW_ROOT = "/mlflow"
"""MLflow's pages stand below this path. optuna-dashboard cannot be moved, and has the paths that it is made for."""
NO_GATEWAY = f"{MLFLOW_ROOT}/ajax-api/2.0/mlflow/gateway-proxy"
"""Asked by MLflow's page for its gateway to language models. We answer that it has no models; MLflow is not asked."""
REPORT_LINK = "/regsearch/report"
RUNS_LINK = "/regsearch/mlflow"
COMPARE_LINK = "/regsearch/compare"
"""Pages that lead to a study's report and runs: `?study=NAME` follows."""


@dataclass(frozen=True)
class Route:
    """Methods, and a pattern for the whole path."""

    methods: str
    path: str
    is_file: bool = False
    """True if the answer is a file that a study or a person put there. Such files run no scripts."""

    def matches(self, method: str, path: str) -> bool:
        """Return whether a request is one for this route."""
        return method in self.methods.split() and self._pattern.fullmatch(path) is not None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self.path, re.ASCII)


_FILE = r"[\w.-]+(/[\w.-]+)*"
_STUDY = "/api/studies/[0-9]+"
_API = f"{MLFLOW_ROOT}/ajax-api/2.0/mlflow"

OURS = (
    Route("GET", "/"),
    Route("GET", f"{REPORT_LINK}|{RUNS_LINK}|{COMPARE_LINK}"),
    Route("GET", NO_GATEWAY),
)

OPTUNA_DASHBOARD = (
    Route("GET", f"/dashboard(/{_FILE})?/?"),
    Route("GET", f"/static/{_FILE}"),
    Route("GET", "/favicon.ico"),
    Route("GET", "/api/meta"),
    Route("GET", "/api/studies"),
    Route("GET", _STUDY),
    Route("GET", f"{_STUDY}/param_importances"),
    Route("GET", rf"{_STUDY}/plot/\w+"),
    Route("GET", "/csv/[0-9]+"),
    Route("GET", "/artifacts/[0-9]+(/[0-9]+)?/[0-9a-fA-F-]+", is_file=True),
    # Notes are the one thing that is written: a person's remark on a study or a trial.
    Route("PUT", f"{_STUDY}(/[0-9]+)?/note"),
)

MLFLOW = (
    Route("GET", f"{MLFLOW_ROOT}/"),
    Route("GET", f"{MLFLOW_ROOT}/static-files/{_FILE}"),
    Route("GET", f"{MLFLOW_ROOT}/ajax-api/3.0/mlflow/server-info"),
    # Experiments and runs. A search whose filter is long is sent by POST, and changes nothing.
    Route("GET POST", f"{_API}/experiments/search"),
    Route("GET", f"{_API}/experiments/(get|get-by-name)"),
    Route("POST", f"{_API}/experiments/search-datasets"),
    Route("POST", f"{_API}/runs/search"),
    Route("GET", f"{_API}/runs/get"),
    Route("GET", f"{_API}/metrics/get-history(-bulk|-bulk-interval)?"),
    # Reads alone: the two mutations that its schema has beside a test are searches.
    Route("POST", f"{MLFLOW_ROOT}/graphql"),
    # Files of runs and models.
    Route("GET", f"{_API}/artifacts/list"),
    Route("GET", f"{MLFLOW_ROOT}/(model-versions/)?get-artifact", is_file=True),
    # The registry, and the models of runs.
    Route("GET", f"{_API}/registered-models/(get|search|alias|get-latest-versions)"),
    Route("GET", f"{_API}/model-versions/(get|search|get-download-uri)"),
    Route("POST", f"{_API}/logged-models/search"),
    Route("GET", rf"{_API}/logged-models/[\w-]+(/artifacts/directories)?"),
    Route("GET", rf"{_API}/logged-models/[\w-]+/artifacts/files", is_file=True),
)


def find_route(routes: Sequence[Route], method: str, path: str) -> Route | None:
    """Return the route that a request is for; None where it is for none of them, or its path is no plain one."""
    if ".." in path or "//" in path:
        return None
    return next((route for route in routes if route.matches(method, path)), None)
