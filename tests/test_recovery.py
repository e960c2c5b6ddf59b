"""A study whose process dies, at random or right after a write: nothing is lost, nothing counted twice."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import optuna
import pytest
from fixed_study import Killed, curve, die_after, make_spec, reopen

from search.records import Reason
from search.study import Study, open_storage


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


def test_a_killed_runner_frees_its_study_and_loses_nothing(tmp_path):
    script = """
        import sys
        from pathlib import Path
        sys.path[:0] = [{tests!r}]
        from fixed_study import make_spec, curve
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
