"""A journal of a megabyte that others wrote is read or refused at once, whatever is long, deep or often in it.

Values of other kinds, few and small, are in test_hostile_storage.py, and known bad ones in test_limits.py.
"""

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from fuzzing import MOST_BYTES, TRAPS, changed, damaged, large_json, places, tries
from hypothesis import given
from hypothesis import strategies as st
from resources import little
from rich.console import Console
from small_study import as_if_searched
from test_hostile_storage import _list, _report, _show, _status, _stop, _track, _watch

from search.errors import RegsearchError
from search.printable import printable
from search.study.leases import RunnerRecord

READINGS = [_list, _show, _watch, _status]
RARER = [_report, _stop, _track]
FACTS = ["repeats", "ablation", "machine", "time", "identity", "noise", "host", "majority_test", "test_best", "x"]
WRITES = {  # Optuna's operations, and the fields that each of its entries has
    2: {"study_id": 0, "user_attr": {}},
    3: {"study_id": 0, "system_attr": {}},
    5: {"trial_id": 0, "param_name": "x", "param_value_internal": 0.5, "distribution": "{}"},
    7: {"trial_id": 0, "step": 1, "intermediate_value": 0.5},
    8: {"trial_id": 0, "user_attr": {}},
    9: {"trial_id": 0, "system_attr": {}},
}
SOMEWHERE = "\x1a"


class Journal(list[dict]):
    """The lines of a journal. Hypothesis prints all arguments of a case that fails."""

    def __repr__(self) -> str:
        return f"<journal of {len(self)} lines>"


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> Journal:
    """Return the journal of a searched study that a runner of another machine is said to run."""
    home = tmp_path_factory.mktemp("honest")
    storage = as_if_searched(home)._storage
    far = RunnerRecord("0123456789ab", "far", 1, "another", 60.0, "2026-07-01T12:00:00+00:00", "search")
    storage.set_study_system_attr(0, f"runner:{far.runner}", asdict(far))
    for read in (*READINGS, *RARER):
        read(home, Console(file=io.StringIO()))  # what it imports is no cost of a file's
    lines = map(json.loads, (home / "optuna.journal").read_text().splitlines())
    # As another program writes them: then there is no checksum that would give away what is changed.
    return Journal(
        {key: value for key, value in (line | {"worker_id": "x"}).items() if key != "checksum"} for line in lines
    )


@st.composite
def with_large_value(draw: st.DrawFn, lines: Journal) -> list[str]:
    """Give a journal in which a value somewhere is long, deep or wide; one within a spec, too."""
    number = draw(st.integers(0, len(lines) - 1))
    line, value = json.loads(json.dumps(lines[number])), draw(large_json())
    if "spec" in line.get("user_attr", {}) and draw(st.booleans()):
        spec = json.loads(line["user_attr"]["spec"])
        _put(spec, draw(st.sampled_from(places(spec)[1:])), SOMEWHERE)
        line["user_attr"]["spec"] = json.dumps(spec).replace(json.dumps(SOMEWHERE), value)
        return _texts(lines, number, json.dumps(line))
    _put(line, draw(st.sampled_from(places(line)[1:])), SOMEWHERE)
    return _texts(lines, number, json.dumps(line).replace(json.dumps(SOMEWHERE), value))


@st.composite
def with_written_value(draw: st.DrawFn, lines: Journal) -> list[str]:
    """Give a journal with one entry more: a fact, a runner, an attribute or a number of the attacker's."""
    operation = draw(st.sampled_from(sorted(WRITES)))
    entry: dict[str, Any] = {"op_code": operation, "worker_id": "x", **json.loads(json.dumps(WRITES[operation]))}
    inner = next((entry[key] for key in ("user_attr", "system_attr") if key in entry), entry)
    own = [*(f"fact_{fact}" for fact in FACTS), "runner:0123456789ab", "runner:ba9876543210", "finisher", "stop:x"]
    own += ["spec", "error", "config", "epochs", "worker", "retry_of", "fixed_params", "constraints", "dashboard:note"]
    name = draw(st.sampled_from([*entry, *own] if inner is entry else own) | st.sampled_from(TRAPS))
    inner[name] = SOMEWHERE
    text = json.dumps(entry).replace(json.dumps(SOMEWHERE), draw(large_json()))
    return [*_texts(lines), text + "\n"]


@st.composite
def with_many_entries(draw: st.DrawFn, lines: Journal) -> list[str]:
    """Give a journal in which an entry is there very often, each time with another number, name or nothing new."""
    entry = draw(changed(draw(st.sampled_from(lines)))) if draw(st.booleans()) else draw(st.sampled_from(lines))
    texts = _texts(lines)
    room = MOST_BYTES - sum(map(len, texts))
    count = max(1, min(draw(st.integers(1, 20_000)), room // (len(json.dumps(entry)) + 8)))
    paths = places(entry)[1:] if isinstance(entry, dict) else []
    place = draw(st.sampled_from(paths)) if paths else ()
    return [*texts, *(json.dumps(_numbered(entry, place, i)) + "\n" for i in range(count))]


@st.composite
def with_forged_runners(draw: st.DrawFn, lines: Journal) -> list[str]:
    """Give a journal that says of many processes, or of odd ones, that they run the study."""
    honest = next(line for line in lines if "runner:0123456789ab" in line.get("system_attr", {}))
    record = honest["system_attr"]["runner:0123456789ab"]
    forged = draw(changed(record))
    texts = []
    for i in range(draw(st.integers(1, 20) | st.integers(1, 2500))):
        told = forged | {"runner": f"{i:012x}"} if isinstance(forged, dict) else forged
        texts.append(json.dumps(honest | {"system_attr": {f"runner:{i:012x}": told}}) + "\n")
    return [*_texts(lines), *texts[: MOST_BYTES // max(map(len, texts))]]


@st.composite
def with_damage(draw: st.DrawFn, lines: Journal) -> list[bytes]:
    """Give a journal with NULs, or other bytes, somewhere."""
    whole = "".join(_texts(lines)).encode()
    if draw(st.booleans()):
        return [draw(damaged(whole))]
    place, count = draw(st.integers(0, len(whole))), draw(st.integers(1, 500_000))
    return [whole[:place], draw(st.sampled_from([b"\0", b"\n", b"{", b"\xff", b"\r\n", b" "])) * count, whole[place:]]


STRATEGIES = {
    "a large value": with_large_value,
    "an entry of the attacker's": with_written_value,
    "many entries": with_many_entries,
    "forged runners": with_forged_runners,
    "other bytes": with_damage,
}


@pytest.mark.parametrize("kind", STRATEGIES)
@tries(8, 400)
@given(data=st.data())
def test_a_journal_of_a_megabyte_is_read_or_refused_in_two_seconds_and_100_mb(honest, tmp_path_factory, kind, data):
    home = tmp_path_factory.getbasetemp() / "hostile"
    home.mkdir(exist_ok=True)
    parts = data.draw(STRATEGIES[kind](honest))
    content = b"".join(part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass") for part in parts)
    (home / "optuna.journal").write_bytes(content)
    for read in (*READINGS, data.draw(st.sampled_from(RARER))):
        console = Console(file=io.StringIO(), width=80)
        with little():
            _check_bounded(_refusal(home, read, console))
        _check_bounded(console.file.getvalue(), most=300_000)


def _refusal(home: Path, read: Any, console: Console) -> str:
    try:
        read(home, console)
    except RegsearchError as error:
        return str(error)
    return ""


def _check_bounded(text: str, most: int = 20_100) -> None:
    """Check that a text is no longer than somebody reads, and shows what a terminal would obey."""
    assert len(text) < most
    assert printable(text) == text


def _texts(lines: Journal, number: int | None = None, instead: str = "") -> list[str]:
    return [(instead if i == number else json.dumps(line)) + "\n" for i, line in enumerate(lines)]


def _put(document: Any, place: tuple[Any, ...], value: Any) -> None:
    for key in place[:-1]:
        document = document[key]
    document[place[-1]] = value


def _numbered(entry: Any, place: tuple[Any, ...], number: int) -> Any:
    """Return a copy of an entry in which the number or text at a place is one more."""
    if not place:
        return entry
    entry = json.loads(json.dumps(entry))
    value = entry
    for key in place:
        value = value[key]
    if isinstance(value, int | float) and not isinstance(value, bool):
        _put(entry, place, value + number)
    elif isinstance(value, str):
        _put(entry, place, f"{value}{number}")
    return entry
