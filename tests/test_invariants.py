"""The checker of docs/reliability.md finds nothing in a study that is right, and each thing that is wrong."""

from dataclasses import replace

import pytest
from optuna.trial import TrialState

from scripts.faults.comparison import differences
from scripts.faults.invariants import violations
from scripts.faults.replay import replayed
from search.study import StoredStudy
from search.study.storage import open_existing


@pytest.fixture
def study(searched):
    return StoredStudy.load("tiny", open_existing(None, searched / "runs"))


def test_a_study_that_is_right_has_no_violation_and_the_same_losses_when_it_is_trained_again(study, searched):
    records = study.records()
    assert violations(study._study.trials, records) == []
    assert replayed(study.spec, [record for record in records if record.epochs]) == []
    assert differences(f"sqlite:///{searched}/runs/mlflow.db", "tiny", records) == []


def change_value(trials, _records):
    complete = next(trial for trial in trials if trial.state is TrialState.COMPLETE)
    complete._values = [complete.value + 1e-9]


def change_report(trials, _records):
    trials[0].intermediate_values[1] += 1e-9


def leave_running(trials, _records):
    trials[-1].state = TrialState.RUNNING


def give_number_twice(trials, _records):
    trials[-1].number = trials[0].number


def change_retry(_trials, records):
    other = next(record for record in records[1:] if record.params != records[0].params)
    records[records.index(other)] = replace(other, retry_of=records[0].number)


@pytest.mark.parametrize("wrong", [change_value, change_report, leave_running, give_number_twice, change_retry])
def test_what_is_wrong_with_a_study_is_found(study, wrong):
    trials, records = study._study.trials, [*study.records()]
    wrong(trials, records)
    assert violations(trials, records) != []


def test_another_configurations_losses_are_found_by_training_it_again_and_in_mlflow(study, searched):
    first, second, *_ = [record for record in study.records() if record.epochs]
    swapped = [replace(first, epochs=second.epochs), replace(second, epochs=first.epochs)]
    assert len(replayed(study.spec, swapped)) == 2
    found = differences(f"sqlite:///{searched}/runs/mlflow.db", "tiny", swapped)
    assert f"MLflow's trial {first.number} differs: val_loss" in found
