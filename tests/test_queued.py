"""Trials that another program queues with plain Optuna: each is run once, and first, or is refused with the reason."""

import optuna
import pytest
from fixed_study import Killed, curve, die_after, make_spec, reopen
from optuna.trial import TrialState

from search.records import Reason
from search.spec import StudySpec
from search.study import Study, close_storage, open_storage

HUGE = 2**70


@pytest.fixture
def other(url, storage, study, tmp_path):
    """The study as another program opens it, with plain Optuna."""
    opened = storage if url == "memory" else open_storage(url, tmp_path)
    yield optuna.load_study(study_name="fixed", storage=opened)
    close_storage(opened)


def test_what_another_program_queues_comes_next(study, other):
    for _ in range(3):
        study.ask()
    other.enqueue_trial({"dropout_0": 0.25})
    other.enqueue_trial({"dropout_0": 0.125, "l1": 1e-3, "patience": 4})
    first, second, sampled = study.ask(), study.ask(), study.ask()
    assert [assignment.number for assignment in (first, second, sampled)] == [3, 4, 5]
    assert list(first.params) == list(study.spec.parameters())
    assert first.params["dropout_0"] == 0.25
    assert 1e-6 <= first.params["l1"] <= 1e-2
    assert second.params.items() >= {"dropout_0": 0.125, "l1": 1e-3, "patience": 4, "weight_decay": 1e-4}.items()
    stored = other.trials[3]
    assert (stored.state, stored.user_attrs["config"]) == (TrialState.RUNNING, first.params)
    assert stored.params.items() <= first.params.items()
    assert study.finish(first.number, Reason.COMPLETED, curve(0.3)).params == first.params


def test_what_another_program_takes_is_not_taken_twice(study, other):
    other.enqueue_trial({"dropout_0": 0.25})
    theirs = [other.ask().number, other.ask().number]
    other.tell(theirs[1], state=TrialState.FAIL)
    assert [study.ask().number for _ in range(2)] == [2, 3]


def test_a_number_that_another_program_was_faster_to_take(study, other, monkeypatch):
    for _ in range(2):
        study.ask()
    real = study._sampling.suggest

    def too_late(*args):
        other.ask()
        monkeypatch.undo()
        return real(*args)

    monkeypatch.setattr(study._sampling, "suggest", too_late)
    assert study.ask().number == 3
    study.report({3: curve(0.25)[0]})
    assert [trial.intermediate_values for trial in other.trials] == [{}, {}, {}, {1: 0.25}]


def test_what_is_queued_while_the_sampler_is_asked_comes_first(study, other, monkeypatch):
    for _ in range(2):
        study.ask()
    real = study._sampling.suggest

    def too_late(*args):
        other.enqueue_trial({"dropout_0": 0.25})
        monkeypatch.undo()
        return real(*args)

    monkeypatch.setattr(study._sampling, "suggest", too_late)
    queued = study.ask()
    assert (queued.number, queued.params["dropout_0"]) == (2, 0.25)
    assert study.ask().number == 3
    assert sorted(study._sampling._memory._running) == [0, 1, 2, 3]


def test_a_queued_trial_that_was_not_handed_out_waits_again(study, other, tmp_path, monkeypatch):
    for _ in range(2):
        study.finish(study.ask().number, Reason.COMPLETED, curve(0.4))
    other.enqueue_trial({"dropout_0": 0.25})
    with monkeypatch.context() as patch:
        die_after(patch, study, "set_trial_param", 2)
        with pytest.raises(Killed):
            study.ask()
    later = reopen(study, tmp_path)
    assert (later.recovered, later.waiting(), later.spent()) == (0, 1, 2)
    queued = later.ask()
    assert (queued.number, queued.params["dropout_0"]) == (2, 0.25)
    assert later.finish(queued.number, Reason.COMPLETED, curve(0.3)).params == queued.params
    later.close()


@pytest.fixture
def alone(tmp_path):
    """The small study in a journal."""
    opened = Study.open("fixed", make_spec(), open_storage(None, tmp_path), tmp_path)
    yield opened
    opened.close()


def refusal(study, **enqueued) -> str:
    """Queue a trial and search until it is met; return why it is refused."""
    study._study.enqueue_trial(enqueued)
    study.ask(), study.ask()
    assert study.ask().number == 3
    return study._study.trials[2].user_attrs["refused"]


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
