"""How much a study asks of its storage: waits for the disk and statements, however many trials there are."""

import os

import pytest
import sqlalchemy
from fixed_study import curve, make_spec

from search.records import Reason
from search.study import Study, close_storage, open_storage


def test_each_step_of_a_trial_waits_for_the_disk_once(tmp_path, monkeypatch):
    study = Study.open("fixed", make_spec(), open_storage(None, tmp_path), tmp_path)
    waits, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (waits.append(1), fsync(file)))
    numbers = [study.ask().number for _ in range(5)]
    assert len(waits) == 5
    study.report(dict.fromkeys(numbers, curve(0.5)[0]))
    assert len(waits) == 6
    study.finish(numbers[4], Reason.COMPLETED, curve(0.5))
    assert len(waits) == 7
    study.close()


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_a_later_trial_asks_no_more_of_the_database_than_an_earlier_one(tmp_path, postgresql, sampler):
    storage = open_storage(postgresql, tmp_path)
    study = Study.open("fixed", make_spec(sampler=sampler, trials=60), storage, tmp_path, lease=3600)
    statements = []
    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))

    def statements_of_a_trial() -> list[str]:
        statements.clear()
        number = study.ask().number
        for row in curve(0.5, 0.4):
            study.report({number: row})
        study.finish(number, Reason.COMPLETED, curve(0.5, 0.4))
        return list(statements)

    for _ in range(14):  # past the queue and the sampler's random beginning
        early = statements_of_a_trial()
    for _ in range(30):
        late = statements_of_a_trial()
    assert late == early
    study.close()
    close_storage(storage)


def test_who_waits_for_others_to_end_their_trials_only_reads(tmp_path, postgresql):
    storage = open_storage(postgresql, tmp_path)
    study = Study.open("fixed", make_spec(trials=20), storage, tmp_path, lease=3600)
    other = Study.open("fixed", make_spec(trials=20), storage, tmp_path, lease=3600)
    statements = []
    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))

    def statements_of_waiting() -> list[str]:
        statements.clear()
        assert study.unfinished() == 20
        return list(statements)

    other.ask()
    few = statements_of_waiting()
    for _ in range(10):
        other.ask()
    assert len(statements_of_waiting()) == len(few)
    assert all(each.startswith("SELECT") and "FOR UPDATE" not in each for each in few)
    study.close()
    other.close()
    close_storage(storage)


def test_trials_of_others_are_read_in_one_statement_however_many_they_are(tmp_path, postgresql):
    storage = open_storage(postgresql, tmp_path)
    study = Study.open("fixed", make_spec(trials=60), storage, tmp_path, lease=3600)
    other = Study.open("fixed", make_spec(trials=60), storage, tmp_path, lease=3600)
    statements = []

    def statements_of_asking() -> list[str]:
        statements.clear()
        study.ask()
        return list(statements)

    for _ in range(14):  # past the queue and the sampler's random beginning
        other.ask()
        study.ask()
    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    alone = statements_of_asking()
    for _ in range(10):
        other.ask()
    assert statements_of_asking() == alone
    study.close()
    other.close()
    close_storage(storage)
