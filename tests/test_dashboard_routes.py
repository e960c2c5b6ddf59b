"""All routes that MLflow and optuna-dashboard know, asked through the guard: those that pages need are served.

The two are asked for their routes themselves, so that one which a new version brings is tried too.
"""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from dashboard_server import RunningUi, ending_tidily
from optuna.storages import InMemoryStorage

from search.dashboards.routes import NO_GATEWAY
from search.tracking import default_tracking_uri

AJAX, API = "/ajax-api/2.0/mlflow", "/api/2.0/mlflow"
SERVED_OF_MLFLOW = {
    *("GET /", "GET /static-files/<x>", "GET /get-artifact", "GET /model-versions/get-artifact", "POST /graphql"),
    "GET /ajax-api/3.0/mlflow/server-info",
    *(f"GET {AJAX}/experiments/{name}" for name in ("get", "get-by-name", "search")),
    *(f"POST {AJAX}/{name}" for name in ("experiments/search", "experiments/search-datasets", "runs/search")),
    *(f"GET {AJAX}/{name}" for name in ("runs/get", "artifacts/list", "metrics/get-history")),
    *(f"GET {AJAX}/metrics/get-history-{name}" for name in ("bulk", "bulk-interval")),
    *(f"GET {AJAX}/registered-models/{name}" for name in ("get", "search", "alias", "get-latest-versions")),
    *(f"GET {AJAX}/model-versions/{name}" for name in ("get", "search", "get-download-uri")),
    *(f"GET {AJAX}/logged-models/<x>{name}" for name in ("", "/artifacts/directories", "/artifacts/files")),
    f"POST {AJAX}/logged-models/search",
}
SERVED_OF_OPTUNA_DASHBOARD = {
    *("GET /", "GET /dashboard", "GET /favicon.ico", "GET /static/<x>", "GET /csv/<x>"),
    *("GET /api/meta", "GET /api/studies", "GET /api/studies/<x>"),
    *("GET /api/studies/<x>/param_importances", "GET /api/studies/<x>/plot/<x>"),
    *("PUT /api/studies/<x>/note", "PUT /api/studies/<x>/<x>/note"),
    *("GET /artifacts/<x>/<x>", "GET /artifacts/<x>/<x>/<x>"),
}
"""Method and path, with <x> for what a path has in a variable place."""
ATTACKS = {
    "PUT /ajax-api/3.0/mlflow/assistant/config",
    "POST /ajax-api/3.0/mlflow/assistant/message",
    f"POST {AJAX}/webhooks",
    "POST /ajax-api/3.0/mlflow/gateway/secrets/create",
    "POST /gateway/<x>/mlflow/invocations",
    f"POST {API}/experiments/delete",
}

LIST_ROUTES = """
import json, multiprocessing, sys, threading
from search.tracking.server import mlflow_application

mlflow_application(sys.argv[1], sys.argv[2])
served = sorted(name for name in sys.modules if name.startswith(("mlflow.server", "uvicorn")))
at_work = [thread.name for thread in threading.enumerate()] + multiprocessing.active_children()

from mlflow.server import app as flask
from mlflow.server.fastapi_app import app as fastapi
from mlflow.server.graphql.graphql_schema_extensions import schema

def routes_of(router, prefix=""):
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from routes_of(inner, prefix + route.include_context.prefix)
        elif getattr(route, "methods", None):
            yield from ((method, prefix + route.path) for method in route.methods)

routes = [(method, rule.rule) for rule in flask.url_map.iter_rules() for method in rule.methods]
types = schema.graphql_schema
mutations, queries = ([*kind.fields] for kind in (types.mutation_type, types.query_type))
found = {"served": served, "at_work": at_work, "flask": routes, "fastapi": list(routes_of(fastapi))}
print(json.dumps({**found, "mutations": mutations, "queries": queries}))
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("elsewhere") / "prometheus"


@pytest.fixture(scope="module")
def ui(searched, elsewhere) -> Iterator[RunningUi]:
    """The dashboards, started where the environment has settings for another server of MLflow's."""
    with ExitStack() as running:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("_MLFLOW_STATIC_PREFIX", "/elsewhere")
            patch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
            patch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "true")
            patch.setenv("prometheus_multiproc_dir", str(elsewhere))
            patch.setenv("MLFLOW_DEPLOYMENTS_TARGET", "http://127.0.0.1:9")
            started = running.enter_context(ending_tidily(searched))
        yield started


@pytest.fixture(scope="module")
def mlflow(searched) -> dict:
    """MLflow's routes, listed in a process of its own: it keeps settings for the rest of its process's life."""
    arguments = [default_tracking_uri(searched / "runs"), (searched / "runs").as_uri()]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIST_ROUTES, *arguments], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def routes_of_mlflow(mlflow) -> set[str]:
    return {f"{method} {plain(path)}" for method, path in (*mlflow["flask"], *mlflow["fastapi"])}


@pytest.fixture(scope="module")
def routes_of_optuna_dashboard() -> set[str]:
    from optuna_dashboard import wsgi

    return {f"{route.method} {plain(route.rule)}" for route in wsgi(InMemoryStorage()).routes}


def plain(path: str) -> str:
    """Return a path with <x> in its variable places, which Flask, FastAPI and Bottle write in their own ways."""
    path = re.sub(r"<:re:.*\?>$", "", path)  # optuna-dashboard's `/dashboard` and all below
    return re.sub(r"<[^>]*>|\{[^}]*\}", "<x>", path)


def served(ui: RunningUi, routes: set[str], root: str = "") -> set[str]:
    """Return those routes that the guard passes on."""
    found = set()
    with ui.connection() as connection:
        for route in sorted(routes):
            method, _, path = route.partition(" ")
            answer = ui.ask_on(
                connection, root + path.replace("<x>", "1"), method, body="{}" if method == "PUT" else ""
            )
            if answer.status != 404 or (method != "HEAD" and "is not served" not in answer.text):
                found.add(route)
    return found


def test_of_mlflow_s_routes_those_that_its_pages_need_are_served_and_no_other(ui, routes_of_mlflow):
    assert routes_of_mlflow > SERVED_OF_MLFLOW | ATTACKS, "the lists of this test name routes that MLflow does not have"
    gateway = {f"GET {NO_GATEWAY.removeprefix('/mlflow')}"}  # is ours, not MLflow's
    assert served(ui, routes_of_mlflow, "/mlflow") == SERVED_OF_MLFLOW | gateway


def test_none_of_mlflow_s_routes_is_served_beside_its_own_place(ui, routes_of_mlflow):
    assert served(ui, routes_of_mlflow) == {"GET /"}


def test_of_optuna_dashboard_s_routes_those_that_look_and_the_notes_are_served(ui, routes_of_optuna_dashboard):
    assert routes_of_optuna_dashboard > SERVED_OF_OPTUNA_DASHBOARD
    assert served(ui, routes_of_optuna_dashboard) == SERVED_OF_OPTUNA_DASHBOARD


def test_without_the_token_no_route_of_either_is_served(ui, routes_of_mlflow, routes_of_optuna_dashboard):
    routes = {f"{method} /mlflow{path}" for method, _, path in (route.partition(" ") for route in routes_of_mlflow)}
    with ui.connection() as connection:
        for route in sorted(routes | routes_of_optuna_dashboard):
            method, _, path = route.partition(" ")
            for token in (None, "wrong"):
                answer = ui.ask_on(connection, path.replace("<x>", "1"), method, token=token)
                assert answer.status == 401, route


def test_the_gateway_that_mlflow_s_page_asks_for_has_no_models(ui):
    assert json.loads(ui.ask(f"{NO_GATEWAY}?gateway_path=api/2.0/endpoints/").text) == {"endpoints": []}


def test_mlflow_s_assistant_gateway_and_jobs_are_not_even_loaded(mlflow):
    assert not [name for name in mlflow["served"] if re.search(r"fastapi|uvicorn|assistant|sandbox|job_api", name)]
    assert mlflow["at_work"] == ["MainThread"]  # nor has it started a thread or a process


def test_mlflow_s_query_language_changes_nothing(mlflow):
    """`/graphql` is served. Its schema has searches alone, as queries and as mutations."""
    assert set(mlflow["mutations"]) == {"mlflowSearchRuns", "mlflowSearchDatasets", "testMutation"}
    assert all(re.match(r"mlflow(Get|List|Search)|test$", name) for name in mlflow["queries"])


def test_settings_for_other_servers_of_mlflow_do_not_reach_ours(ui, elsewhere):
    assert ui.ask("/mlflow/ajax-api/2.0/mlflow/experiments/get-by-name?experiment_name=tiny").status == 200
    assert json.loads(ui.ask(NO_GATEWAY).text) == {"endpoints": []}
    assert not elsewhere.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_another_user_of_the_machine_finds_no_token(ui):
    """A process's environment is its user's alone; arguments, files and the port are for all to see."""
    look = "cat /proc/*/environ /proc/*/cmdline; cat /tmp/regsearch-*/*; true"
    found = subprocess.run(
        ["/bin/sh", "-c", look], user=65534, group=65534, extra_groups=[], capture_output=True
    ).stdout
    assert b"search.dashboards" in found  # its process is seen
    assert ui.token.encode() not in found
    assert ui.ask("/api/studies", token=None).status == 401


def test_a_flood_of_connections_without_a_token_keeps_its_owner_out_for_no_longer_than_it_lasts(ui):
    def flood():
        for _ in range(20):
            assert ui.ask("/", token=None).status == 401

    threads = [threading.Thread(target=flood) for _ in range(10)]
    for thread in threads:
        thread.start()
    assert ui.ask("/api/meta").status == 200
    for thread in threads:
        thread.join()
