"""A study in Optuna: the same contract on every storage."""

import math
import threading

import optuna
import pytest
from fixed_study import SPEC, curve, make_spec, reopen
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from search.errors import HomeError, SpecMismatchError, StorageError, StudyBusyError, UsageError
from search.records import EpochResult, Reason, Role, Score
from search.spec import StudySpec
from search.study import Study, list_studies


def test_first_come_the_baseline_and_the_textbook_setting_exactly(study):
    baseline, textbook, sampled = study.ask(), study.ask(), study.ask()
    spec = study.spec
    assert baseline.params == spec.baseline()
    assert baseline.params["l1"] == 0.0  # outside its range, and yet what is trained
    assert baseline.params["weight_decay"] == 0.0  # a constant
    assert textbook.params == spec.textbook()
    assert list(sampled.params) == list(spec.parameters())
    assert sampled.params["weight_decay"] == 1e-4
    assert 1e-6 <= sampled.params["l1"] <= 1e-2
    assert isinstance(sampled.params["patience"], int)
    assert [a.seed for a in (baseline, textbook, sampled)] == [0, 1, 2]
    assert [a.role for a in (baseline, textbook, sampled)] == [Role.BASELINE, Role.TEXTBOOK, None]


def test_optuna_sees_the_baseline_inside_the_ranges(study):
    study.ask()
    assert study._study.trials[0].params["l1"] == 1e-6


def test_every_way_to_end_is_read_back_exactly(study):
    ways = [
        (Reason.COMPLETED, curve(0.5, 0.1 + 0.2, 0.4), None, TrialState.COMPLETE),
        (Reason.EARLY_STOPPED, curve(0.9, 0.7), None, TrialState.COMPLETE),
        (Reason.PRUNED, curve(1.5), None, TrialState.PRUNED),
        (Reason.ERROR, [], "out of memory", TrialState.FAIL),
        (Reason.INTERRUPTED, curve(0.3), None, TrialState.FAIL),
    ]
    finished = []
    for reason, epochs, error, state in ways:
        assignment = study.ask()
        for row in epochs:
            study.report({assignment.number: row})
        record = study.finish(assignment.number, reason, epochs, error, worker=None if error else "1")
        finished.append(record)
        assert (record.number, record.params, record.reason) == (assignment.number, assignment.params, reason)
        assert record.epochs == tuple(epochs)
        assert (record.error, record.worker) == (error, None if error else "1")
        assert record.ended >= record.started
        assert record.started.tzinfo is not None
        assert study._study.trials[record.number].state == state
    assert [record.role for record in finished[:3]] == [Role.BASELINE, Role.TEXTBOOK, None]
    assert study.records() == finished
    assert Study.load("fixed", study._storage).records() == finished


def test_the_objective_is_the_best_epochs_validation_loss(study):
    for loss in (0.5, 0.25):
        study.finish(study.ask().number, Reason.COMPLETED, curve(0.9, loss, 0.8))
    trials = study._study.trials
    assert [trial.value for trial in trials[:2]] == [0.5, 0.25]
    assert study._study.metric_names == ["val_loss"]
    attributes = trials[0].user_attrs
    assert (attributes["best_epoch"], attributes["epochs"], attributes["reason"]) == (2, 3, "completed")
    assert attributes["gap"] == pytest.approx(0.5 * 2 / 3)


def test_losses_that_are_not_finite_survive(study):
    epochs = [*curve(0.5), EpochResult(2, math.inf, math.nan, 0.1, 0.0), EpochResult(3, math.nan, -math.inf, 0.1, 0.0)]
    number = study.ask().number
    for row in epochs:
        study.report({number: row})
    study.finish(number, Reason.DIVERGED, epochs)
    (record,) = Study.load("fixed", study._storage).records()
    assert repr(record.epochs) == repr(tuple(epochs))
    assert record.reason is Reason.DIVERGED


def test_an_interrupted_configuration_is_run_again_first_with_its_seed_and_role(study):
    first = study.ask()
    study.ask()
    study.finish(first.number, Reason.INTERRUPTED, curve(0.3))
    again = study.ask()
    assert (again.number, again.seed, again.params) == (2, first.number, first.params)
    study.finish(again.number, Reason.INTERRUPTED, [])
    third = study.ask()
    assert (third.number, third.seed, third.params, third.role) == (3, first.number, first.params, Role.BASELINE)
    record = study.finish(third.number, Reason.COMPLETED, curve(0.2))
    assert (record.role, record.retry_of) == (Role.BASELINE, first.number)
    assert study.waiting() == 0


def test_the_budget_counts_running_trials_and_not_interrupted_ones(study):
    assert (study.spent(), study.waiting()) == (0, 2)
    numbers = [study.ask().number for _ in range(4)]
    assert (study.spent(), study.waiting()) == (4, 0)
    study.finish(numbers[0], Reason.COMPLETED, curve(0.3))
    study.finish(numbers[1], Reason.PRUNED, curve(0.3))
    study.finish(numbers[2], Reason.ERROR, [], "boom")
    study.finish(numbers[3], Reason.INTERRUPTED, [])
    assert (study.spent(), study.waiting()) == (3, 1)


def test_the_summary(study):
    for reason, losses in [
        (Reason.COMPLETED, (0.5, 0.4)),
        (Reason.EARLY_STOPPED, (0.3, 0.35, 0.36)),
        (Reason.PRUNED, (0.01,)),
        (Reason.INTERRUPTED, (0.02,)),
    ]:
        study.finish(study.ask().number, reason, curve(*losses))
    study.add_wall_seconds(1.5)
    study.add_wall_seconds(2)
    study.record_test("best", Score(1, 0.97, 0.1))
    study.set_fact("device", {"name": "cpu"})
    summary = study.summary()
    assert summary.trials == {"complete": 2, "pruned": 1, "failed": 1, "running": 0, "waiting": 1}
    assert summary.reasons == {"completed": 1, "early_stopped": 1, "pruned": 1, "interrupted": 1}
    assert (summary.best.number, summary.baseline.number) == (1, 0)
    assert (summary.trial_epochs, summary.wall_seconds) == (7, 3.5)
    assert summary.test == {"best": Score(1, 0.97, 0.1)}
    assert study.fact("device", dict) == {"name": "cpu"}
    assert study.fact("nothing", str) is None
    assert list_studies(study._storage) == [summary]


def test_a_new_study_has_no_best(study):
    summary = study.summary()
    assert (summary.best, summary.baseline, summary.trial_epochs) == (None, None, 0)


def test_a_budget_of_one_is_the_baseline_and_more_may_follow(storage, tmp_path):
    study = Study.open("fixed", make_spec(trials=1), storage, tmp_path)
    study.finish(study.ask().number, Reason.COMPLETED, curve(0.5))
    assert (study.spent(), study.waiting()) == (1, 0)
    more = reopen(study, tmp_path, make_spec(trials=5))
    assert more.ask().params == more.spec.textbook()
    assert Study.load("fixed", storage).spec == more.spec
    more.close()


def test_another_spec_is_refused_with_the_differences(study, tmp_path):
    study.close()
    other = StudySpec.model_validate(SPEC | {"training": {"max_epochs": 10}})
    with pytest.raises(SpecMismatchError, match=r"(?s)max_epochs.*9.*10.*--name NEW"):
        Study.open("fixed", other, study._storage, tmp_path)
    Study.open("fixed", study.spec, study._storage, tmp_path).close()  # the lock was given back


def test_a_study_is_finished_by_one_process_when_nobody_searches(study, tmp_path):
    with pytest.raises(StudyBusyError, match="being run by another process"):
        Study.open("fixed", study.spec, study._storage, tmp_path, task="finish")
    Study.open("fixed-2", study.spec, study._storage, tmp_path, task="finish").close()
    study.close()
    first = Study.open("fixed", study.spec, study._storage, tmp_path, lease=0.4, task="finish")
    with pytest.raises(StudyBusyError, match="being run by another process"):
        Study.open("fixed", study.spec, study._storage, tmp_path, task="finish")
    first.close()
    Study.open("fixed", study.spec, study._storage, tmp_path, task="finish").close()
    assert list((tmp_path / "locks").iterdir()) == []


def test_a_home_without_room_for_locks(tmp_path):
    (tmp_path / "locks").write_text("")
    with pytest.raises(HomeError, match="locks"):
        Study.open("fixed", make_spec(), InMemoryStorage(), tmp_path)


def test_reading_a_running_study_needs_no_lock_and_cannot_write(study):
    reader = Study.load("fixed", study._storage)
    assert reader.spec == study.spec
    with pytest.raises(RuntimeError, match="to be read"):
        reader.ask()


def test_an_unknown_study_is_answered_with_the_nearest(study):
    with pytest.raises(UsageError, match=r'no study "fixd"; did you mean "fixed"\?'):
        Study.load("fixd", study._storage)


def test_studies_of_others_are_left_alone(storage, tmp_path):
    other = optuna.create_study(study_name="other", storage=storage)
    other.ask()
    with pytest.raises(StorageError, match="not made by regsearch"):
        Study.open("other", make_spec(), storage, tmp_path)
    with pytest.raises(StorageError, match="not made by regsearch"):
        Study.load("other", storage)
    with pytest.raises(UsageError, match="none yet"):
        Study.load("mine", storage)
    assert list_studies(storage) == []


def test_opened_in_one_thread_and_run_in_another(storage, tmp_path):
    opened, failures = [], []

    def run() -> None:
        try:
            numbers = [opened[0].ask().number for _ in range(4)]
            for number in numbers:
                opened[0].report({number: curve(0.5)[0]})
                opened[0].finish(number, Reason.COMPLETED, curve(0.5))
            assert numbers == [0, 1, 2, 3]
        except BaseException as error:
            failures.append(error)

    opened.append(Study.open("fixed", make_spec(), storage, tmp_path))
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failures
    assert opened[0].spent() == 4
    opened[0].close()


def test_importances_where_a_switch_was_on_once_are_told_without_a_warning(tmp_path):
    l1 = {"low": 1e-6, "high": 1e-2, "log": True, "switch": True}
    spec = StudySpec.model_validate(SPEC | {"space": SPEC["space"] | {"l1": l1}})
    study = Study.open("switched", spec, InMemoryStorage(), tmp_path)
    while (asked := study.ask()) is not None:
        first = not any(record.params["l1"] for record in study.records() if record.reason is Reason.COMPLETED)
        reason = Reason.ERROR if asked.params["l1"] and not first else Reason.COMPLETED
        study.finish(asked.number, reason, curve(1 + asked.params["dropout_0"]))
    assert sum(bool(record.params["l1"]) for record in study.records() if record.reason is Reason.COMPLETED) == 1
    assert study.importances()
    study.close()
