"""A study's trials in its storage: created, taken from the queue, reported and finished, in as few writes as possible.

What it needs to know of the storage it remembers, so that no call gets dearer as the study grows: Optuna's own
bookkeeping reads all trials for each new one. Several runners may do all of this to one study at the same time, each
with a ledger of its own: a trial that runs belongs to one of them, whose name it carries, from the commit that makes it
run. Knows trials by number, their parameters and attributes; which configuration to try is the business of
`sampling.py`, what the attributes mean that of `trials.py`, who the runners are that of `leases.py`.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.study.arrivals import Arrival, arrivals
from search.study.commits import exclusive, one_commit
from search.study.trials import RUNNER, is_attempt_again

Filling = Callable[[FrozenTrial], tuple[Mapping[str, Any], Mapping[str, Any]]]
"""Returns parameters and attributes to write for a trial, or for the one that follows it."""


class Ledger:
    """The trials of one study, as one runner sees them. Only it writes to those that it runs."""

    def __init__(
        self,
        storage: BaseStorage,
        study: str,
        distributions: Mapping[str, BaseDistribution],
        runner: str,
        trials: Sequence[FrozenTrial],
    ) -> None:
        """`runner` is the name of the runner whose ledger it is; `trials` are those that are there, by number."""
        self._storage, self._runner = storage, runner
        self._study_id = storage.get_study_id_from_name(study)
        self._distributions = dict(distributions)
        self._waiting: deque[tuple[int, int]] = deque()
        """Trials that wait, as far as is known: place in the budget and id, by number."""
        self.begun = 0
        """Trials that there are, not counting those that repeat one that was cut short: what uses up the budget."""
        self.next_number = 0
        """The number that the next new trial will have, unless another process is faster."""
        self._last_id = -1
        for trial in trials:
            self._take_note(Arrival(trial._trial_id, trial.state == TrialState.WAITING, is_attempt_again(trial)))
        self._ids: dict[int, int] = {}

    @property
    def running(self) -> list[int]:
        """Numbers of the trials that this runner runs."""
        return list(self._ids)

    def enqueue(self, params: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
        """Add a trial that waits for `take`."""
        self._create(TrialState.WAITING, params, attributes)

    def take(self, budget: int, fill_in: Filling) -> FrozenTrial | None:
        """Take the first trial out of the queue, as the only one who gets it; None when no trial of the budget waits.

        What it lacks is written down together with whose it is now.
        """
        if self.begun >= budget:  # else `start` looks anyway
            self.look_for_new_trials()
        if not self.has_waiting(budget):
            return None
        with exclusive(self._storage, self._study_id):
            for place, trial_id in [entry for entry in self._waiting if entry[0] < budget]:
                trial = self._storage.get_trial(trial_id)
                if trial.state == TrialState.WAITING:
                    break
                self._waiting.remove((place, trial_id))
            else:
                return None
            params, attributes = fill_in(trial)
            self._complete(trial_id, params, attributes)
            # Last, since a process killed in between leaves the first of a journal's lines.
            self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        self._waiting.remove((place, trial_id))
        begun = self._storage.get_trial(trial_id)
        self._ids[trial.number] = trial_id  # only now: should the reading fail, `find_own` has to find it
        return begun

    def start(self, budget: int, params: Mapping[str, Any], attributes: Mapping[str, Any]) -> int | None:
        """Add a running trial and return its number; None when the budget is used up, or one waits for `take`."""
        with exclusive(self._storage, self._study_id):
            self.look_for_new_trials()
            if self.begun >= budget or self.has_waiting(budget):
                return None
            self._create(TrialState.RUNNING, params, attributes)
        number = self.next_number
        own, *_ = self.look_for_new_trials()  # it was made while nobody else could make one
        self._ids[number] = own.trial_id
        return number

    def find_own(self) -> FrozenTrial | None:
        """Return a trial that this runner runs and does not know of, since its storage failed as it was begun."""
        for trial in self._storage.get_all_trials(self._study_id, False, (TrialState.RUNNING,)):
            if trial.number not in self._ids and trial.system_attrs.get(RUNNER) == self._runner:
                self._ids[trial.number] = trial._trial_id
                return trial
        return None

    def report(self, values: Mapping[int, tuple[int, float]]) -> set[int]:
        """Record intermediate values: (step, value) by the number of the running trial.

        Returns the numbers of those that are this runner's no longer, since somebody has ended them.
        """
        lost = {number for number in values if number not in self._ids}
        while True:
            try:
                with one_commit(self._storage):
                    for number, (step, value) in values.items():
                        if number not in lost:
                            self._storage.set_trial_intermediate_value(self._ids[number], step, float(value))
                return lost
            except UpdateFinishedTrialError:
                lost |= {number for number in values if number not in lost and self._is_over(number)}
                for number in lost:
                    self._ids.pop(number, None)

    def finish(
        self,
        number: int,
        state: TrialState,
        values: Sequence[float] | None,
        attributes: Mapping[str, Any],
        curves: Mapping[str, Any],
        again: Filling | None = None,
    ) -> FrozenTrial:
        """End a running trial and return it as it is stored; as somebody else has ended it, if that was before.

        What it reached, its attributes and its curves (attributes of the system's), is written before its state.
        `again` returns what is queued in the same commit to run its configuration once more.
        """
        trial_id = self._ids.get(number) or self._id_of(number)
        assert trial_id is not None, "a trial that runs is there"
        told = None if values is None else [float(value) for value in values]
        queued = None if again is None else again(self._storage.get_trial(trial_id))
        # Who queues a trial locks the study. Who takes over locks that before a trial: in another order, a deadlock.
        commit = one_commit(self._storage) if queued is None else exclusive(self._storage, self._study_id)
        try:
            with commit:
                for key, value in curves.items():
                    self._storage.set_trial_system_attr(trial_id, key, value)
                self._set_attributes(trial_id, attributes)
                self._storage.set_trial_state_values(trial_id, state, told)
                if queued is not None:
                    self.enqueue(*queued)
        except UpdateFinishedTrialError:
            pass  # an earlier try came through after all, or it is this runner's no longer: its record tells
        self._ids.pop(number, None)
        return self._storage.get_trial(trial_id)

    def complete_reports(self, trial: FrozenTrial, values: Mapping[int, float]) -> None:
        """Record intermediate values, by step, that a runner had no time to report; those that are there stay."""
        with suppress(UpdateFinishedTrialError), one_commit(self._storage):
            for step, value in values.items():
                if step not in trial.intermediate_values:
                    self._storage.set_trial_intermediate_value(trial._trial_id, step, float(value))

    def lose(self, trial: FrozenTrial, attributes: Mapping[str, Any]) -> None:
        """Fail a running trial of another runner. Raises UpdateFinishedTrialError where that has ended it."""
        self._set_attributes(trial._trial_id, attributes)
        self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def may_have_more(self, budget: int) -> bool:
        """Return whether there is something to take or to start, as far as is known."""
        return self.begun < budget or self.has_waiting(budget)

    def has_waiting(self, budget: int) -> bool:
        """Return whether there is something to take, as far as is known."""
        return any(place < budget for place, _ in self._waiting)

    def look_for_new_trials(self) -> list[Arrival]:
        """Take note of trials that `enqueue`, `start` or another process has added, and return them by number."""
        new = arrivals(self._storage, self._study_id, self.next_number, self._last_id)
        for arrival in new:
            self._take_note(arrival)
        return new

    def _take_note(self, arrival: Arrival) -> None:
        if arrival.waiting:
            # One that repeats another has that one's place, and that one had a place in the budget.
            self._waiting.append((-1 if arrival.is_again else self.begun, arrival.trial_id))
        self.begun += not arrival.is_again
        self.next_number += 1
        self._last_id = arrival.trial_id

    def _is_over(self, number: int) -> bool:
        return self._storage.get_trial(self._ids[number]).state.is_finished()

    def _create(self, state: TrialState, params: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
        distributions = {name: self._distributions[name] for name in params}
        trial = create_trial(
            state=state,
            params=dict(params),
            distributions=distributions,
            user_attrs=dict(attributes),
            system_attrs={RUNNER: self._runner} if state == TrialState.RUNNING else None,
        )
        self._storage.create_new_trial(self._study_id, template_trial=trial)

    def _complete(self, trial_id: int, params: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
        for name, value in params.items():
            distribution = self._distributions[name]
            self._storage.set_trial_param(trial_id, name, distribution.to_internal_repr(value), distribution)
        self._set_attributes(trial_id, attributes)
        self._storage.set_trial_system_attr(trial_id, RUNNER, self._runner)

    def _set_attributes(self, trial_id: int, attributes: Mapping[str, Any]) -> None:
        for key, value in attributes.items():
            self._storage.set_trial_user_attr(trial_id, key, value)

    def _id_of(self, number: int) -> int | None:
        try:
            return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        except KeyError:
            return None
