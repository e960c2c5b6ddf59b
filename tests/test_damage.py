"""A damaged journal or database shows no other number: it is refused with a command that mends it, or names trials."""

import json
import random
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from conftest import regsearch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from scripts.faults.damage import (
    BUDGET,
    KINDS,
    complaint,
    damage_line,
    finish_search,
    flip_bit,
    seen,
)
from scripts.faults.pretend import NAME
from scripts.faults.tally import Tally
from search.errors import RegsearchError, StorageError
from search.study.bit_errors import corrected, separated
from search.study.journal_format import entry_of, line_of
from search.study.mending import mend
from tests.fuzzing import LONG

COPIED = ("optuna.journal", "study.db")


class Finished:
    """A finished study's file, what it shows, and copies of it to be damaged."""

    def __init__(self, home: Path, database: str | None) -> None:
        home.mkdir(exist_ok=True)
        self.name = COPIED[database is not None]
        self.database = database is not None
        finish_search(home, self.url(home))
        self.content, self.shown = (home / self.name).read_bytes(), seen(home, self.url(home))
        self.lines = self.content.splitlines(keepends=True)

    def url(self, home: Path) -> str | None:
        return f"sqlite:///{home}/study.db" if self.database else None

    def copy(self, home: Path, content: bytes) -> Path:
        home.mkdir()
        (home / self.name).write_bytes(content)
        return home


@pytest.fixture(scope="module")
def journal(tmp_path_factory) -> Finished:
    return Finished(tmp_path_factory.mktemp("journal"), None)


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Finished:
    return Finished(tmp_path_factory.mktemp("database"), "sqlite")


def places(journal: Finished, op_code: int) -> list[int]:
    return [place for place, line in enumerate(journal.lines) if json.loads(line)["op_code"] == op_code]


def held(study: Finished, home: Path) -> str | None:
    """Return what is wrong with what became of a damaged copy, whose advice was followed; None if nothing is."""
    url, before = study.url(home), study.shown
    if (wrong := complaint(home, url, before)) is not None:
        return wrong
    tally = Tally()
    tally.count(home, url, BUDGET)
    hopeless = study.database and tally.unreadable
    return None if tally.holds or hopeless else f"{tally}"


def test_each_line_of_a_journal_that_is_damaged_shows_no_other_number(journal, tmp_path):
    dice = random.Random(None if LONG else 1)
    every = [(place, kind) for place in range(len(journal.lines)) for kind in KINDS[:-1]]
    for number, (place, kind) in enumerate(every if LONG else dice.sample(every, 25)):
        home = journal.copy(tmp_path / f"{number}", damage_line(dice, journal.content, kind, place))
        assert held(journal, home) is None, f"line {place + 1}, {kind}"


@pytest.mark.parametrize("of", ["journal", "database"])
def test_a_flipped_bit_shows_no_other_number(of, request, tmp_path):
    study, dice = request.getfixturevalue(of), random.Random(None if LONG else 2)
    for number in range(1000 if LONG else 15):
        home = study.copy(tmp_path / f"{number}", flip_bit(dice, study.content))
        assert held(study, home) is None, f"flip {number}"


def test_a_trial_that_cannot_be_read_becomes_a_failed_one_and_all_others_keep_their_numbers(journal, tmp_path):
    for number, place in enumerate(places(journal, 4)):
        home = journal.copy(tmp_path / f"{number}", damage_line(random.Random(0), journal.content, "garbage", place))
        with pytest.raises(StorageError, match=r"line \d+ of \d+ is damaged, so none of it"):
            seen(home)
        told = regsearch("repair", "--home", str(home))
        assert f"trial {number} of study {NAME} cannot be read: it is a failed one now" in told
        records, shown = seen(home)
        assert {n: record for n, record in records.items() if n != number} == {
            n: record for n, record in journal.shown[0].items() if n != number
        }
        assert [each["trial"] for each in shown["left_out"]] == [number]
        plain = JournalStorage(JournalFileBackend(str(home / "optuna.journal")))
        assert len(optuna.load_study(study_name=NAME, storage=plain).trials) == len(journal.shown[0])
        (aside,) = home.glob("optuna.journal.corrupt-*")
        assert aside.read_bytes().count(b"\n") >= len(journal.lines) - 1
        finish_search(home)
        tally = Tally()
        tally.count(home, None, BUDGET)
        assert tally.holds


def test_a_journal_that_is_not_damaged_is_left_as_it_is(journal, tmp_path):
    home = journal.copy(tmp_path / "sound", journal.content)
    assert regsearch("repair", "--home", str(home)) == "Nothing is damaged\n"
    assert (home / "optuna.journal").read_bytes() == journal.content
    assert not [*home.glob("*.corrupt-*")]


def test_one_flipped_bit_is_put_right_by_the_checksum(journal):
    dice = random.Random(3)
    for line in journal.lines:
        assert corrected(flip_bit(dice, line[:-1]) + b"\n") == line


def test_a_line_whose_end_is_lost_takes_no_other_with_it(journal):
    for one, other in zip(journal.lines, journal.lines[1:], strict=False):
        for between in (b"", b"*"):
            assert list(separated(one[:-1] + between + other)) == [one, other]
        assert list(separated(one[:-9] + other))[1] == other


def test_a_line_that_vanished_is_missed(journal, tmp_path):
    place = places(journal, 4)[3]
    home = journal.copy(tmp_path / "gap", b"".join(journal.lines[:place] + journal.lines[place + 1 :]))
    with pytest.raises(StorageError, match="lines are missing, so none of it is read"):
        seen(home)
    assert f"trial 3 of study {NAME} cannot be read" in regsearch("repair", "--home", str(home))
    assert [each["trial"] for each in seen(home)[1]["left_out"]] == [3]


def test_damage_elsewhere_does_not_move_what_vanished_behind_it(journal, tmp_path):
    beat, gap = places(journal, 3)[0], places(journal, 4)[5]
    lines = [*journal.lines[:beat], b"x\n", *journal.lines[beat + 1 : gap], *journal.lines[gap + 1 :]]
    home = journal.copy(tmp_path / "both", b"".join(lines))
    regsearch("repair", "--home", str(home))
    records, shown = seen(home)
    assert [each["trial"] for each in shown["left_out"]] == [5]
    assert all(record == journal.shown[0][number] for number, record in records.items())


def test_a_study_whose_head_cannot_be_read_is_named_and_goes_on_with_its_file(journal, tmp_path):
    place = next(place for place, line in enumerate(journal.lines) if b'{"spec":' in line)
    home = journal.copy(tmp_path / "head", damage_line(random.Random(0), journal.content, "NULs", place))
    told = regsearch("repair", "--home", str(home))
    assert f"study {NAME}: spec cannot be read: `start` needs its file" in told
    told = regsearch("show", "--study", NAME, "--home", str(home), code=1)
    assert f"`regsearch start --study FILE --name {NAME}`" in told
    finish_search(home)
    assert seen(home)[0] == journal.shown[0]


def test_the_lines_of_other_programs_need_no_checksum(journal, tmp_path):
    home = journal.copy(tmp_path / "others", journal.content)
    plain = JournalStorage(JournalFileBackend(str(home / "optuna.journal")))
    optuna.create_study(storage=plain, study_name="other").optimize(lambda trial: 1.0, n_trials=2)
    assert seen(home) == journal.shown
    assert regsearch("repair", "--home", str(home)) == "Nothing is damaged\n"


def test_two_studies_in_a_journal_keep_their_trials(tmp_path):
    lines = [
        line_of({"op_code": 0, "worker_id": "regsearch-1", "study_name": name, "directions": [1]}) for name in "ab"
    ]
    counts = {0: 0, 1: 0}
    for study in (0, 1, 1, 0, 1, 0):
        lines.append(
            line_of(
                {
                    "op_code": 4,
                    "worker_id": "regsearch-1",
                    "study_id": study,
                    "datetime_start": None,
                    "state": 4,
                    "number": counts[study],
                }
            )
        )
        counts[study] += 1
    whole = [entry_of(line) for line in lines]
    for place in range(2, 6):
        broken = [*lines[:place], b"\0" * 50 + b"\n", *lines[place + 1 :]]
        mended = [entry_of(line) for line in mend(broken).lines]
        numbers = [(each["study_id"], each["number"]) for each in mended if each["op_code"] == 4]
        if place < 5:  # behind the last one nothing tells that there was one
            assert sorted(numbers) == sorted((each["study_id"], each["number"]) for each in whole[2:])


def test_damage_to_a_database_s_record_leaves_that_trial_out(database, tmp_path):
    assert database.shown[1]["left_out"] == []
    place = database.content.rfind(b'"val_loss": [')
    content = bytearray(database.content)
    content[place + 15] = ord("9") if content[place + 15] != ord("9") else ord("8")
    home = database.copy(tmp_path / "record", bytes(content))
    shown = seen(home, database.url(home))[1]
    assert [each["why"] for each in shown["left_out"]] == ["its record is damaged: it has another checksum"]
    assert held(database, tmp_path / "record") is None


@pytest.mark.parametrize("key", ["config", "retry_of", "successor_of"])
@pytest.mark.parametrize("trial", ["first", "second"])
def test_what_other_attempts_tell_of_a_database_s_trial_is_put_back(database, tmp_path, key, trial):
    home = database.copy(tmp_path / "attempt", database.content)
    with closing(sqlite3.connect(home / "study.db")) as connection:
        [(second, first)] = connection.execute(
            "SELECT s.trial_id, f.trial_id FROM trial_user_attributes AS s JOIN trials AS f ON f.number = s.value_json"
            " WHERE s.key = 'retry_of'"
        ).fetchall()
        spoilt = connection.execute(
            "UPDATE trial_user_attributes SET value_json = '{' WHERE key = ? AND trial_id = ?",
            (key, first if trial == "first" else second),
        ).rowcount
        connection.commit()
    assert spoilt == (key == "config" or trial == "second")
    assert held(database, home) is None
    records, shown = seen(home, database.url(home))
    assert (records, shown["left_out"]) == (database.shown[0], [])


def test_a_damaged_fact_of_a_database_s_study_is_refused_and_mended(database, tmp_path):
    place = database.content.rfind(b'"torch": "2"')
    content = database.content[:place] + b'"torch": "3"' + database.content[place + 12 :]
    home = database.copy(tmp_path / "fact", content)
    where = ["--study", NAME, "--storage", str(database.url(home)), "--home", str(home)]
    told = regsearch("report", *where, code=1)
    assert f"the stored fact_machine is damaged: it has another checksum; `regsearch repair --study {NAME}`" in told
    assert "fact_machine was damaged, and is made anew" in regsearch("repair", *where)
    regsearch("report", *where)


def test_refusals_are_errors_of_the_user(journal, tmp_path):
    home = journal.copy(tmp_path / "refused", journal.lines[0] + b"x\n" + b"".join(journal.lines[1:]))
    with pytest.raises(RegsearchError) as refused:
        seen(home)
    command = str(refused.value).split("`")[1]
    assert shlex.split(command) == ["regsearch", "repair", "--storage", str(home / "optuna.journal")]
