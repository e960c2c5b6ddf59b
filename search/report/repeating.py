"""Everything needed to repeat or resume a study: command, spec as a file, seeds, versions, hardware."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from search.errors import RegsearchError
from search.machine import versions
from search.report.material import Material
from search.report.words import command
from search.spec import StudySpec, load_spec, shipped_studies

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def spec_toml(spec: StudySpec) -> str:
    """Return the spec as a study file, all defaults spelled out."""
    return "\n".join(_table(spec.model_dump(mode="json", exclude_none=True), ())).strip() + "\n"


def _table(table: Mapping[str, Any], place: tuple[str, ...]) -> Iterator[str]:
    """Give a table's lines, tables inside it last; what is searched stays on the line of its name."""
    inner = {key: value for key, value in table.items() if isinstance(value, Mapping) and place != ("space",)}
    for key, value in table.items():
        if key not in inner:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in inner.items():
        yield ""
        yield f"[{'.'.join(map(_key, (*place, key)))}]"
        yield from _table(value, (*place, key))


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _value(key)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _text(value)
        case Mapping():
            return "{ " + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + " }"
        case list() | tuple():
            return "[" + ", ".join(map(_value, value)) + "]"
        case _:
            return str(value)


def _text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'


def repeat_steps(material: Material) -> list[tuple[str, str]]:
    """Return what to do, and the command to do it with; the latter is empty where there is none."""
    spec, name = material.spec, material.summary.study
    if spec.is_own:
        return [("This study was started from Python: call search.run_search again, with the same arguments.", "")]
    trials = f" --trials {spec.search.trials}"
    if _is_shipped(spec):
        start = _start(material, spec.name) + ("" if name == spec.name else f" --name {shlex.quote(name)}") + trials
        return [("Resume it here, or repeat it in another home:", start)]
    file = f"{re.sub(r'[^A-Za-z0-9._-]', '_', spec.name).lstrip('.') or 'study'}.toml"
    start = _start(material, file) + f" --name {shlex.quote(name)}{trials}"
    return [(f"Save the spec below as {file}. Resume the study here, or repeat it in another home:", start)]


def _start(material: Material, study: str) -> str:
    return command(material, "start").replace(shlex.quote(material.summary.study), shlex.quote(study), 1)


def _is_shipped(spec: StudySpec) -> bool:
    try:
        return spec.name in shipped_studies() and load_spec(spec.name).digest == spec.digest
    except RegsearchError:
        return False


def facts(material: Material) -> list[tuple[str, str]]:
    """Return seeds, versions and hardware, by what they are."""
    machine, here = dict(material.machine), versions()
    seed = material.spec.search.seed
    rows = [("seed", f"{seed}: split, sampler, and with a trial's number its weights, batch order and noise")]
    if material.summary.time is not None:
        rows.append(("trainers", str(material.summary.time.trainers)))
    if machine:
        return [*rows, *machine.items()]
    told = ", ".join(f"{name} {number}" for name, number in here.items())
    return [*rows, ("versions", f"{told} (those that made this report; the study has not kept its own)")]
