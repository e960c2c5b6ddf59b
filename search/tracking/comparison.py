"""The page of MLflow's UI on which a study's best, one-standard-error pick and baseline stand side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from search.tracking.messages import study_key

if TYPE_CHECKING:
    from mlflow.entities import Experiment
    from mlflow.tracking import MlflowClient

COMPARE = "regsearch.compare"
"""Tag of the study's run that holds the link."""


def compare_route(run_ids: Sequence[str], experiment_id: str) -> str:
    """Return the link to MLflow's page that compares runs, to be put behind the UI's own address."""
    runs, experiments = (quote(json.dumps(ids), safe="") for ids in (list(run_ids), [experiment_id]))
    return f"#/compare-runs?runs={runs}&experiments={experiments}"


def comparison_link(uri: str, study: str, identity: str | None = None) -> str | None:
    """Return the link saved with a study, to be put behind the UI's own address, `http://host:5000/`; None if none is.

    `identity` tells the study from others of its name; without it, the newest is meant. Imports MLflow, which takes a
    second. Raises whatever MLflow does.
    """
    client, experiment = _experiment(uri, study)
    if experiment is None:
        return None
    wanted = runs_wanted("study", None if identity is None else study_key(identity))
    found = client.search_runs([experiment.experiment_id], wanted, order_by=["attributes.start_time DESC"])
    return next((run.data.tags[COMPARE] for run in found if COMPARE in run.data.tags), None)


def runs_link(uri: str, study: str, identity: str | None = None) -> str | None:  # noqa: ARG001
    """Return the page of a study's runs, as `comparison_link`: an experiment has those of all studies of its name."""
    _, experiment = _experiment(uri, study)
    return None if experiment is None else f"#/experiments/{quote(str(experiment.experiment_id))}/runs"


def _experiment(uri: str, study: str) -> tuple[MlflowClient, Experiment | None]:
    # A server that does not answer is told of at once.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    return client, client.get_experiment_by_name(study)


def runs_wanted(kind: str, key: str | None) -> str:
    """Return the filter for the runs of a kind, `study` or `trial`, of one study or, where `key` is None, of all."""
    wanted = f"tags.`regsearch.kind` = '{kind}'"
    return wanted if key is None else f"{wanted} and tags.`regsearch.study_id` = '{key}'"
