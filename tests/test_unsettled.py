"""What nobody runs any more, though nobody has died: those that wait for the study's end put it back into the queue."""

import errno
import os
import threading

import pytest
from fixed_study import curve, make_spec
from optuna.trial import TrialState
from scripted import Notes, ScriptedCrew, ScriptedTrainer, falling
from test_leases import fall_asleep, join, outcomes, study  # noqa: F401  study is a fixture

from search.pruning import NoPruner
from search.records import Reason
from search.runner import Runner
from search.stopping import StopRequest
from search.study import Study, open_storage
from search.study.trials import REASON


def leave_behind(study, asked) -> None:  # noqa: F811
    """End a trial as a process does that dies, or finds the disk full, before the trial is back in the queue."""
    study._ledger.finish(asked.number, TrialState.FAIL, None, {REASON: Reason.INTERRUPTED.value}, {})


def finish_all(runner) -> None:
    while (asked := runner.ask()) is not None:
        runner.finish(asked.number, Reason.COMPLETED, curve(0.5))


def test_what_a_runner_that_has_left_was_running_is_run_by_who_stays(study, tmp_path):  # noqa: F811
    other = join(study, tmp_path)
    left = [study.ask(), study.ask()]
    study.close()  # could not put them back: the storage was away for a moment
    finish_all(other)
    other.news()
    assert other.unfinished() == 2
    assert (other.recovered, other.waiting()) == (2, 2)
    assert [other.ask().seed for _ in left] == [asked.seed for asked in left]
    assert (other.unfinished(), other.recovered) == (2, 2)
    other.close()


def test_a_runner_that_waits_comes_to_an_end_though_another_left_trials_behind(study, tmp_path):  # noqa: F811
    other = join(study, tmp_path)
    gone, torn = other.ask(), other.ask()
    leave_behind(other, torn)
    other.close()
    crew = ScriptedCrew(ScriptedTrainer(falling))
    Runner(study, crew, NoPruner(), None, Notes(), StopRequest(timeout=60)).run()
    assert [number for number, _ in outcomes(study)] == list(range(16))
    assert {gone.number, torn.number} <= {record.number for record in study.records() if record.reason.is_no_result}


def test_what_was_cut_short_and_is_not_in_the_queue_is_not_finished(study, tmp_path):  # noqa: F811
    study.spec = study.spec.with_overrides(trials=2)
    other = join(study, tmp_path)
    cut_short = study.ask()
    finish_all(other)
    leave_behind(study, cut_short)
    assert [study.unfinished(), other.unfinished()] == [1, 1]
    assert other.recovered + study.recovered == 1
    again = other.ask()
    assert (again.seed, again.params, other.ask()) == (cut_short.seed, cut_short.params, None)
    other.finish(again.number, Reason.COMPLETED, curve(0.4))
    assert [study.unfinished(), other.unfinished()] == [0, 0]
    other.close()


def test_a_disk_that_is_full_amid_the_end_of_a_trial_costs_no_result(tmp_path, monkeypatch):
    study = Study.open("fixed", make_spec(trials=1), open_storage(None, tmp_path), tmp_path, patience=60)  # noqa: F811
    asked, real = study.ask(), os.write

    def almost_full(file: int, data: bytes) -> int:
        """Have room for all lines but the last, and for that a moment later."""
        room = data.rstrip(b"\n").rfind(b"\n") + 1
        if room == 0:
            monkeypatch.undo()
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data[:room])

    monkeypatch.setattr(os, "write", almost_full)
    assert study.finish(asked.number, Reason.INTERRUPTED, curve(0.5)).reason is Reason.INTERRUPTED
    assert (study.waiting(), study.unfinished(), study.waiting()) == (0, 1, 1)
    again = study.ask()
    assert (again.seed, again.params) == (asked.seed, asked.params)
    study.close()


def test_who_joins_while_another_looks_keeps_its_trials(study, tmp_path, monkeypatch):  # noqa: F811
    joined, real = [], study._trials

    def too_late():
        monkeypatch.undo()
        joined.append(join(study, tmp_path))
        joined.append(joined[0].ask())
        return real()

    monkeypatch.setattr(study, "_trials", too_late)
    assert study.unfinished() == 16
    newcomer, asked = joined
    assert newcomer.report({asked.number: curve(0.5)[0]}) == set()
    assert study.recovered == 0
    newcomer.close()


def test_what_is_known_of_the_runners_may_be_old(study, tmp_path, monkeypatch):  # noqa: F811
    other = join(study, tmp_path)
    asked = other.ask()
    real, answers = study._membership.others, [[]]
    monkeypatch.setattr(study._membership, "others", lambda: answers.pop() if answers else real())
    assert study.unfinished() == 16
    assert other.report({asked.number: curve(0.5)[0]}) == set()
    other.close()


def test_a_runner_that_was_taken_for_dead_is_heard_of_before_it_begins_anything(study, tmp_path):  # noqa: F811
    other = join(study, tmp_path)
    fall_asleep(study)
    pause = threading.Event()
    while study._membership.lease.runner in {runner.runner for runner in other._membership.others()}:
        other.news()
        pause.wait(0.1)
    study._membership.lease._released.clear()  # it is awake, and its next beat is still to come
    asked = study.ask()
    assert other.unfinished() == 16
    assert study.report({asked.number: curve(0.5)[0]}) == set()
    other.close()


@pytest.mark.parametrize("reason", [Reason.COMPLETED, Reason.INTERRUPTED])
def test_a_trial_that_ends_while_it_is_taken_over_counts_once(url, study, tmp_path, monkeypatch, reason):  # noqa: F811
    if url is None or url.startswith("sqlite"):
        pytest.skip("nobody else writes to a file meanwhile")
    first, ended, last = study.ask(), study.ask(), study.ask()
    other = join(study, tmp_path)
    fall_asleep(study)
    (sleeper,) = other._membership.others()
    told = []
    wakes = threading.Thread(target=lambda: told.append(study.finish(ended.number, reason, curve(0.3))))

    def read_and_wake_it(*args, **kwargs):
        monkeypatch.undo()
        trials = study._storage.get_all_trials(*args, **kwargs)
        wakes.start()
        # Who puts a configuration back has to wait; a result gets in between.
        wakes.join(1.0 if reason is Reason.INTERRUPTED else None)
        return trials

    monkeypatch.setattr(study._storage, "get_all_trials", read_and_wake_it)
    other._endings.take_over([sleeper])
    wakes.join()
    lost = [first, last] if reason is Reason.COMPLETED else [first, ended, last]
    assert [record.reason for record in told] == [Reason.LOST if ended in lost else reason]
    assert [record.number for record in other.records() if record.reason is Reason.LOST] == [x.number for x in lost]
    assert (other.unfinished(), other.waiting()) == (16 - (ended not in lost), len(lost))
    assert [other.ask().seed for _ in lost] == [asked.seed for asked in lost]
    other.close()
