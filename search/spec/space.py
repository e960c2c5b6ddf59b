"""[space] of a study file: which parameters there are, what each may be, and which of them are searched.

Every setting is checked against the one table of parameters, and all of the section is checked before anything is
refused. Knows nothing of the other sections but how many hidden layers the model has.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from pydantic import BaseModel, ConfigDict, Field, RootModel

from search.spec.problems import Findings, Location, as_toml, bad_key, bad_value, not_a_field

MAX_EPOCHS = 100_000
"""Limit of everything that counts epochs: more is a slip of the pen."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """What may stand under one name in [space], as a constant or as either end of a range."""

    description: str
    low: float = 0
    low_allowed: bool = True
    high: float
    high_allowed: bool = True
    integer: bool = False
    regularizer: bool = True
    """Whether it is a strength, and 0 switches it off."""
    default: float = 0.0
    textbook: float
    """What a careful practitioner would try first."""
    baseline: float = 0.0
    """Its value without regularization. A regularizer's holds whatever the range; others are clipped into it."""

    def refusal(self, value: object) -> str | None:
        """Return what `value` must be instead, or None when it may stand here. A bool is no number, nor is nan."""
        kind = int if self.integer else int | float
        if isinstance(value, kind) and not isinstance(value, bool) and self._holds(value):
            return None
        low = f"{'at least' if self.low_allowed else 'above'} {self.low:g}"
        high = f"{'at most' if self.high_allowed else 'below'} {self.high:g}"
        return f"must be a {'whole ' if self.integer else ''}number, {low} and {high}"

    def _holds(self, value: float) -> bool:
        above = value >= self.low if self.low_allowed else value > self.low
        below = value <= self.high if self.high_allowed else value < self.high
        return above and below


# The upper limits of the strengths only keep them finite in single precision.
PARAMETERS: Mapping[str, Parameter] = {
    "learning_rate": Parameter(
        description="Step size of the optimizer.",
        low_allowed=False,
        high=1000,
        regularizer=False,
        default=1e-3,
        textbook=1e-3,
        baseline=1e-3,
    ),
    "input_dropout": Parameter(
        description="Share of the inputs that dropout sets to zero.", high=1, high_allowed=False, textbook=0.1
    ),
    "dropout": Parameter(
        description="Share of the units that dropout sets to zero, in each hidden layer by itself; "
        "`dropout_0`, `dropout_1`, ... speak for one layer.",
        high=1,
        high_allowed=False,
        textbook=0.2,
    ),
    "weight_decay": Parameter(description="Strength of the L2 penalty or decay.", high=1e6, textbook=1e-4),
    "l1": Parameter(description="Strength of the L1 penalty or threshold.", high=1e6, textbook=1e-5),
    "patience": Parameter(
        description="Epochs without a better validation loss after which a trial stops.",
        low=1,
        high=MAX_EPOCHS,
        integer=True,
        regularizer=False,
        default=5,
        textbook=5,
        baseline=inf,
    ),
}
"""Everything that [space] may name, in the order in which configurations list it."""


_RANGE_KEYS = ("low", "high", "log")


class Range(BaseModel):
    """A parameter that is searched, from `low` to `high`, both included."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    low: int | float
    high: int | float
    log: bool = Field(default=False, description="Whether to search on a logarithmic scale.")
    integer: bool = Field(default=False, exclude=True)
    """Whether it holds whole numbers only. Follows from the parameter, so files do not say it."""

    def clip(self, value: float) -> float:
        """Return the nearest value inside the range."""
        inside = min(max(value, self.low), self.high)
        return round(inside) if self.integer else inside


Setting = float | Range
"""What [space] says of a parameter: a constant, or a range to search."""


class SpaceSpec(RootModel[dict[str, int | float | Range]]):
    """[space]: settings by name as the file gives them, and the defaults of the parameters that it does not name."""

    model_config = ConfigDict(frozen=True, strict=True)

    def per_layer(self, layers: int) -> dict[str, Setting]:
        """Return the settings in the table's order, with dropout spelled out for each of so many hidden layers."""
        return _per_layer(self.root, layers)


def parameter_of(name: str) -> Parameter:
    """Return the table's row for a configuration's entry, such as `l1` or `dropout_2`."""
    return PARAMETERS["dropout" if _layer(name) is not None else name]


def nearest(setting: Setting, value: float) -> float:
    """Return what is nearest to `value` among what the setting allows."""
    return setting.clip(value) if isinstance(setting, Range) else setting


def read_space(given: object, layers: int | None) -> dict[str, Setting]:
    """Return what `SpaceSpec` holds, from the section as written; `layers` is None when the model is invalid itself.

    Raises what pydantic takes for a validator's findings: all that is wrong.
    """
    given = given.root if isinstance(given, SpaceSpec) else given
    if not isinstance(given, Mapping):
        raise bad_value("must be a table, as in [space]")
    findings = Findings()
    read = {name: _read_setting(name, value, layers, findings) for name, value in given.items()}
    findings.raise_any()
    defaults: dict[str, Setting] = {name: parameter.default for name, parameter in PARAMETERS.items()}
    space = defaults | {name: setting for name, setting in read.items() if setting is not None}
    if layers and not any(isinstance(setting, Range) for setting in _per_layer(space, layers).values()):
        raise bad_key(
            "has no range, so there is nothing to search; write one as in dropout = { low = 0.0, high = 0.6 }"
        )
    return space


def _read_setting(name: str, value: object, layers: int | None, findings: Findings) -> Setting | None:
    """Return the setting, or None when it is so wrong that it cannot be read; what is wrong is in the findings."""
    if refusal := _name_refusal(name, layers):
        findings.add(bad_key(refusal), (name,))
        return None
    if isinstance(value, Range):  # from Python, or a section that was read before
        value = value.model_dump()
    if isinstance(value, Mapping):
        return _read_range(name, value, findings)
    return _read_number(parameter_of(name), value, (name,), findings, ", or a range { low = ..., high = ... }")


def _name_refusal(name: str, layers: int | None) -> str | None:
    layer = _layer(name)
    each = [f"dropout_{i}" for i in range(layers or 0)]
    if name in PARAMETERS or name in each or (layer is not None and layers is None):
        return None
    if layer is not None:
        return f"has no layer to speak for; the model gives only {', '.join(each)}"
    return not_a_field(name, [*PARAMETERS, *each])


def _layer(name: str) -> int | None:
    """Return the number of the hidden layer that `dropout_<i>` speaks for, None for every other name."""
    match = re.fullmatch(r"dropout_(0|[1-9][0-9]{0,8})", name)
    return int(match[1]) if match else None


def _read_number(
    parameter: Parameter, value: object, place: Location, findings: Findings, otherwise: str = ""
) -> float | None:
    refusal = parameter.refusal(value)
    if isinstance(value, int | float) and refusal is None:
        return value if parameter.integer else float(value)
    findings.add(bad_value(f"{refusal}{otherwise}"), place, value)
    return None


def _read_range(name: str, given: Mapping[str, object], findings: Findings) -> Range | None:
    for key in _unknown(given):
        findings.add(bad_key(not_a_field(key, _RANGE_KEYS)), (name, key))
    low, high = (_read_end(name, key, given, findings) for key in ("low", "high"))
    log = _read_log(name, given.get("log", False), low, findings)
    if low is None or high is None:
        return None
    if low >= high:
        text = f"low must be below high; for a constant write {name} = {as_toml(low)}"
        findings.add(bad_value(text), (name,), given)
    return Range(low=low, high=high, log=log, integer=parameter_of(name).integer)


def _read_log(name: str, log: object, low: float | None, findings: Findings) -> bool:
    if not isinstance(log, bool):
        findings.add(bad_value("must be true or false"), (name, "log"), log)
    elif log and low == 0:
        text = "must be above 0 on a logarithmic scale; start at a small value such as 1e-7, or leave log out"
        findings.add(bad_value(text), (name, "low"), low)
    return log is True


def _read_end(name: str, key: str, given: Mapping[str, object], findings: Findings) -> float | None:
    if key in given:
        return _read_number(parameter_of(name), given[key], (name, key), findings)
    if not _unknown(given):  # else it is there, but misspelt
        findings.add(bad_key("is missing; a range is written { low = ..., high = ... }"), (name, key))
    return None


def _unknown(given: Mapping[str, object]) -> list[str]:
    return [key for key in given if key not in _RANGE_KEYS]


def _per_layer(space: Mapping[str, Setting], layers: int) -> dict[str, Setting]:
    settings: dict[str, Setting] = {}
    for name in PARAMETERS:
        each = [f"dropout_{i}" for i in range(layers)] if name == "dropout" else [name]
        settings |= {one: space.get(one, space[name]) for one in each}
    return settings
