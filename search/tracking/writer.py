"""How a study looks in MLflow: one experiment, one run for the study, one child run for each trial.

Runs in the tracking process alone, which `MlflowWriter` assumes where it sets MLflow up. It writes what it is given,
once, and raises whatever MLflow raises: when to try again is `process`'s business, what a trial is in MLflow's terms
that of `entities`.

Nothing is written twice: runs are found by their tags, and a trial's run counts only once it has ended. A run that is
still RUNNING was cut short and is written anew by whoever is given its trial: what another process is writing, nobody
else is given.

A server may carry out a request twice, or two processes may begin at once, so that a trial or the study has two runs.
All processes keep the same one of them and delete the others: when they open the study, and when they close it.
"""

import getpass
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import mlflow.store.db.utils
from mlflow.entities import Experiment, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from search.records import TrialRecord
from search.tracking import batches, entities
from search.tracking.artifacts import Artifacts
from search.tracking.comparison import COMPARE, compare_route, runs_wanted
from search.tracking.database import opened
from search.tracking.entities import milliseconds
from search.tracking.messages import Closing, Confirmed, Findings, Opening
from search.tracking.retry import RefusedError, done_already, raised_by

# A database that does not answer is tried again by the tracking process, which can be told to stop meanwhile;
# MLflow's own ten attempts would take 100 s.
mlflow.store.db.utils.MAX_RETRY_COUNT = 1

_PAGE = 500  # runs a request: keeps a slow server's answer well within the timeout
_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
_NOTE = "mlflow.note.content"
_KIND, _STUDY_ID, _TRIAL = "regsearch.kind", "regsearch.study_id", "regsearch.trial"
_EXPERIMENT_KIND = ("mlflow.experimentKind", "custom_model_development")
"""Without it MLflow's UI guesses, and may show an experiment as one about language models."""
_CONFIRMED = "regsearch.confirmed"
_WINNER = "regsearch.winner"
_WEIGHTS = "best.safetensors"
_OF_TRIALS = ("best_", "baseline_", "confirmed_")
"""How the names of metrics begin that the study's run has of some trial."""


@dataclass
class _Child:
    """A trial's run, with what it says of a confirmation."""

    run_id: str
    role: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def says(self, confirmed: Confirmed) -> bool:
        same = {name: self.metrics.get(f"confirmed_{name}") for name in confirmed.metrics} == confirmed.metrics
        return self.role == confirmed.role and same


class MlflowWriter:
    """A study in MLflow, ready for its trials. Made anew after any failure, since it knows what MLflow held then.

    Making one connects, finds or creates the experiment and the study's run, and reads which trials are there.
    `alive` is called after every step that may take long. `creations` counts the requests for a run that were repeated.
    """

    def __init__(self, opening: Opening, alive: Callable[[], None], creations: Callable[[], int] = lambda: 0) -> None:
        self._study = opening.study
        self._started = opening.started
        self._uri = opening.uri
        self._alive = alive
        self._creations = creations
        self.refused: list[str] = []
        """Metrics, params and tags that MLflow does not take, in words."""
        # One process after the other: two that begin at once would each make a run for the study.
        with opened(opening.uri, opening.artifact_root) as self.notice:
            self._client = MlflowClient(tracking_uri=opening.uri)
            self._artifacts = Artifacts(self._client, opening, alive)
            self._alive()
            self._experiment_id = self._open_experiment(opening.artifact_root)
            self._alive()
            self._ended: tuple[str, int] | None = None
            """Status and end of the study's run, in milliseconds, where it had ended before this writer."""
            self._study_run_id = self._open_study_run()
            self._alive()
        self._children: dict[int, _Child] = {}
        self._cut_short: dict[int, list[str]] = {}
        self._deleted: set[int] = set()
        self._take_stock()

    @property
    def numbers(self) -> set[int]:
        """The trials that MLflow holds, or held until somebody deleted them by hand."""
        return self._children.keys() | self._deleted

    def write(self, record: TrialRecord) -> bool:
        """Write a trial as a child run and return True, unless it is there."""
        if record.number in self._children:
            return False
        for run_id in self._cut_short.pop(record.number, []):
            self._delete_run(run_id, f"trial {record.number}")
        creations = self._creations()
        own = {"mlflow.parentRunId": self._study_run_id, _TRIAL: str(record.number)}
        run_id = self._create_run("trial", own, record.started, entities.run_name(record))
        self._log(
            f"trial {record.number}",
            run_id,
            [*entities.curves(record), *entities.results(record), *entities.params(record.params)],
            entities.trial_tags(record),
        )
        self._client.set_terminated(run_id, _STATUS[record.state], milliseconds(record.ended))
        self._children[record.number] = _Child(run_id)
        if self._creations() > creations:
            self._take_stock(record.number)
        return True

    def close(self, closing: Closing) -> str | None:
        """Complete the study's run. Return what is wrong with its artifacts: they must not hold up the rest."""
        if closing.to_be_continued:
            # Whoever the rest was left to may have completed the run before it was opened here.
            if self._ended is not None:
                self._client.set_terminated(self._study_run_id, *self._ended)
            return None
        self._open_again()
        timestamp = milliseconds(closing.ended)
        artifacts: dict[str, bytes | Path] = {"spec.json": self._study.spec_json.encode()}
        problem = None
        if closing.findings is not None:
            self._mark(closing.findings.confirmed, timestamp)
            self._alive()
            before = self._client.get_run(self._study_run_id)
            problem = self._drop_weights(closing.findings, before)
            self._tell(closing.findings, before, timestamp)
            artifacts |= closing.findings.artifacts
        self._alive()
        problem = self._artifacts.store(self._study_run_id, artifacts) or problem
        status = "KILLED" if closing.interrupted else "FINISHED"
        self._client.set_terminated(self._study_run_id, status, timestamp)
        return problem

    def _tell(self, findings: Findings, before: Run, timestamp: int) -> None:
        """Write to the study's run what was found, and the link that compares it."""
        tags = {**findings.tags, _NOTE: findings.description or self._study.description}
        compared = [self._children[number].run_id for number in findings.compared if number in self._children]
        if len(compared) > 1:
            tags[COMPARE] = compare_route(compared, self._experiment_id)
            tags[_NOTE] += f"\n\n[Compare best, one-standard-error pick and baseline]({tags[COMPARE]})"
        # A run keeps its metrics for good: those of a former winner that this one has not become nan.
        had = {name for name, value in before.data.metrics.items() if name.startswith(_OF_TRIALS) and value == value}
        none = dict.fromkeys(had - findings.metrics.keys(), math.nan)
        metrics = entities.metrics({**findings.metrics, **none}, timestamp)
        self._log("the study", self._study_run_id, metrics, entities.tags(tags))
        name = f"{self._study.name}: {findings.headline}" if findings.headline else self._study.name
        self._client.update_run(self._study_run_id, name=name)

    def _drop_weights(self, findings: Findings, before: Run) -> str | None:
        """Delete a former winner's weights where this one's are not at hand; return what is wrong with that."""
        if _WEIGHTS in findings.artifacts or before.data.tags.get(_WINNER) in (None, findings.tags.get(_WINNER)):
            return None
        return self._artifacts.delete(self._study_run_id, _WEIGHTS)

    def _mark(self, confirmed: Mapping[int, Confirmed], timestamp: int) -> None:
        """Let the confirmed trials say what they were confirmed as, and all others no longer."""
        for number, child in self._children.items():
            now = confirmed.get(number)
            if now is None and child.role is not None:
                with done_already("RESOURCE_DOES_NOT_EXIST"):
                    self._client.delete_tag(child.run_id, _CONFIRMED)
            elif now is not None and not child.says(now):
                means = {f"confirmed_{name}": value for name, value in now.metrics.items()}
                metrics = entities.metrics(means, timestamp)
                self._log(f"trial {number}", child.run_id, metrics, {_CONFIRMED: now.role})
                self._log_data(child.run_id)

    def _open_experiment(self, artifact_root: Path | None) -> str:
        """Find or create the experiment. One that was deleted comes back, since its name is taken for good."""
        experiment = self._client.get_experiment_by_name(self._study.name)
        if experiment is None:
            # A server decides for itself where artifacts go; a database file on this machine has to be told.
            local = artifact_root is not None and self._uri.startswith("sqlite:")
            location = artifact_root.absolute().as_uri() if artifact_root is not None and local else None
            tags = self._experiment_tags()
            with done_already("RESOURCE_ALREADY_EXISTS"):
                self._client.create_experiment(self._study.name, artifact_location=location, tags=tags)
            experiment = self._client.get_experiment_by_name(self._study.name)
            if experiment is None:
                raise RuntimeError("the experiment was created and cannot be found")
        if experiment.lifecycle_stage == "deleted":
            with done_already("RESOURCE_DOES_NOT_EXIST"):
                self._client.restore_experiment(experiment.experiment_id)
        self._complete_experiment(experiment)
        return str(experiment.experiment_id)

    def _complete_experiment(self, experiment: Experiment) -> None:
        """Add the tags that nobody has set, such as to experiments of earlier versions."""
        for key, value in self._experiment_tags().items():
            if key not in experiment.tags:
                self._client.set_experiment_tag(experiment.experiment_id, key, value)

    def _experiment_tags(self) -> dict[str, str]:
        what = (
            f"{self._study.description}\n\nA study of regsearch: one run for the study and, nested in it, one for each "
            "trial. Filter by the tags `regsearch.reason`, `regsearch.role`, `regsearch.confirmed`, `regsearch.worker`."
        )
        return dict([_EXPERIMENT_KIND, (_NOTE, what)])

    def _open_again(self) -> None:
        """Look once more at all that is there: meanwhile others, or the server, may have changed it."""
        run = self._only_study_run()
        if run is None or _run_id(run) != self._study_run_id:
            self._study_run_id = self._open_study_run()
        self._alive()
        self._take_stock()

    def _open_study_run(self) -> str:
        """Find or create the study's run, as RUNNING, with today's tags."""
        run = self._only_study_run()
        if run is None:
            self._create_run("study", {}, self._started, self._study.name)
            run = self._only_study_run()  # another process may have created one at the same moment
            if run is None:
                raise RuntimeError("the study's run was created and cannot be found")
        run_id = _run_id(run)
        if run.info.status != "RUNNING":
            self._ended = None if run.info.end_time is None else (run.info.status, run.info.end_time)
            self._client.update_run(run_id, status="RUNNING")
        # Params cannot be changed in MLflow: the first start's stay, and `spec.json` tells the present ones.
        params = [param for param in entities.params(self._study.params) if param.key not in run.data.params]
        # What was found last is told until there is more.
        tags = {key: tag for key, tag in self._study_tags().items() if key != _NOTE or _NOTE not in run.data.tags}
        self._log("the study", run_id, params, tags)
        self._log_data(run_id)
        return run_id

    def _only_study_run(self) -> Run | None:
        """Return the study's run, the earliest if there are several, and delete the others.

        The order does not change, so that processes that do this at the same moment keep the same run. Trials of a
        run that was deleted are brought back by `_take_stock`.
        """
        runs = sorted(self._runs("study"), key=lambda run: (run.info.start_time, _run_id(run)))
        for double in runs[1:]:
            self._delete_run(_run_id(double), "the study")
        return runs[0] if runs else None

    def _create_run(self, kind: str, own: dict[str, str], started: datetime, name: str) -> str:
        """Create a run with the tags that it is found by. All others follow, since one that is refused prevents it."""
        tags = self._common_tags(kind) | own
        run = self._client.create_run(self._experiment_id, milliseconds(started), tags, run_name=name)
        if any(run.data.tags.get(key) != tags[key] for key in (_KIND, _STUDY_ID, _TRIAL) if key in tags):
            raise RuntimeError("the server was asked to create a run and answered with another one")
        return _run_id(run)

    def _log(self, whose: str, run_id: str, entries: Iterable[batches.Entry], tags: Mapping[str, str]) -> None:
        told = [RunTag(key, value) for key, value in tags.items()]
        self.refused += [f"{entry} of {whose}" for entry in batches.log(self._client, run_id, [*entries, *told])]

    def _log_data(self, run_id: str) -> None:
        # Of a run that has it already, MLflow changes nothing.
        if self._study.data is not None:
            self._client.log_inputs(run_id, [entities.data_input(self._study.data)])

    def _take_stock(self, only: int | None = None) -> None:
        """Learn which trials MLflow holds; delete what is there twice and bring strays back to the study's run.

        With `only`, do so for one trial.
        """
        if only is None:
            self._children, self._cut_short, self._deleted = {}, {}, set()
        by_trial: dict[int, list[Run]] = {}
        for run in self._runs("trial", only):
            by_trial.setdefault(int(run.data.tags[_TRIAL]), []).append(run)
        for number, runs in by_trial.items():
            active = [run for run in runs if run.info.lifecycle_stage == "active"]
            ended = sorted((run for run in active if run.info.status in _STATUS.values()), key=_run_id)
            if not ended:
                self._cut_short[number] = [_run_id(run) for run in active]
                if any(run not in active and run.info.status in _STATUS.values() for run in runs):
                    self._deleted.add(number)
                continue
            # Two runners that wrote the same trial both keep the same run: the order is the same for both.
            self._keep(number, ended[0])
            for run in active:
                if run is not ended[0]:
                    self._delete_run(_run_id(run), f"trial {number}")

    def _delete_run(self, run_id: str, whose: str) -> None:
        try:
            self._client.delete_run(run_id)
        except MlflowException as error:
            if (refusal := raised_by(error, RefusedError)) is None:
                raise
            # Whoever may write runs need not be allowed to delete them.
            self.refused.append(f"to delete a second run of {whose} ({refusal})")

    def _keep(self, number: int, run: Run) -> None:
        tags = run.data.tags
        self._children[number] = _Child(_run_id(run), tags.get(_CONFIRMED), run.data.metrics)
        if tags.get("mlflow.parentRunId") != self._study_run_id:
            self._client.set_tag(run.info.run_id, "mlflow.parentRunId", self._study_run_id)

    def _runs(self, kind: str, trial: int | None = None) -> list[Run]:
        """Read all runs of this study and kind. To the end, before anything is changed: pages are mere offsets.

        Those of trials come with the ones that were deleted.
        """
        wanted = runs_wanted(kind, self._study.key) + ("" if trial is None else f" and tags.`{_TRIAL}` = '{trial}'")
        view = ViewType.ALL if kind == "trial" else ViewType.ACTIVE_ONLY
        runs: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs([self._experiment_id], wanted, view, _PAGE, page_token=token)
            self._alive()
            runs.extend(page)
            token = page.token
            if not token:
                return runs

    def _common_tags(self, kind: str) -> dict[str, str]:
        tags = {
            _KIND: kind,
            "regsearch.study": self._study.name,
            _STUDY_ID: self._study.key,
            "mlflow.source.name": "regsearch",
        }
        return tags | _user()

    def _study_tags(self) -> dict[str, str]:
        own = entities.tags({**self._study.tags, _NOTE: self._study.description})
        return own | self._common_tags("study")


def _run_id(run: Run) -> str:
    return str(run.info.run_id)


def _user() -> dict[str, str]:
    try:
        return {"mlflow.user": getpass.getuser()}
    except (OSError, KeyError):  # no such user on this machine, as in many containers
        return {}
