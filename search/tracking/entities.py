"""What a trial, or a data set, is in MLflow's terms: the name of its run, tags, params, metrics. Writes nothing.

Names are the same in all runs, so that any two can be compared: a trial's params are its complete configuration, its
curves are `train_loss`, `val_loss`, `val_accuracy` and `gap` by epoch, and `best_...` is of its best epoch.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

from search.markdown import plain
from search.records import Reason, Role, TrialRecord
from search.tracking.messages import TrackedData

_LONGEST_TAG = 5000  # characters; databases refuse more than 8000 bytes
_LONGEST_DIGEST = 36
_ROLE_NOTES = {
    Role.BASELINE: "The baseline: no regularization at all.",
    Role.TEXTBOOK: "The textbook setting: what a careful practitioner would try first.",
}


def run_name(record: TrialRecord) -> str:
    """Return what the first column of MLflow's table shows: number, loss, end, role. Sorts by number."""
    loss = "" if record.best is None or not math.isfinite(record.best.val_loss) else f" {record.best.val_loss:.4f}"
    role = "" if record.role is None else f", {record.role}"
    return f"trial-{record.number:04d}{loss} {record.reason}{role}"


def curves(record: TrialRecord) -> Iterator[Metric]:
    """Give the epochs' metrics, step by step; the times are spread evenly over the trial, none being recorded."""
    start, end = milliseconds(record.started), milliseconds(record.ended)
    for done, row in enumerate(record.epochs, start=1):
        timestamp = start + (end - start) * done // len(record.epochs)
        values = {
            "train_loss": row.train_loss,
            "val_loss": row.val_loss,
            "val_accuracy": row.val_accuracy,
            "gap": row.gap,
        }
        for name, value in values.items():
            yield metric(name, value, timestamp, row.epoch)


def results(record: TrialRecord) -> Iterator[Metric]:
    """Give the numbers that trials are compared by, all of the best epoch, whose weights were kept."""
    values: dict[str, float] = {"epochs": len(record.epochs)}
    if (best := record.best) is not None:
        values |= {
            "best_val_loss": best.val_loss,
            "best_val_accuracy": best.val_accuracy,
            "best_epoch": best.epoch,
            "best_gap": best.gap,
            "best_sparsity": best.sparsity,
        }
    return metrics(values, milliseconds(record.ended))


def metrics(values: Mapping[str, float], timestamp: int) -> Iterator[Metric]:
    """Give numbers that have no steps."""
    return (metric(name, value, timestamp, 0) for name, value in values.items())


def metric(name: str, value: float, timestamp: int, step: int) -> Metric:
    """Return a metric, infinities as NaN. Databases know neither; MLflow flags NaN, but would plot 1.8e308."""
    return Metric(_name(name), float(value) if math.isfinite(value) else math.nan, timestamp, step)


def trial_tags(record: TrialRecord) -> dict[str, str]:
    """Return what trials can be filtered by, and what there is to say of this one."""
    optional = {
        "regsearch.role": record.role,
        "regsearch.worker": record.worker,
        "regsearch.retry_of": record.retry_of,
        "mlflow.note.content": _note(record) or None,
    }
    told = {key: str(value) for key, value in optional.items() if value is not None}
    return tags({"regsearch.trial": str(record.number), "regsearch.reason": str(record.reason), **told})


def params(given: Mapping[str, float] | Mapping[str, str]) -> list[Param]:
    """Return params."""
    return [Param(_name(name), str(value)) for name, value in given.items()]


def tags(given: Mapping[str, str]) -> dict[str, str]:
    """Return tags as MLflow takes them."""
    return {_name(key): value[:_LONGEST_TAG] for key, value in given.items()}


def data_input(data: TrackedData) -> DatasetInput:
    """Return the data set as what a run was trained on. The data itself is not needed."""
    digest = data.digest
    if len(digest) > _LONGEST_DIGEST:  # both ends: where validation data is a set of its own, the last one is its
        digest = digest[: _LONGEST_DIGEST // 2] + digest[-_LONGEST_DIGEST // 2 :]
    source = json.dumps({"tags": {"mlflow.source.name": data.source}})
    return DatasetInput(Dataset(data.name, digest, "code", source), [InputTag("mlflow.data.context", "training")])


def milliseconds(moment: datetime) -> int:
    """Return a time as MLflow has it."""
    return int(moment.timestamp() * 1000)


def _note(record: TrialRecord) -> str:
    lines = [_ROLE_NOTES[record.role]] if record.role is not None else []
    if record.retry_of is not None:
        lines.append(f"Another attempt at trial {record.retry_of}.")
    if record.reason is Reason.DIVERGED:
        lines.append("A loss was not finite.")
    if record.error:
        lines.append(f"Error: {plain(record.error)}")
    return "\n\n".join(lines)


def _name(name: str) -> str:
    """Replace what MLflow refuses in the names of metrics, params and tags."""
    return re.sub(r"[^\w.\-/ ]", "_", name)
