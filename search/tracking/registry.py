"""A model in MLflow's registry, loadable by MLflow's own API, without a pickle: `mlflow.pytorch.load_model`."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING
from uuid import uuid4

from search.tracking.location import artifact_root

if TYPE_CHECKING:
    from torch import Tensor, nn

_MARK = "regsearch.export"
"""Tag of the run: the same in a second one, which a server may make of the same request."""
_NO_NAME = re.compile(r"[/:]")


def add_version(
    uri: str,
    study: str,
    model: nn.Module,
    example: Tensor,
    params: Mapping[str, float],
    metrics: Mapping[str, float],
) -> str:
    """Add a version to the registered model named after the study, and return its URI, `models:/NAME/VERSION`.

    It gets a run of its own in the study's experiment. Raises whatever MLflow does.
    """
    # A server that does not answer is told of soon: nothing is lost, and the command can be repeated.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # requests are repeated by `retry`
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_ALLOW_HTTP_REDIRECTS", "false")  # see `tracker`
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")  # nor does whoever loads it here need one
    import mlflow
    import mlflow.pytorch

    from search.tracking.database import opened
    from search.tracking.retry import done_already

    root = artifact_root(uri)
    with _tracking_at(uri), _one_run(uri, study) as mark:
        with opened(uri, root):
            experiment = mlflow.get_experiment_by_name(study)
            if experiment is None:
                location = None if root is None else root.as_uri()
                with done_already("RESOURCE_ALREADY_EXISTS"):
                    mlflow.create_experiment(study, artifact_location=location)
                experiment = mlflow.get_experiment_by_name(study)
                if experiment is None:
                    raise RuntimeError("the experiment was created and cannot be found")
        tags = {"regsearch.kind": "export", "regsearch.study": study, _MARK: mark}
        with mlflow.start_run(experiment_id=experiment.experiment_id, run_name="export", tags=tags):
            mlflow.log_params(dict(params))
            mlflow.log_metrics(dict(metrics))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of MLflow about its own code and about types that it infers
                logged = mlflow.pytorch.log_model(
                    model,
                    name="model",
                    input_example=example.numpy(),
                    serialization_format="pt2",
                    registered_model_name=_NO_NAME.sub("_", study),
                    pip_requirements=[f"torch=={version('torch').partition('+')[0]}"],
                )
        return f"models:/{_NO_NAME.sub('_', study)}/{logged.registered_model_version}"


@contextmanager
def _one_run(uri: str, study: str) -> Iterator[str]:
    """Repeat requests that fail, and yield a mark for the run that is created; delete a second run that has it."""
    from mlflow.tracking import MlflowClient

    from search.tracking.retry import RepeatedRequests

    mark, requests = uuid4().hex, RepeatedRequests(uri)
    put_back = requests.install()
    try:
        yield mark
        if requests.creations:
            client = MlflowClient(tracking_uri=uri)
            experiment = client.get_experiment_by_name(study)
            runs = (
                []
                if experiment is None
                else client.search_runs([experiment.experiment_id], f"tags.`{_MARK}` = '{mark}'")
            )
            for run in runs:
                if run.info.status == "RUNNING":
                    client.delete_run(run.info.run_id)
    finally:
        put_back()


@contextmanager
def _tracking_at(uri: str) -> Iterator[None]:
    """Have MLflow write there; it says so in the environment too, where whoever searches next here would find it."""
    import mlflow

    given = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(given)  # type: ignore[arg-type]  # None takes it back
