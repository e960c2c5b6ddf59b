"""A study that is run: ask, report, finish, and what others who run it have done. See `stored.py` for reading it.

What is trained next is the business of `asking.py`, how trials end and whose are taken over of `endings.py`, how all of
that gets into the storage of `ledger.py`, and who else runs the study of `membership.py`.
Several processes may run one study at once, each a runner with a lease on its trials; everyone may read. All calls of
one `Study` come from one thread, which need not be the one that opened it. Promises, whenever a process dies: every
configuration handed out is run to its end at least once, its result counts once, and the budget is exact.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.errors import StudyBusyError
from search.pareto import values
from search.records import Assignment, EpochResult, News, Reason, TrialRecord
from search.spec import StudySpec
from search.study import facts
from search.study.asking import Asking
from search.study.commits import exclusive
from search.study.endings import Endings
from search.study.leases import RunnerRecord, Task
from search.study.ledger import Ledger
from search.study.membership import Membership
from search.study.mirror import optuna_pruner
from search.study.opening import create_or_resume, stored_spec
from search.study.samplers import distributions, make_sampler, promising_from, trials_shown
from search.study.sampling import Sampling
from search.study.spool import Spool
from search.study.stored import StoredStudy, guarded, understood
from search.study.trials import reason_of, runner_of, to_record, unfinished_trials

LEASE_SECONDS = 60.0
_NEWS_SECONDS = 2.0
_NEWS_SHARE = 0.05
"""Of the time that the thread of the storage's operations may spend on news."""


class Study(StoredStudy):
    """One study, opened to be run (`open`), or loaded and kept from being run (`load`, `hold`)."""

    def __init__(self, study: optuna.Study, spec: StudySpec, storage: BaseStorage, patience: float = 0.0) -> None:
        """For `open` and `load` only."""
        super().__init__(study, spec, storage, patience)
        self._membership: Membership | None = None
        self._ended_elsewhere: set[int] = set()
        """Trials of this process that another program has ended."""
        self._new_remarks: list[str] = []
        self._had_others = False
        """Whether others ran the study when they were looked at last."""
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
        with understood(storage, name):
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

    @guarded
    def ask(self) -> Assignment | None:
        """Return the next configuration to train: from the queue if there is one, else the sampler's.

        None when the budget is used up, by whoever runs the study.
        """
        self._must_be_open().lease.be_heard()
        return self._asking.ask(self.spec.search.trials)

    @guarded
    def report(self, results: Mapping[int, EpochResult]) -> set[int]:
        """Record an epoch of several trials, by number: the validation losses become their intermediate values.

        Returns the trials that others have taken over, since they had not heard of this process for a lease.
        """
        self._must_be_open()
        lost = self._ledger.report({number: (result.epoch, result.val_loss) for number, result in results.items()})
        for number in lost:
            if reason_of(ended := self._ledger.read(number)) is not Reason.LOST:
                self._notice_end(ended)
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

    @guarded
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
        if self._sieve.why_left_out(told) is not None:
            self._notice_end(told)
            return _draft(number, Reason.INTERRUPTED, epochs, "another program has ended it", worker)
        self._sampling.learn(told)
        record = to_record(told)
        self.on_end(record)
        return record

    @guarded
    def news(self) -> News:
        """Return what others have done, and take over what runners that have died were running."""
        membership = self._must_be_open()
        start = time.monotonic()
        others = membership.others()
        if dead := membership.dead(others):
            self._endings.take_over(dead)
        self._ledger.look_for_new_trials()
        stop = membership.asked_to_stop()  # first, since what is looked at next counts as told even if this fails
        # Once more when the last one has left, for what it did since; who is alone need not look.
        ended = self._sieve.records(self._look_at_others() if others or self._had_others else [])
        self._had_others = bool(others)
        for record in ended:
            self.on_end(record)
        shortest = min((other.lease for other in others), default=LEASE_SECONDS)
        # Reading what others run costs more the more there are, and must leave time for writing.
        pause = max(_NEWS_SECONDS, (time.monotonic() - start) / _NEWS_SHARE)
        to_ask, again_in = self._ledger.may_have_more(self.spec.search.trials), min(pause, shortest / 6)
        return News(ended, to_ask, again_in, stop, self._remarks())

    @guarded
    def asked_to_stop(self) -> bool:
        """Return whether somebody has asked this process to leave; whoever it was learns that it was heard."""
        return self._must_be_open().asked_to_stop()

    @guarded
    def unfinished(self) -> int:
        """As for those who read; takes over first what nobody runs any more, lest all wait for it."""
        trials = self._trials()
        if self._membership is not None and self._endings.settle(trials):
            trials = self._trials()
        return unfinished_trials(self._counted(trials), self.spec.search.trials)

    @guarded
    def ended_by_nobody_else(self) -> list[TrialRecord]:
        """Return the finished trials without those of others who still run the study, and tell of them themselves."""
        # The runners are read after the trials: each joins before it begins one.
        trials, alive = self._sifted(), {other.runner for other in self._must_be_open().alive()}
        return self._sieve.records(trial for trial in trials if runner_of(trial) not in alive)

    def has_ended(self, number: int) -> bool:
        """Return whether this process has recorded how a trial ended, its own or one that the dead have left.

        Each trial's end is recorded by one process, which is the one to tell others than those that run the study.
        """
        return number in self._endings.ended

    def join(self, home: Path, lease: float = LEASE_SECONDS, task: Task = "search") -> None:
        """Count as one of those that run the study, until `close`. Raises HomeError."""
        self._membership = Membership(self._storage, self._study_id, home, lease, task)

    @guarded
    def elect(self, stop: Callable[[], bool] = lambda: False) -> RunnerRecord | None:
        """Make this process the one that does what is done once in a study's end; see `Membership.elect`."""
        return self._must_be_open().elect(stop)

    @guarded
    def set_fact_unless_finishing(self, key: str, value: Any) -> None:
        """Keep a JSON value about the study, unless another runner does what is done once in its end by now."""
        with exclusive(self._storage, self._study_id):
            if self._must_be_open().finisher() is None:
                facts.set_fact_within(self._storage, self._study_id, key, value)

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
    @guarded
    def others(self) -> list[RunnerRecord]:
        """Those that run the study beside this process, as far as is known."""
        return self._must_be_open().alive()

    @property
    def trouble(self) -> str | None:
        """Why the storage does not answer right now, in words; None when it does."""
        return self._patience.trouble

    def explain_loss(self, numbers: Collection[int]) -> str | None:
        """Return why trials are not this process's any more; None where `news` tells it, of other programs."""
        lost = sorted({*numbers} - self._ended_elsewhere)
        if not lost:
            return None
        silence = 0.0 if self._membership is None else self._membership.lease.longest_silence
        which = f"trial{'s' if len(lost) > 1 else ''} {', '.join(map(str, lost))}"
        return (
            f"This process lost its lease: others had not heard of it for {silence:.0f} s, and have taken over {which}"
        )

    def hurry(self) -> None:
        """Wait no longer for a storage that is away."""
        self._patience.hurry()

    def close(self) -> None:
        """Leave those that run the study. The storage stays open: it is the caller's."""
        if self._membership is not None:
            self._membership.leave()
            self._membership = None

    def _be_alone(self) -> None:
        with understood(self._storage, self.name):
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

    def _promise(self, result: EpochResult) -> Sequence[float]:
        """Return what a running trial is worth after an epoch, even if it gets no better."""
        # It may yet need all epochs: one that has only begun shall not look like one that learned fast.
        return values(replace(result, epoch=self.spec.training.max_epochs), self.spec.search.objectives)

    def _get_ready(self, home: Path) -> None:
        """Put in order what dead processes have left behind, queue what every study begins with, choose the sampler."""
        membership, spec = self._must_be_open(), self.spec
        ranges = distributions(spec.choices)
        self._ledger = Ledger(self._storage, self.name, ranges, membership.runner, self._trials(), self._sieve.counts)
        spool = Spool(home, self.name, self.identity)
        self._existence.check()  # by its identity it is recognized from now on
        self._endings = Endings(self._storage, self._study_id, self._ledger, membership, spec, spool, self._sieve)
        others = membership.others()
        self._had_others = bool(others)
        self._endings.take_over(membership.dead(others))
        self._endings.enqueue_roles(spec)
        self._ledger.look_for_new_trials()  # lest the sampler be asked in vain, and draw anew
        trials = self._sifted()
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

    def _notice_end(self, trial: FrozenTrial) -> None:
        """Keep in mind that another program has ended a trial of this process, to be told once."""
        if trial.number not in self._ended_elsewhere:
            self._ended_elsewhere.add(trial.number)
            state = trial.state.name
            self._new_remarks.append(
                f"Another program has ended trial {trial.number} as {state}; its configuration is trained again"
            )

    def _remarks(self) -> list[str]:
        """Return what the user is to be told since the last time."""
        refused, self._ledger.refused = self._ledger.refused, []
        told, self._new_remarks = self._new_remarks, []
        return [
            *(f"Trial {number}, which another program queued, is refused: {why}" for number, why in refused),
            *told,
        ]

    def _look_at_others(self) -> list[FrozenTrial]:
        """Take note of the trials of others, and return those that have ended since the last time."""
        self.spec = stored_spec(self._study)  # whoever joined may have given it more trials
        own, ended = set(self._ledger.running), []
        for trial in self._sifted():
            if trial.state.is_finished() and trial.number not in self._told:
                self._told.add(trial.number)
                self._sampling.learn(trial)
                ended.append(trial)
            elif trial.state == TrialState.RUNNING and trial.number not in own:  # without those of other programs
                self._sampling.learn(trial)
        return ended


def _draft(
    number: int, reason: Reason, epochs: Sequence[EpochResult], error: str | None, worker: str | None
) -> TrialRecord:
    """Return what is to be recorded of a trial that ends now."""
    now = datetime.now(UTC)
    return TrialRecord(number, {}, reason, tuple(epochs), now, now, error=error, worker=worker)


def _say_nothing(_record: TrialRecord) -> None:
    pass
