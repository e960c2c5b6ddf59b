"""Trials that another program queues with plain Optuna: each is run once, and first."""

import optuna
import pytest
from fixed_study import Killed, curve, die_after, reopen
from optuna.trial import TrialState

from search.records import Reason
from search.study import close_storage, open_storage


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
