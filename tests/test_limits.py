"""Small files that would take minutes or much memory are refused or read at once; real ones are far from any limit."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from journal_lines import lines_of
from resources import little
from small_study import as_if_searched
from test_hostile_storage import _list, _show, _status

from search.errors import RegsearchError, SpecError, StorageError, UsageError
from search.spec import StudySpec, load_spec, read_spec, shipped_studies
from search.spec.limits import MOST_BYTES, content_refusal

DIGITS = Path(shipped_studies()["digits"]).read_text()


def lines(line: Callable[[int], str], size: int = MOST_BYTES - 2000) -> str:
    """Return so many lines as fit into a study file."""
    text, i = [], 0
    while size > 0:
        text.append(line(i))
        size -= len(text[-1])
        i += 1
    return "".join(text[:-1])


SLOW = {
    "a dotted key": "a" + ".a" * 100_000 + " = 1",
    "a dotted key of a table": "[" + "a." * 100_000 + "a]",
    "a dotted key with spaces": "a \t.\t" * 50_000 + "a = 1",
    "a dotted key in quotes": '"\\"".' * 40_000 + "a = 1",
    "a dotted key in single quotes": "'=\"'." * 40_000 + "a = 1",
    "a dotted key inside a table": "x = {" + "a." * 100_000 + "a = 1}",
    "a dotted key inside a table, later": "x = {b = 1, " + "a." * 100_000 + "a = 1}",
    "dotted keys as long as they may be": lines(lambda i: "a." * 14 + f"b{i} = 1\n"),
    "tables as deep as they may be": lines(lambda i: "[" + "a." * 14 + f"b{i}]\n"),
    "empty tables": lines(lambda i: f"[t{i}]\n"),
    "wrong names in [space]": DIGITS.replace("[space]", "[space]\n" + lines(lambda i: f"drpout{i} = 1\n", 30_000)),
    "layers without end": DIGITS.replace("[space]", "[space]\n" + lines(lambda i: f"dropout_{9 + i} = 1\n", 9000)),
    "a key of one word": "a" * 200_000 + " = 1",
    "a table of one word": DIGITS + "\n[search." + "a" * 200_000 + "]",
    "numbers": "x = [" + "1.5," * 60_000 + "]",
    "a list of wrong layers": DIGITS.replace("hidden = ", "hidden = [" + '"a",' * 1800 + "]\nx = "),
    "digits": "x = 0." + "1" * 250_000,
    "a whole number": "x = " + "1" * 250_000,
    "lists in lists": "x = " + "[" * 100_000,
    "tables in tables": "x = " + "{a=" * 50_000,
    "line ends": "\r\n" * 130_000,
    "escapes": 'x = "' + "\\n" * 120_000 + '"',
    "a description": f'description = "{"x" * 200_000}"\n' + DIGITS.replace("description", "# description"),
    "quotes that do not end": "x = [" + ',"' * 100_000,
    "more than a study file may have": "#" * 900_000,
}  # fmt: skip


@pytest.mark.parametrize("text", SLOW.values(), ids=SLOW)
def test_a_study_file_that_would_take_long_is_refused_at_once_and_in_few_words(text, tmp_path):
    (tmp_path / "study.toml").write_text(text)
    with little(), pytest.raises(SpecError) as refused:
        load_spec(str(tmp_path / "study.toml"))
    assert len(str(refused.value)) < 20_100


def test_the_first_problems_of_a_file_are_told_and_the_others_counted(tmp_path):
    (tmp_path / "study.toml").write_text(DIGITS + "".join(f"\n[t{i}]" for i in range(60)))
    with pytest.raises(SpecError, match="and 10 problems more") as refused:
        load_spec(str(tmp_path / "study.toml"))
    assert str(refused.value).count("is not a field") == 50


def test_a_key_of_too_many_parts_is_told_with_its_line(tmp_path):
    (tmp_path / "study.toml").write_text(f"{DIGITS}\n{'a.' * 20}a = 1\n")
    with pytest.raises(SpecError, match=rf"line {DIGITS.count(chr(10)) + 2} has a key of more than 16 parts"):
        load_spec(str(tmp_path / "study.toml"))


def test_the_largest_study_that_there_can_be_is_within_all_limits(tmp_path):
    ranges = "\n".join(f"dropout_{i} = {{ low = 0.0000001, high = 0.5000001, switch = true }}" for i in range(104))
    text = f"""
description = "{"a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s.t. " * 200}"
[data]
name = "mnist"
[model]
name = "cnn"
channels = [32, 32, 32, 32]
hidden = {[1_000_000] * 100}
[space]
{ranges}
"""
    (tmp_path / "study.toml").write_text(text)
    spec = load_spec(str(tmp_path / "study.toml"))
    assert len(spec.choices.ranges()) == 104
    assert content_refusal(json.loads(spec.to_json())) is None
    assert StudySpec.from_json(spec.to_json()) == spec
    assert len(text) < MOST_BYTES / 10


@pytest.mark.parametrize("dropouts", [4096, 4097])
def test_models_from_python_may_have_thousands_of_dropout_layers_but_not_a_million(dropouts):
    given = {
        "name": "x",
        "data": {"name": "own", "shape": [4]},
        "model": {"name": "own", "hidden": [], "dropouts": dropouts, "architecture": "x"},
        "space": {"dropout": {"low": 0.0, "high": 0.5}},
    }
    if dropouts > 4096:
        with pytest.raises(UsageError, match="must be at most 4096"):
            read_spec(given)
    else:
        assert len(read_spec(given).parameters()) > 4096


def test_a_message_says_how_much_more_there_is():
    assert str(StorageError("x" * 50_000)).endswith("xxx... (30,000 characters more)")


# Stored records


@pytest.fixture(scope="module")
def entries(tmp_path_factory) -> list[dict]:
    home = tmp_path_factory.mktemp("honest")
    as_if_searched(home)
    for read in (_list, _show, _status):
        look_alone(home, read)  # what it imports is no cost of a file's
    return [json.loads(line) for line in (home / "optuna.journal").read_text().splitlines()]


def _own(spec: str, **changes: object) -> str:
    model = {"name": "own", "hidden": [], "dropouts": 2**20, "architecture": "x"}
    return json.dumps(json.loads(spec) | {"data": {"name": "own", "shape": [4]}, "model": model} | changes)


def _with_long_error(entry: dict) -> dict:
    return {**entry, "user_attr": {"error": "x" * 900_000}} if "error" in entry.get("user_attr", {}) else entry


def _fact(key: str, value: object) -> Callable[[list[dict]], list[dict]]:
    return lambda entries: [*entries, {"op_code": 2, "worker_id": "x", "study_id": 0, "user_attr": {key: value}}]


def _spec(change: Callable[[str], str]) -> Callable[[list[dict]], list[dict]]:
    def changed(entries: list[dict]) -> list[dict]:
        entries = json.loads(json.dumps(entries))
        for entry in entries:
            if "spec" in entry.get("user_attr", {}):
                entry["user_attr"]["spec"] = change(entry["user_attr"]["spec"])
        return entries

    return changed


def _studies(entries: list[dict]) -> list[dict]:
    """Return a study in each two entries, all with the most layers that there may be."""
    spec = next(entry["user_attr"]["spec"] for entry in entries if "spec" in entry.get("user_attr", {}))
    own = json.loads(_own(spec))
    own = json.dumps({**{k: own[k] for k in ("name", "data")}, "model": own["model"] | {"dropouts": 4096}, "space": {"l1": {"low": 0.0, "high": 1.0}}})  # fmt: skip  # noqa: E501
    made = [{"op_code": 0, "worker_id": "x", "study_name": f"s{i}", "directions": [1]} for i in range(1, 30)]
    return [*entries, *made, *({"op_code": 2, "worker_id": "x", "study_id": i, "user_attr": {"spec": own}} for i in range(1, 30))]  # fmt: skip  # noqa: E501


def _many_studies(entries: list[dict]) -> list[dict]:
    made = ({"op_code": 0, "worker_id": "x", "study_name": f"s{i}", "directions": [1]} for i in range(12_000))
    return [*entries, *made]


def _many_trials(entries: list[dict]) -> list[dict]:
    created = next(entry for entry in entries if entry["op_code"] == 4)
    bare = {key: created[key] for key in ("op_code", "study_id", "datetime_start") if key in created}
    return [*entries, *({"worker_id": "x", **bare} for _ in range(8_000))]


REPEAT = {"trial": 0, "seed": 0, "epochs": 1, "val_loss": 1, "train_loss": 1, "val_accuracy": 1, "sparsity": 0}
PICKS = {"top": [0] * 20_000, "one_standard_error": None, "baseline": None}
HOSTILE = {
    "a spec of a million layers": _spec(_own),
    "a spec with a long description": _spec(lambda spec: _own(spec, description="x" * 900_000)),
    "a spec of tables": _spec(lambda spec: json.dumps(json.loads(spec) | {f"t{i}": {} for i in range(60_000)})),
    "a spec of wrong names": _spec(
        lambda spec: json.dumps(json.loads(spec) | {"space": {f"drpout{i}": 1 for i in range(50_000)}})
    ),
    "a spec of a long name": _spec(lambda spec: json.dumps(json.loads(spec) | {"name": "x" * 900_000})),
    "repeats that are none": _fact("fact_repeats", {"picks": {}, "runs": [{}] * 200_000}),
    "repeats of one trial": _fact("fact_repeats", {"picks": PICKS, "runs": [REPEAT] * 5000, "diverged": []}),
    "an ablation of one ingredient": _fact(
        "fact_ablation", {"trial": 0, "names": ["l1"] * 50_000, "runs": [REPEAT] * 3000, "diverged": []}
    ),
    "a machine of many things": _fact("fact_machine", {str(i): "x" for i in range(50_000)}),
    "lists in lists": _fact("fact_repeats", None),
    "studies of thousands of layers": _studies,
    "many studies": _many_studies,
    "many trials": _many_trials,
    "an error of one line": lambda entries: [*map(_with_long_error, entries)],
    "numbers without end": _fact("wall_seconds", 10**4000),
}  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_journal_of_a_megabyte_is_read_or_refused_at_once(change, entries, tmp_path):
    text = lines_of(change(entries)).decode()
    deep = "[" * 100_000
    (tmp_path / "optuna.journal").write_text(text.replace('"fact_repeats": null', f'"fact_repeats": {deep}'))
    for read in (_list, _show, _status):
        with little():
            look_alone(tmp_path, read)


def look_alone(home: Path, read: Callable) -> None:
    from io import StringIO

    from rich.console import Console

    console = Console(file=StringIO(), width=80)
    with suppress(RegsearchError):
        read(home, console)
    assert len(console.file.getvalue()) < 300_000
