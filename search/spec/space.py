"""[space] of a study file: what each parameter may be, and which of them are searched.

A parameter is a constant, a range, or behind a switch: then the search also decides whether it is on at all, and its
strength is sampled only where it is (as in Kadra et al. 2021, "Well-tuned Simple Nets Excel on Tabular Datasets").
Every setting is checked against the one table of parameters, and all of the section is checked before anything is
refused. Knows nothing of the other sections but what `Surroundings` says.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, RootModel

from search.spec.parameters import FUNCTIONAL, OWN, PARAMETERS, Parameter
from search.spec.problems import MOST_FINDINGS, Findings, Location, as_toml, bad_key, bad_value, not_a_field

_RANGE_KEYS = ("low", "high", "log", "switch")
_BATCH_NORM = "batch_norm"
_MOST_NAMED = 20
"""Layers that are named one by one."""
_NARROWEST = 1e-9
"""A range of less, as a share of its high end, has no two values that training in single precision tells apart."""
_LEAST = 1e-30
"""Nor has one that ends here."""
_IN_OWN_MODELS = {
    "input_dropout": "is for shipped models; begin your own with an nn.Dropout, which is dropout_0 then",
    _BATCH_NORM: "is for shipped models; your own has the batch norms that it has",
}


class Range(BaseModel):
    """A parameter that is searched, from `low` to `high`, both included."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    low: int | float = Field(description="Lowest value.")
    high: int | float = Field(description="Highest value.")
    log: bool = Field(default=False, description="Whether to search on a logarithmic scale.")
    switch: bool = Field(
        default=False,
        exclude_if=lambda switch: not switch,
        description="Whether to search, too, if the parameter is on at all; `low` may then equal `high`.",
    )
    integer: bool = Field(default=False, exclude=True)
    """Whether it holds whole numbers only. Follows from the parameter, so files do not say it."""

    @property
    def has_strengths(self) -> bool:
        """Whether there is more than one value to choose from, when it is on."""
        return self.low < self.high

    def clip(self, value: float) -> float:
        """Return the nearest value inside the range; behind a switch, 0 is one."""
        if self.switch and value == 0:
            return 0
        inside = min(max(value, self.low), self.high)
        return round(inside) if self.integer else inside


Setting = float | Range
"""What [space] says of a parameter: a constant, or a range to search."""


@dataclass(frozen=True)
class Surroundings:
    """What the other sections say that decides what [space] may."""

    model: str
    layers: int
    """Hidden layers of the model."""
    data: str | None
    """Name of the data set; None when that is invalid."""
    shape: tuple[int, ...]
    """Of one of its examples."""
    loss: str | None
    """Name of the loss; None when that is invalid."""
    batch_size: int | None
    """Examples in a minibatch; None when that is invalid."""


class SpaceSpec(RootModel[dict[str, int | float | Range]]):
    """[space]: settings by name as the file gives them, and the defaults of the parameters that it does not name."""

    model_config = ConfigDict(frozen=True, strict=True)

    def per_layer(self, layers: int) -> dict[str, Setting]:
        """Return the settings in the table's order, with dropout spelled out for each of so many hidden layers."""
        return {one: self.root.get(one, self.root[name]) for name in _named(self.root) for one in _spell(name, layers)}

    def choices(self, layers: int) -> "Choices":
        """Return what there is to choose for a model with so many hidden layers."""
        return Choices(self.per_layer(layers), self.switches(layers))

    def switches(self, layers: int) -> dict[str, str]:
        """Return the switches of the parameters that have one: `use_dropout` for all layers that have none alone."""
        owners = {one: one if one in self.root else name for name in _named(self.root) for one in _spell(name, layers)}
        settings = self.per_layer(layers)
        return {one: f"use_{owner}" for one, owner in owners.items() if _has_switch(settings[one])}


class Choices:
    """A study's settings as what is to be chosen: which switches and ranges there are, and what a choice amounts to."""

    def __init__(self, settings: Mapping[str, Setting], switches: Mapping[str, str]) -> None:
        """`settings` by parameter, each layer's dropout by itself; `switches` of those that have one."""
        self._settings = settings
        self._layers = [name for name in settings if _layer(name) is not None]
        # Dropout before a batch norm shifts the variance that it learns to expect (Li et al. 2019).
        self._before_norms = {"input_dropout", *self._layers[:-1]}
        self._never = self._before_norms if _is_on(settings.get(_BATCH_NORM, 0)) else set()
        self._switches = {name: switch for name, switch in switches.items() if name not in self._never}

    @property
    def switches(self) -> list[str]:
        """Return the switches, each once."""
        return list(dict.fromkeys(self._switches.values()))

    def __bool__(self) -> bool:
        """Return whether there is anything to choose."""
        return bool(self._switches or self.ranges())

    def ranges(self, positions: Mapping[str, bool] | None = None) -> dict[str, Range]:
        """Return the ranges that matter when the switches are set so, or all that ever matter."""
        idle = self._never if positions is None else self._idle(positions)
        return {
            name: setting
            for name, setting in self._settings.items()
            if isinstance(setting, Range) and setting.has_strengths and name not in idle
        }

    def configuration(self, chosen: Mapping[str, float]) -> dict[str, float]:
        """Return every parameter's value, from what was chosen for switches and ranges."""
        idle = self._idle({name: bool(chosen[name]) for name in self.switches})
        return {
            name: 0.0 if name in idle else _value(name, setting, chosen) for name, setting in self._settings.items()
        }

    def chosen(self, configuration: Mapping[str, float]) -> dict[str, float]:
        """Return what would have been chosen for a configuration, or for the nearest one that can be."""
        positions = dict.fromkeys(self.switches, False)
        for name, switch in self._switches.items():
            positions[switch] = positions[switch] or configuration[name] != 0
        return positions | {name: setting.clip(configuration[name]) for name, setting in self.ranges(positions).items()}

    def switch_of(self, name: str) -> str | None:
        """Return the switch of a parameter, if it has one."""
        return self._switches.get(name)

    def needed(self, name: str) -> dict[str, bool]:
        """Return how switches must stand for a parameter to have an effect."""
        own = {self._switches[name]: True} if name in self._switches else {}
        norm = self._switches.get(_BATCH_NORM) if name in self._before_norms else None
        return own | ({} if norm is None else {norm: False})

    def _idle(self, positions: Mapping[str, bool]) -> set[str]:
        """Return the parameters that are off."""
        off = self._never | {name for name, switch in self._switches.items() if not positions[switch]}
        switched_on = _BATCH_NORM in self._switches and _BATCH_NORM not in off
        return off | self._before_norms if switched_on else off


def parameter_of(name: str) -> Parameter:
    """Return the table's row for a configuration's entry, such as `l1` or `dropout_2`."""
    return PARAMETERS["dropout" if _layer(name) is not None else name]


def image_refusal(data: str, shape: Sequence[int]) -> str | None:
    """Return why examples of this shape are no images, None when they are: of height and width, and maybe colours."""
    if len(shape) == 1:
        return f"needs images, and an example of {data} is a row of {shape[0]} numbers"
    if len(shape) not in (2, 3):
        kinds = "[height, width] or [colours, height, width]"
        return f"needs images, which are {kinds}, and an example of {data} is {list(shape)}"
    return None


def nearest(setting: Setting, value: float) -> float:
    """Return what is nearest to `value` among what the setting allows."""
    return setting.clip(value) if isinstance(setting, Range) else setting


def read_space(given: object, around: Surroundings | None) -> dict[str, Setting]:
    """Return what `SpaceSpec` holds, from the section as written; `around` is None when the model is invalid itself.

    Raises what pydantic takes for a validator's findings: all that is wrong.
    """
    given = given.root if isinstance(given, SpaceSpec) else given
    if not isinstance(given, Mapping):
        raise bad_value("must be a table, as in [space]")
    findings = Findings()
    read: dict[str, Setting | None] = {}
    for name, value in given.items():
        if len(findings) < MOST_FINDINGS:
            read[name] = _read_setting(name, value, around, findings)
        elif name not in PARAMETERS and _layer(name) is None:
            # Only counted: to look for what thousands of names are near to would take a while.
            findings.add(bad_key("is not a field"), (name,))
    if around and _is_on(read.get(_BATCH_NORM) or 0):
        _check_dropouts(read, around.layers, findings)
    findings.raise_any()
    defaults: dict[str, Setting] = {name: row.default for name, row in PARAMETERS.items() if not row.optional}
    space = defaults | {name: setting for name, setting in read.items() if setting is not None}
    if around and not SpaceSpec(space).choices(around.layers):
        raise bad_key(
            "has no range, so there is nothing to search; write one as in dropout = { low = 0.0, high = 0.6 }"
        )
    return space


def _read_setting(name: str, value: object, around: Surroundings | None, findings: Findings) -> Setting | None:
    """Return the setting, or None when it is so wrong that it cannot be read; what is wrong is in the findings."""
    refusal = _name_refusal(name, around)
    if refusal is None and around is not None and value != 0:  # what is off fits everywhere
        refusal = _misfit(name, around)
    if refusal is not None:
        findings.add(bad_key(refusal), (name,))
        return None
    parameter = parameter_of(name)
    if isinstance(value, Range):  # from Python, or a section that was read before
        value = value.model_dump()
    if isinstance(value, Mapping):
        return _read_range(name, value, findings)
    otherwise = "a search { switch = true }" if parameter.is_switch else "a range { low = ..., high = ... }"
    return _read_number(parameter, value, (name,), findings, f", or {otherwise}")


def _name_refusal(name: str, around: Surroundings | None) -> str | None:
    layer, layers = _layer(name), around.layers if around else 0
    if name in PARAMETERS or (layer is not None and (around is None or layer < layers)):
        return None
    each = _spell("dropout", min(layers, _MOST_NAMED))
    if layer is not None:
        named = ", ".join(each) if layers <= _MOST_NAMED else f"{each[0]} to dropout_{layers - 1}"
        given = f"gives only {named}" if each else "has no dropout layers"
        return f"has no layer to speak for; the model {given}"
    return not_a_field(name, [*PARAMETERS, *each])


def _misfit(name: str, around: Surroundings) -> str | None:
    """Return why a parameter makes no sense for this model and this data, None when it does."""
    if parameter_of(name).images:
        if around.data is not None:
            return image_refusal(around.data, around.shape)
    elif name == FUNCTIONAL and around.model != OWN:
        return "is for models from Python: shipped ones have no dropout but what `dropout` sets"
    elif parameter_of(name).mixes and around.loss not in (None, "cross_entropy"):
        return f'mixes classes, which only cross_entropy can take, and the loss is "{around.loss}"'
    elif around.model == OWN and name in _IN_OWN_MODELS:
        return _IN_OWN_MODELS[name]
    elif name == "dropout" and around.model == OWN and not around.layers:
        return "acts on the model's dropout layers, and it has none: add nn.Dropout where it may be"
    elif name in ("dropout", _BATCH_NORM) and not around.layers:
        return "acts on hidden layers, and the model has none"
    elif name == _BATCH_NORM and around.model == "transformer":
        return "does not go with transformer, which normalizes its layers already"
    elif name == _BATCH_NORM and around.batch_size == 1:
        return "needs minibatches of several examples, and training.batch_size is 1: make it larger, or remove this"
    return None


def _check_dropouts(read: Mapping[str, Setting | None], layers: int, findings: Findings) -> None:
    """Refuse dropout that a batch norm which is always on switches off; `dropout` speaks for the last layer, too."""
    *before, last = _spell("dropout", layers)
    for name in ("input_dropout", *before):
        if read.get(name):
            text = f"has no effect with batch_norm = true: dropout acts after the last batch norm alone, as {last}; "
            findings.add(bad_key(f"{text}remove it, or search batch_norm = {{ switch = true }}"), (name,))


def _layer(name: str) -> int | None:
    """Return the number of the hidden layer that `dropout_<i>` speaks for, None for every other name."""
    match = re.fullmatch(r"dropout_(0|[1-9][0-9]{0,8})", name)
    return int(match[1]) if match else None


def _spell(name: str, layers: int) -> list[str]:
    """Return the names under which a configuration has a parameter."""
    return [f"dropout_{i}" for i in range(layers)] if name == "dropout" else [name]


def _named(space: Mapping[str, object]) -> Iterable[str]:
    """Return the parameters that a configuration contains, in the table's order."""
    return (name for name in PARAMETERS if name in space)


def _is_on(setting: Setting) -> bool:
    """Return whether it is a constant that is not 0."""
    return not isinstance(setting, Range) and setting != 0


def _has_switch(setting: Setting) -> bool:
    return isinstance(setting, Range) and setting.switch


def _value(name: str, setting: Setting, chosen: Mapping[str, float]) -> float:
    if not isinstance(setting, Range):
        return setting
    return chosen[name] if setting.has_strengths else setting.low


def _read_number(
    parameter: Parameter, value: object, place: Location, findings: Findings, otherwise: str = ""
) -> float | None:
    refusal = parameter.refusal(value)
    if isinstance(value, int | float) and refusal is None:
        return int(value) if parameter.integer else float(value)
    findings.add(bad_value(f"{refusal}{otherwise}"), place, value)
    return None


def _read_range(name: str, given: Mapping[str, object], findings: Findings) -> Range | None:
    parameter = parameter_of(name)
    for key in given:
        if key not in _RANGE_KEYS:
            findings.add(bad_key(not_a_field(key, _RANGE_KEYS)), (name, key))
    switch = _read_flag(name, "switch", given, findings)
    if switch and not parameter.regularizer:
        findings.add(bad_value("is no regularizer: it cannot be off"), (name, "switch"), switch)
    if parameter.is_switch:
        return _read_switch(name, given, switch, findings)
    low, high = (_read_end(name, key, given, findings) for key in ("low", "high"))
    log = _read_flag(name, "log", given, findings)
    if log and low == 0:
        text = "must be above 0 on a logarithmic scale; start at a small value such as 1e-7, or leave log out"
        findings.add(bad_value(text), (name, "low"), low)
    if low is None or high is None:
        return None
    if low > high or (low == high and not switch) or 0 < high - low <= max(_NARROWEST * high, _LEAST):
        text = f"low must be below high, and by more than rounding; for a constant write {name} = {as_toml(low)}"
        findings.add(bad_value(text), (name,), given)
    if switch and low == 0 and high == 0:
        findings.add(bad_value("must be above 0, which is what off means"), (name, "high"), high)
    return Range(low=low, high=high, log=log, switch=switch, integer=parameter.integer)


def _read_switch(name: str, given: Mapping[str, object], switch: bool, findings: Findings) -> Range | None:
    """Read the range of what has no strengths between on and off."""
    ends = {key: given[key] for key in ("low", "high", "log") if key in given}
    if not switch or ends not in ({}, {"low": 1, "high": 1}, {"low": 1, "high": 1, "log": False}):
        text = "is either on or off; write true or false, or { switch = true } to search which"
        findings.add(bad_value(text), (name,), given)
        return None
    return Range(low=1, high=1, switch=True, integer=True)


def _read_flag(name: str, key: str, given: Mapping[str, object], findings: Findings) -> bool:
    flag = given.get(key, False)
    if not isinstance(flag, bool):
        findings.add(bad_value("must be true or false"), (name, key), flag)
    return flag is True


def _read_end(name: str, key: str, given: Mapping[str, object], findings: Findings) -> float | None:
    if key in given:
        return _read_number(parameter_of(name), given[key], (name, key), findings)
    if all(key in _RANGE_KEYS for key in given):  # else it is there, but misspelt
        switch = ", switch = true" if given.get("switch") is True else ""
        findings.add(bad_key(f"is missing; a range is written {{ low = ..., high = ...{switch} }}"), (name, key))
    return None
