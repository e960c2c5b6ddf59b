"""Trials that other programs have written into a study, or changed: which trials count, and which are left out.

Any program with Optuna can queue, add and end trials, and write attributes. A trial counts when it carries a
configuration of this study that a runner has taken or is to take; its end counts when a runner has recorded it. All
else is left out of everything that is read, with a reason. Which queued trials are refused is decided in `queued.py`.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from search.printable import enumerated, one_line
from search.records import LeftOut, TrialRecord
from search.spec import StudySpec
from search.study.reading import MISREAD, describe_misread
from search.study.samplers import distributions
from search.study.trials import (
    CONFIG,
    DAMAGED,
    REFUSED,
    RUNNER,
    check_values,
    config_of,
    has_curves,
    is_queued_elsewhere,
    to_record,
    why_damaged,
)

_BY_OTHERS = {
    TrialState.RUNNING: "another program runs it",
    TrialState.COMPLETE: "another program added it",
    TrialState.PRUNED: "another program added it",
    TrialState.FAIL: "another program added it, or it failed there",
}


class Sieve:
    """Tells the trials of one study that count from those that are left out. Remembers what it knows of ended ones."""

    def __init__(self, spec: StudySpec) -> None:
        self._spec = spec
        self._objectives, self._max_epochs = len(spec.search.objectives), spec.training.max_epochs
        self._known: dict[int, str | None] = {}
        """By id of a trial that has ended, why it is left out; None where it is not."""
        self._known_configs: dict[int, str | None] = {}
        """By id of a trial that has ended, why its configuration does not count; None where it does."""

    # Of a study without trials, neither is needed; a spec may have thousands of parameters.
    @cached_property
    def _names(self) -> Iterable[str]:
        return self._spec.parameters().keys()

    @cached_property
    def _distributions(self) -> Mapping[str, BaseDistribution]:
        return distributions(self._spec.choices)

    def counts(self, trial: FrozenTrial) -> bool:
        """Return whether a trial has a place in the budget: it waits, or has a configuration that is to be trained."""
        return trial.state == TrialState.WAITING or self.has_config(trial)

    def has_config(self, trial: FrozenTrial) -> bool:
        """Return whether a trial carries a configuration of this study that a runner has taken or is to take."""
        return self._config_refusal(trial) is None

    def why_left_out(self, trial: FrozenTrial) -> str | None:
        """Return why a trial is left out of all that is read; None when it is not. Waiting ones are not."""
        if trial.state == TrialState.WAITING:
            return None
        if trial.state == TrialState.RUNNING:
            return self._config_refusal(trial)
        if trial._trial_id not in self._known:
            self._known[trial._trial_id] = self._ended_refusal(trial)
        return self._known[trial._trial_id]

    def sift(self, trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        """Return the trials that are not left out."""
        return [trial for trial in trials if self.why_left_out(trial) is None]

    def left_out(self, trials: Iterable[FrozenTrial]) -> list[LeftOut]:
        """Return the others, each with the reason."""
        told = ((trial.number, self.why_left_out(trial)) for trial in trials)
        return [LeftOut(number, why) for number, why in told if why is not None]

    def records(self, trials: Iterable[FrozenTrial]) -> list[TrialRecord]:
        """Return the records of the trials that have ended and are not left out."""
        return [to_record(trial) for trial in trials if trial.state.is_finished() and not self.why_left_out(trial)]

    def steps(self, trial: FrozenTrial) -> Mapping[int, float]:
        """Return a trial's intermediate values by epoch, without those of steps that no runner reports."""
        return {step: loss for step, loss in trial.intermediate_values.items() if 1 <= step <= self._max_epochs}

    def _ended_refusal(self, trial: FrozenTrial) -> str | None:
        if (refusal := self._config_refusal(trial)) is not None:
            return refusal
        if any(self._distributions.get(name) != given for name, given in trial.distributions.items()):
            return "its parameters have other ranges than this study's"
        if trial.state != TrialState.FAIL and not has_curves(trial):
            return f"another program has ended it as {trial.state.name}"
        try:
            check_values([trial], self._objectives)
            to_record(trial)
            return why_damaged(trial)
        except MISREAD as error:
            return f"it holds what regsearch does not write ({describe_misread(error)})"

    def _config_refusal(self, trial: FrozenTrial) -> str | None:
        if not trial.state.is_finished():  # others may still change it
            return self._read_config(trial)
        if trial._trial_id not in self._known_configs:
            self._known_configs[trial._trial_id] = self._read_config(trial)
        return self._known_configs[trial._trial_id]

    def _read_config(self, trial: FrozenTrial) -> str | None:
        is_taken = RUNNER in trial.system_attrs
        if REFUSED in trial.user_attrs and not is_taken and trial.state != TrialState.WAITING:
            return f"refused: {one_line(str(trial.user_attrs[REFUSED]))}"
        if CONFIG not in trial.user_attrs and DAMAGED in trial.user_attrs:
            return why_damaged(trial)
        if CONFIG not in trial.user_attrs or (is_queued_elsewhere(trial) and not is_taken):
            return _BY_OTHERS.get(trial.state, "another program queued it")
        try:
            return misfit(config_of(trial), self._names)
        except MISREAD as error:
            return f"its configuration is none of this study's ({describe_misread(error)})"


def misfit(config: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """Return why a configuration is none of a study with these parameters; None when it is."""
    known = set(names)
    if config.keys() == known:
        return None
    unknown, missing = sorted(config.keys() - known), sorted(known - config.keys())
    told = [f"{text} {enumerated(which)}" for text, which in (("has", unknown), ("lacks", missing)) if which]
    return f"its configuration is none of this study's (it {' and '.join(told)})"
