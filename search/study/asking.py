"""What is trained next: what waits in the queue, completed where it must be, or else what the sampler suggests.

How trials get into the storage is the business of `ledger.py`, how a sampler is asked that of `sampling.py`.
"""

from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial

from search.records import Assignment
from search.spec import StudySpec
from search.study.ledger import Ledger
from search.study.queued import Requests
from search.study.sampling import Sampling
from search.study.trials import CONFIG, OPTIONAL, config_of, first_attempt, role_of, trainer_deaths


class Asking:
    """Hands out the configurations of a study to one runner."""

    def __init__(self, ledger: Ledger, sampling: Sampling, spec: StudySpec) -> None:
        self._ledger, self._sampling = ledger, sampling
        self._choices, self._requests = spec.choices, Requests(spec)
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
            return Assignment(
                trial.number, first_attempt(trial), config_of(trial), role_of(trial), trainer_deaths(trial)
            )
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
        """Return parameters and attributes that a queued trial lacks. Raises Refused where it cannot be trained.

        Another program may have queued it, with as much of a configuration as it liked.
        """
        config, given = self._requests.config(trial), self._requests.given(trial)
        if config is not None and self._is_complete(trial.params):
            return {}, {}
        params = self._sampling.suggest(trial.number, given)
        # What another program has copied there is not what becomes of this one.
        copied = dict.fromkeys(key for key in OPTIONAL if config is None and key in trial.user_attrs)
        missing = {name: value for name, value in params.items() if name not in trial.params}
        return missing, {CONFIG: config or self._choices.configuration(params), **copied}

    def _is_complete(self, params: Mapping[str, Any]) -> bool:
        """Return whether nothing is left to choose."""
        switches = self._choices.switches
        positions = {name: params[name] for name in switches if name in params}
        return len(positions) == len(switches) and params.keys() == {*switches, *self._choices.ranges(positions)}
