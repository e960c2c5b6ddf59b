"""Several runners of one study: an exact budget, what a dead one leaves taken over once, late writes refused."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from fixed_study import curve, make_spec
from optuna.trial import TrialState

from search.errors import StorageUnavailableError
from search.records import Reason
from search.study import Study, close_storage, open_storage
from search.study.leases import Lease, Observer, RunnerRecord, runners_of, sign_of_life
from search.study.patience import Patience

LEASE = 0.6


@pytest.fixture
def study(storage, tmp_path):
    opened = Study.open("fixed", make_spec(), storage, tmp_path, lease=LEASE)
    yield opened
    opened.close()


def join(study, tmp_path, **options) -> Study:
    return Study.open("fixed", study.spec, study._storage, tmp_path, **{"lease": LEASE} | options)


def fall_asleep(study) -> None:
    """Let a runner beat no more, as one does that is suspended; its lock stays."""
    lease = study._membership.lease
    with lease._writing:  # a beat under way would be a sign of life afterwards
        lease._released.set()


def outcomes(study) -> list[tuple[int, str]]:
    """Return the results by first attempt: each configuration's, once."""
    return sorted(
        (record.number if record.retry_of is None else record.retry_of, record.reason)
        for record in study.records()
        if not record.reason.is_no_result
    )


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def record(beat=1, **other) -> RunnerRecord:
    told = {"runner": "a", "host": "h", "pid": 1, "boot": "", "lease": 60.0, "since": "", "task": "search"}
    return RunnerRecord(**told | {"beat": beat} | other)


def test_a_runner_is_dead_once_its_beat_has_been_the_same_for_a_lease():
    clock = Clock()
    observer = Observer(Path("nowhere"), clock)
    looks = [(0, 1, 0), (15, 1, 0), (30, 1, 0), (45, 2, 0), (60, 2, 0), (75, 2, 0), (90, 2, 0), (105, 2, 0)]
    for now, beat, dead in [*looks, (106, 2, 1), (110, 3, 0)]:
        clock.now = now
        assert len(observer.dead([record(beat)])) == dead, now


def test_an_observer_who_has_not_looked_for_long_knows_nothing():
    clock = Clock()
    observer = Observer(Path("nowhere"), clock)
    for now in (0, 25, 200, 225, 250):  # asleep, or without a database, from 25 to 200
        clock.now = now
        assert observer.dead([record()]) == []
    clock.now = 261
    assert len(observer.dead([record()])) == 1


def test_no_clock_of_another_host_is_compared(storage, tmp_path, study):
    """Nothing in a runner's record that changes is a time."""
    before = runners_of(storage.get_study_system_attrs(study._study_id))
    study._membership.lease.beat()
    after = runners_of(storage.get_study_system_attrs(study._study_id))
    assert [replace(record, beat=0) for record in before] == [replace(record, beat=0) for record in after]
    assert after[0].beat > before[0].beat


def test_a_runner_has_died_whose_lock_in_this_home_nobody_holds(tmp_path):
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    (tmp_path / "locks").mkdir()
    for other in (tmp_path / "a.lock", tmp_path / "locks" / "b.lock"):
        other.touch()
        assert Observer(tmp_path).dead([record(boot=boot)]) == []
    (tmp_path / "locks" / "a.lock").touch()
    assert len(Observer(tmp_path).dead([record(boot=boot)])) == 1
    assert Observer(tmp_path).dead([record(boot="another")]) == []


def test_two_runners_share_the_budget_exactly(study, tmp_path):
    other = join(study, tmp_path)
    assert [runner.pid for runner in study.others] == [os.getpid()]
    seen = []
    for runner in [study, other] * 10:
        if (assignment := runner.ask()) is not None:
            runner.report({assignment.number: curve(0.5)[0]})
            runner.finish(assignment.number, Reason.COMPLETED, curve(0.5))
            seen.append(assignment.number)
    assert seen == list(range(16))
    assert (study.unfinished(), other.unfinished(), study.spent()) == (0, 0, 16)
    assert {record.number for record in study.news().ended} == set(range(1, 16, 2))
    assert study.news().ended == []
    other.close()


def test_each_learns_what_the_other_found(study, tmp_path):
    other = join(study, tmp_path)
    assignment = other.ask()
    study.news()
    other.finish(assignment.number, Reason.PRUNED, curve(0.7))
    (told,) = study.news().ended
    assert (told.number, told.reason, told.params) == (assignment.number, Reason.PRUNED, assignment.params)
    assert assignment.number in {trial.number for trial in study._sampling._memory._recent}
    other.close()


def test_what_the_last_other_did_before_it_left_is_heard_of(study, tmp_path):
    other = join(study, tmp_path)
    done, cut_short = other.ask(), other.ask()
    study.news()
    other.finish(done.number, Reason.COMPLETED, curve(0.5))
    other.finish(cut_short.number, Reason.INTERRUPTED, curve(0.7))
    other.close()
    told = study.news()
    assert [(record.number, record.reason) for record in told.ended] == [(0, "completed"), (1, "interrupted")]
    assert study._sampling._memory._running == {}
    assert study.news().ended == []


def test_more_trials_given_by_one_that_has_left_are_heard_of(study, tmp_path):
    study.spec = study.spec.with_overrides(trials=16)
    other = join(study, tmp_path)
    study.news()
    other.close()
    Study.open("fixed", make_spec(trials=18), study._storage, tmp_path).close()
    study.news()
    assert study.spec.search.trials == 18


def test_who_is_alone_reads_no_trials_for_news(study, tmp_path, monkeypatch):
    other = join(study, tmp_path)
    study.news()
    other.close()
    study.news()
    monkeypatch.setattr(study, "_trials", lambda *_: pytest.fail("they were read"))
    study.news()


def test_news_that_fail_and_are_asked_for_again_leave_nothing_out(study, tmp_path, monkeypatch):
    study._patience = Patience(60.0, str)
    other = join(study, tmp_path)
    assignment = other.ask()
    other.finish(assignment.number, Reason.COMPLETED, curve(0.5))
    answers = iter([StorageUnavailableError("connection refused"), False])

    def asked_to_stop() -> bool:
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    monkeypatch.setattr(study._membership, "asked_to_stop", asked_to_stop)
    assert [record.number for record in study.news().ended] == [assignment.number]
    other.close()


def test_many_at_once_make_one_study_and_use_up_its_budget(tmp_path, storage_url):
    """16 `start`s in the same second."""
    import sqlalchemy.orm  # noqa: F401  not by all threads at once

    def run(place: int) -> list[int]:
        storage = open_storage(storage_url, tmp_path)
        runner, done = Study.open("fixed", make_spec(trials=40), storage, tmp_path), []
        while (assignment := runner.ask()) is not None:
            runner.report({assignment.number: curve(0.5)[0]})
            runner.finish(assignment.number, Reason.COMPLETED, curve(0.5 + place))
            done.append(assignment.number)
        runner.close()
        close_storage(storage)
        return done

    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(run, range(16)))
    assert sorted(number for numbers in done for number in numbers) == list(range(40))
    storage = open_storage(storage_url, tmp_path)
    study = Study.load("fixed", storage)
    assert len(study.records()) == len(study._study.trials) == 40
    assert Counter(record.role for record in study.records())[None] == 38
    assert len({str(record.params) for record in study.records()}) == 40  # no two have asked for the same
    close_storage(storage)


def test_more_trials_given_by_one_are_heard_of_by_the_other(study, tmp_path):
    study.spec = study.spec.with_overrides(trials=16)
    other = Study.open("fixed", make_spec(trials=18), study._storage, tmp_path)
    study.news()
    assert study.spec.search.trials == 18
    other.close()


def test_a_sleeping_runner_loses_its_trials_and_cannot_write_late(study, tmp_path):
    kept, ended = study.ask(), study.ask()
    study.report({kept.number: curve(0.5)[0]})
    other = join(study, tmp_path)
    fall_asleep(study)
    pause = threading.Event()
    while study._membership.lease.runner in {runner.runner for runner in other._membership.others()}:
        other.news()
        pause.wait(LEASE / 5)
    assert (other.recovered, other.waiting()) == (2, 2)

    # It wakes up, and knows of nothing.
    assert study.report({kept.number: curve(0.5, 0.4)[1], ended.number: curve(0.5)[0]}) == {kept.number, ended.number}
    late = study.finish(ended.number, Reason.COMPLETED, curve(0.001))
    assert late.reason is Reason.LOST
    assert study._study.trials[kept.number].intermediate_values == {1: 0.5}
    assert [record.reason for record in other.records()] == [Reason.LOST] * 2

    again = [other.ask(), other.ask()]
    assert [assignment.seed for assignment in again] == [kept.seed, ended.seed]
    assert [assignment.params for assignment in again] == [kept.params, ended.params]
    for assignment in again:
        other.finish(assignment.number, Reason.COMPLETED, curve(0.3))
    assert outcomes(other) == [(0, "completed"), (1, "completed")]
    other.close()


def test_a_late_result_of_one_of_several_trials_does_not_stop_the_others(study, tmp_path):
    first, second = study.ask(), study.ask()
    trial_id = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, first.number)
    study._storage.set_trial_state_values(trial_id, TrialState.FAIL)  # as somebody who takes it over does
    assert study.report({first.number: curve(0.5)[0], second.number: curve(0.4)[0]}) == {first.number}
    assert study._study.trials[second.number].intermediate_values == {1: 0.4}


def test_several_who_notice_a_death_queue_each_configuration_once(study, tmp_path):
    lost = [study.ask() for _ in range(4)]
    others = [join(study, tmp_path) for _ in range(3)]
    study._membership.lease.release()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda other: other.news(), others))
        list(pool.map(lambda other: other._endings.take_over([]), others))
    asked = [others[i % 3].ask() for i in range(6)]
    assert [assignment.seed for assignment in asked] == [*(assignment.seed for assignment in lost), 8, 9]
    assert sum(other.recovered for other in others) == 4
    for other in others:
        other.close()


def test_what_was_queued_beyond_the_budget_keeps_nothing_waiting(study, tmp_path):
    study.spec = study.spec.with_overrides(trials=2)
    other = join(study, tmp_path)
    lost = [other.ask(), other.ask()]
    study._ledger.enqueue({}, {})  # as another program may
    other._membership.lease.release()
    study._endings.take_over([])
    assert [study.ask().seed for _ in lost] == [assignment.seed for assignment in lost]
    assert study.ask() is None
    other.close()


def test_what_a_runner_had_finished_is_delivered_by_the_next_and_not_run_again(study, tmp_path):
    finished, running = study.ask(), study.ask()
    study.report({finished.number: curve(0.9)[0]})
    study.set_aside(finished.number, Reason.EARLY_STOPPED, curve(0.9, 0.4, 0.6), None, "1")
    study._membership.lease.release()  # killed before the storage had the rest
    later = join(study, tmp_path)
    assert (later.delivered, later.recovered) == (1, 1)
    told = later.records()[0]
    assert (told.reason, told.epochs, told.worker) == (Reason.EARLY_STOPPED, tuple(curve(0.9, 0.4, 0.6)), "1")
    assert later._study.trials[finished.number].intermediate_values == {1: 0.9, 2: 0.4, 3: 0.6}
    assert later.ask().seed == running.seed
    assert not (tmp_path / "undelivered").exists()
    later.close()


def test_what_a_runner_had_finished_is_not_delivered_where_it_was_taken_over(study, tmp_path):
    finished = study.ask()
    other = join(study, tmp_path / "elsewhere")
    study._membership.lease.release()
    other.news()
    other._endings.take_over([])
    study._endings._spool.keep("0" * 12, _draft(finished.number))
    study._endings._spool.keep("1" * 12, _draft(finished.number))
    later = join(study, tmp_path)
    assert later.delivered == 0
    assert later.records()[0].reason is Reason.LOST
    assert not (tmp_path / "undelivered").exists()
    later.close()
    other.close()


def _draft(number):
    from datetime import UTC, datetime

    from search.records import TrialRecord

    now = datetime.now(UTC)
    return TrialRecord(number, {}, Reason.COMPLETED, tuple(curve(0.1)), now, now)


def test_results_of_a_study_of_that_name_in_another_storage_are_left_alone(study, tmp_path):
    other = Study.open("fixed", make_spec(), open_storage(str(tmp_path / "other.log"), tmp_path), tmp_path)
    number = other.ask().number
    other.set_aside(number, Reason.PRUNED, curve(0.5), None, None)
    later = join(study, tmp_path)
    assert later.delivered == 0
    assert len(list((tmp_path / "undelivered" / "fixed").iterdir())) == 1
    later.close()
    other.close()


def test_a_spooled_result_that_is_not_whole_is_passed_over(study, tmp_path):
    folder = tmp_path / "undelivered" / "fixed"
    folder.mkdir(parents=True)
    for name, content in {"a": "", "b": "{}", "c": '{"format": 2, "runner": 3}', "d": "\0" * 99}.items():
        (folder / f"{name}.json").write_text(content)
    later = join(study, tmp_path)
    assert later.delivered == 0
    later.close()


def test_one_of_several_finishes_the_study(study, tmp_path):
    others = [join(study, tmp_path) for _ in range(3)]
    with ThreadPoolExecutor(4) as pool:
        elected = list(pool.map(lambda runner: runner.elect(), [study, *others]))
    assert elected.count(None) == 1
    assert {other.runner for other in elected if other} == {
        [study, *others][elected.index(None)]._membership.lease.runner
    }
    for runner in others:
        runner.close()


def test_whoever_finishes_a_study_and_dies_is_followed_by_another(study, tmp_path):
    other = join(study, tmp_path)
    assert other.elect() is None
    fall_asleep(other)
    assert study.elect() is None  # after a lease
    other._membership.lease._released.clear()
    other.close()


def test_a_killed_process_is_noticed_at_once(tmp_path):
    """The kernel has let go of its lock: nobody waits for its lease."""
    code = """
        import sys, signal
        sys.path.insert(0, {tests!r})
        from pathlib import Path
        from fixed_study import make_spec
        from search.study import Study, open_storage
        home = Path({home!r})
        study = Study.open("fixed", make_spec(), open_storage(None, home), home, lease=3600)
        print(study.ask().number, flush=True)
        signal.pause()
    """
    code = textwrap.dedent(code).format(tests=str(Path(__file__).parent), home=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"0\n"
    study = Study.open("fixed", make_spec(), open_storage(None, tmp_path), tmp_path)
    assert (study.recovered, len(study.others)) == (0, 1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    study.news()
    assert (study.recovered, study.others) == (1, [])
    assert [study.ask().seed for _ in range(2)] == [1, 0]
    study.close()
    assert list((tmp_path / "locks").iterdir()) == []


def test_a_lease_that_could_not_be_made_is_a_clear_error(study, tmp_path):
    from search.errors import HomeError

    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match=r"file/locks/.*\.lock"):
        Lease(study._storage, study._study_id, tmp_path / "file", 60, "search")


def test_a_home_that_is_read_only_by_now_keeps_no_lock_held(study, tmp_path, monkeypatch):
    def read_only(*_args, **_kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    (own,) = runners_of(study._storage.get_study_system_attrs(study._study_id))
    other = join(study, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", read_only)
        fall_asleep(study)
        os.close(study._membership.lease._file)  # as when it dies
        other.news()  # would remove the dead runner's lock
        assert [runner.runner for runner in other.others] == []
        (last,) = runners_of(study._storage.get_study_system_attrs(study._study_id))
        other.close()
    assert sign_of_life(own, tmp_path) == sign_of_life(last, tmp_path) == "dead"
    study._membership = None  # its file is closed
