"""Whatever stands in a study file, a data file or a weights file: it is read, or refused with an error that says why.

A few hundred cases in the suite; with REGSEARCH_LONG=1 ten thousand study files, thousands of others, never the same.
"""

import glob
import json
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
import torch
from conftest import make_assignment
from fuzzing import TRAPS, VALUES, WORDS, changed, damaged, large_json, repeated, tries
from hypothesis import given
from hypothesis import strategies as st
from resources import little
from safetensors.torch import load, save

from search.errors import RegsearchError
from search.printable import printable
from search.records import EpochResult, Reason, TrialRecord
from search.report.repeating import spec_toml
from search.spec import DataSpec, StudySpec, load_spec, shipped_studies
from search.spec.names import check_new_study_name
from search.study.spool import Spool
from search.training import files
from search.training.checkpoints import Checkpoint, CheckpointFolder
from search.training.data import load_data, load_test
from search.weights import WeightStore

STUDIES = {name: path.read_bytes() for name, path in shipped_studies().items()}
OPENING = ["[", "{a=", "a.", "[a.", "[[a]]\n"]


def toml(value: object) -> str:
    """Return a value as TOML; tables stand on one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case dict():
            return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case str():
            return json.dumps(value)
        case int() if abs(value) >= 10**4000:  # as many digits as Python itself refuses to read
            return f"{'-' if value < 0 else ''}{'9' * 5000}"
        case _:
            return str(value)


def document(tables: dict) -> bytes:
    text = "\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in tables.items())
    return text.encode("utf-8", "surrogatepass")


def nested(name: str, place: int, depth: int) -> bytes:
    """Return a study in which one value is a list of lists of lists."""
    lines = STUDIES[name].decode().splitlines()
    places = [i for i, line in enumerate(lines) if "=" in line]
    i = places[place % len(places)]
    lines[i] = f"{lines[i].partition('=')[0]} = {'[' * depth}{']' * depth}"
    return "\n".join(lines).encode()


SHIPPED = st.sampled_from(sorted(STUDIES))
STUDY_FILES = st.one_of(
    SHIPPED.flatmap(lambda name: changed(tomllib.loads(STUDIES[name].decode()))).map(document),
    SHIPPED.flatmap(lambda name: changed(tomllib.loads(STUDIES[name].decode()))).map(document),
    SHIPPED.flatmap(lambda name: damaged(STUDIES[name])),
    st.dictionaries(WORDS, VALUES, max_size=6).map(document),
    st.binary(max_size=300),
    st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.tuples(st.sampled_from(OPENING), st.integers(1, 3000)).map(lambda deep: f"a = {deep[0] * deep[1]}".encode()),
    st.tuples(SHIPPED, st.integers(0, 30), st.integers(1, 600)).map(lambda deep: nested(*deep)),
)


UNITS = [
    *(
        "a.",
        '"a" . ',
        "'a'.",
        "[",
        "{a=",
        "a={a=",
        "[[a]]\n",
        "[t{i}]\n",
        "[[t{i}]]\n",
        "x{i} = 1\n",
        "\n",
        "\r\n",
        "# \n",
    ),
    *("a.b.c.d.e.f.g.h.i.j.k.l.m.n.o{i} = 1\n", "[a.b.c.d.e.f.g.h.i.j.k.l.m.n.o{i}]\n", "dropout_{i} = 0.5\n", "\\n"),
    *(
        "drpout{i} = 1\n",
        "1,",
        '"a",',
        "1.5e3,",
        "{},",
        "{a=1},",
        "9",
        "x",
        "\u202e",
        "漢",
        "\0",
        "\ufeff",
        "'",
        '"',
        "\\u202e",
    ),
    *("1979-05-27T07:32:00Z,", "[space]\n", "[space.x{i}]\nlow = 0.0\n", "_1", "0x1", "=", " ", "\t", "]", "}"),
]
BEFORE = [
    "",
    "x = ",
    'x = "',
    'x = """',
    "x = '''",
    "x = [",
    "x = {",
    "x = 0.",
    "x = 1e",
    "a.",
    "[a.",
    "# ",
    "hidden = [",
]
AFTER = ["", "a = 1", "]", "}", '"', '"""', " = 1", "\n"]


@st.composite
def large_files(draw: st.DrawFn) -> bytes:
    """Give study files of up to a million bytes in which something is long, deep or often there."""
    lines = STUDIES[draw(SHIPPED)].decode().splitlines(keepends=True)
    place = draw(st.integers(0, len(lines)))
    if draw(st.booleans()):
        many = draw(repeated(draw(st.sampled_from(UNITS))))
        inserted = draw(st.sampled_from(BEFORE)) + many + draw(st.sampled_from(AFTER))
    else:
        inserted = f"{draw(st.sampled_from(['x', 'hidden', 'name', 'description', 'dropout']))} = {draw(large_json())}"
    whole = [*lines[:place], inserted, "\n", *lines[place:]]
    return "".join(whole if draw(st.booleans()) else [inserted]).encode("utf-8", "surrogatepass")


def told(read: Callable[[], object]) -> str | None:
    """Return with what words something is refused, None where it is not; anything else than a refusal is raised."""
    try:
        read()
    except RegsearchError as error:
        return str(error)
    return None


def assert_bounded(refusal: str) -> None:
    """Check that a message is short enough to be read, and shows what a terminal would obey."""
    assert len(refusal) < 20_100
    assert printable(refusal) == refusal


@tries(200, 10_000)
@given(content=STUDY_FILES)
def test_a_study_file_is_valid_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_bytes(content)
    if (refusal := told(lambda: load_spec(str(path)))) is not None:
        assert refusal.startswith(str(path))
        assert_bounded(refusal)
        return
    spec = load_spec(str(path))
    assert spec.baseline().keys() == spec.textbook().keys() == spec.parameters().keys()
    assert StudySpec.from_json(spec.to_json()) == spec
    path.write_text(spec_toml(spec), encoding="utf-8")
    assert load_spec(str(path)) == spec


@tries(60, 3_000)
@given(content=large_files())
def test_a_study_file_of_a_megabyte_is_valid_or_refused_in_two_seconds_and_100_mb(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "large.toml"
    path.write_bytes(content)
    with little():
        refusal = told(lambda: load_spec(str(path)))
    if refusal is not None:
        assert refusal.startswith(str(path))
        assert_bounded(refusal)


@tries(50, 3_000)
@given(name=st.sampled_from(TRAPS) | WORDS, description=st.sampled_from(TRAPS) | WORDS, both=st.booleans())
def test_a_name_or_description_of_any_characters_is_printable_and_a_new_study_s_name_is_a_folder_s(
    tmp_path_factory, name, description, both
):
    folder = tmp_path_factory.getbasetemp()
    given = tomllib.loads(STUDIES["digits"].decode()) | {"description": description} | ({"name": name} if both else {})
    (folder / "named.toml").write_bytes(document(given))
    refusal = told(lambda: check_new_study_name(load_spec(str(folder / "named.toml")).name))
    if refusal is not None:
        assert_bounded(refusal)
        return
    called = load_spec(str(folder / "named.toml")).name
    assert printable(called) == called
    assert (folder / called).parent == folder
    assert not called.startswith(("-", "~", "."))
    assert glob.escape(called).replace("[[]", "[") == called


@tries(100, 5_000)
@given(
    content=SHIPPED.flatmap(lambda name: changed(json.loads(load_spec(name).to_json()))) | VALUES,
    cut=st.integers(min_value=0),
)
def test_a_stored_spec_is_valid_or_refused(content, cut):
    text = json.dumps(content)
    for stored in (text, text[: cut % (len(text) + 1)], content):
        refusal = told(lambda stored=stored: StudySpec.from_json(stored))
        assert refusal is None or refusal.startswith("stored spec")
        assert_bounded(refusal or "")


@tries(30, 2_000)
@given(data=st.data())
def test_a_stored_spec_of_a_megabyte_is_valid_or_refused_in_two_seconds_and_100_mb(data):
    spec = json.loads(load_spec(data.draw(SHIPPED)).to_json())
    section = data.draw(st.sampled_from([key for key in spec if isinstance(spec[key], dict)]))
    held = data.draw(st.sampled_from([spec, spec[section]]))
    held[data.draw(st.sampled_from([*held, "x"]))] = "HERE"
    text = json.dumps(spec).replace('"HERE"', data.draw(large_json()))
    with little():
        refusal = told(lambda: StudySpec.from_json(text))
    assert refusal is None or refusal.startswith("stored spec")
    assert_bounded(refusal or "")


@pytest.mark.parametrize("name", ["mnist", "fashion", "cifar10", "newsgroups"])
@tries(10, 150)
@given(data=st.data())
def test_a_damaged_data_file_is_told(name, request, monkeypatch, data):
    folder, study = request.getfixturevalue(name), DataSpec(name={"fashion": "fashion-mnist"}.get(name, name))
    expected = files._DOWNLOADS[study.name].files()
    file = data.draw(st.sampled_from(sorted(expected)))
    path = folder / files.FOLDERS[study.name] / file
    good = path.read_bytes()
    known = data.draw(st.booleans())
    with monkeypatch.context() as patch:
        if not known:  # as if the checksum were right: what reads the file has to bear it
            patch.setitem(expected, file, (None, None))
        path.write_bytes(data.draw(damaged(good)))
        try:
            refusals = [told(lambda: load_data(study, folder, 0)), told(lambda: load_test(study, folder))]
            if known and name != "fashion" and path.read_bytes() != good:
                assert all("delete it" in str(refusal) for refusal in refusals)
        finally:
            path.write_bytes(good)


@tries(30, 500)
@given(data=st.data())
def test_a_damaged_checkpoint_is_as_it_was_or_is_not_there(tmp_path_factory, data):
    folder, trial = CheckpointFolder(tmp_path_factory.getbasetemp() / "checkpoints", {}), make_assignment(0)
    folder.make_room(1)
    folder.write(trial, Checkpoint((EpochResult(1, 0.5, 0.5, 0.9, 0.0, 0.1),), {"weight": torch.ones(3, 4)}))
    whole = repr(folder.read(trial))
    folder.path(trial).write_bytes(data.draw(damaged(folder.path(trial).read_bytes())))
    assert repr(folder.read(trial)) in (whole, "None")


@tries(30, 500)
@given(data=st.data())
def test_a_damaged_result_that_was_left_is_read_or_passed_over(tmp_path_factory, data):
    home = tmp_path_factory.getbasetemp() / "home"
    home.mkdir(exist_ok=True)
    spool, now = Spool(home, "x", "y"), datetime.now(UTC)
    spool.keep("0" * 12, TrialRecord(3, {}, Reason.COMPLETED, (EpochResult(1, 0.5, 0.5, 0.9, 0.0),), now, now))
    (path,) = (home / "undelivered" / "x").glob("*.json")
    whole = path.read_bytes()
    path.write_bytes(data.draw(damaged(whole) | changed(json.loads(whole)).map(lambda told: json.dumps(told).encode())))
    for runner, record in spool.left_by_others(()):
        assert (runner, record.number) == ("0" * 12, 3)
        assert record.best is not None or record.state != "complete"


@tries(40, 500)
@given(data=st.data())
def test_damaged_weights_are_read_or_are_not_there(tmp_path_factory, data):
    store = WeightStore(tmp_path_factory.getbasetemp() / "weights")
    good = save({"weight": torch.zeros(3, 4), "bias": torch.ones(3)})
    store.save(7, data.draw(damaged(good)))
    if (kept := store.load(7)) is not None:
        load(kept)
