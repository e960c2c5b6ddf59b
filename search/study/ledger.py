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
from copy import copy
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.study.arrivals import Arrival, arrival, arrivals
from search.study.commits import exclusive, one_commit
from search.study.queued import Refused
from search.study.trials import OPTIONAL, ORIGIN, REFUSED, RUNNER, runner_of, seal_of

Filling = Callable[[FrozenTrial], tuple[Mapping[str, Any], Mapping[str, Any]]]
"""Returns parameters and attributes to write for a trial, or for the one that follows it."""

_Entry = tuple[int, int]
"""A trial that waits: its place in the budget, and its id."""
_NO_PLACE = -1


class Ledger:
    """The trials of one study, as one runner sees them. Only it writes to those that it runs."""

    def __init__(
        self,
        storage: BaseStorage,
        study: str,
        distributions: Mapping[str, BaseDistribution],
        runner: str,
        trials: Sequence[FrozenTrial],
        counts: Callable[[FrozenTrial], bool],
    ) -> None:
        """`runner` is the name of the runner whose ledger it is; `trials` are those that are there, by number.

        `counts` tells whether a trial has a place in the budget.
        """
        self._storage, self._runner = storage, runner
        self._study_id = storage.get_study_id_from_name(study)
        self._distributions, self._counts = dict(distributions), counts
        self._waiting: deque[_Entry] = deque()
        """Trials that wait, as far as is known: place in the budget and id, by number."""
        self.begun = 0
        """Trials that there are, not counting those that repeat one that was cut short, nor those of other programs:
        what uses up the budget."""
        self.next_number = 0
        """The number that the next new trial will have, unless another process is faster."""
        self._last_id = -1
        for trial in trials:
            self._take_note(arrival(trial, counts))
        self._ids: dict[int, int] = {}
        self._origins: dict[int, dict[str, Any]] = {}
        """Of the trials that this runner runs, the attributes that they began with."""
        self.refused: list[tuple[int, str]] = []
        """Queued trials that were refused here, by number, with the reason; to be emptied by who reads it."""

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
        gone: list[tuple[_Entry, bool]] = []
        refused: list[tuple[int, str]] = []
        taken: _Entry | None = None
        with exclusive(self._storage, self._study_id):
            for entry in [entry for entry in self._waiting if entry[0] < budget]:
                trial = self._storage.get_trial(entry[1])
                if trial.state != TrialState.WAITING:
                    gone.append((entry, self._counts(trial)))
                elif (refusal := self._claim(trial, fill_in)) is not None:
                    refused.append((trial.number, refusal))
                    gone.append((entry, False))
                else:
                    taken = entry
                    gone.append((entry, True))
                    break
        # Only now: had the storage failed, all of them would still wait.
        for entry, counts in reversed(gone):
            self._forget(entry, counts)
        self.refused += refused
        if taken is None:
            return None
        begun = self._storage.get_trial(taken[1])
        self._run(begun)  # only now: should the reading fail, `find_own` has to find it
        return begun

    def _claim(self, trial: FrozenTrial, fill_in: Filling) -> str | None:
        """Make a trial that waits this runner's, or end it with the reason why it is refused, and return that."""
        trial_id = trial._trial_id
        try:
            params, attributes = fill_in(trial)
        except Refused as refusal:
            self._set_attributes(trial_id, {REFUSED: str(refusal)})
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
            return str(refusal)
        self._complete(trial_id, params, attributes)
        # Last, since a process killed in between leaves the first of a journal's lines.
        self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        return None

    def start(self, budget: int, params: Mapping[str, Any], attributes: Mapping[str, Any]) -> int | None:
        """Add a running trial and return its number; None when the budget is used up, or one waits for `take`."""
        with exclusive(self._storage, self._study_id):
            self.look_for_new_trials()
            if self.begun >= budget or self.has_waiting(budget):
                return None
            self._create(TrialState.RUNNING, params, attributes)
        number = self.next_number
        own, *_ = self.look_for_new_trials()  # it was made while nobody else could make one
        self._ids[number], self._origins[number] = own.trial_id, dict(attributes)
        return number

    def _run(self, trial: FrozenTrial) -> None:
        self._ids[trial.number] = trial._trial_id
        self._origins[trial.number] = {key: trial.user_attrs[key] for key in ORIGIN if key in trial.user_attrs}

    def find_own(self) -> FrozenTrial | None:
        """Return a trial that this runner runs and does not know of, since its storage failed as it was begun."""
        for trial in self._storage.get_all_trials(self._study_id, False, (TrialState.RUNNING,)):
            if trial.number not in self._ids and runner_of(trial) == self._runner:
                self._run(trial)
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
        trial = copy(self._storage.get_trial(trial_id))
        # Another program may have changed them meanwhile: the result is that of the configuration that was trained.
        added = dict.fromkeys(key for key in OPTIONAL if trial.user_attrs.get(key) is not None)
        origin = added | self._origins.get(number, {})
        changed = {key: value for key, value in origin.items() if trial.user_attrs.get(key) != value}
        trial.user_attrs = trial.user_attrs | changed
        queued = None if again is None else again(trial)
        # Who queues a trial locks the study. Who takes over locks that before a trial: in another order, a deadlock.
        commit = one_commit(self._storage) if queued is None else exclusive(self._storage, self._study_id)
        try:
            with commit:
                self._end(trial, state, told, changed | dict(attributes), curves)
                if queued is not None:
                    self.enqueue(*queued)
        except UpdateFinishedTrialError:
            pass  # an earlier try came through after all, or it is this runner's no longer: its record tells
        ended = self._storage.get_trial(trial_id)
        self._ids.pop(number, None)
        self._origins.pop(number, None)
        return ended

    def read(self, number: int) -> FrozenTrial:
        """Return a trial as it is stored."""
        trial_id = self._id_of(number)
        assert trial_id is not None, "a trial that ran is there"
        return self._storage.get_trial(trial_id)

    def complete_reports(self, trial: FrozenTrial, values: Mapping[int, float]) -> None:
        """Record intermediate values, by step, that a runner had no time to report; those that are there stay."""
        with suppress(UpdateFinishedTrialError), one_commit(self._storage):
            for step, value in values.items():
                if step not in trial.intermediate_values:
                    self._storage.set_trial_intermediate_value(trial._trial_id, step, float(value))

    def lose(self, trial: FrozenTrial, attributes: Mapping[str, Any]) -> None:
        """Fail a running trial of another runner. Raises UpdateFinishedTrialError where that has ended it."""
        self._end(trial, TrialState.FAIL, None, attributes, {})

    def may_have_more(self, budget: int) -> bool:
        """Return whether there is something to take or to start, as far as is known."""
        return self.begun < budget or self.has_waiting(budget)

    def has_waiting(self, budget: int) -> bool:
        """Return whether there is something to take, as far as is known."""
        return any(place < budget for place, _ in self._waiting)

    def look_for_new_trials(self) -> list[Arrival]:
        """Take note of trials that `enqueue`, `start` or another process has added, and return them by number."""
        new = arrivals(self._storage, self._study_id, self.next_number, self._last_id, self._counts)
        for each in new:
            self._take_note(each)
        return new

    def _take_note(self, new: Arrival) -> None:
        if new.waiting:
            # One that repeats another has that one's place, and that one had a place in the budget.
            self._waiting.append((_NO_PLACE if new.is_again else self.begun, new.trial_id))
        self.begun += new.counts and not new.is_again
        self.next_number += 1
        self._last_id = new.trial_id

    def _forget(self, entry: _Entry, counts: bool) -> None:
        """Take an entry out of the queue; if it does not count, its place in the budget is free again."""
        self._waiting.remove(entry)
        if not counts and entry[0] != _NO_PLACE:
            self.begun -= 1
            self._waiting = deque((place - (place > entry[0]), trial_id) for place, trial_id in self._waiting)

    def _end(
        self,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
        attributes: Mapping[str, Any],
        system_attributes: Mapping[str, Any],
    ) -> None:
        """Write how a trial ends, with the checksum of all that is kept of it; its state comes last."""
        ended = copy(trial)
        ended.state, ended.values = state, values
        ended.user_attrs = trial.user_attrs | dict(attributes)
        ended.system_attrs = trial.system_attrs | dict(system_attributes)
        for key, value in (dict(system_attributes) | seal_of(ended)).items():
            self._storage.set_trial_system_attr(trial._trial_id, key, value)
        self._set_attributes(trial._trial_id, attributes)
        self._storage.set_trial_state_values(trial._trial_id, state, values)

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
