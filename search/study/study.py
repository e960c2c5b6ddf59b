"""A study in Optuna: ask, report, finish, and read back.

Where it is kept is the business of `storage.py`, how it is opened of `opening.py`, how trials get into the storage of
`ledger.py`, what is written about them of `trials.py` and beside them of `facts.py`, who chooses configurations of
`sampling.py`, who else runs the study of `leases.py`, and how those that do not run it ask them to stop of `roster.py`.
Several processes may run one study at once, each a runner with a lease on its trials; everyone may read. All calls of
one `Study` come from one thread, which need not be the one that opened it. Promises, whenever a process dies: every
configuration handed out is run to its end at least once, its result counts once, and the budget is exact.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from math import isnan
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.ablation import Ablation
from search.confirmation import Repeats
from search.errors import StudyBusyError
from search.pareto import values
from search.records import Assignment, EpochResult, News, Params, Reason, Role, Score, Summary, TrialRecord
from search.spec import StudySpec
from search.study import facts
from search.study.annotations import Annotations
from search.study.commits import exclusive
from search.study.following import Following
from search.study.leases import Lease, Observer, RunnerRecord, Task, mark_gone, runners_of, tidy_away
from search.study.ledger import Ledger
from search.study.mirror import optuna_pruner
from search.study.opening import create_or_resume, load, our_study_names, stored_spec
from search.study.patience import Patience
from search.study.reading import as_written, legible, read_texts
from search.study.roster import Dismissal, hears_stop
from search.study.samplers import distributions, make_sampler, promising_from, trials_shown
from search.study.sampling import Sampling
from search.study.spool import Spool
from search.study.storage import describe_failure, storage_errors
from search.study.trials import (
    CONFIG,
    REASON,
    ROLE,
    RUNNER,
    config_of,
    curves,
    end_attributes,
    first_attempt,
    owed_retries,
    retry_attributes,
    role_of,
    spent_trials,
    to_record,
    to_records,
    trainer_deaths,
    unfinished_trials,
)

_FEWEST_TO_COMPARE = 4
LEASE_SECONDS = 60.0
_FINISHER = "finisher"
"""System attribute: the runner that does what is done once in a study's end."""
_NEWS_SECONDS = 2.0
_NEWS_SHARE = 0.05
"""Of the time that the thread of the storage's operations may spend on news."""
_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Fact = TypeVar("_Fact")


@contextmanager
def _understood(storage: BaseStorage, name: str) -> Iterator[None]:
    """Raise StorageError, without passwords, where the storage fails or holds something else than we write."""
    with storage_errors(storage), as_written(f'study "{name}"'):
        yield


def _guarded(
    method: Callable[Concatenate["Study", _Arguments], _Result],
) -> Callable[Concatenate["Study", _Arguments], _Result]:
    """Try a method again while its storage is away; then have it raise StorageError, see `_understood`."""

    @functools.wraps(method)
    def call(self: "Study", /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with _understood(self._storage, self.name):
            return self._patience.call(lambda: method(self, *args, **kwargs))

    return call


class Study:
    """One study, opened to be run (`open`) or to be read (`load`)."""

    def __init__(self, study: optuna.Study, spec: StudySpec, storage: BaseStorage, patience: float = 0.0) -> None:
        """For `open` and `load` only."""
        self.name = study.study_name
        self.spec = spec
        self.recovered = 0
        """Configurations put back in the queue on opening, because whoever ran them had died."""
        self.delivered = 0
        """Results recorded on opening that an earlier process had left, since the storage was away."""
        self._study, self._storage = study, storage
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._patience = Patience(patience, lambda error: describe_failure(error, storage))
        self._choices = spec.choices
        self._lease: Lease | None = None
        self.on_end: Callable[[TrialRecord], None] = _say_nothing
        """Called with each trial that this process or another has ended, in the thread of the other calls."""
        self._uncertain = False
        """Whether the storage failed in the middle of `ask`, so that a trial may have begun that nobody knows of."""

    @classmethod
    def open(
        cls,
        name: str,
        spec: StudySpec,
        storage: BaseStorage,
        home: Path,
        lease: float = LEASE_SECONDS,
        patience: float = 0.0,
        task: Task = "search",
    ) -> "Study":
        """Create the study or resume it, and join those that run it, until `close`; alone, if the task is "finish".

        Others may take over this process's trials once they have not heard of it for `lease` seconds. What the storage
        refuses because it is away is tried again for `patience` seconds.

        Raises SpecMismatchError when it exists with another spec, StorageError when it is not regsearch's or the
        storage fails, HomeError when there is no place in the home for what runners need, StudyBusyError when others
        run it and the task is to finish it.
        """
        with _understood(storage, name):
            study = cls(create_or_resume(name, spec, storage), spec, storage, patience)
            study.join(home, lease, task)
            try:
                if task == "finish":
                    study._be_alone()
                study._get_ready(home)
            except BaseException:
                study.close()
                raise
        return study

    @classmethod
    def load(cls, name: str, storage: BaseStorage) -> "Study":
        """Return a study to read. Raises UsageError when there is none of that name, StorageError when not ours."""
        with _understood(storage, name):
            return cls(*load(name, storage), storage)

    @_guarded
    def ask(self) -> Assignment | None:
        """Return the next configuration to train: from the queue if there is one, else the sampler's.

        None when the budget is used up, by whoever runs the study.
        """
        self._must_be_open()
        try:
            return self._ask()
        except BaseException:
            self._uncertain = True
            raise

    @_guarded
    def report(self, results: Mapping[int, EpochResult]) -> set[int]:
        """Record an epoch of several trials, by number: the validation losses become their intermediate values.

        Returns the trials that others have taken over, since they had not heard of this process for a lease.
        """
        self._must_be_open()
        lost = self._ledger.report({number: (result.epoch, result.val_loss) for number, result in results.items()})
        for number, result in results.items():
            if number not in lost:
                self._sampling.follow(number, result.epoch, self._promise(result))
        return lost

    def set_aside(
        self, number: int, reason: Reason, epochs: Sequence[EpochResult], error: str | None, worker: str | None
    ) -> None:
        """Keep how a trial ended in the home until `finish` has recorded it, lest the storage be away for good.

        May be called from any thread, and never fails.
        """
        now = datetime.now(UTC)
        draft = TrialRecord(number, {}, reason, tuple(epochs), now, now, error=error, worker=worker)
        if self._lease is not None:
            self._spool.keep(self._lease.runner, draft)

    @_guarded
    def finish(
        self,
        number: int,
        reason: Reason,
        epochs: Sequence[EpochResult],
        error: str | None = None,
        worker: str | None = None,
    ) -> TrialRecord:
        """Record how a trial ended; an interrupted one's configuration goes back to the queue.

        Returns what the storage has now: where others have taken the trial over, how they ended it.
        """
        now = datetime.now(UTC)
        draft = TrialRecord(number, {}, reason, tuple(epochs), now, now, error=error, worker=worker)
        self._must_be_open()
        told = self._finish(draft, self._runner)
        self._told.add(number)
        self._sampling.learn(told)
        record = to_record(told)
        self.on_end(record)
        return record

    @_guarded
    def news(self) -> News:
        """Return what others have done, and take over what runners that have died were running."""
        self._must_be_open()
        start = time.monotonic()
        others = self._others()
        if dead := self._observer.dead(others):
            self._take_over(dead)
        self._ledger.look_for_new_trials()
        ended = to_records(self._look_at_others() if others else [])
        for record in ended:
            self.on_end(record)
        shortest = min((other.lease for other in others), default=LEASE_SECONDS)
        # Reading what others run costs more the more there are, and must leave time for writing.
        pause = max(_NEWS_SECONDS, (time.monotonic() - start) / _NEWS_SHARE)
        to_ask, again_in = self._ledger.may_have_more(self.spec.search.trials), min(pause, shortest / 6)
        return News(ended, to_ask, again_in, hears_stop(self._storage, self._study_id, self._runner))

    @_guarded
    def asked_to_stop(self) -> bool:
        """Return whether somebody has asked this process to leave; whoever it was learns that it was heard."""
        self._must_be_open()
        return hears_stop(self._storage, self._study_id, self._runner)

    @_guarded
    def unfinished(self) -> int:
        """Return how many trials of the budget have not ended, whoever runs them; and those that are still to begin."""
        return unfinished_trials(self._trials(), self.spec.search.trials)

    @_guarded
    def records(self) -> list[TrialRecord]:
        """Return the finished trials by number, from storage alone."""
        return to_records(self._trials())

    @_guarded
    def ended_by_nobody_else(self) -> list[TrialRecord]:
        """Return the finished trials without those of others who still run the study, and tell of them themselves."""
        alive = {other.runner for other in self._alive()}
        return to_records([trial for trial in self._trials() if trial.system_attrs.get(RUNNER) not in alive])

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
        return facts.summarize_study(self._study, self.spec)

    def follow(self) -> Following:
        """Return who tells what is new in the study, while another process runs it."""
        return Following(self._study, self._storage)

    def dismiss(self) -> Dismissal:
        """Ask all that run the study to stop; return who tells what becomes of that. Raises StorageError."""
        return Dismissal(self._storage, self._study_id)

    @_guarded
    def add_wall_seconds(self, seconds: float) -> None:
        """Add to the time that the study has been run."""
        facts.add_wall_seconds(self._study, seconds)

    @_guarded
    def record_test(self, which: Literal["best", "baseline"], score: Score) -> None:
        """Keep a test score; read once, after the search."""
        facts.set_test_score(self._study, which, score)

    def keep_repeats(self, repeats: Repeats) -> None:
        """Keep what is confirmed, and all that was trained for it."""
        self.set_fact(facts.REPEATS, repeats.to_json())

    def repeats(self) -> Repeats | None:
        """Return what `keep_repeats` was given last, or None."""
        return self.fact(facts.REPEATS, Repeats)

    def keep_ablation(self, ablation: Ablation) -> None:
        """Keep what was trained to tell what each ingredient of a configuration is worth."""
        self.set_fact(facts.ABLATION, ablation.to_json())

    @_guarded
    def importances(self) -> dict[str, float]:
        """Return how much of the difference between good trials and others each parameter explains, shares of 1.

        By Watanabe et al. 2023 (PED-ANOVA). With several objectives the good ones are those on the first Pareto fronts.
        Empty where there are too few complete trials to tell.
        """
        complete = [trial for trial in self._trials((TrialState.COMPLETE,)) if trial.params]
        if len(complete) < _FEWEST_TO_COMPARE:
            return {}
        ours = {*self._choices.switches, *self._choices.ranges()}
        told = optuna.importance.get_param_importances(self._study)
        return {name: share for name, share in told.items() if name in ours}

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
        facts.set_fact(self._study, key, value)

    @_guarded
    def settle(self, key: str, value: _Fact) -> _Fact:
        """Keep a JSON value, unless there is one; return what is kept, which is the same for all that run the study."""
        return facts.settle(self._study, self._storage, key, value)

    @_guarded
    def fact(self, key: str, kind: type[_Fact]) -> _Fact | None:
        """Return what `set_fact` kept, as a type that pydantic knows, or None."""
        return facts.fact(self._study, key, kind)

    @property
    def machine(self) -> Mapping[str, str]:
        """What the last search ran on, by what it is."""
        return read_texts(self.fact(facts.MACHINE, dict[str, str]))

    def join(self, home: Path, lease: float = LEASE_SECONDS, task: Task = "search") -> None:
        """Count as one of those that run the study, until `close`. Raises HomeError."""
        self._lease = Lease(self._storage, self._study_id, home, lease, task)
        self._observer = Observer()
        try:
            self._lease.start()
        except BaseException:
            self.close()
            raise

    def elect(self, stop: Callable[[], bool] = lambda: False) -> RunnerRecord | None:
        """Make this process the one that does what is done once in a study's end; return who else it is, or None.

        Waits for a sign of life from whoever it is, for a lease at most, or until `stop`.
        """
        first: RunnerRecord | None = None
        while (holder := self._elect()) is not None:
            first = first or holder
            if holder.beat != first.beat or stop():
                return holder
            time.sleep(min(_NEWS_SECONDS, holder.lease / 6))
        return None

    def hold(self, home: Path) -> None:
        """Keep others from running a study that was loaded, until `close`.

        Raises StudyBusyError when somebody runs it, and HomeError.
        """
        self.join(home, task="finish")
        try:
            self._be_alone()
        except BaseException:
            self.close()
            raise

    def _be_alone(self) -> None:
        busy = self.elect() or next((other for other in self._alive() if other.task == "search"), None)
        if busy is not None:
            raise StudyBusyError(
                f'study "{self.name}" is being run by another process right now ({busy.pid} on {busy.host}); '
                "wait for it, or give this one a name of its own: --name NEW"
            )

    @property
    def others(self) -> list[RunnerRecord]:
        """Those that run the study beside this process, as far as is known."""
        with _understood(self._storage, self.name):
            return self._alive()

    @property
    def trouble(self) -> str | None:
        """Why the storage does not answer right now, in words; None when it does."""
        return self._patience.trouble

    @property
    def silence(self) -> float:
        """For how many seconds, at most, others have heard nothing of this process."""
        return 0.0 if self._lease is None else self._lease.longest_silence

    def hurry(self) -> None:
        """Wait no longer for a storage that is away."""
        self._patience.hurry()

    def close(self) -> None:
        """Leave those that run the study. The storage stays open: it is the caller's."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    @property
    def _runner(self) -> str:
        assert self._lease is not None, "a study that is run has been joined"
        return self._lease.runner

    def _others(self) -> list[RunnerRecord]:
        runners = runners_of(self._storage.get_study_system_attrs(self._study_id))
        return [runner for runner in runners if runner.runner != self._runner]

    def _alive(self) -> list[RunnerRecord]:
        others = self._others()
        dead = self._observer.dead(others)
        return [runner for runner in others if runner not in dead]

    def _elect(self) -> RunnerRecord | None:
        with _understood(self._storage, self.name), exclusive(self._storage, self._study_id):
            holder = self._storage.get_study_system_attrs(self._study_id).get(_FINISHER)
            other = next((runner for runner in self._alive() if runner.runner == holder), None)
            if other is None:
                self._storage.set_study_system_attr(self._study_id, _FINISHER, self._runner)
            return other

    def _must_be_open(self) -> None:
        if self._lease is None:
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

    def _ask(self) -> Assignment | None:
        budget = self.spec.search.trials
        trial = self._begun_unawares() or self._ledger.take(budget, self._fill_in)
        if trial is not None:
            self._sampling.learn(trial)
            config = self._config_of(trial)
            return Assignment(trial.number, first_attempt(trial), config, role_of(trial), trainer_deaths(trial))
        return self._ask_sampler(budget) if self._ledger.may_have_more(budget) else None

    def _begun_unawares(self) -> FrozenTrial | None:
        """Return a trial that was begun though the storage failed over it."""
        if not self._uncertain:
            return None
        trial = self._ledger.find_own(self._storage.get_all_trials(self._study_id, False, (TrialState.RUNNING,)))
        self._uncertain = trial is not None
        return trial

    def _ask_sampler(self, budget: int) -> Assignment | None:
        expected = self._ledger.next_number
        params = self._sampling.suggest(expected)
        config = self._choices.configuration(params)
        try:
            number = self._ledger.start(budget, params, {CONFIG: config})
        except BaseException:
            self._sampling.forget(expected)
            raise
        if number is None:
            self._sampling.forget(expected)
            return self._ask() if self._ledger.has_waiting(budget) else None
        if number != expected:
            self._sampling.renumber(expected, number)
        return Assignment(number, number, config)

    def _fill_in(self, trial: FrozenTrial) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return parameters and attributes that a queued trial lacks.

        Another program may have queued it, with as much of a configuration as it liked.
        """
        if CONFIG in trial.user_attrs and self._config_of(trial) and self._is_complete(trial.params):
            return {}, {}
        given = trial.system_attrs.get("fixed_params", {}) | trial.params
        params = self._sampling.suggest(trial.number, given)
        config = self._config_of(trial) if CONFIG in trial.user_attrs else self._choices.configuration(params)
        return {name: value for name, value in params.items() if name not in trial.params}, {CONFIG: config}

    def _config_of(self, trial: FrozenTrial) -> Params:
        """Return a queued trial's configuration. Raises ValueError when it is none of this study's."""
        config = config_of(trial)
        if config.keys() != self.spec.parameters().keys():
            raise ValueError(f"trial {trial.number} has the parameters {sorted(config)}")
        return config

    def _finish(self, draft: TrialRecord, runner: str) -> FrozenTrial:
        told = self._ledger.finish(
            draft.number,
            _STATES[draft.state],
            _values(draft, self.spec.search.objectives),
            end_attributes(draft),
            curves(draft),
            (lambda trial: self._again(trial, draft.error)) if draft.reason is Reason.INTERRUPTED else None,
        )
        self._spool.drop(runner, draft.number)
        return told

    def _again(self, trial: FrozenTrial, error: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return parameters and attributes of the trial that shall run this one's configuration again."""
        return self._queued(retry_attributes(trial, error))

    def _queued(self, attributes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return parameters and attributes to queue `attributes["config"]` with.

        Optuna is told the nearest values in range, since a regularizer that is off may lie outside (0 is in no log
        range), and samplers refuse that.
        """
        return self._choices.chosen(attributes[CONFIG]), attributes

    def _get_ready(self, home: Path) -> None:
        """Put in order what dead processes have left behind, queue what every study begins with, choose the sampler."""
        self._spool = Spool(home, self.name)
        trials, others = self._trials(), self._others()
        self._ledger = Ledger(self._storage, self.name, distributions(self._choices), self._runner, trials)
        self._take_over(self._observer.dead(others))
        with exclusive(self._storage, self._study_id):
            self._enqueue_roles(self._storage.get_all_trials(self._study_id, deepcopy=False))
        self._ledger.look_for_new_trials()  # lest the sampler be asked in vain, and draw anew
        trials = self._trials()
        self._sampling = Sampling(
            self.name,
            self._storage,
            # Those that run a study together must not all ask the same of their samplers.
            make_sampler(self.spec, len(trials), int(self._runner, 16) if others else 0),
            optuna_pruner(self.spec),
            self._choices,
            trials_shown(self.spec),
            promising_from(self.spec),
        )
        for trial in trials:
            self._sampling.learn(trial)
        self._told = {trial.number for trial in trials if trial.state.is_finished()}

    def _take_over(self, dead: Sequence[RunnerRecord]) -> None:
        """Fail the trials of runners that have died and queue their configurations again, each once.

        What is owed another trial is derived from the trials alone, so dying anywhere in here or after it loses and
        doubles nothing. Of several runners that notice at once, the first does it, and leaves the others nothing to do.
        """
        self._deliver(dead)
        with exclusive(self._storage, self._study_id):
            now = self._others()
            gone = [runner for runner in dead if runner in now]  # and not those that have beaten since
            alive = {self._runner, *(runner.runner for runner in now if runner not in gone)}
            trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
            for trial in owed_retries(trials):
                self._ledger.enqueue(*self._again(trial))
                self.recovered += 1
            for trial in trials:
                if trial.state == TrialState.RUNNING and trial.system_attrs.get(RUNNER) not in alive:
                    self._ledger.lose(trial, {REASON: Reason.LOST.value})
                    self._ledger.enqueue(*self._owed(trial))
                    self.recovered += 1
            for runner in gone:
                mark_gone(self._storage, self._study_id, runner)
        for runner in gone:
            tidy_away(runner)

    def _owed(self, trial: FrozenTrial) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return parameters and attributes of what takes a lost trial's place."""
        if CONFIG in trial.user_attrs:
            return self._again(trial)
        # Another program's, or an earlier version's, that was to be completed.
        return trial.params, {key: value for key, value in trial.user_attrs.items() if key == ROLE}

    def _deliver(self, dead: Sequence[RunnerRecord]) -> None:
        """Record the results that dead processes have left in this home, if their trials are still theirs."""
        alive = {runner.runner for runner in self._others() if runner not in dead}
        for runner, draft in self._spool.left_by_others(alive | {self._runner}):
            trial = next((trial for trial in self._trials((TrialState.RUNNING,)) if trial.number == draft.number), None)
            if trial is not None and trial.system_attrs.get(RUNNER) == runner:
                self._finish(draft, runner)
                self.delivered += 1
            else:
                self._spool.drop(runner, draft.number)

    def _look_at_others(self) -> list[FrozenTrial]:
        """Take note of the trials of others, and return those that have ended since the last time."""
        self.spec = stored_spec(self._study)  # whoever joined may have given it more trials
        own, ended = set(self._ledger.running), []
        for trial in self._trials():
            if trial.state.is_finished() and trial.number not in self._told:
                self._told.add(trial.number)
                self._sampling.learn(trial)
                ended.append(trial)
            elif trial.state == TrialState.RUNNING and trial.number not in own:
                self._sampling.learn(trial)
        return ended

    def _enqueue_roles(self, trials: Sequence[FrozenTrial]) -> None:
        """Queue the baseline and the textbook configuration, unless they are there or the budget is smaller."""
        there = {role_of(trial) for trial in trials}
        configs = {Role.BASELINE: self.spec.baseline(), Role.TEXTBOOK: self.spec.textbook()}
        for role, config in list(configs.items())[: self.spec.search.trials]:
            if role not in there:
                self._ledger.enqueue(*self._queued({ROLE: role.value, CONFIG: config}))


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
    """Return the studies in the storage that regsearch made, by name; what cannot be read is left out, and said."""
    with storage_errors(storage), as_written("the storage"):
        return list(legible(our_study_names(storage), lambda name: _summarize(name, storage)))


def _summarize(name: str, storage: BaseStorage) -> Summary:
    study = optuna.load_study(study_name=name, storage=storage)
    return facts.summarize_study(study, stored_spec(study))


def _say_nothing(_record: TrialRecord) -> None:
    pass
