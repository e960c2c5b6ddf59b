"""A storage that others write to may hold anything: what is not as regsearch writes it is an error, and nothing else.

No name in it leads out of the home, no value ends in a traceback, no text in it commands the terminal.
"""

import io
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing as closed
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from conftest import regsearch
from fuzzing import changed, tries
from hypothesis import given
from hypothesis import strategies as st
from journal_lines import write_sealed
from rich.console import Console
from small_study import as_if_searched

from search.errors import RegsearchError
from search.printing import print_explanation, print_studies
from search.records import EpochResult, Reason
from search.report import gather
from search.report.page import render
from search.results import as_json
from search.study import Study, list_studies, open_storage
from search.study.leases import RunnerRecord
from search.study.roster import all_running, standing
from search.terminal.page import print_summary
from search.terminal.standings import print_standings
from search.tracked import closing, tracked_study


def look(home: Path, last: Callable[[Path, Console], None]) -> None:
    """Do all that is done with a study that is only read, and one thing more; raise what is no error for its user."""
    console = Console(file=io.StringIO(), width=80)
    for read in (_list, _show, _watch, _status, last):
        with suppress(RegsearchError):
            read(home, console)
    assert "\x1b" not in console.file.getvalue()


def _list(home: Path, console: Console) -> None:
    print_studies({}, list_studies(open_storage(None, home)), console)


def _show(home: Path, console: Console) -> None:
    study = Study.load("tiny", open_storage(None, home))
    summary = study.summary()
    print_summary(summary, console)
    print_explanation(summary, study.importances(), console)
    json.dumps(as_json(summary), allow_nan=False)


def _watch(home: Path, console: Console) -> None:
    Study.load("tiny", open_storage(None, home)).follow().look()


def _status(home: Path, console: Console) -> None:
    storage = open_storage(None, home)
    print_standings(all_running(storage, home), console)
    print_standings([standing("tiny", storage, home)], console)


def _stop(home: Path, console: Console) -> None:
    dismissal = Study.load("tiny", open_storage(None, home)).dismiss(home)
    assert dismissal.answers().keys() == {runner.runner for runner in dismissal.runners}


def _run(home: Path, console: Console) -> None:
    storage = open_storage(None, home)
    study = Study.open("tiny", Study.load("tiny", storage).spec, storage, home)
    try:
        while (asked := study.ask()) is not None:
            study.report({asked.number: LEARNED})
            study.finish(asked.number, Reason.COMPLETED, [LEARNED])
        study.news()
        console.print(*(other.host for other in study.others), markup=False)
    finally:
        study.close()


def _track(home: Path, console: Console) -> None:
    study = Study.load("tiny", open_storage(None, home))
    tracked_study(study), closing(study, home / "artifacts" / "tiny")


def _report(home: Path, console: Console) -> None:
    render(gather(Study.load("tiny", open_storage(None, home))))


LEARNED = EpochResult(1, 0.5, 0.5, 0.9, 0.1)


class Journal(list[dict]):
    """The lines of a journal. Hypothesis prints all arguments of a case that fails, and warns where that is much."""

    def __repr__(self) -> str:
        return f"<journal of {len(self)} lines>"


@pytest.fixture(scope="module")
def lines(tmp_path_factory) -> Journal:
    home = tmp_path_factory.mktemp("honest")
    as_if_searched(home)
    return journal(home)


@pytest.fixture(scope="module")
def shared_lines(tmp_path_factory) -> Journal:
    """Return the journal of a study that another machine runs."""
    home = tmp_path_factory.mktemp("shared")
    storage, since = as_if_searched(home)._storage, "2026-07-01T12:00:00+00:00"
    far = RunnerRecord("0123456789ab", "far", 1, "another", 60.0, since, "search")
    told = {f"runner:{far.runner}": asdict(far), "finisher": far.runner, f"stop:{far.runner}": "asked"}
    for key, value in told.items():
        storage.set_study_system_attr(0, key, value)
    return journal(home)


def journal(home: Path) -> Journal:
    return Journal(map(json.loads, (home / "optuna.journal").read_text().splitlines()))


@tries(40, 3_000)
@given(data=st.data())
def test_values_of_any_kind_are_an_error_or_are_shown(shared_lines, tmp_path_factory, data):
    home = tmp_path_factory.getbasetemp() / "hostile"
    home.mkdir(exist_ok=True)
    number = data.draw(st.integers(0, len(shared_lines) - 1))
    line = shared_lines[number]
    if "spec" in line.get("user_attr", {}) and data.draw(st.booleans()):
        spec = data.draw(changed(json.loads(line["user_attr"]["spec"])))
        line = line | {"user_attr": {"spec": json.dumps(spec)}}
    else:
        line = data.draw(changed(line))
    written = [*shared_lines[:number], line, *shared_lines[number + 1 :]]
    write_sealed(home, written)
    look(home, data.draw(st.sampled_from([_report, _stop, _run, _run, *[_track] * 6])))


def rewrite(home: Path, lines: list[dict], change: Callable[[dict], Any]) -> None:
    """Write a journal whose lines have been changed; `change` returns whether it has."""
    lines = json.loads(json.dumps(lines))
    assert sum(bool(change(line)) for line in lines) > 0
    home.mkdir(exist_ok=True)
    write_sealed(home, lines)


READING = [
    ["show"],
    ["show", "--json"],
    ["report"],
    ["watch"],
    ["confirm", "--workers=0"],
    ["explain", "--workers=0"],
    ["export", "--out", "out"],
    ["sync"],
]


@pytest.mark.parametrize(
    "name", ["../../x", "../x", "/tmp/regsearch-x", "x" * 300, "\x1b[31mx", "mlflow", "a/b"], ids=ascii
)
def test_a_name_in_the_storage_leads_nowhere(lines, tmp_path, monkeypatch, name):
    def rename(line: dict) -> bool:
        return "study_name" in line and line.update(study_name=name) is None

    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    rewrite(inside / "runs", lines, rename)
    for command, *options in READING:
        assert "must" in regsearch(command, "--study", name, *options, code=2)
    listed = regsearch("studies")
    assert "\x1b" not in listed
    assert name not in listed
    assert [path.name for path in inside.iterdir()] == ["runs"]
    assert [path.name for path in (inside / "runs").glob("[!o]*")] == []
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert not Path("/tmp/regsearch-x").exists()


def test_a_name_is_shown_as_it_is_and_not_as_markup(lines, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "[red]x[bold] [link=evil.example]"
    rewrite(tmp_path / "runs", lines, lambda line: "study_name" in line and line.update(study_name=name) is None)
    assert f"Best configuration of study {name}" in regsearch("show", "--study", name)
    assert name in regsearch("studies")
    assert name in regsearch("explain", "--study", name, "--workers=0", "--seeds=1", code=1)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("error", ["boom"]),
        ("worker", {"a": 1}),
        ("role", "king"),
        ("retry_of", {}),
        ("config", {"dropout_0": "0.5; import os"}),
        ("config", {"__class__": 1}),
        ("config", {"dropout_0": 1e9}),
        ("config", {"l1": float("nan")}),
        ("config", None),
        ("epochs", "many"),
    ],
)
def test_a_trial_that_holds_what_none_of_ours_does_is_left_out_and_named(lines, tmp_path, attribute, value):
    def set_attribute(line: dict) -> bool:
        given = line.get("user_attr") or line.get("user_attrs") or {}
        if attribute == "retry_of" and "worker" in given:  # no trial of this study has one
            del given["worker"]
        elif attribute not in given:
            return False
        given[attribute] = value
        return True

    rewrite(tmp_path, lines, set_attribute)
    for command in READING[:2]:
        told = regsearch(*command, "--study", "tiny", "--home", str(tmp_path))
    left_out = {each["trial"]: each["why"] for each in json.loads(told)["left_out"]}
    if attribute != "epochs":  # which only counts what the curves have anyway
        assert left_out
        assert all("does not write" in why or "none of this study's" in why for why in left_out.values())
    assert "tiny" in regsearch("studies", "--home", str(tmp_path))


@pytest.mark.parametrize("values", [[0.1, 0.2], []], ids=str)
def test_a_trial_with_more_or_fewer_values_than_goals_is_left_out_and_named(lines, tmp_path, values):
    def set_values(line: dict) -> bool:
        return bool(line.get("values")) and line.update(values=values) is None

    rewrite(tmp_path, lines, set_values)
    for command in ("show", "report"):
        told = regsearch(command, "--study", "tiny", "--home", str(tmp_path))
        told += (tmp_path / "artifacts/tiny/report.html").read_text() if command == "report" else ""
        assert f"trial 0 has {len(values)} values instead of 1" in " ".join(told.replace("&#39;", "'").split())
    _run(tmp_path, Console(file=io.StringIO()))
    assert len(Study.load("tiny", open_storage(None, tmp_path)).records()) >= 8


@pytest.mark.parametrize(
    "spec", ["", "{}", "[" * 5000, "null", "1", ["a"], {"a": 1}, '{"name": "\\u001b[31m"}'], ids=str
)
def test_a_spec_that_is_none_is_an_error(lines, tmp_path, spec):
    def set_spec(line: dict) -> bool:
        return "spec" in line.get("user_attr", {}) and line["user_attr"].update(spec=spec) is None

    rewrite(tmp_path, lines, set_spec)
    for command in ("show", "report", "watch", "sync"):
        told = regsearch(command, "--study", "tiny", "--home", str(tmp_path), code=1)
        assert "stored spec" in told
        assert "\x1b" not in told


def test_a_database_that_holds_no_json_is_an_error(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    as_if_searched(tmp_path, url)
    with closed(sqlite3.connect(tmp_path / "study.db")) as connection:
        connection.execute("update study_user_attributes set value_json = '{'")
        connection.commit()
    told = regsearch("show", "--study", "tiny", "--storage", url, code=1)
    assert "holds what regsearch does not write (JSONDecodeError" in told


def test_text_in_the_storage_commands_no_terminal(lines, tmp_path):
    evil = "\x1b]0;owned\x07\x1b[2J"

    def set_text(line: dict) -> bool:
        given = line.get("user_attr", {})
        new = {"error": evil, "worker": evil, "fact_host": evil, "fact_machine": {evil: evil}}
        changes = {key: new[key] for key in given.keys() & new.keys()}
        given |= changes
        return bool(changes)

    rewrite(tmp_path, lines, set_text)
    home = ["--study", "tiny", "--home", str(tmp_path)]
    told = regsearch("show", *home) + regsearch("studies", *home[2:]) + regsearch("report", *home)
    assert "\x1b" not in told + (tmp_path / "artifacts/tiny/report.html").read_text()
    study = Study.load("tiny", open_storage(None, tmp_path))
    assert study.machine == {"\\x1b]0;owned\\x07\\x1b[2J": "\\x1b]0;owned\\x07\\x1b[2J"}
    assert "\x1b" not in str(tracked_study(study)) + str(closing(study, tmp_path))
    assert all("\x1b" not in f"{record.error} {record.worker}" for record in study.records())
