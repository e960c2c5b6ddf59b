"""What is trained next: what waits in the queue, completed where it must be, or else what the sampler suggests.

How trials get into the storage is the business of `ledger.py`, how a sampler is asked that of `sampling.py`.
"""

from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial

from search.records import Assignment, Params
from search.spec import StudySpec
from search.study.ledger import Ledger
from search.study.sampling import Sampling
from search.study.trials import CONFIG, config_of, first_attempt, role_of, trainer_deaths


class Asking:
    """Hands out the configurations of a study to one runner."""

    def __init__(self, ledger: Ledger, sampling: Sampling, spec: StudySpec) -> None:
        self._ledger, self._sampling = ledger, sampling
        self._choices, self._names = spec.choices, spec.parameters().keys()
        self._uncertain = False
        """Whether the storage failed in the middle of `ask`, so that a trial may have begun that nobody knows of."""

    def ask(self, budget: int) -> Assignment | None:
        """Return the next configuration, whose trial runs now; None when so many trials have begun.

        May be called again after it has failed.
        """
        try:
            return self._ask(budget)
        except BaseException:
            self._uncertain = True
            raise

    def _ask(self, budget: int) -> Assignment | None:
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
        trial = self._ledger.find_own()
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
            return self._ask(budget) if self._ledger.has_waiting(budget) else None
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
        if config.keys() != self._names:
            raise ValueError(f"trial {trial.number} has the parameters {sorted(config)}")
        return config

    def _is_complete(self, params: Mapping[str, Any]) -> bool:
        """Return whether nothing is left to choose."""
        switches = self._choices.switches
        positions = {name: params[name] for name in switches if name in params}
        return len(positions) == len(switches) and params.keys() == {*switches, *self._choices.ranges(positions)}
