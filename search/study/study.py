"""A study in Optuna: ask, report, finish, and read back.

Where it is kept is the business of `storage.py`, how it is opened of `opening.py`, what is trained next of `asking.py`,
how trials end and whose are taken over of `endings.py`, how all of that gets into the storage of `ledger.py`, what is
written about trials of `trials.py` and beside them of `facts.py`, who else runs the study of `membership.py`, and how
those that do not run it ask them to stop of `roster.py`.
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
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.ablation import Ablation
from search.confirmation import Repeats
from search.errors import StudyBusyError
from search.pareto import values
from search.records import Assignment, EpochResult, News, Reason, Score, Summary, TrialRecord
from search.spec import StudySpec
from search.study import facts
from search.study.annotations import Annotations
from search.study.asking import Asking
from search.study.endings import Endings
from search.study.following import Following
from search.study.leases import RunnerRecord, Task
from search.study.ledger import Ledger
from search.study.membership import Membership
from search.study.mirror import optuna_pruner
from search.study.opening import create_or_resume, load, our_study_names, stored_spec
from search.study.patience import Patience
from search.study.reading import as_written, legible, read_texts
from search.study.roster import Dismissal
from search.study.samplers import distributions, make_sampler, promising_from, trials_shown
from search.study.sampling import Sampling
from search.study.spool import Spool
from search.study.storage import describe_failure, storage_errors
from search.study.trials import (
    RUNNER,
    spent_trials,
    to_record,
    to_records,
    unfinished_trials,
)

_FEWEST_TO_COMPARE = 4
LEASE_SECONDS = 60.0
_NEWS_SECONDS = 2.0
_NEWS_SHARE = 0.05
"""Of the time that the thread of the storage's operations may spend on news."""
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
        self._study, self._storage = study, storage
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._patience = Patience(patience, lambda error: describe_failure(error, storage))
        self._membership: Membership | None = None
        self.on_end: Callable[[TrialRecord], None] = _say_nothing
        """Called with each trial that this process or another has ended, in the thread of the other calls."""

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
        self._must_be_open().lease.be_heard()
        return self._asking.ask(self.spec.search.trials)

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
        if self._membership is not None:
            self._endings.set_aside(_draft(number, reason, epochs, error, worker))

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
        self._must_be_open()
        told = self._endings.finish(_draft(number, reason, epochs, error, worker))
        self._told.add(number)
        self._sampling.learn(told)
        record = to_record(told)
        self.on_end(record)
        return record

    @_guarded
    def news(self) -> News:
        """Return what others have done, and take over what runners that have died were running."""
        membership = self._must_be_open()
        start = time.monotonic()
        others = membership.others()
        if dead := membership.dead(others):
            self._endings.take_over(dead)
        self._ledger.look_for_new_trials()
        ended = to_records(self._look_at_others() if others else [])
        for record in ended:
            self.on_end(record)
        shortest = min((other.lease for other in others), default=LEASE_SECONDS)
        # Reading what others run costs more the more there are, and must leave time for writing.
        pause = max(_NEWS_SECONDS, (time.monotonic() - start) / _NEWS_SHARE)
        to_ask, again_in = self._ledger.may_have_more(self.spec.search.trials), min(pause, shortest / 6)
        return News(ended, to_ask, again_in, membership.asked_to_stop())

    @_guarded
    def asked_to_stop(self) -> bool:
        """Return whether somebody has asked this process to leave; whoever it was learns that it was heard."""
        return self._must_be_open().asked_to_stop()

    @_guarded
    def unfinished(self) -> int:
        """Return how many trials of the budget have not ended, whoever runs them; and those that are still to begin.

        Whoever runs the study takes over first what nobody runs any more, lest all wait for it.
        """
        trials = self._trials()
        if self._membership is not None and self._endings.settle(trials):
            trials = self._trials()
        return unfinished_trials(trials, self.spec.search.trials)

    @_guarded
    def records(self) -> list[TrialRecord]:
        """Return the finished trials by number, from storage alone."""
        return to_records(self._trials())

    @_guarded
    def ended_by_nobody_else(self) -> list[TrialRecord]:
        """Return the finished trials without those of others who still run the study, and tell of them themselves."""
        alive = {other.runner for other in self._must_be_open().alive()}
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
        choices = self.spec.choices
        ours = {*choices.switches, *choices.ranges()}
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
        self._membership = Membership(self._storage, self._study_id, home, lease, task)

    @_guarded
    def elect(self, stop: Callable[[], bool] = lambda: False) -> RunnerRecord | None:
        """Make this process the one that does what is done once in a study's end; see `Membership.elect`."""
        return self._must_be_open().elect(stop)

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

    @property
    def recovered(self) -> int:
        """Configurations put back in the queue so far, because whoever ran them had died."""
        return self._endings.recovered

    @property
    def delivered(self) -> int:
        """Results recorded so far that an earlier process had left, since the storage was away."""
        return self._endings.delivered

    @property
    def others(self) -> list[RunnerRecord]:
        """Those that run the study beside this process, as far as is known."""
        with _understood(self._storage, self.name):
            return self._must_be_open().alive()

    @property
    def trouble(self) -> str | None:
        """Why the storage does not answer right now, in words; None when it does."""
        return self._patience.trouble

    @property
    def silence(self) -> float:
        """For how many seconds, at most, others have heard nothing of this process."""
        return 0.0 if self._membership is None else self._membership.lease.longest_silence

    def hurry(self) -> None:
        """Wait no longer for a storage that is away."""
        self._patience.hurry()

    def close(self) -> None:
        """Leave those that run the study. The storage stays open: it is the caller's."""
        if self._membership is not None:
            self._membership.leave()
            self._membership = None

    def _be_alone(self) -> None:
        with _understood(self._storage, self.name):
            busy = self._must_be_open().who_runs_it()
        if busy is not None:
            raise StudyBusyError(
                f'study "{self.name}" is being run by another process right now ({busy.pid} on {busy.host}); '
                "wait for it, or give this one a name of its own: --name NEW"
            )

    def _must_be_open(self) -> Membership:
        if self._membership is None:
            raise RuntimeError(f"study {self.name} was loaded to be read, or is closed")
        return self._membership

    def _trials(self, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states)

    def _promise(self, result: EpochResult) -> Sequence[float]:
        """Return what a running trial is worth after an epoch, even if it gets no better."""
        # It may yet need all epochs: one that has only begun shall not look like one that learned fast.
        return values(replace(result, epoch=self.spec.training.max_epochs), self.spec.search.objectives)

    def _get_ready(self, home: Path) -> None:
        """Put in order what dead processes have left behind, queue what every study begins with, choose the sampler."""
        membership, spec = self._must_be_open(), self.spec
        ranges = distributions(spec.choices)
        self._ledger = Ledger(self._storage, self.name, ranges, membership.runner, self._trials())
        spool = Spool(home, self.name)
        self._endings = Endings(self._storage, self._study_id, self._ledger, membership, spec, spool)
        others = membership.others()
        self._endings.take_over(membership.dead(others))
        self._endings.enqueue_roles(spec)
        self._ledger.look_for_new_trials()  # lest the sampler be asked in vain, and draw anew
        trials = self._trials()
        self._sampling = Sampling(
            self.name,
            self._storage,
            # Those that run a study together must not all ask the same of their samplers.
            make_sampler(spec, len(trials), int(membership.runner, 16) if others else 0),
            optuna_pruner(spec),
            spec.choices,
            trials_shown(spec),
            promising_from(spec),
        )
        self._asking = Asking(self._ledger, self._sampling, spec)
        for trial in trials:
            self._sampling.learn(trial)
        self._told = {trial.number for trial in trials if trial.state.is_finished()}

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


def _draft(
    number: int, reason: Reason, epochs: Sequence[EpochResult], error: str | None, worker: str | None
) -> TrialRecord:
    """Return what is to be recorded of a trial that ends now."""
    now = datetime.now(UTC)
    return TrialRecord(number, {}, reason, tuple(epochs), now, now, error=error, worker=worker)


def list_studies(storage: BaseStorage) -> list[Summary]:
    """Return the studies in the storage that regsearch made, by name; what cannot be read is left out, and said."""
    with storage_errors(storage), as_written("the storage"):
        return list(legible(our_study_names(storage), lambda name: _summarize(name, storage)))


def _summarize(name: str, storage: BaseStorage) -> Summary:
    study = optuna.load_study(study_name=name, storage=storage)
    return facts.summarize_study(study, stored_spec(study))


def _say_nothing(_record: TrialRecord) -> None:
    pass
