"""A study's trials in its storage: created, taken from the queue, reported and finished, in as few writes as possible.

What it needs to know of the storage it remembers, so that no call gets dearer as the study grows: Optuna's own
bookkeeping reads all trials for each new one. Knows trials by number, their parameters and attributes; which
configuration to try is the business of `sampling.py`, what the attributes mean that of `trials.py`.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.study.commits import one_commit


class Ledger:
    """The trials of one study. The only writer of trials that are running; anyone may add trials that wait."""

    def __init__(
        self,
        storage: BaseStorage,
        study: str,
        distributions: Mapping[str, BaseDistribution],
        trials: Sequence[FrozenTrial],
    ) -> None:
        """`trials` are those that are there already, by number."""
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(study)
        self._distributions = dict(distributions)
        self.next_number = len(trials)
        """The number that the next new trial will have, unless another process is faster."""
        self._waiting = deque(trial._trial_id for trial in trials if trial.state == TrialState.WAITING)
        self._ids: dict[int, int] = {}

    def enqueue(self, params: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
        """Add a trial that waits for `take`."""
        self._create(TrialState.WAITING, params, attributes)

    def take(self) -> FrozenTrial | None:
        """Take the first trial out of the queue, as the only one who gets it; None when no trial waits."""
        self._look_for_new_trials()
        while self._waiting:
            trial_id = self._waiting.popleft()
            try:
                taken = self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
            except UpdateFinishedTrialError:
                continue
            if taken:
                trial = self._storage.get_trial(trial_id)
                self._ids[trial.number] = trial_id
                return trial
        return None

    def start(self, params: Mapping[str, Any], attributes: Mapping[str, Any]) -> int:
        """Add a running trial and return its number."""
        trial_id = self._create(TrialState.RUNNING, params, attributes)
        while self._id_of(self.next_number) != trial_id:
            self._look_at_new_trial()
        self._ids[self.next_number] = trial_id
        self.next_number += 1
        return self.next_number - 1

    def complete(self, number: int, params: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
        """Write down what a running trial lacks; the attributes come last."""
        trial_id = self._ids[number]
        with one_commit(self._storage):
            for name, value in params.items():
                distribution = self._distributions[name]
                self._storage.set_trial_param(trial_id, name, distribution.to_internal_repr(value), distribution)
            self._set_attributes(trial_id, attributes)

    def report(self, values: Mapping[int, tuple[int, float]]) -> None:
        """Record intermediate values: (step, value) by the number of the running trial."""
        with one_commit(self._storage):
            for number, (step, value) in values.items():
                self._storage.set_trial_intermediate_value(self._ids[number], step, float(value))

    def finish(
        self,
        number: int,
        state: TrialState,
        values: Sequence[float] | None,
        attributes: Mapping[str, Any],
        curves: Mapping[str, Any],
    ) -> FrozenTrial:
        """End a running trial and return it as it is stored.

        What it reached, its attributes and its curves (attributes of the system's), is written before its state.
        """
        trial_id = self._ids[number]
        told = None if values is None else [float(value) for value in values]
        with one_commit(self._storage):
            for key, value in curves.items():
                self._storage.set_trial_system_attr(trial_id, key, value)
            self._set_attributes(trial_id, attributes)
            self._storage.set_trial_state_values(trial_id, state, told)
        del self._ids[number]
        return self._storage.get_trial(trial_id)

    def _create(self, state: TrialState, params: Mapping[str, Any], attributes: Mapping[str, Any]) -> int:
        distributions = {name: self._distributions[name] for name in params}
        trial = create_trial(state=state, params=dict(params), distributions=distributions, user_attrs=dict(attributes))
        return self._storage.create_new_trial(self._study_id, template_trial=trial)

    def _set_attributes(self, trial_id: int, attributes: Mapping[str, Any]) -> None:
        for key, value in attributes.items():
            self._storage.set_trial_user_attr(trial_id, key, value)

    def _look_for_new_trials(self) -> None:
        while self._id_of(self.next_number) is not None:
            self._look_at_new_trial()

    def _look_at_new_trial(self) -> None:
        """Take note of a trial that `enqueue` or another process has added."""
        trial_id = self._id_of(self.next_number)
        assert trial_id is not None, "numbers have no gaps"
        if self._storage.get_trial(trial_id).state == TrialState.WAITING:
            self._waiting.append(trial_id)
        self.next_number += 1

    def _id_of(self, number: int) -> int | None:
        try:
            return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        except KeyError:
            return None
