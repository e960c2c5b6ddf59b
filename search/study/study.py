"""A study in Optuna: open or resume, ask, report, finish, and read back. The only place that knows Optuna's study.

Where it is kept is `storage.py`, how a trial is written down is `trials.py`. One process at a time runs a study and
holds its lock; everyone may read. All calls of one `Study` come from one thread, which need not be the one that opened
it. Promises, whenever a process dies: every configuration handed out is run to its end at least once, and its result
counts once.
"""

import functools
import hashlib
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from search import __version__
from search.errors import HomeError, SpecMismatchError, StorageError, StudyBusyError, UsageError, did_you_mean
from search.records import Assignment, EpochResult, Params, Reason, Role, Score, Summary, TrialRecord
from search.spec import Range, StudySpec, spec_differences
from search.study.mirror import bracket_aware, optuna_pruner
from search.study.samplers import distribution, make_sampler
from search.study.storage import describe_storage, storage_errors
from search.study.trials import (
    CONFIG,
    REASON,
    RETRY_OF,
    ROLE,
    end_attributes,
    owed_retries,
    retry_attributes,
    role_of,
    spent_trials,
    summarize,
    to_record,
    to_records,
)

_SPEC = "spec"
_VERSION = "regsearch"
_WALL_SECONDS = "wall_seconds"
_TEST = "test_"
_FACT = "fact_"
_METRIC_NAMES = ["val_loss"]
_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def _guarded(
    method: Callable[Concatenate["Study", _Arguments], _Result],
) -> Callable[Concatenate["Study", _Arguments], _Result]:
    """Have a method raise StorageError, without passwords, when its database fails."""

    @functools.wraps(method)
    def call(self: "Study", /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with storage_errors(self._storage):
            return method(self, *args, **kwargs)

    return call


class Study:
    """One study, opened to be run (`open`) or to be read (`load`)."""

    def __init__(self, study: optuna.Study, spec: StudySpec, storage: BaseStorage, lock: FileLock | None) -> None:
        """For `open` and `load` only."""
        self.name = study.study_name
        self.spec = spec
        self.recovered = 0
        """Configurations put back in the queue on opening, because the process that ran them was killed."""
        self._study, self._storage, self._lock = study, storage, lock
        self._distributions = {name: distribution(setting) for name, setting in spec.searched().items()}
        self._running: dict[int, Trial] = {}

    @classmethod
    def open(cls, name: str, spec: StudySpec, storage: BaseStorage, home: Path) -> "Study":
        """Create the study or resume it, as the only process that runs it until `close`.

        Raises StudyBusyError when another process runs it, SpecMismatchError when it exists with another spec,
        StorageError when it is not regsearch's or the storage fails, HomeError when there is no place for the lock.
        """
        lock = _acquire_lock(name, home)
        try:
            with storage_errors(storage):
                study = cls(_create_or_resume(name, spec, storage), spec, storage, lock)
                study._recover()
                study._enqueue_roles()
                study._choose_sampler()
        except BaseException:
            lock.release()
            raise
        return study

    @classmethod
    def load(cls, name: str, storage: BaseStorage) -> "Study":
        """Return a study to read. Raises UsageError when there is none of that name, StorageError when not ours."""
        with storage_errors(storage):
            ours = _our_study_names(storage)
            try:
                study = optuna.load_study(study_name=name, storage=storage)
            except KeyError:
                known = f" (known: {', '.join(ours)})" if ours else "; there are none yet"
                raise UsageError(f'there is no study "{name}"{did_you_mean(name, ours)}{known}') from None
            if name not in ours:
                raise _not_ours(name, storage)
            return cls(study, StudySpec.from_json(study.user_attrs[_SPEC]), storage, lock=None)

    @_guarded
    def ask(self) -> Assignment:
        """Return the next configuration to train: from the queue if there is one, else the sampler's."""
        self._must_be_open()
        trial = self._study.ask(self._distributions)
        attributes = trial.user_attrs
        if CONFIG not in attributes:
            attributes[CONFIG] = self._complete(trial.params)
            trial.set_user_attr(CONFIG, attributes[CONFIG])
        self._running[trial.number] = trial
        role = Role(attributes[ROLE]) if ROLE in attributes else None
        return Assignment(trial.number, attributes.get(RETRY_OF, trial.number), attributes[CONFIG], role)

    @_guarded
    def report(self, number: int, result: EpochResult) -> None:
        """Record an epoch's validation loss as the trial's intermediate value."""
        self._running[number].report(result.val_loss, result.epoch)

    @_guarded
    def finish(
        self, number: int, reason: Reason, epochs: Sequence[EpochResult], error: str | None = None
    ) -> TrialRecord:
        """Record how a trial ended; an interrupted one's configuration goes back to the queue."""
        self._must_be_open()
        trial = self._running[number]
        now = datetime.now(UTC)
        draft = TrialRecord(number, {}, reason, tuple(epochs), now, now, error=error)
        for key, value in end_attributes(draft).items():
            trial.set_user_attr(key, value)
        # For pruned trials Optuna takes the last reported loss by itself, and refuses to be given one.
        loss = draft.best.val_loss if draft.state == "complete" and draft.best else None
        told = self._study.tell(trial, loss, _STATES[draft.state])
        del self._running[number]
        if reason is Reason.INTERRUPTED:
            self._enqueue(retry_attributes(told))
        return to_record(told)

    @_guarded
    def records(self) -> list[TrialRecord]:
        """Return the finished trials by number, from storage alone."""
        return to_records(self._trials())

    @_guarded
    def spent(self) -> int:
        """Return how many trials use up the budget: running ones and finished ones, but not interrupted ones."""
        return spent_trials(self._trials())

    @_guarded
    def waiting(self) -> int:
        """Return how many configurations are in the queue."""
        return len(self._trials((TrialState.WAITING,)))

    @_guarded
    def summary(self) -> Summary:
        """Return the study at a glance, from storage alone."""
        return _summarize(self._study)

    @_guarded
    def add_wall_seconds(self, seconds: float) -> None:
        """Add to the time that the study has been run."""
        self._study.set_user_attr(_WALL_SECONDS, self._study.user_attrs.get(_WALL_SECONDS, 0.0) + seconds)

    @_guarded
    def record_test(self, which: Literal["best", "baseline"], score: Score) -> None:
        """Keep a test score; read once, after the search."""
        self._study.set_user_attr(_TEST + which, asdict(score))

    @_guarded
    def set_fact(self, key: str, value: Any) -> None:
        """Keep a JSON value about the study or its runs."""
        self._study.set_user_attr(_FACT + key, value)

    @_guarded
    def fact(self, key: str) -> Any:
        """Return what `set_fact` kept, or None."""
        return self._study.user_attrs.get(_FACT + key)

    def close(self) -> None:
        """Let another process run the study. The storage stays open: it is the caller's."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _must_be_open(self) -> None:
        if self._lock is None:
            raise RuntimeError(f"study {self.name} was loaded to be read, or is closed")

    def _trials(self, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states)

    def _complete(self, params: Params) -> Params:
        """Return sampled values and constants together, in the spec's order."""
        settings = self.spec.parameters().items()
        return {name: params[name] if isinstance(setting, Range) else setting for name, setting in settings}

    def _enqueue(self, attributes: dict[str, Any]) -> None:
        """Queue `attributes["config"]`. Optuna is told the nearest values in range, since a regularizer that is off
        may lie outside (0 is in no log range), and samplers refuse that."""
        config = attributes[CONFIG]
        nearest = {name: setting.clip(config[name]) for name, setting in self.spec.searched().items()}
        self._study.enqueue_trial(nearest, user_attrs=attributes)

    def _recover(self) -> None:
        """Fail the trials of a killed process, and queue every interrupted configuration that is not queued yet.

        What is owed is derived from the trials alone, so dying anywhere in here loses and doubles nothing.
        """
        study_id = self._storage.get_study_id_from_name(self.name)
        for trial in self._trials((TrialState.RUNNING,)):
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
            self._storage.set_trial_user_attr(trial_id, REASON, Reason.INTERRUPTED.value)
            self._study.tell(trial.number, state=TrialState.FAIL)
        for trial in owed_retries(self._trials()):
            self._enqueue(retry_attributes(trial))
            self.recovered += 1

    def _enqueue_roles(self) -> None:
        """Queue the baseline and the textbook configuration, unless they are there or the budget is smaller."""
        there = {role_of(trial) for trial in self._trials()}
        configs = {Role.BASELINE: self.spec.baseline(), Role.TEXTBOOK: self.spec.textbook()}
        for role, config in list(configs.items())[: self.spec.search.trials]:
            if role not in there:
                self._enqueue({ROLE: role.value, CONFIG: config})

    def _choose_sampler(self) -> None:
        self._study.sampler = make_sampler(self.spec, len(self._trials()))
        self._study.pruner = optuna_pruner(self.spec)
        bracket_aware(self._study)


def list_studies(storage: BaseStorage) -> list[Summary]:
    """Return the studies in the storage that regsearch made, by name."""
    with storage_errors(storage):
        names = _our_study_names(storage)
        return [_summarize(optuna.load_study(study_name=name, storage=storage)) for name in names]


def _our_study_names(storage: BaseStorage) -> list[str]:
    return sorted(study.study_name for study in storage.get_all_studies() if _SPEC in study.user_attrs)


def _summarize(study: optuna.Study) -> Summary:
    attributes = study.user_attrs
    test = {
        key.removeprefix(_TEST): Score(**value)
        for key, value in attributes.items()
        if key in ("test_best", "test_baseline")
    }
    return summarize(study.study_name, study.get_trials(deepcopy=False), test, attributes.get(_WALL_SECONDS, 0.0))


def _create_or_resume(name: str, spec: StudySpec, storage: BaseStorage) -> optuna.Study:
    if name in (study.study_name for study in storage.get_all_studies()):
        study = optuna.load_study(study_name=name, storage=storage)
        _check_spec(study, spec, storage)
    else:
        study = optuna.create_study(study_name=name, storage=storage, direction="minimize")
    # Everything below is also what a process killed just after the creation has left to do.
    for key, value in ((_SPEC, spec.to_json()), (_VERSION, __version__)):
        if study.user_attrs.get(key) != value:
            study.set_user_attr(key, value)
    if study.metric_names != _METRIC_NAMES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(_METRIC_NAMES)
    return study


def _check_spec(study: optuna.Study, spec: StudySpec, storage: BaseStorage) -> None:
    attributes = study.user_attrs
    if _SPEC not in attributes:
        # An empty study may be ours: killed between the creation and the first attribute.
        if attributes or study.trials or study.directions != [StudyDirection.MINIMIZE]:
            raise _not_ours(study.study_name, storage)
        return
    differences = spec_differences(StudySpec.from_json(attributes[_SPEC]), spec)
    if differences:
        raise SpecMismatchError(
            f'study "{study.study_name}" exists with another spec:\n'
            + "\n".join(f"  {line}" for line in differences)
            + "\nto search with the new one, give the study a new name: --name NEW"
        )


def _not_ours(name: str, storage: BaseStorage) -> StorageError:
    where = describe_storage(storage)
    return StorageError(f'{where}: study "{name}" was not made by regsearch; choose another name: --name NEW')


def _acquire_lock(name: str, home: Path) -> FileLock:
    """Take the study's lock without waiting; the kernel frees it when this process dies."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:100]
    if safe != name:
        safe += "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    path = home / "locks" / f"{safe}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Opened in one thread and closed in another, so the lock belongs to none.
        lock = FileLock(path, thread_local=False, fallback_to_soft=False)
        lock.acquire(blocking=False)
    except Timeout:
        raise StudyBusyError(
            f'study "{name}" is being run by another process right now (it holds {path}); '
            "wait for it, or give this one a name of its own: --name NEW"
        ) from None
    except OSError as error:
        raise HomeError(f"{path}: the study's lock cannot be made: {error.strerror or error}") from error
    return lock
