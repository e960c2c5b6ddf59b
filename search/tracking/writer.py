"""How a study looks in MLflow: one experiment, one run for the study, one child run for each trial.

The only module that imports MLflow; it runs in the tracking process alone. It writes what it is given, once, and
raises whatever MLflow raises: when to try again is `process`'s business.

Nothing is written twice: runs are found by their tags, and a trial's run counts only once it has ended. A run that is
still RUNNING was cut short and is written anew.
"""

import getpass
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath

import mlflow.store.db.utils
from mlflow.entities import Experiment, Metric, Param, Run, RunTag
from mlflow.tracking import MlflowClient

from search.records import Reason, Role, Summary, TrialRecord
from search.tracking.messages import Closing, Opening, without_passwords

# A database that does not answer is tried again by the tracking process, which can be told to stop meanwhile;
# MLflow's own ten attempts would take 100 s.
mlflow.store.db.utils.MAX_RETRY_COUNT = 1

_PAGE = 500  # runs a request: keeps a slow server's answer well within the timeout
_LONGEST_TAG = 5000  # characters; databases refuse more than 8000 bytes
_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
_ROLE_NOTES = {
    Role.BASELINE: "The baseline: no regularization at all.",
    Role.TEXTBOOK: "The textbook setting: what a careful practitioner would try first.",
}


class MlflowWriter:
    """A study in MLflow, ready for its trials. Made anew after any failure, since it knows what MLflow held then.

    Making one connects, finds or creates the experiment and the study's run, and reads which trials are there.
    `alive` is called after every step that may take long.
    """

    def __init__(self, opening: Opening, alive: Callable[[], None]) -> None:
        self._study = opening.study
        self._uri = opening.uri
        self._alive = alive
        self._client = MlflowClient(tracking_uri=opening.uri)
        self._alive()
        self._experiment_id = self._open_experiment(opening.artifact_root).experiment_id
        self._alive()
        self._study_run_id = self._open_study_run(opening.started)
        self._alive()
        self._complete: set[int] = set()
        self._cut_short: dict[int, list[str]] = {}
        self._take_stock()

    def write(self, record: TrialRecord) -> None:
        """Write a trial as a child run, unless it is there."""
        if record.number in self._complete:
            return
        for run_id in self._cut_short.pop(record.number, []):
            self._client.delete_run(run_id)
        run = self._client.create_run(
            self._experiment_id,
            start_time=_milliseconds(record.started),
            tags={**self._common_tags("trial"), "mlflow.parentRunId": self._study_run_id, **_trial_tags(record)},
            run_name=f"trial-{record.number:04d} {record.reason}",
        )
        self._client.log_batch(
            run.info.run_id,
            metrics=[*_curves(record), *_results(record)],
            params=_params(record.params),
            synchronous=True,
        )
        self._client.set_terminated(run.info.run_id, _STATUS[record.state], _milliseconds(record.ended))
        self._complete.add(record.number)

    def close(self, closing: Closing) -> str | None:
        """Complete the study's run. Return what is wrong with its artifacts: they must not hold up the rest."""
        timestamp = _milliseconds(closing.ended)
        values = {**_headlines(closing.summary), **closing.metrics}
        metrics = [Metric(_name(name), _finite(value), timestamp, 0) for name, value in values.items()]
        tags: list[RunTag] = []
        if closing.summary is not None and closing.summary.best is not None:
            tags.append(RunTag("regsearch.best_trial", str(closing.summary.best.number)))
        self._client.log_batch(self._study_run_id, metrics=metrics, tags=tags, synchronous=True)
        self._alive()
        problem = self._store_artifacts({"spec.json": self._study.spec_json.encode(), **closing.artifacts})
        status = "KILLED" if closing.interrupted else "FINISHED"
        self._client.set_terminated(self._study_run_id, status, timestamp)
        return problem

    def _open_experiment(self, artifact_root: Path | None) -> Experiment:
        """Find or create the experiment. One that was deleted comes back, since its name is taken for good."""
        experiment = self._client.get_experiment_by_name(self._study.name)
        if experiment is None:
            # A server decides for itself where artifacts go; a database file on this machine has to be told.
            local = artifact_root is not None and self._uri.startswith("sqlite:")
            location = artifact_root.absolute().as_uri() if artifact_root is not None and local else None
            experiment_id = self._client.create_experiment(self._study.name, artifact_location=location)
            return self._client.get_experiment(experiment_id)
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        return experiment

    def _open_study_run(self, started: datetime) -> str:
        """Find or create the study's run, as RUNNING, with today's tags."""
        # The earliest, should two machines have created it at the same moment.
        found = sorted(self._runs("study"), key=lambda run: (run.info.start_time, _run_id(run)))
        if not found:
            return self._create_study_run(started)
        run = found[0]
        run_id = _run_id(run)
        self._client.update_run(run_id, status="RUNNING")
        # Params cannot be changed in MLflow: the first start's stay, and `spec.json` tells the present ones.
        self._client.log_batch(
            run_id,
            params=[param for param in _params(self._study.params) if param.key not in run.data.params],
            tags=[RunTag(key, value) for key, value in self._study_tags().items()],
            synchronous=True,
        )
        return run_id

    def _create_study_run(self, started: datetime) -> str:
        run = self._client.create_run(
            self._experiment_id, _milliseconds(started), self._study_tags(), run_name=self._study.name
        )
        run_id = _run_id(run)
        self._client.log_batch(run_id, params=_params(self._study.params), synchronous=True)
        return run_id

    def _take_stock(self) -> None:
        """Learn which trials MLflow holds; delete what is there twice and bring strays back to the study's run."""
        by_trial: dict[int, list[Run]] = {}
        for run in self._runs("trial"):
            by_trial.setdefault(int(run.data.tags["regsearch.trial"]), []).append(run)
        for number, runs in by_trial.items():
            ended = sorted((run for run in runs if run.info.status in _STATUS.values()), key=_run_id)
            if not ended:
                self._cut_short[number] = [_run_id(run) for run in runs]
                continue
            # Two runners that wrote the same trial both keep the same run: the order is the same for both.
            self._keep(ended[0])
            self._complete.add(number)
            for run in runs:
                if run is not ended[0]:
                    self._client.delete_run(run.info.run_id)

    def _keep(self, run: Run) -> None:
        if run.data.tags.get("mlflow.parentRunId") != self._study_run_id:
            self._client.set_tag(run.info.run_id, "mlflow.parentRunId", self._study_run_id)

    def _runs(self, kind: str) -> list[Run]:
        """Read all runs of this study and kind. To the end, before anything is changed: pages are mere offsets."""
        wanted = f"tags.`regsearch.kind` = '{kind}' and tags.`regsearch.study_id` = '{self._study.key}'"
        runs: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs([self._experiment_id], wanted, max_results=_PAGE, page_token=token)
            self._alive()
            runs.extend(page)
            token = page.token
            if not token:
                return runs

    def _common_tags(self, kind: str) -> dict[str, str]:
        tags = {
            "regsearch.kind": kind,
            "regsearch.study": self._study.name,
            "regsearch.study_id": self._study.key,
            "mlflow.source.name": "regsearch",
        }
        return tags | _user()

    def _study_tags(self) -> dict[str, str]:
        own = _tags({**self._study.tags, "mlflow.note.content": self._study.description})
        return own | self._common_tags("study")

    def _store_artifacts(self, artifacts: Mapping[str, bytes | Path]) -> str | None:
        problem = None
        for name, content in artifacts.items():
            try:
                self._store_artifact(name, content)
            except Exception as error:  # each store has errors of its own; the other artifacts may well fit
                problem = without_passwords(f"{name} could not be stored ({_first_line(error)})", self._uri)
            self._alive()
        return problem

    def _store_artifact(self, name: str, content: bytes | Path) -> None:
        folder = PurePosixPath(name).parent
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / PurePosixPath(name).name
            if isinstance(content, bytes):
                file.write_bytes(content)
            else:
                shutil.copyfile(content, file)
            self._client.log_artifact(self._study_run_id, str(file), None if folder.name == "" else str(folder))


def _curves(record: TrialRecord) -> Iterator[Metric]:
    """Give the epochs' metrics, step by step; the times are spread evenly over the trial, none being recorded."""
    start, end = _milliseconds(record.started), _milliseconds(record.ended)
    for done, row in enumerate(record.epochs, start=1):
        timestamp = start + (end - start) * done // len(record.epochs)
        values = {
            "train_loss": row.train_loss,
            "val_loss": row.val_loss,
            "val_accuracy": row.val_accuracy,
            "gap": row.gap,
        }
        for name, value in values.items():
            yield Metric(name, _finite(value), timestamp, row.epoch)


def _results(record: TrialRecord) -> Iterator[Metric]:
    """Give the numbers that trials are compared by, all of the best epoch, whose weights were kept."""
    values: dict[str, float] = {"epochs": len(record.epochs)}
    if (best := record.best) is not None:
        values |= {
            "best_val_loss": best.val_loss,
            "best_val_accuracy": best.val_accuracy,
            "best_epoch": best.epoch,
            "best_gap": best.gap,
            "sparsity": best.sparsity,
        }
    for name, value in values.items():
        yield Metric(name, _finite(value), _milliseconds(record.ended), 0)


def _headlines(summary: Summary | None) -> dict[str, float]:
    """Give the study's own numbers."""
    if summary is None:
        return {}
    values = {f"trials_{state}": float(count) for state, count in summary.trials.items()}
    values |= {"trial_epochs": summary.trial_epochs, "wall_seconds": summary.wall_seconds}
    for name, record in (("best", summary.best), ("baseline", summary.baseline)):
        if record is not None and record.best is not None:
            values[f"{name}_val_loss"] = record.best.val_loss
    for name, score in summary.test.items():
        values |= {f"{name}_test_accuracy": score.accuracy, f"{name}_test_loss": score.loss}
    return values


def _trial_tags(record: TrialRecord) -> dict[str, str]:
    tags = {"regsearch.trial": str(record.number), "regsearch.reason": str(record.reason)}
    if record.role is not None:
        tags["regsearch.role"] = str(record.role)
    if record.retry_of is not None:
        tags["regsearch.retry_of"] = str(record.retry_of)
    if note := _note(record):
        tags["mlflow.note.content"] = note
    return _tags(tags)


def _note(record: TrialRecord) -> str:
    lines = [_ROLE_NOTES[record.role]] if record.role is not None else []
    if record.retry_of is not None:
        lines.append(f"Another attempt at trial {record.retry_of}.")
    if record.reason is Reason.DIVERGED:
        lines.append("A loss was not finite.")
    if record.error:
        lines.append(f"Error: {record.error}")
    return "\n\n".join(lines)


def _params(params: Mapping[str, float] | Mapping[str, str]) -> list[Param]:
    return [Param(_name(name), str(value)) for name, value in params.items()]


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {_name(key): value[:_LONGEST_TAG] for key, value in tags.items()}


def _name(name: str) -> str:
    """Replace what MLflow refuses in the names of metrics, params and tags."""
    return re.sub(r"[^\w.\-/ ]", "_", name)


def _finite(value: float) -> float:
    """Give infinities as NaN. Databases know neither; MLflow flags NaN, but would plot an infinity as 1.8e308."""
    return float(value) if math.isfinite(value) else math.nan


def _run_id(run: Run) -> str:
    return str(run.info.run_id)


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _user() -> dict[str, str]:
    try:
        return {"mlflow.user": getpass.getuser()}
    except (OSError, KeyError):  # no such user on this machine, as in many containers
        return {}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
