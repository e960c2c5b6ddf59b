"""Whole searches that are stopped, killed, or lose a part: nothing is lost, and the budget is exact in the end."""

import os
import shutil
import signal
import socket

import pytest
from click.testing import CliRunner
from mlflow_server import MLflowServer
from optuna.trial import TrialState
from whole_searches import (
    ENDLESS,
    SLOW,
    Place,
    assert_all_in_mlflow,
    assert_exact,
    is_alive,
    wait_until,
)

from search.cli import main
from search.records import Reason

# A search that is stopped


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_search_is_tidy_and_goes_on_to_the_exact_budget(make_place, number, code):
    place = make_place(SLOW)
    search = place.launch(ENDLESS)
    search.wait_for_trials()
    search.process.send_signal(number)
    search.ends(code)
    assert "Stopping: running trials go back to the queue." in search.err
    assert "Interrupted: running trials are back in the queue" in search.out
    stopped = place.show()
    assert stopped["trials"]["running"] == 0
    assert stopped["trials"]["waiting"] == stopped["reasons"]["interrupted"] > 0
    assert stopped["test"] == {}
    assert place.mlflow().studies[0].info.status == "KILLED"

    assert_exact(place, place.go_on())
    assert place.show()["test"].keys() == {"best", "baseline"}
    assert_all_in_mlflow(place)


def test_a_study_that_is_run_is_not_synced_and_a_second_interrupt_leaves_at_once(make_place):
    place = make_place(SLOW)
    with socket.socket() as silent:  # accepts connections and never answers: the search would wait for it in the end
        silent.bind(("127.0.0.1", 0))
        silent.listen(32)
        search = place.launch(ENDLESS, "--tracking-uri", f"http://127.0.0.1:{silent.getsockname()[1]}")
        search.wait_for_trials()
        refused = CliRunner().invoke(main, ["sync", "--study", "tiny", "--home", str(place.home)])
        assert refused.exit_code == 1
        assert 'study "tiny" is being run right now' in refused.stderr
        assert place.show()["trials"]["running"] > 0
        search.process.send_signal(signal.SIGINT)
        wait_until(lambda: "Ctrl-C again leaves at once" in search.err)
        search.process.send_signal(signal.SIGINT)
        search.ends(130)
    assert "Everything is in" not in search.out
    assert_exact(place, place.go_on())
    assert_all_in_mlflow(place)


def test_the_time_budget_ends_a_search_which_may_go_on(make_place):
    place = make_place(SLOW)
    search = place.start(ENDLESS, "--timeout=2s")
    assert "Time is up: running trials are back in the queue; the same command goes on." in search.out
    stopped = place.show()["trials"]
    assert stopped["running"] == 0
    assert stopped["waiting"] > 0
    assert_exact(place, place.go_on())


# A search whose processes are killed


def test_a_killed_search_and_a_torn_journal(make_place):
    place = make_place(SLOW)
    search = place.launch(ENDLESS)
    search.wait_for_trials()
    search.process.kill()
    search.ends(-signal.SIGKILL)
    with open(place.home / "optuna.journal", "ab") as journal:
        journal.write(b'{"op_code":6,"worker_id":"torn')
    left = place.show()["trials"]  # who reads passes over the torn end, and who writes puts it right
    assert left["running"] > 0
    assert not list(place.home.glob("optuna.journal.corrupt-*"))
    set_aside = {int(path.stem.rpartition("-")[2]) for path in (place.home / "undelivered").rglob("*.json")}
    running = {trial.number for trial in place._read(None)._study.trials if trial.state == TrialState.RUNNING}
    assert_exact(place, place.go_on())
    # What was reached before the kill, but not yet recorded, is not lost.
    assert place.show()["reasons"].get("lost", 0) == len(running - set_aside)
    assert len(list(place.home.glob("optuna.journal.corrupt-*"))) == 1
    assert_all_in_mlflow(place)


def test_trainers_end_with_a_killed_search(make_place):
    place = make_place(SLOW)
    search = place.launch(ENDLESS, "--workers=2")
    search.wait_for_trials()
    trainers = search.children()
    assert len(trainers) == 2
    search.process.kill()
    search.ends(-signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, trainers)))
    assert place.show()["trials"]["running"] > 0
    assert_exact(place, place.go_on())


def test_killed_trainers_are_replaced_and_their_trials_run_again(make_place):
    place = make_place(SLOW)
    search = place.launch("--workers", "2", "--population", "1")
    search.wait_for_trials()
    for trainer in search.children():
        os.kill(trainer, signal.SIGKILL)
    search.ends(0)
    assert search.out.count("A trainer failed and is replaced by another; its trials are back in the queue") == 2
    assert_exact(place, 8)
    interrupted = [record for record in place.records() if record.reason is Reason.INTERRUPTED]
    assert len(interrupted) == 2
    assert all("SIGKILL" in str(record.error) for record in interrupted)
    assert_all_in_mlflow(place)


def test_a_confirmation_that_was_killed_goes_on(tmp_path, database):
    place = Place(tmp_path, database, SLOW)
    search = place.launch("--trials=3")
    wait_until(lambda: (found := place.repeats()) is not None and len(found.runs) >= 2)
    os.kill(search.process.pid, signal.SIGKILL)
    search.process.wait()
    before = place.repeats().runs
    place.start("--trials=3")
    after = place.repeats()
    assert all(len(after.of(trial)) == 5 for trial in after.picks.trials)
    assert len(after.runs) == 5 * len(after.picks.trials)
    assert {(run.trial, run.seed, run.val_loss) for run in before} <= {
        (run.trial, run.seed, run.val_loss) for run in after.runs
    }
    assert_exact(place, 3)


def test_a_tracking_server_that_goes_down_midway(make_place, database):
    place = make_place(SLOW)
    home = place.folder / "server"
    home.mkdir()
    shutil.copy(database, home / "mlflow.db")
    server = MLflowServer(home)
    try:
        server.start()
        search = place.launch("--tracking-uri", server.uri)
        search.wait_for_trials()
        server.kill()
        search.ends(0)
        assert f"trials could not be written to MLflow at {server.uri}" in " ".join(search.out.split())
        assert "Best configuration of study tiny" in search.out
        assert_exact(place, 8)
        server.start()
        place.start("--tracking-uri", server.uri)
        assert_all_in_mlflow(place, server.uri)
    finally:
        server.kill()


# A search that others run too


def test_several_searches_of_one_study_write_each_trial_to_mlflow_once(make_place):
    place = make_place(SLOW)
    place.start("--no-confirm", "--trials=2")
    for search in [place.launch("--no-confirm", "--trials=20") for _ in range(2)]:
        search.ends(0)
    assert_exact(place, 20)
    assert_all_in_mlflow(place)
