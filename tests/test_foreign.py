"""Trials that other programs queue, add, end or change with plain Optuna: told apart from the study's own, and named.

The search goes on, its budget is exact, and everything that reads the study still does. What is queued and can be
trained is in test_queued.py.
"""

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import datetime

import optuna
import pytest
from conftest import regsearch
from fixed_study import Killed, curve, die_after, make_spec, reopen
from optuna.distributions import FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial
from scripted import Notes, ScriptedCrew, ScriptedTrainer, falling
from small_study import as_if_searched

from search.errors import StorageError, StudyGoneError
from search.pruning import NoPruner
from search.records import Reason
from search.runner import Runner
from search.stopping import StopRequest
from search.study import Study, close_storage, list_studies, open_storage
from search.study.roster import standing


@pytest.fixture
def other(url, storage, study, tmp_path):
    """The study as another program opens it, with plain Optuna."""
    opened = storage if url == "memory" else open_storage(url, tmp_path)
    yield optuna.load_study(study_name="fixed", storage=opened)
    close_storage(opened)


@pytest.fixture
def alone(tmp_path):
    """The small study in a journal."""
    opened = Study.open("fixed", make_spec(), open_storage(None, tmp_path), tmp_path)
    yield opened
    opened.close()


def search_on(study) -> Notes:
    """Run a study to its end."""
    notes = Notes()
    Runner(study, ScriptedCrew(ScriptedTrainer(falling)), NoPruner(), None, notes, StopRequest(20)).run()
    return notes


def results(study) -> list[int]:
    """Return the numbers of the configurations that have a result."""
    ended = [record for record in study.records() if not record.reason.is_no_result]
    return [record.number if record.retry_of is None else record.retry_of for record in ended]


def why(study) -> dict[int, str]:
    return {each.number: each.why for each in study.summary().left_out}


def test_attributes_that_are_copied_from_another_trial_make_no_other_trial_of_a_queued_one(study, other):
    """Optuna's own callback that tries failed trials again copies them, and so may a person."""
    baseline = study.ask()
    study.finish(baseline.number, Reason.ERROR, curve(0.5), "boom", "0")
    copied = other.trials[baseline.number].user_attrs | {"successor_of": 0, "retry_of": 0, "refused": "x"}
    other.enqueue_trial({"dropout_0": 0.25}, user_attrs=copied)
    study.finish(study.ask().number, Reason.COMPLETED, curve(0.6))
    asked = study.ask()
    assert (asked.number, asked.seed, asked.role, asked.params["dropout_0"]) == (2, 2, None, 0.25)
    record = study.finish(asked.number, Reason.COMPLETED, curve(0.5))
    assert (record.reason, record.error, record.retry_of, record.role) == (Reason.COMPLETED, None, None, None)
    search_on(study)
    assert results(study) == list(range(16))


def finished(state=TrialState.COMPLETE, values=(0.1,), params=None, **more):
    params = {} if params is None else params
    kinds = {name: FloatDistribution(0, 5) for name in params}
    return create_trial(
        state=state, values=list(values) if values else None, params=params, distributions=kinds, **more
    )


def test_what_other_programs_add_and_run_does_not_count_and_the_budget_is_exact(study, other):
    mine = study.ask()
    other.add_trial(finished())
    other.add_trial(finished(params={"dropout_0": 3.0, "colour": 1.0}))
    other.add_trial(finished(TrialState.FAIL, None))
    other.add_trial(finished(TrialState.PRUNED, None, intermediate_values={0: 0.5, 7000: 0.1}))
    other.add_trial(finished(user_attrs={"config": {"dropout_0": 0.1}}))
    other.add_trial(finished(user_attrs={"config": mine.params}))
    other.add_trial(create_trial(state=TrialState.RUNNING, system_attrs={"runner": ["x"]}))
    other.add_trial(create_trial(state=TrialState.WAITING, user_attrs={"config": 3}))
    if not isinstance(study._storage, RDBStorage):  # which refuses another scale by itself
        other.add_trial(
            create_trial(state=TrialState.WAITING, params={"l1": 1e-3}, distributions={"l1": FloatDistribution(0, 1)})
        )
    running = other.ask()
    while running.number < 2 or "config" in other.trials[running.number].user_attrs:
        running = other.ask()  # it may get what waits here
    study.report({mine.number: curve(0.5)[0]})
    study.finish(mine.number, Reason.COMPLETED, curve(0.5))
    notes = search_on(study)
    assert len(set(results(study))) == len(results(study)) == 16
    assert study.unfinished() == 0
    assert other.trials[running.number].state == TrialState.RUNNING
    told = why(study)
    assert told[2] == "another program added it"
    assert told[running.number] == "another program runs it"
    assert Reason.COMPLETED in notes.reasons
    assert study.summary().best.number not in told
    assert study.importances()


def test_running_trials_that_another_program_ends_are_trained_again_and_count_once(study, other):
    states = [TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED]
    victims = {}

    def told_amid_training(assignment):
        def loss(epoch):
            if epoch == 2 and len(victims) < len(states):
                victims[assignment.number] = state = states[len(victims)]
                other.tell(assignment.number, 0.1 if state == TrialState.COMPLETE else None, state)
            return 1.0 / epoch

        return loss

    notes = Notes()
    Runner(study, ScriptedCrew(ScriptedTrainer(told_amid_training)), NoPruner(), None, notes, StopRequest(20)).run()
    assert sorted(results(study)) == list(range(16))
    for number, state in victims.items():
        said = f"Another program has ended trial {number} as {state.name}; its configuration is trained again"
        assert notes.messages.count(said) == 1
    assert not any("lease" in text for text in notes.messages)
    assert study.unfinished() == 0
    assert why(study) == {
        number: f"another program has ended it as {state.name}"
        for number, state in victims.items()
        if state != TrialState.FAIL  # which is an attempt that was cut short
    }


def test_a_trial_that_another_program_ends_as_it_ends_here_is_trained_again(study, other):
    asked = study.ask()
    other.tell(asked.number, 0.1)
    assert study.finish(asked.number, Reason.COMPLETED, curve(0.5)).reason is Reason.INTERRUPTED
    assert not study.has_ended(asked.number)
    search_on(study)
    assert sorted(results(study)) == list(range(16))


def test_what_another_program_writes_over_a_running_trial_does_not_change_what_is_recorded(study, other):
    asked = study.ask()
    trial_id = other.trials[asked.number]._trial_id
    for key, value in {
        "config": {"x": 1},
        "role": "king",
        "reason": "completed",
        "error": ["x"],
        "epochs": "y",
    }.items():
        other._storage.set_trial_user_attr(trial_id, key, value)
    other._storage.set_trial_intermediate_value(trial_id, 7000, 0.1)
    other._storage.set_trial_intermediate_value(trial_id, -3, 0.1)
    study.report({asked.number: curve(0.5)[0]})
    record = study.finish(asked.number, Reason.DIVERGED, curve(0.5))
    assert (record.params, record.role, record.reason, record.error) == (
        asked.params,
        asked.role,
        Reason.DIVERGED,
        None,
    )
    again = study.ask()
    other._storage.set_trial_user_attr(other.trials[again.number]._trial_id, "config", 3)
    study.finish(again.number, Reason.INTERRUPTED, [])
    search_on(study)
    assert len(results(study)) == len({*results(study)}) == 16
    assert study.summary().trial_epochs < 300


def test_a_refusal_that_is_cut_off_is_made_by_the_next_run(alone, tmp_path, monkeypatch):
    alone.ask(), alone.ask()
    alone._study.enqueue_trial({"dropout_0": 3.0})
    with monkeypatch.context() as patch:
        die_after(patch, alone, "set_trial_user_attr", 1)
        with pytest.raises(Killed):
            alone.ask()
    later = reopen(alone, tmp_path)
    search_on(later)
    assert len(results(later)) == len({*results(later)} - {2}) == 16
    assert why(later)[2].startswith("refused: dropout_0 = 3.0")
    later.close()


def test_two_runners_agree_on_the_budget_when_trials_are_refused(study, tmp_path):
    first = Study.open("fixed", make_spec(), study._storage, tmp_path)
    for _ in range(3):
        study._study.enqueue_trial({"dropout_0": 3.0})
    asked = [runner.ask() for _ in range(8) for runner in (study, first)]
    assert None not in asked
    assert study.ask() is None
    assert first.ask() is None
    assert len({each.number for each in asked}) == 16
    first.close()


def test_metric_names_and_notes_of_other_programs_change_nothing(alone, tmp_path):
    other = optuna.load_study(study_name="fixed", storage=open_storage(None, tmp_path))
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        other.set_metric_names(["glory"])
    other.set_user_attr("mine", {"a": 1})
    search_on(alone)
    assert len(alone.records()) == 16


def test_a_study_whose_directions_were_changed_is_not_searched_the_wrong_way(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    as_if_searched(tmp_path, url)
    with closing(sqlite3.connect(tmp_path / "study.db")) as connection:
        connection.execute("update study_directions set direction = 'MAXIMIZE'")
        connection.commit()
    assert "Best configuration" in regsearch("show", "--study", "tiny", "--storage", url)
    storage = open_storage(url, tmp_path)
    with pytest.raises(StorageError, match=r"other directions than it was made with \(maximize\)"):
        Study.open("tiny", Study.load("tiny", storage).spec, storage, tmp_path)
    close_storage(storage)


def test_a_study_that_is_renamed_goes_on_under_its_new_name(alone, tmp_path):
    """As optuna-dashboard renames one: it makes a copy, and deletes the other."""
    for _ in range(5):
        alone.finish(alone.ask().number, Reason.COMPLETED, curve(0.5))
    alone.ask()
    copy = optuna.create_study(study_name="new", storage=alone._storage)
    copy.add_trials(alone._study.trials)
    for key, value in alone._study.user_attrs.items():
        copy.set_user_attr(key, value)
    optuna.delete_study(study_name="fixed", storage=alone._storage)
    with pytest.raises(StudyGoneError):
        alone.ask()
    alone.close()
    renamed = Study.open("new", make_spec(), alone._storage, tmp_path)
    search_on(renamed)
    assert len(results(renamed)) == len({*results(renamed)}) == 16
    renamed.close()


READING = [["show"], ["show", "--json"], ["studies"], ["report"], ["status"], ["sync"]]


@pytest.fixture(scope="module")
def searched_home(tmp_path_factory, database):
    """A home whose study was searched, with one trial of each kind of other programs' in it."""
    home = tmp_path_factory.mktemp("home")
    shutil.copy(database, home)
    searched = as_if_searched(home)
    study = Study.open("tiny", searched.spec.with_overrides(trials=9), open_storage(None, home), home)
    study.ask()
    study.close()
    other = optuna.load_study(study_name="tiny", storage=open_storage(None, home))
    other.tell(8, 0.001)
    other.add_trial(finished())
    other.add_trial(finished(params={"l1": 4.0}))
    other._storage.create_new_trial(other._study_id, two_values())
    other.enqueue_trial({"l1": 7.0})
    other.enqueue_trial({"l1": 1e-3})
    return home


def two_values():
    trial = finished()
    trial.values = [0.1, 0.2]
    trial.datetime_complete = datetime.now()
    return trial


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_every_command_goes_on_and_names_what_is_left_out(searched_home, command):
    study = [] if command[0] == "studies" else ["--study", "tiny"]
    told = regsearch(*command, *study, "--home", str(searched_home))
    if command == ["show", "--json"]:
        left_out = {each["trial"]: each["why"] for each in json.loads(told)["left_out"]}
        assert left_out == {
            8: "another program has ended it as COMPLETE",
            **dict.fromkeys((9, 10, 11), "another program added it"),
        }
    elif command == ["show"]:
        assert "Left out       4 trials of other programs" in told
        assert "trial 8: another program has ended it as COMPLETE" in told
        assert "--trials" in told
    elif command == ["report"]:
        page = (searched_home / "artifacts" / "tiny" / "report.html").read_text()
        assert "trial 8: another program has ended it as COMPLETE" in page


def test_who_watches_or_looks_in_from_python_goes_on_too(searched_home):
    storage = open_storage(None, searched_home)
    look = Study.load("tiny", storage).follow().look()
    assert [record.number for record in look.ended] == list(range(8))
    assert standing("tiny", storage, searched_home).ended == 8
    assert [each.best.number for each in list_studies(storage)] == [0]


def test_what_is_queued_beyond_the_budget_is_told_with_how_to_run_it(alone, tmp_path):
    search_on(alone)
    for dropout in (0.125, 0.25):
        alone._study.enqueue_trial({"dropout_0": dropout})
    assert alone.unfinished() == 0
    told = regsearch("show", "--study", "fixed", "--home", str(tmp_path))
    assert "2 queued trials wait; `start` with --trials 18 runs them" in told
    later = reopen(alone, tmp_path, make_spec(trials=18))
    search_on(later)
    assert {record.params["dropout_0"] for record in later.records()} >= {0.125, 0.25}
    assert later.summary().beyond_budget == 0
    later.close()
