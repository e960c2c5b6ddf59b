"""MLflow compared with Optuna: runs, their states and parents, parameters, and each metric epoch by epoch."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from search.records import TrialRecord

_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
_CURVES = ("train_loss", "val_loss", "val_accuracy", "gap")


def differences(uri: str, name: str, records: Sequence[TrialRecord]) -> list[str]:
    """Return all that MLflow has otherwise than the records of a study that has been run to its end."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return ["MLflow has no experiment"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    studies = [run for run in runs if run.data.tags.get("regsearch.kind") == "study"]
    trials = [run for run in runs if run.data.tags.get("regsearch.kind") == "trial"]
    if len(studies) != 1:
        return [f"MLflow has {len(studies)} runs of the study"]
    wanted = {record.number: record for record in records}
    count = Counter(int(run.data.tags["regsearch.trial"]) for run in trials)
    found = [f"MLflow has trial {number} {count[number]} times" for number in wanted if count[number] != 1]
    found += [f"MLflow has trial {number}, which Optuna lacks" for number in count if number not in wanted]
    if studies[0].info.status != "FINISHED":
        found.append(f"MLflow's run of the study is {studies[0].info.status}")
    for run in trials:
        number = int(run.data.tags["regsearch.trial"])
        if run.data.tags.get("mlflow.parentRunId") != studies[0].info.run_id:
            found.append(f"MLflow's trial {number} is not the study's")
        if number in wanted:
            found += [f"MLflow's trial {number} differs: {what}" for what in _of_trial(client, run, wanted[number])]
    return found


def _of_trial(client: Any, run: Any, record: TrialRecord) -> Iterator[str]:
    if run.info.status != _STATUS[record.state]:
        yield f"status {run.info.status}"
    if {key: float(value) for key, value in run.data.params.items()} != {k: float(v) for k, v in record.params.items()}:
        yield "params"
    if run.data.tags.get("regsearch.reason") != str(record.reason):
        yield "reason"
    for name in _CURVES:
        points = sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
        if repr(points) != repr([(row.epoch, _kept(getattr(row, name))) for row in record.epochs]):
            yield name
    best = None if record.best is None else _kept(record.best.val_loss)
    if repr(run.data.metrics.get("best_val_loss")) != repr(best):
        yield "best_val_loss"


def _kept(value: float) -> float:
    """Return a number as MLflow's writer keeps it."""
    return value if math.isfinite(value) else math.nan
