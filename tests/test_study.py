"""A study in Optuna: the same contract on every storage, and nothing lost or counted twice when a process dies."""

import math
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections import deque
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
import sqlalchemy
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.trial import TrialState

from search.errors import HomeError, SpecMismatchError, StorageError, StudyBusyError, UsageError
from search.records import EpochResult, Reason, Role, Score
from search.spec import StudySpec
from search.study import Study, close_storage, list_studies, open_storage
from search.study.storage import mask_password

SPEC = {
    "name": "fixed",
    "data": {"name": "digits"},
    "model": {"hidden": [8]},
    "training": {"max_epochs": 9},
    "space": {
        "dropout": {"low": 0.0, "high": 0.5},
        "l1": {"low": 1e-6, "high": 1e-2, "log": True},
        "patience": {"low": 2, "high": 8},
        "weight_decay": 1e-4,
    },
    "search": {"trials": 16, "seed": 7},
}


def make_spec(**search) -> StudySpec:
    return StudySpec.model_validate(SPEC | {"search": SPEC["search"] | search})


def curve(*losses: float) -> list[EpochResult]:
    return [EpochResult(i, loss / 3, loss, 0.1 + 0.2 * i, 1 / 7) for i, loss in enumerate(losses, 1)]


@pytest.fixture
def study(storage, tmp_path):
    opened = Study.open("fixed", make_spec(), storage, tmp_path)
    yield opened
    opened.close()


def reopen(study: Study, tmp_path: Path, spec: StudySpec | None = None) -> Study:
    """What the next process does after this one was killed: the lock is free, the memory gone."""
    study.close()
    return Study.open(study.name, spec or study.spec, study._storage, tmp_path)


def states(study: Study) -> list[str]:
    return [trial.state.name for trial in study._study.trials]


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


def test_a_killed_processs_trials_go_back_to_the_queue(study, tmp_path):
    done, killed = study.ask(), study.ask()
    study.finish(done.number, Reason.COMPLETED, curve(0.3))
    study.report({killed.number: curve(0.5)[0]})
    later = reopen(study, tmp_path)
    assert (later.recovered, later.spent(), later.waiting()) == (1, 1, 1)
    record = later.records()[1]
    assert (record.reason, record.epochs) == (Reason.LOST, ())
    assert later.summary().trial_epochs == 2  # what was reported before the kill was run all the same
    again = later.ask()
    assert (again.seed, again.params) == (killed.number, killed.params)
    later.finish(again.number, Reason.COMPLETED, curve(0.2))
    last = reopen(later, tmp_path)
    assert (last.recovered, last.waiting(), last.spent()) == (0, 0, 2)
    last.close()


class Killed(BaseException):
    pass


def die_after(monkeypatch, study, method: str, calls: int):
    """Let the process die right after the storage's nth write of that kind."""
    kind = type(study._storage)
    original, left = getattr(kind, method), [calls]

    def dying(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return result

    monkeypatch.setattr(kind, method, dying)


@pytest.mark.parametrize(
    ("method", "calls"),
    [
        ("set_trial_state_values", 1),  # popped from the queue
        ("set_trial_user_attr", 1),  # a part of the result written
        ("set_trial_user_attr", 5),
        ("set_trial_state_values", 2),  # told, but not back in the queue
        ("create_new_trial", 1),  # back in the queue
    ],
)
def test_dying_while_a_trial_is_interrupted_loses_nothing_and_doubles_nothing(
    study, tmp_path, monkeypatch, method, calls
):
    with monkeypatch.context() as patch:
        die_after(patch, study, method, calls)
        with pytest.raises(Killed):
            study.finish(study.ask().number, Reason.INTERRUPTED, curve(0.5))
    later = reopen(reopen(study, tmp_path), tmp_path)
    asked = [later.ask() for _ in range(3)]
    baselines = [assignment for assignment in asked if assignment.params == later.spec.baseline()]
    assert [assignment.seed for assignment in baselines] == [0]
    assert sum(assignment.params == later.spec.textbook() for assignment in asked) == 1
    assert later.spent() == 3
    later.close()


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_dying_during_recovery_is_recovered_from(study, tmp_path, monkeypatch, calls):
    killed = [study.ask() for _ in range(3)]
    study.close()
    with monkeypatch.context() as patch:
        die_after(patch, study, "create_new_trial" if calls > 1 else "set_trial_state_values", calls)
        with pytest.raises(Killed):
            reopen(study, tmp_path)
    later = reopen(study, tmp_path)
    asked = [later.ask() for _ in range(3)]
    assert sorted(assignment.seed for assignment in asked) == [0, 1, 2]
    assert sorted(str(a.params) for a in asked) == sorted(str(a.params) for a in killed)
    assert later.waiting() == 0
    later.close()


def test_a_trial_written_but_not_handed_out_is_run_all_the_same(study, tmp_path, monkeypatch):
    for _ in range(2):
        study.finish(study.ask().number, Reason.COMPLETED, curve(0.4))
    start = study._ledger.start

    def dying(*args) -> None:
        start(*args)
        raise Killed

    monkeypatch.setattr(study._ledger, "start", dying)
    with pytest.raises(Killed):
        study.ask()
    later = reopen(study, tmp_path)
    assert (later.recovered, later.waiting(), later.spent()) == (1, 1, 2)
    assert later.ask().params == later.records()[2].params
    later.close()


def test_a_result_written_but_not_told_is_run_again(tmp_path):
    study = Study.open("fixed", make_spec(), open_storage(None, tmp_path), tmp_path)
    first = study.ask()
    study.finish(first.number, Reason.COMPLETED, curve(0.5))
    runner = study._membership.lease.runner
    study.close()
    journal = tmp_path / "optuna.journal"
    *before, _, _ = journal.read_bytes().splitlines(keepends=True)
    assert b'"reason":"completed"' in before[-1]
    journal.write_bytes(b"".join(before))  # a kill in the middle of writing the end of a trial leaves a part of it
    (tmp_path / "locks" / f"{runner}.lock").touch()  # and a lock that nobody holds
    later = Study.open("fixed", make_spec(), open_storage(None, tmp_path), tmp_path)
    assert [later.ask().seed for _ in range(2)] == [1, first.number]
    assert later.records()[0].reason is Reason.LOST
    later.close()


@pytest.mark.parametrize("name", ["fixed", "set_study_user_attr", "set_study_system_attr", "create_new_trial"])
def test_dying_while_a_study_is_created(storage, tmp_path, monkeypatch, name):
    spec = make_spec()
    if name == "fixed":
        optuna.create_study(study_name="fixed", storage=storage)
    else:
        kind = type(storage)
        with monkeypatch.context() as patch:
            original = getattr(kind, name)
            patch.setattr(kind, name, _raise_after(original))
            with pytest.raises(Killed):
                Study.open("fixed", spec, storage, tmp_path)
    study = Study.open("fixed", spec, storage, tmp_path)
    assert [study.ask().params, study.ask().params] == [spec.baseline(), spec.textbook()]
    assert study.waiting() == 0
    assert study._study.metric_names == ["val_loss"]
    study.close()


def _raise_after(original):
    def dying(*args, **kwargs):
        original(*args, **kwargs)
        raise Killed

    return dying


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


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp"])
def test_every_sampler_is_seeded_and_does_not_repeat_itself_on_resume(tmp_path, sampler):
    spec = make_spec(sampler=sampler, trials=40)

    def draws(storage: InMemoryStorage, count: int) -> list[dict]:
        study = Study.open("fixed", spec, storage, tmp_path)
        asked = []
        for _ in range(count):
            assignment = study.ask()
            asked.append(dict(assignment.params))
            study.finish(assignment.number, Reason.COMPLETED, curve(1 + assignment.params["dropout_0"]))
        study.close()
        return asked

    one, other = InMemoryStorage(), InMemoryStorage()
    first = draws(one, 13)
    assert first == draws(other, 13)
    resumed = draws(one, 6)
    assert all(params not in first for params in resumed)


def test_hyperband_lets_the_sampler_know_its_brackets(tmp_path):
    spec = make_spec(pruner={"name": "hyperband", "min_epochs": 1})
    study = Study.open("fixed", spec, InMemoryStorage(), tmp_path)
    for _ in range(14):
        study.finish(study.ask().number, Reason.COMPLETED, curve(0.5))
    known = study._sampling._study
    brackets = {known.pruner._get_bracket_id(known, trial) for trial in known.trials}
    assert len(brackets) > 1
    study.close()


def test_a_killed_runner_frees_its_study_and_loses_nothing(tmp_path):
    script = """
        import sys
        from pathlib import Path
        sys.path[:0] = [{tests!r}]
        from test_study import make_spec, curve
        from search.records import Reason
        from search.study import Study, open_storage
        home = Path({home!r})
        study = Study.open("fixed", make_spec(trials=10000, sampler="random"), open_storage(None, home), home)
        while True:
            assignment = study.ask()
            study.report({{assignment.number: curve(0.5)[0]}})
            study.finish(assignment.number, Reason.COMPLETED, curve(0.5))
            print(assignment.number, flush=True)
    """
    code = textwrap.dedent(script).format(tests=str(Path(__file__).parent), home=str(tmp_path))
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    ) as process:
        for line in process.stdout:
            if int(line) == 20:
                process.send_signal(signal.SIGKILL)
                break
        acknowledged = [int(line) for line in [line, *process.stdout] if line.endswith("\n")]
    study = Study.open("fixed", make_spec(trials=10000, sampler="random"), open_storage(None, tmp_path), tmp_path)
    complete = [record.number for record in study.records() if record.state == "complete"]
    assert set(range(max(acknowledged) + 1)) <= set(complete)
    assert study.recovered <= 1
    study.close()


# Several objectives

SEVERAL = ("val_loss", "sparsity", "epochs")


def sparse_curve(*rows: tuple[float, float]) -> list[EpochResult]:
    """Return epochs, each of a loss and a sparsity."""
    return [EpochResult(i, loss / 3, loss, 0.5, sparsity) for i, (loss, sparsity) in enumerate(rows, 1)]


def test_a_study_of_several_objectives_has_their_directions_and_values(storage, tmp_path):
    study = Study.open("fixed", make_spec(objectives=SEVERAL), storage, tmp_path)
    ways = [
        (Reason.COMPLETED, sparse_curve((0.4, 0.0), (0.3, 0.25), (0.5, 0.9))),
        (Reason.EARLY_STOPPED, sparse_curve((0.2, 0.0), (0.4, 0.1))),
        (Reason.PRUNED, sparse_curve((0.1, 0.9))),
        (Reason.COMPLETED, sparse_curve((0.9, 0.0), (0.35, 0.25))),
        (Reason.COMPLETED, sparse_curve((0.9, 0.0), (0.8, 0.0), (0.15, 0.125))),
    ]
    for reason, epochs in ways:
        number = study.ask().number
        for row in epochs:
            study.report({number: row})
        study.finish(number, reason, epochs)
    stored = optuna.load_study(study_name="fixed", storage=storage)
    assert [direction.name for direction in stored.directions] == ["MINIMIZE", "MAXIMIZE", "MINIMIZE"]
    assert stored.metric_names == list(SEVERAL)
    values = [[0.3, 0.25, 2], [0.2, 0.0, 1], None, [0.35, 0.25, 2], [0.15, 0.125, 3]]
    assert [trial.values for trial in stored.trials] == values
    assert stored.trials[2].intermediate_values == {1: 0.1}

    summary = study.summary()
    assert (summary.best.number, summary.objectives) == (4, SEVERAL)
    assert [record.number for record in summary.pareto] == [4, 1, 0]  # the baseline is one of those that none beats
    assert {record.number for record in summary.pareto} == {trial.number for trial in stored.best_trials}
    assert list_studies(storage) == [summary]
    study.close()


def test_a_study_resumes_with_its_objectives_and_refuses_others(study, tmp_path):
    with pytest.raises(SpecMismatchError, match=r'search.objectives: stored nothing, given \["val_loss", "epochs"\]'):
        reopen(study, tmp_path, make_spec(objectives=("val_loss", "epochs")))
    several = Study.open("several", make_spec(objectives=SEVERAL), study._storage, tmp_path)
    several.finish(several.ask().number, Reason.COMPLETED, curve(0.5))
    again = reopen(several, tmp_path)
    assert again.ask().number == 1
    with pytest.raises(SpecMismatchError, match="given nothing"):
        reopen(again, tmp_path, make_spec())


@pytest.mark.parametrize(
    ("objectives", "sparsity"),
    [(("val_loss", "sparsity"), 0.0), (("val_loss", "epochs"), 0.01), (SEVERAL, 0.01)],
    ids=["sparsity, always none", "epochs", "all three"],
)
@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp"])
def test_every_sampler_can_search_for_a_front(tmp_path, sampler, objectives, sparsity):
    def search(study: Study, trials: int) -> None:
        """Four trials at a time; the first to begin is the first to end, every third by being pruned."""
        running = deque(study.ask() for _ in range(4))
        for _ in range(trials):
            asked = running.popleft()
            losses = [1 + asked.params["dropout_0"] / epoch for epoch in range(1, 2 + asked.number % 7)]
            rows = sparse_curve(*((loss, sparsity * asked.number) for loss in losses))
            for row in rows:
                study.report({asked.number: row})
            study.finish(asked.number, Reason.PRUNED if asked.number % 3 == 2 else Reason.COMPLETED, rows)
            running.append(study.ask())

    spec = make_spec(sampler=sampler, objectives=objectives, trials=40)
    study = Study.open("fixed", spec, InMemoryStorage(), tmp_path)
    search(study, 18)
    resumed = reopen(study, tmp_path)
    assert resumed.recovered == 4
    search(resumed, 6)
    assert resumed.summary().pareto
    resumed.close()


def test_a_trial_that_has_only_begun_does_not_look_like_one_that_learned_fast(tmp_path):
    spec = make_spec(objectives=SEVERAL, pruner={"name": "halving", "min_epochs": 1})
    study = Study.open("fixed", spec, InMemoryStorage(), tmp_path)
    number = study.ask().number
    study.report({number: sparse_curve((0.5, 0.25))[0]})
    (promised,) = study._sampling._memory.get_all_trials(0)
    assert (promised.state, promised.values) == (TrialState.COMPLETE, [0.5, 0.25, 9])
    study.close()


def test_importances_of_several_objectives(tmp_path):
    spec = make_spec(objectives=("val_loss", "sparsity"), sampler="random", trials=60)
    study = Study.open("fixed", spec, InMemoryStorage(), tmp_path)
    for _ in range(60):
        asked = study.ask()
        study.finish(asked.number, Reason.COMPLETED, sparse_curve((1 + asked.params["dropout_0"], 0.5)))
    importances = study.importances()
    assert sum(importances.values()) == pytest.approx(1)
    assert max(importances, key=importances.get) == "dropout_0"
    study.close()


@pytest.mark.parametrize("objectives", [("val_loss",), SEVERAL], ids="-".join)
def test_optuna_dashboard_shows_a_study(tmp_path, objectives):
    from optuna_dashboard import wsgi

    storage = open_storage(None, tmp_path)
    study = Study.open("fixed", make_spec(objectives=objectives), storage, tmp_path)
    for number in range(6):
        rows = sparse_curve(*((1 / epoch, number / 10) for epoch in range(1, number + 2)))
        study.finish(study.ask().number, Reason.PRUNED if number == 3 else Reason.COMPLETED, rows)
    study.close()
    answer, environment, said = wsgi(storage), {}, []
    setup_testing_defaults(environment)
    for page in ("/api/studies", "/api/studies/0", "/api/studies/0/param_importances", "/csv/0"):
        body = b"".join(answer(environment | {"PATH_INFO": page}, lambda status, *_: said.append(status)))
        assert body
    assert said == ["200 OK"] * 4


# Storages


def test_a_plain_path_and_a_journal_url_are_journals(tmp_path):
    Study.open("fixed", make_spec(), open_storage(str(tmp_path / "deep" / "j.log"), tmp_path), tmp_path).close()
    assert [s.study for s in list_studies(open_storage(f"journal://{tmp_path}/deep/j.log", tmp_path))] == ["fixed"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://h:6379", "Redis.*unpickles"),
        ("journal+redis://u:secret@h", "Redis.*unpickles"),
        ("postgres://u:secret@h/db", 'not a storage; did you mean "postgresql"'),
        ("http://u:secret@h/db", "http:// is not a storage"),
        ("journal://j.log", "three slashes"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:////no/such/folder/s.db", "No such file or directory"),
        ("postgresql+psycopg2://u:secret@h:port/db", "not a valid database URL"),
        ("postgresql+pony://u:secret@h/db", "not a valid database URL"),
    ],
)
def test_storages_that_cannot_be_opened_say_why(tmp_path, url, message):
    with pytest.raises(StorageError, match=message) as raised:
        open_storage(url, tmp_path)
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_missing_driver_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StorageError, match=r"pip install 'psycopg\[binary\]'"):
        open_storage("postgresql+psycopg://u:secret@h/db", tmp_path)


def test_a_drivers_message_does_not_show_the_password(tmp_path, monkeypatch):
    def unreachable(url, **_):
        raise sqlite3.OperationalError(f"cannot connect to {url}: p@ss refused")

    monkeypatch.setattr("sqlalchemy.create_engine", unreachable)
    with pytest.raises(StorageError, match=r"user:\*\*\*@host.*\*\*\* refused") as raised:
        open_storage("postgresql://user:p%40ss@host/db", tmp_path)
    assert "p%40ss" not in str(raised.value)
    assert "p@ss" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://u:p@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:p/a@b:c@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://h/d?user=u&password=p&x=1", "postgresql://h/d?user=u&password=***&x=1"),
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
    ],
)
def test_passwords_are_masked(url, masked):
    assert mask_password(url) == masked


def test_databases_of_other_programs_are_left_alone(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table runs (id integer)")
    connection.close()
    with pytest.raises(StorageError, match="not Optuna's"):
        open_storage(f"sqlite:///{path}", tmp_path)
    (tmp_path / "text.db").write_text("this is no database, " * 100)
    with pytest.raises(StorageError, match="not a database"):
        open_storage(f"sqlite:///{tmp_path}/text.db", tmp_path)


def test_a_schema_of_another_optuna_is_refused(tmp_path):
    url = f"sqlite:///{tmp_path}/old.db"
    close_storage(open_storage(url, tmp_path))
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.execute("update alembic_version set version_num = 'v2.4.0.a'")
    connection.close()
    with pytest.raises(StorageError, match=r"storage upgrade"):
        open_storage(url, tmp_path)


def test_a_database_that_fails_while_used_is_a_storage_error(tmp_path):
    storage = open_storage(f"sqlite:///{tmp_path}/s.db", tmp_path)
    assert isinstance(storage, RDBStorage)
    study = Study.open("fixed", make_spec(), storage, tmp_path)
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute("drop table trials")
    connection.close()
    with pytest.raises(StorageError, match="no such table"):
        study.ask()
    study.close()
    close_storage(storage)


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp"])
def test_a_strength_is_sampled_only_where_its_switch_is_on(sampler, tmp_path):
    switched = {
        "l1": {"low": 1e-7, "high": 1e-3, "log": True, "switch": True},
        "mixup": {"low": 0.5, "high": 0.5, "switch": True},
        "batch_norm": {"switch": True},
    }
    changes = {"model": {"hidden": [8, 4]}, "space": SPEC["space"] | switched, "search": {"sampler": sampler}}
    spec = StudySpec.model_validate(SPEC | changes)
    study = Study.open("switched", spec, InMemoryStorage(), tmp_path)
    seen = set()
    for number in range(40):
        asked = study.ask()
        params = study._study.trials[asked.number].params
        assert params["use_l1"] == ("l1" in params) == (asked.params["l1"] != 0)
        assert asked.params["mixup"] == 0.5 * params["use_mixup"]
        if params["use_batch_norm"]:  # dropout acts after the last one alone
            assert asked.params["input_dropout"] == asked.params["dropout_0"] == 0
        seen.add((params["use_l1"], params["use_batch_norm"]))
        study.finish(asked.number, Reason.COMPLETED, curve(1 + number % 7))
    study.close()
    assert len(seen) >= 3
