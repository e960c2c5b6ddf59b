"""Checks of trials that wait in the queue: another program may have queued them, with anything in them.

What is given has to be possible in the study; what is missing is left to the sampler.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from optuna.trial import FrozenTrial

from search.errors import did_you_mean
from search.printable import one_line
from search.records import Params
from search.spec import Range, StudySpec
from search.study.foreign import misfit
from search.study.reading import MISREAD, describe_misread
from search.study.samplers import distributions
from search.study.trials import (
    CONFIG,
    config_of,
    is_attempt_again,
    is_queued_elsewhere,
    predecessor,
    role_of,
    wanted_params,
)

_LONGEST_VALUE = 40


class Refused(Exception):
    """A queued trial is not trained; the message says why."""


class Requests:
    """Reads what queued trials ask for. All that is wrong with one is in its refusal."""

    def __init__(self, spec: StudySpec) -> None:
        self._settings, self._choices = spec.parameters(), spec.choices
        self._ranges, self._switches = self._choices.ranges(), self._choices.switches
        self._distributions = distributions(self._choices)

    def config(self, trial: FrozenTrial) -> Params | None:
        """Return the configuration that regsearch has queued; None where another program has. Raises Refused."""
        if CONFIG not in trial.user_attrs or is_queued_elsewhere(trial):
            if is_attempt_again(trial):
                raise Refused("it claims to repeat another trial and has no configuration")
            return None
        try:
            config = config_of(trial)
            role_of(trial)
        except MISREAD as error:
            raise Refused(f"its configuration is none of this study's ({describe_misread(error)})") from None
        if (refusal := misfit(config, self._settings)) is not None:
            raise Refused(refusal)
        if is_attempt_again(trial) and predecessor(trial) is None:
            raise Refused("it claims to repeat another trial and does not say which")
        return config

    def given(self, trial: FrozenTrial) -> dict[str, Any]:
        """Return the switches and strengths that are set, and the switches that follow from them. Raises Refused."""
        if any(self._distributions.get(name) != its for name, its in trial.distributions.items()):
            raise Refused("its parameters have other ranges than this study's; queue it with study.enqueue_trial")
        wanted = wanted_params(trial)
        if not isinstance(wanted, Mapping):
            raise Refused("its parameters are no table")
        wanted = {**wanted, **trial.params}
        read, wrong = {}, []
        for name, value in wanted.items():
            told = self._read(name, value)
            if isinstance(told, str):
                wrong.append(told)
            else:
                read[name] = told
        if wrong:
            raise Refused("; ".join(wrong))
        if self._settings.keys() <= read.keys() and not self._switches_of(read):
            return self._of_configuration(read)
        self._check_constants(read)
        return self._with_switches({name: value for name, value in read.items() if name in self._distributions})

    def _read(self, name: object, value: Any) -> bool | float | str:
        """Return a value as a switch or a number, or what is wrong with it."""
        if name in self._switches:
            return bool(value) if value in (False, True) else f"{name} = {_shown(value)} is neither True nor False"
        if name not in self._settings:
            known = [*self._settings, *self._switches]
            return f"{_shown(name)} is no parameter of this study{did_you_mean(str(name), known)}".rstrip("?")
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not (isinstance(value, int) or isfinite(value))
        ):
            return f"{name} = {_shown(value)} is no number"
        setting = self._settings[str(name)]
        if isinstance(setting, Range) and setting.integer and value != int(value):
            return f"{name} = {_shown(value)} is no whole number"
        return value

    def _of_configuration(self, read: Mapping[str, float]) -> dict[str, Any]:
        """Return what has to be chosen for a whole configuration, where 0 is off, as `best.toml` has it."""
        config = {name: read[name] for name in self._settings}
        chosen = self._choices.chosen(config)
        reached = self._choices.configuration(chosen)
        wrong = [self._out_of_range(name, value) for name, value in config.items() if reached[name] != value]
        if wrong:
            raise Refused("; ".join(wrong))
        return chosen

    def _check_constants(self, read: Mapping[str, Any]) -> None:
        wrong = [
            self._out_of_range(name, value)
            for name, value in read.items()
            if name not in self._switches and not self._is_possible(name, value)
        ]
        if wrong:
            raise Refused("; ".join(wrong))

    def _is_possible(self, name: str, value: float) -> bool:
        if name in self._ranges:
            return self._ranges[name].low <= value <= self._ranges[name].high
        setting = self._settings[name]
        return not isinstance(setting, Range) and value == setting

    def _with_switches(self, given: dict[str, Any]) -> dict[str, Any]:
        """Add how switches must stand for the strengths that are given to have an effect."""
        wrong = []
        for name in given.keys() & self._ranges.keys():
            for switch, position in self._choices.needed(name).items():
                if given.setdefault(switch, position) != position:
                    wrong.append(f"{name} has no effect where {switch} is {given[switch]}")
        if wrong:
            raise Refused("; ".join(sorted(wrong)))
        return {
            name: int(value) if name in self._ranges and self._ranges[name].integer else value
            for name, value in given.items()
        }

    def _switches_of(self, read: Mapping[str, Any]) -> set[str]:
        return read.keys() & set(self._switches)

    def _out_of_range(self, name: str, value: float) -> str:
        setting, shown = self._settings[name], f"{name} = {_shown(value)}"
        if not isinstance(setting, Range):
            return f"{shown}, and this study has {setting}"
        if not setting.has_strengths:
            return f"{shown} is chosen by a switch: {', '.join(self._switches)}"
        off = f", and {switch} = False leaves it off" if (switch := self._choices.switch_of(name)) else ""
        return f"{shown} is outside its range: {setting.low} to {setting.high}{off}"


def _shown(value: object) -> str:
    try:
        return one_line(repr(value))[:_LONGEST_VALUE]
    except ValueError:
        return "a number of thousands of digits"
