"""Trials that other programs queue, add, end or change with plain Optuna: told apart from the study's own, and named.

The search goes on, its budget is exact, and everything that reads the study still does. What is queued and can be
trained is in test_queued.py.
"""

import json
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

from search.pruning import NoPruner
from search.records import Reason
from search.runner import Runner
from search.spec import StudySpec
from search.stopping import StopRequest
from search.study import Study, close_storage, list_studies, open_storage
from search.study.roster import standing

HUGE = 2**70


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


def refusal(study, **enqueued) -> str:
    """Queue a trial and search until it is met; return why it is refused."""
    study._study.enqueue_trial(enqueued)
    study.ask(), study.ask()
    assert study.ask().number == 3
    return why(study)[2].removeprefix("refused: ")


@pytest.mark.parametrize(
    ("enqueued", "reason"),
    [
        ({"dropout_0": 3.0}, "dropout_0 = 3.0 is outside its range: 0.0 to 0.5"),
        ({"dropout_0": -1}, "dropout_0 = -1 is outside its range: 0.0 to 0.5"),
        ({"l1": 0}, "l1 = 0 is outside its range: 1e-06 to 0.01"),
        ({"l1": 0.0, "dropout_0": 0.7}, "l1 = 0.0 is outside its range: 1e-06 to 0.01; dropout_0 = 0.7 is outside"),
        ({"dropout_0": "0.25"}, "dropout_0 = '0.25' is no number"),
        ({"dropout_0": None}, "dropout_0 = None is no number"),
        ({"dropout_0": True}, "dropout_0 = True is no number"),
        ({"dropout_0": [0.1]}, "dropout_0 = [0.1] is no number"),
        ({"dropout_0": float("nan")}, "dropout_0 = nan is no number"),
        ({"l1": float("inf")}, "l1 = inf is no number"),
        ({"patience": HUGE}, f"patience = {HUGE} is outside its range: 2 to 8"),
        ({"patience": 2.5}, "patience = 2.5 is no whole number"),
        ({"weight_decay": 1e-3}, "weight_decay = 0.001, and this study has 0.0001"),
        ({"dropout_1": 0.1}, "'dropout_1' is no parameter of this study; did you mean \"dropout_0\""),
        ({"colour": "red"}, "'colour' is no parameter of this study"),
        ({"dropout_0": "\x1b[31m"}, "dropout_0 = '\\x1b[31m' is no number"),
    ],
    ids=repr,
)
def test_a_queued_trial_that_cannot_be_trained_is_refused_with_the_reason(alone, enqueued, reason):
    assert refusal(alone, **enqueued).startswith(reason)
    assert alone._study.trials[2].state == TrialState.FAIL


SWITCHED = {
    "name": "fixed",
    "data": {"name": "digits"},
    "model": {"hidden": [8, 8]},
    "training": {"max_epochs": 9},
    "space": {
        "dropout": {"low": 0.0, "high": 0.5, "switch": True},
        "l1": {"low": 1e-6, "high": 1e-2, "log": True, "switch": True},
        "batch_norm": {"switch": True},
    },
    "search": {"trials": 16, "seed": 7},
}


@pytest.fixture
def switched(tmp_path):
    """A study with switches."""
    opened = Study.open("fixed", StudySpec.model_validate(SWITCHED), open_storage(None, tmp_path), tmp_path)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("enqueued", "reason"),
    [
        ({"use_l1": "maybe"}, "use_l1 = 'maybe' is neither True nor False"),
        ({"use_l1": False, "l1": 1e-3}, "l1 has no effect where use_l1 is False"),
        ({"use_dropout": False, "dropout_1": 0.1}, "dropout_1 has no effect where use_dropout is False"),
        ({"use_batch_norm": True, "dropout_0": 0.1}, "dropout_0 has no effect where use_batch_norm is True"),
        ({"l1": 0}, "l1 = 0 is outside its range: 1e-06 to 0.01, and use_l1 = False leaves it off"),
        ({"batch_norm": 1}, "batch_norm = 1 is chosen by a switch"),
    ],
    ids=repr,
)
def test_switches_that_contradict_strengths_are_refused_with_the_reason(switched, enqueued, reason):
    assert refusal(switched, **enqueued).startswith(reason)


def test_a_strength_that_is_queued_switches_itself_on(switched):
    switched.ask(), switched.ask()
    for _ in range(4):  # lest the sampler happen to say the same
        switched._study.enqueue_trial({"l1": 1e-3, "dropout_0": 0.25})
    for _ in range(4):
        asked = switched.ask()
        assert asked.params.items() >= {"l1": 1e-3, "dropout_0": 0.25, "batch_norm": 0}.items()
        assert switched._study.trials[asked.number].params.items() >= {"use_l1": True, "use_dropout": True}.items()


def test_a_whole_configuration_can_be_queued_as_best_toml_has_it(switched):
    roles = [switched.ask(), switched.ask()]
    sampled = [switched.ask() for _ in range(3)]
    for asked in (*roles, *sampled):
        switched._study.enqueue_trial(asked.params)
    assert [switched.ask().params for _ in range(5)] == [asked.params for asked in (*roles, *sampled)]


def test_a_queued_constant_that_is_the_study_s_own_is_no_mistake(alone):
    alone.ask(), alone.ask()
    alone._study.enqueue_trial({"weight_decay": 1e-4, "patience": 4.0})
    asked = alone.ask()
    assert (asked.number, asked.params["weight_decay"], asked.params["patience"]) == (2, 1e-4, 4)


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


READING = [["show"], ["show", "--json"], ["studies"], ["report"], ["status"], ["sync"]]


@pytest.fixture(scope="module")
def searched_home(tmp_path_factory, database):
    """A home whose study was searched, with one trial of each kind of other programs' in it."""
    import shutil

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
    assert standing("tiny", storage).ended == 8
    assert [each.best.number for each in list_studies(storage)] == [0]


def test_what_is_queued_beyond_the_budget_is_told_with_how_to_run_it(alone, tmp_path):
    search_on(alone)
    for dropout in (0.125, 0.25):
        alone._study.enqueue_trial({"dropout_0": dropout})
    assert alone.unfinished() == 0
    told = regsearch("show", "--study", "fixed", "--home", str(tmp_path))
    assert "2 queued trials wait; regsearch start with --trials 18 runs them" in told
    later = reopen(alone, tmp_path, make_spec(trials=18))
    search_on(later)
    assert {record.params["dropout_0"] for record in later.records()} >= {0.125, 0.25}
    assert later.summary().beyond_budget == 0
    later.close()
