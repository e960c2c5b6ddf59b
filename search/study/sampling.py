"""Asking the sampler for configurations, from memory: what Optuna's samplers read of a study, they read here.

Reading a study's storage costs more with every trial in it, and so does weighing all of them for each new one. Here a
sampler is shown the trials that matter to it, under their own numbers, and the storage is left alone, except for what a
sampler keeps with the study (QMC its place in the sequence). How trials are stored is the business of `ledger.py`.
"""

from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence
from copy import copy
from datetime import datetime
from math import inf, isnan, nan
from types import MappingProxyType
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.pareto import fronts
from search.spec import Choices
from search.study.mirror import bracket_aware
from search.study.samplers import SWITCH
from search.study.trials import check_values

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

        Running trials that have come to epoch `promising_from` are shown as if complete, with the best that they have
        reached so far.
        """
        study_id = storage.get_study_id_from_name(study)
        directions = storage.get_study_directions(study_id)
        self._memory = _Memory(storage, study_id, directions, recent, promising_from)
        self._study = optuna.create_study(
            study_name=study, storage=self._memory, sampler=sampler, pruner=pruner, directions=directions
        )
        bracket_aware(self._study)
        self._choices = choices

    def learn(self, trial: FrozenTrial) -> None:
        """Take note of a trial as it is now: running or finished."""
        self._memory.learn(trial)

    def follow(self, number: int, epoch: int, values: Sequence[float]) -> None:
        """Take note of a running trial's values after an epoch; the first is the loss that tells its best epoch."""
        self._memory.follow(number, epoch, values)

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

    def forget(self, number: int) -> None:
        """Forget a trial that was suggested and never began."""
        self._memory.forget(number)


class _Memory(InMemoryStorage):
    """A study's storage as its sampler sees it. A trial's id is its number.

    Of the finished trials it shows the recent ones, and the best in TPE's order: complete trials by value, then pruned
    ones by how far they came. With several objectives complete trials go by Pareto front, and fronts are shown whole,
    since whom TPE takes of one depends on all that are on it. TPE gives less weight to a trial the more have followed
    it, so that those which are not shown any longer fade out and do not vanish at a stroke.

    Samplers know of running trials that they are being tried, and TPE counts them with the bad ones, lest it suggest
    them again. With a population that is most of what there is to know: a trial that has come far is therefore shown
    as complete, with the best it has reached.
    """

    def __init__(
        self,
        storage: BaseStorage,
        study_id: int,
        directions: Sequence[StudyDirection],
        recent: int | None,
        promising_from: int | None,
    ) -> None:
        super().__init__()
        self._promising_from = inf if promising_from is None else promising_from
        self._reached: dict[int, Sequence[float]] = {}
        self._real, self._real_study_id = storage, study_id
        self._signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions]
        self._running: dict[int, FrozenTrial] = {}
        self._recent: deque[FrozenTrial] = deque(maxlen=recent)
        self._best: list[FrozenTrial] = []
        """Those that were the best when the sampler last looked, and all that have ended since."""
        self._finished: list[FrozenTrial] | None = None
        """What is shown of the finished trials, by number; None when it is out of date."""

    def learn(self, trial: FrozenTrial) -> None:
        check_values([trial], len(self._signs))
        self._running.pop(trial.number, None)
        self._reached.pop(trial.number, None)
        if trial.state == TrialState.RUNNING:
            self._running[trial.number] = trial
        elif trial.state in (TrialState.COMPLETE, TrialState.PRUNED):  # samplers learn nothing from the others
            if trial.state == TrialState.PRUNED and len(self._signs) > 1:
                trial = _without_losses(trial)
            self._recent.append(trial)
            self._best.append(trial)
            self._finished = None

    def follow(self, number: int, epoch: int, values: Sequence[float]) -> None:
        if number not in self._running or epoch < self._promising_from or isnan(values[0]):
            return
        if number not in self._reached or values[0] < self._reached[number][0]:
            self._reached[number] = values

    def renumber(self, number: int, actual: int) -> None:
        trial = self._running.pop(number)
        trial.number = actual
        self._running[actual] = trial

    def forget(self, number: int) -> None:
        self._running.pop(number, None)

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
            self._best = _foremost(self._best, self._signs)
            self._finished = _by_number({trial.number: trial for trial in (*self._best, *self._recent)})
        running = (self._as_it_promises(trial) for trial in _by_number(self._running))
        shown = (*self._finished, *running)
        return [trial for trial in shown if states is None or trial.state in states]

    def _as_it_promises(self, trial: FrozenTrial) -> FrozenTrial:
        if trial.number not in self._reached:
            return trial
        promised = copy(trial)
        promised.state, promised.values = TrialState.COMPLETE, self._reached[trial.number]
        return promised

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:  # noqa: ARG002
        return self._real.get_study_system_attrs(self._real_study_id)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:  # noqa: ARG002
        self._real.set_study_system_attr(self._real_study_id, key, value)


def _by_number(trials: Mapping[int, FrozenTrial]) -> list[FrozenTrial]:
    return [trials[number] for number in sorted(trials)]


def _foremost(trials: Sequence[FrozenTrial], signs: Sequence[float]) -> list[FrozenTrial]:
    """Return the best trials; `signs` are -1 for what is maximized."""
    rank = _rank if len(signs) == 1 else _rank_by_front(trials, signs)
    ranked = sorted(trials, key=rank)
    # Whoever else has the last one's rank is on the same front.
    return [trial for place, trial in enumerate(ranked) if place < _BEST or rank(trial) == rank(ranked[_BEST - 1])]


def _rank_by_front(trials: Sequence[FrozenTrial], signs: Sequence[float]) -> Callable[[FrozenTrial], tuple[float, ...]]:
    """Return `_rank` for several objectives: a complete trial's rank is the number of its front."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    points = [tuple(sign * value for sign, value in zip(signs, trial.values, strict=True)) for trial in complete]
    places = dict(zip((trial.number for trial in complete), fronts(points), strict=True))
    return lambda trial: (0, places[trial.number]) if trial.number in places else _rank(trial)


def _without_losses(trial: FrozenTrial) -> FrozenTrial:
    """Return a pruned trial as TPE can read it in a study of several objectives, where its losses have no direction.

    TPE looks at how far a trial has come, and asks for the direction only of a loss that is a number.
    """
    shown = copy(trial)
    shown.intermediate_values = dict.fromkeys(trial.intermediate_values, nan)
    return shown


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
