"""Asking the sampler for configurations, from memory: what Optuna's samplers read of a study, they read here.

Reading a study's storage costs more with every trial in it, and so does weighing all of them for each new one. Here a
sampler is shown the trials that matter to it, under their own numbers, and the storage is left alone, except for what a
sampler keeps with the study (QMC its place in the sequence). How trials are stored is the business of `ledger.py`.
"""

from bisect import insort
from collections import deque
from collections.abc import Container, Mapping
from copy import copy
from datetime import datetime
from math import inf, isnan
from types import MappingProxyType
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from search.spec import Choices
from search.study.mirror import bracket_aware
from search.study.samplers import SWITCH

_BEST = 25
"""As many trials as TPE takes for good ones; it looks for what tells them from all others."""


class Sampling:
    """A sampler, and what it knows of one study."""

    def __init__(
        self,
        study: str,
        storage: BaseStorage,
        sampler: BaseSampler,
        pruner: BasePruner,
        choices: Choices,
        recent: int | None,
        promising_from: int | None = None,
    ) -> None:
        """Show the sampler the best trials and so many of the most recently finished ones; all if that is None.

        Running trials that have come to epoch `promising_from` are shown as if complete, with their lowest loss so far.
        """
        self._memory = _Memory(storage, storage.get_study_id_from_name(study), recent, promising_from)
        self._study = optuna.create_study(study_name=study, storage=self._memory, sampler=sampler, pruner=pruner)
        bracket_aware(self._study)
        self._choices = choices

    def learn(self, trial: FrozenTrial) -> None:
        """Take note of a trial as it is now: running or finished."""
        self._memory.learn(trial)

    def follow(self, number: int, epoch: int, loss: float) -> None:
        """Take note of a running trial's loss after an epoch."""
        self._memory.follow(number, epoch, loss)

    def suggest(self, number: int, fixed: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        """Return parameters for a trial, which counts as running from now on; `fixed` are taken as they are."""
        self._memory.learn(_running(number, fixed))
        trial = self._study.ask(dict.fromkeys(self._choices.switches, SWITCH))
        for name, setting in self._choices.ranges(trial.params).items():
            if setting.integer:
                trial.suggest_int(name, int(setting.low), int(setting.high), log=setting.log)
            else:
                trial.suggest_float(name, setting.low, setting.high, log=setting.log)
        return trial.params

    def renumber(self, number: int, actual: int) -> None:
        """Correct the number of a trial that was suggested under another one."""
        self._memory.renumber(number, actual)


class _Memory(InMemoryStorage):
    """A study's storage as its sampler sees it. A trial's id is its number.

    Of the finished trials it shows the recent ones, and the best in TPE's order: complete trials by value, then pruned
    ones by how far they came. TPE gives less weight to a trial the more have followed it, so that those which are not
    shown any longer fade out and do not vanish at a stroke.

    Samplers know of running trials that they are being tried, and TPE counts them with the bad ones, lest it suggest
    them again. With a population that is most of what there is to know: a trial that has come far is therefore shown
    as complete, with the best it has reached.
    """

    def __init__(self, storage: BaseStorage, study_id: int, recent: int | None, promising_from: int | None) -> None:
        super().__init__()
        self._promising_from = inf if promising_from is None else promising_from
        self._reached: dict[int, float] = {}
        self._real, self._real_study_id = storage, study_id
        self._running: dict[int, FrozenTrial] = {}
        self._recent: deque[FrozenTrial] = deque(maxlen=recent)
        self._best: list[FrozenTrial] = []
        self._finished: list[FrozenTrial] | None = None
        """What is shown of the finished trials, by number; None when it is out of date."""

    def learn(self, trial: FrozenTrial) -> None:
        self._running.pop(trial.number, None)
        self._reached.pop(trial.number, None)
        if trial.state == TrialState.RUNNING:
            self._running[trial.number] = trial
        elif trial.state in (TrialState.COMPLETE, TrialState.PRUNED):  # samplers learn nothing from the others
            self._recent.append(trial)
            insort(self._best, trial, key=_rank)
            del self._best[_BEST:]
            self._finished = None

    def follow(self, number: int, epoch: int, loss: float) -> None:
        if number in self._running and epoch >= self._promising_from and not isnan(loss):
            self._reached[number] = min(loss, self._reached.get(number, inf))

    def renumber(self, number: int, actual: int) -> None:
        trial = self._running.pop(number)
        trial.number = actual
        self._running[actual] = trial

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:  # noqa: ARG002
        return next(reversed(self._running))  # what `suggest` has just put there

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        trial = self._running[trial_id]
        trial.params = trial.params | {param_name: distribution.to_external_repr(param_value_internal)}
        trial.distributions = trial.distributions | {param_name: distribution}

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Do nothing: samplers write down what they are about to suggest, for those who ask before it is set."""

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._running[trial_id]

    def get_all_trials(
        self,
        study_id: int,  # noqa: ARG002
        deepcopy: bool = True,  # noqa: ARG002
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        if self._finished is None:
            self._finished = _by_number({trial.number: trial for trial in (*self._best, *self._recent)})
        running = (self._as_it_promises(trial) for trial in _by_number(self._running))
        shown = (*self._finished, *running)
        return [trial for trial in shown if states is None or trial.state in states]

    def _as_it_promises(self, trial: FrozenTrial) -> FrozenTrial:
        if trial.number not in self._reached:
            return trial
        promised = copy(trial)
        promised.state, promised.value = TrialState.COMPLETE, self._reached[trial.number]
        return promised

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:  # noqa: ARG002
        return self._real.get_study_system_attrs(self._real_study_id)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:  # noqa: ARG002
        self._real.set_study_system_attr(self._real_study_id, key, value)


def _by_number(trials: Mapping[int, FrozenTrial]) -> list[FrozenTrial]:
    return [trials[number] for number in sorted(trials)]


def _rank(trial: FrozenTrial) -> tuple[float, ...]:
    """Return a key that sorts trials as TPE does, which takes the first for the good ones."""
    if trial.state == TrialState.COMPLETE:
        assert trial.value is not None
        return (0, trial.value, trial.number)
    if trial.last_step is None:
        return (1, 1, 0.0, trial.number)
    last = trial.intermediate_values[trial.last_step]
    return (1, -trial.last_step, inf if isnan(last) else last, trial.number)


def _running(number: int, fixed: Mapping[str, Any]) -> FrozenTrial:
    return FrozenTrial(
        number=number,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=datetime.now(),
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={"fixed_params": dict(fixed)},
        intermediate_values={},
        trial_id=number,
    )
