"""How trials end: recorded with what they reached, or taken over from runners that have died and queued again.

How all of that gets into the storage is the business of `ledger.py`, what is written about a trial that of `trials.py`,
who has died that of `membership.py`.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from math import isnan
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.pareto import values
from search.records import Reason, Role, TrialRecord
from search.spec import StudySpec
from search.study.commits import exclusive
from search.study.foreign import Sieve
from search.study.leases import RunnerRecord, mark_gone
from search.study.ledger import Ledger
from search.study.membership import Membership
from search.study.spool import Spool
from search.study.trials import (
    CONFIG,
    REASON,
    ROLE,
    curves,
    end_attributes,
    predecessor,
    reason_of,
    retry_attributes,
    roles_of,
    runner_of,
    unsettled,
)

_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}

Entry = tuple[dict[str, Any], dict[str, Any]]
"""Parameters and attributes of a trial that waits in the queue."""


class Endings:
    """Ends the trials of a study: this runner's own, and those that the dead have left."""

    def __init__(
        self,
        storage: BaseStorage,
        study_id: int,
        ledger: Ledger,
        membership: Membership,
        spec: StudySpec,
        spool: Spool,
        sieve: Sieve,
    ) -> None:
        self._storage, self._study_id = storage, study_id
        self._ledger, self._membership, self._spool, self._sieve = ledger, membership, spool, sieve
        self._objectives, self._choices = spec.search.objectives, spec.choices
        self.recovered = 0
        """Configurations put back in the queue, because whoever ran them had died."""
        self.delivered = 0
        """Results recorded that an earlier process had left, since the storage was away."""
        self.ended: set[int] = set()
        """Trials whose end was recorded here: this runner's, and those that the dead have left."""

    def set_aside(self, draft: TrialRecord) -> None:
        """Keep in the home how a trial of this runner ended, until `finish` has recorded it; see `Spool.keep`."""
        self._spool.keep(self._membership.runner, draft)

    def finish(self, draft: TrialRecord) -> FrozenTrial:
        """Record how a trial of this runner ended; return it as it is stored, which others may have done before."""
        return self._finish(draft, self._membership.runner)

    def take_over(self, dead: Sequence[RunnerRecord]) -> None:
        """Fail the trials of runners that have died and queue their configurations again, each once.

        What is owed another trial is derived from the trials alone, so dying anywhere in here or after it loses and
        doubles nothing. Of several runners that notice at once, the first does it, and leaves the others nothing to do.
        """
        self._deliver(dead)
        while True:
            # Databases let a runner that was only asleep end a trial after it is read here: nothing is written then.
            with suppress(UpdateFinishedTrialError):
                return self._queue_again(dead)

    def settle(self, trials: Sequence[FrozenTrial]) -> bool:
        """Take over what nobody runs any more or has put back, if `trials` show any; return whether they do.

        No runner need have died for that: one that leaves while the storage is away cannot put its trials back.
        """
        # The runners are read after the trials: each joins before it begins one, so that none who runs one is missing.
        if not unsettled(trials, self._alive(self._membership.others()), self._sieve):
            return False
        self.take_over([])
        return True

    def enqueue_roles(self, spec: StudySpec) -> None:
        """Queue the baseline and the textbook configuration, unless they are there or the budget is smaller."""
        configs = {Role.BASELINE: spec.baseline(), Role.TEXTBOOK: spec.textbook()}
        with exclusive(self._storage, self._study_id):
            trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
            there = roles_of(trial for trial in trials if self._sieve.counts(trial))
            for role, config in list(configs.items())[: spec.search.trials]:
                if role not in there:
                    self._ledger.enqueue(*self._entry({ROLE: role.value, CONFIG: config}))

    def _queue_again(self, dead: Sequence[RunnerRecord]) -> None:
        with exclusive(self._storage, self._study_id):
            now = self._membership.others()
            gone = [runner for runner in dead if runner in now]  # and not those that have beaten since
            alive = self._alive(runner for runner in now if runner not in gone)
            trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
            found = unsettled(trials, alive, self._sieve)
            lost = {trial.number for trial in found if trial.state == TrialState.RUNNING}
            followed = {predecessor(trial) for trial in trials}
            for trial in found:
                if trial.number in lost:
                    self._ledger.lose(trial, {REASON: Reason.LOST.value})
                # In a mended journal, a trial may seem to run whose end was the line that could not be read.
                if trial.number not in followed:
                    self._ledger.enqueue(*self._again(trial))
            for runner in gone:
                mark_gone(self._storage, self._study_id, runner)
        self.recovered += sum(trial.number not in followed for trial in found)
        self.ended |= lost
        for runner in gone:
            self._membership.tidy_away(runner)

    def _alive(self, others: Iterable[RunnerRecord]) -> set[str]:
        """Return the names of this runner and of others."""
        return {self._membership.runner, *(runner.runner for runner in others)}

    def _finish(self, draft: TrialRecord, runner: str) -> FrozenTrial:
        told = self._ledger.finish(
            draft.number,
            _STATES[draft.state],
            _values(draft, self._objectives),
            end_attributes(draft),
            curves(draft),
            (lambda trial: self._again(trial, draft.error)) if draft.reason is Reason.INTERRUPTED else None,
        )
        self._spool.drop(runner, draft.number)
        # And not lost to others, who have recorded that, nor ended by another program.
        if reason_of(told) is draft.reason and self._sieve.why_left_out(told) is None:
            self.ended.add(draft.number)
        return told

    def _deliver(self, dead: Sequence[RunnerRecord]) -> None:
        """Record the results that dead processes have left in this home, if their trials are still theirs."""
        alive = self._alive(runner for runner in self._membership.others() if runner not in dead)
        for runner, draft in self._spool.left_by_others(alive):
            running = self._storage.get_all_trials(self._study_id, False, (TrialState.RUNNING,))
            trial = next((trial for trial in running if trial.number == draft.number), None)
            if trial is not None and runner_of(trial) == runner:
                self._ledger.complete_reports(trial, {row.epoch: row.val_loss for row in draft.epochs})
                self._finish(draft, runner)
                self.delivered += 1
            else:
                self._spool.drop(runner, draft.number)

    def _again(self, trial: FrozenTrial, error: str | None = None) -> Entry:
        """Return what shall run this trial's configuration again."""
        return self._entry(retry_attributes(trial, error))

    def _entry(self, attributes: dict[str, Any]) -> Entry:
        """Return what `attributes["config"]` waits as.

        Optuna is told the nearest values in range, since a regularizer that is off may lie outside (0 is in no log
        range), and samplers refuse that.
        """
        return self._choices.chosen(attributes[CONFIG]), attributes


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
