"""A study in Optuna: ask, report, finish, and read back.

Where it is kept is the business of `storage.py`, how it is opened of `opening.py`, how trials get into the storage of
`ledger.py`, what is written about them of `trials.py`, and who chooses configurations of `sampling.py`. One process at
a time runs a study and holds its lock; everyone may read. All calls of one `Study` come from one thread, which need not
be the one that opened it. Promises, whenever a process dies: every configuration handed out is run to its end at least
once, and its result counts once.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from math import isnan
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.ablation import Ablation
from search.confirmation import Repeats
from search.pareto import values
from search.records import Assignment, EpochResult, Params, Reason, Role, Score, Summary, TimeSpent, TrialRecord
from search.spec import StudySpec
from search.study.annotations import Annotations
from search.study.following import Following
from search.study.ledger import Ledger
from search.study.mirror import optuna_pruner
from search.study.opening import acquire_lock, create_or_resume, load, our_study_names
from search.study.samplers import distributions, make_sampler, promising_from, trials_shown
from search.study.sampling import Sampling
from search.study.storage import storage_errors
from search.study.trials import (
    CONFIG,
    REASON,
    ROLE,
    curves,
    end_attributes,
    first_attempt,
    owed_retries,
    retry_attributes,
    role_of,
    spent_trials,
    summarize,
    to_record,
    to_records,
)

_WALL_SECONDS = "wall_seconds"
_TEST = "test_"
_FACT = "fact_"
_REPEATS = "repeats"
_ABLATION = "ablation"
TIME_SPENT = "time"
"""Name of the fact that tells where the last run's time went."""
_FEWEST_TO_COMPARE = 4
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
        self._choices = spec.choices

    @classmethod
    def open(cls, name: str, spec: StudySpec, storage: BaseStorage, home: Path) -> "Study":
        """Create the study or resume it, as the only process that runs it until `close`.

        Raises StudyBusyError when another process runs it, SpecMismatchError when it exists with another spec,
        StorageError when it is not regsearch's or the storage fails, HomeError when there is no place for the lock.
        """
        lock = acquire_lock(name, home)
        try:
            with storage_errors(storage):
                study = cls(create_or_resume(name, spec, storage), spec, storage, lock)
                study._get_ready()
        except BaseException:
            lock.release()
            raise
        return study

    @classmethod
    def load(cls, name: str, storage: BaseStorage) -> "Study":
        """Return a study to read. Raises UsageError when there is none of that name, StorageError when not ours."""
        with storage_errors(storage):
            return cls(*load(name, storage), storage, lock=None)

    @_guarded
    def ask(self) -> Assignment:
        """Return the next configuration to train: from the queue if there is one, else the sampler's."""
        self._must_be_open()
        trial = self._ledger.take()
        if trial is None:
            return self._ask_sampler()
        if CONFIG in trial.user_attrs and self._is_complete(trial.params):
            self._sampling.learn(trial)
            config = trial.user_attrs[CONFIG]
        else:
            config = self._fill_in(trial)
        return Assignment(trial.number, first_attempt(trial), config, role_of(trial))

    @_guarded
    def report(self, results: Mapping[int, EpochResult]) -> None:
        """Record an epoch of several trials, by number: the validation losses become their intermediate values."""
        self._must_be_open()
        self._ledger.report({number: (result.epoch, result.val_loss) for number, result in results.items()})
        for number, result in results.items():
            self._sampling.follow(number, result.epoch, self._promise(result))

    @_guarded
    def finish(
        self,
        number: int,
        reason: Reason,
        epochs: Sequence[EpochResult],
        error: str | None = None,
        worker: str | None = None,
    ) -> TrialRecord:
        """Record how a trial ended; an interrupted one's configuration goes back to the queue."""
        self._must_be_open()
        now = datetime.now(UTC)
        draft = TrialRecord(number, {}, reason, tuple(epochs), now, now, error=error, worker=worker)
        objectives = self.spec.search.objectives
        told = self._ledger.finish(
            number, _STATES[draft.state], _values(draft, objectives), end_attributes(draft), curves(draft)
        )
        self._sampling.learn(told)
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

    def follow(self) -> Following:
        """Return who tells what is new in the study, while another process runs it."""
        return Following(self._study, self._storage)

    @_guarded
    def add_wall_seconds(self, seconds: float) -> None:
        """Add to the time that the study has been run."""
        self._study.set_user_attr(_WALL_SECONDS, self._study.user_attrs.get(_WALL_SECONDS, 0.0) + seconds)

    @_guarded
    def record_test(self, which: Literal["best", "baseline"], score: Score) -> None:
        """Keep a test score; read once, after the search."""
        self._study.set_user_attr(_TEST + which, asdict(score))

    def keep_repeats(self, repeats: Repeats) -> None:
        """Keep what is confirmed, and all that was trained for it."""
        self.set_fact(_REPEATS, repeats.to_json())

    def repeats(self) -> Repeats | None:
        """Return what `keep_repeats` was given last, or None."""
        return _to_repeats(self.fact(_REPEATS))

    def keep_ablation(self, ablation: Ablation) -> None:
        """Keep what was trained to tell what each ingredient of a configuration is worth."""
        self.set_fact(_ABLATION, ablation.to_json())

    @_guarded
    def importances(self) -> dict[str, float]:
        """Return how much of the difference between good trials and others each parameter explains, shares of 1.

        By Watanabe et al. 2023 (PED-ANOVA). With several objectives the good ones are those on the first Pareto fronts.
        Empty where there are too few complete trials to tell.
        """
        complete = [trial for trial in self._trials((TrialState.COMPLETE,)) if trial.params]
        return optuna.importance.get_param_importances(self._study) if len(complete) >= _FEWEST_TO_COMPARE else {}

    @_guarded
    def plots(self, params: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return Optuna's own plots of these parameters, by name; see `plots.optuna_plots`."""
        from search.study.plots import optuna_plots  # imports plotly and matplotlib, half a second

        return optuna_plots(self._trials((TrialState.COMPLETE,)), params)

    @property
    @_guarded
    def annotations(self) -> Annotations:
        """What optuna-dashboard shows beside the trials."""
        return Annotations(self._storage, self._storage.get_study_id_from_name(self.name))

    @_guarded
    def set_fact(self, key: str, value: Any) -> None:
        """Keep a JSON value about the study or its runs."""
        self._study.set_user_attr(_FACT + key, value)

    @_guarded
    def fact(self, key: str) -> Any:
        """Return what `set_fact` kept, or None."""
        return self._study.user_attrs.get(_FACT + key)

    def hold(self, home: Path) -> None:
        """Keep others from running a study that was loaded, until `close`. Raises StudyBusyError and HomeError."""
        self._lock = acquire_lock(self.name, home)

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

    def _is_complete(self, params: Mapping[str, Any]) -> bool:
        """Return whether nothing is left to choose."""
        switches = self._choices.switches
        positions = {name: params[name] for name in switches if name in params}
        return len(positions) == len(switches) and params.keys() == {*switches, *self._choices.ranges(positions)}

    def _promise(self, result: EpochResult) -> Sequence[float]:
        """Return what a running trial is worth after an epoch, even if it gets no better."""
        # It may yet need all epochs: one that has only begun shall not look like one that learned fast.
        return values(replace(result, epoch=self.spec.training.max_epochs), self.spec.search.objectives)

    def _ask_sampler(self) -> Assignment:
        expected = self._ledger.next_number
        params = self._sampling.suggest(expected)
        config = self._choices.configuration(params)
        number = self._ledger.start(params, {CONFIG: config})
        if number != expected:
            self._sampling.renumber(expected, number)
        return Assignment(number, number, config)

    def _fill_in(self, trial: FrozenTrial) -> Params:
        """Complete a trial that another program queued, with as much of a configuration as it liked; return that."""
        given = trial.system_attrs.get("fixed_params", {}) | trial.params
        params = self._sampling.suggest(trial.number, given)
        config = trial.user_attrs.get(CONFIG) or self._choices.configuration(params)
        lacking = {name: value for name, value in params.items() if name not in trial.params}
        self._ledger.complete(trial.number, lacking, {CONFIG: config})
        return config

    def _enqueue(self, attributes: dict[str, Any]) -> None:
        """Queue `attributes["config"]`. Optuna is told the nearest values in range, since a regularizer that is off
        may lie outside (0 is in no log range), and samplers refuse that."""
        self._ledger.enqueue(self._choices.chosen(attributes[CONFIG]), attributes)

    def _get_ready(self) -> None:
        """Put in order what a killed process left behind, queue what every study begins with, choose the sampler."""
        self._end_abandoned()
        trials = self._trials()
        self._ledger = Ledger(self._storage, self.name, distributions(self._choices), trials)
        for trial in owed_retries(trials):
            self._enqueue(retry_attributes(trial))
            self.recovered += 1
        self._enqueue_roles(trials)
        self._sampling = Sampling(
            self.name,
            self._storage,
            make_sampler(self.spec, len(self._trials())),
            optuna_pruner(self.spec),
            self._choices,
            trials_shown(self.spec),
            promising_from(self.spec),
        )
        for trial in trials:
            self._sampling.learn(trial)

    def _end_abandoned(self) -> None:
        """Fail the trials of a killed process; one that it had not handed out yet waits again.

        Which configurations are owed another trial is derived from the trials alone, so dying anywhere in here or
        after it loses and doubles nothing.
        """
        study_id = self._storage.get_study_id_from_name(self.name)
        for trial in self._trials((TrialState.RUNNING,)):
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
            if CONFIG in trial.user_attrs:
                self._storage.set_trial_user_attr(trial_id, REASON, Reason.INTERRUPTED.value)
                self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
            else:
                self._storage.set_trial_state_values(trial_id, TrialState.WAITING)

    def _enqueue_roles(self, trials: Sequence[FrozenTrial]) -> None:
        """Queue the baseline and the textbook configuration, unless they are there or the budget is smaller."""
        there = {role_of(trial) for trial in trials}
        configs = {Role.BASELINE: self.spec.baseline(), Role.TEXTBOOK: self.spec.textbook()}
        for role, config in list(configs.items())[: self.spec.search.trials]:
            if role not in there:
                self._enqueue({ROLE: role.value, CONFIG: config})


def _values(record: TrialRecord, objectives: Sequence[str]) -> Sequence[float] | None:
    """Return a trial's values in Optuna: its best epoch's, or if it was pruned, as Optuna has it, the last loss alone.

    Where there are several objectives, a loss alone is no value, and a pruned trial has none.
    """
    if record.state == "complete":
        assert record.best is not None, "a trial without a finite loss is not complete"
        return values(record.best, objectives)
    if record.state != "pruned" or len(objectives) > 1 or not record.epochs or isnan(record.epochs[-1].val_loss):
        return None
    return [record.epochs[-1].val_loss]


def list_studies(storage: BaseStorage) -> list[Summary]:
    """Return the studies in the storage that regsearch made, by name."""
    with storage_errors(storage):
        names = our_study_names(storage)
        return [_summarize(optuna.load_study(study_name=name, storage=storage)) for name in names]


def _to_repeats(value: Any) -> Repeats | None:
    return None if value is None else Repeats.from_json(value)


def _summarize(study: optuna.Study) -> Summary:
    attributes = study.user_attrs
    test = {
        key.removeprefix(_TEST): Score(**value)
        for key, value in attributes.items()
        if key in ("test_best", "test_baseline")
    }
    summary = summarize(
        study.study_name,
        study.get_trials(deepcopy=False),
        test,
        attributes.get(_WALL_SECONDS, 0.0),
        study.metric_names or ["val_loss"],  # none where the study's creation was cut short
        _to_repeats(attributes.get(_FACT + _REPEATS)),
    )
    if _FACT + _ABLATION in attributes:
        summary = replace(summary, ablation=Ablation.from_json(attributes[_FACT + _ABLATION]))
    time = attributes.get(_FACT + TIME_SPENT)
    return summary if time is None else replace(summary, time=TimeSpent(**time))
