"""What a user finds in MLflow, and that nothing MLflow does or suffers disturbs the search.

Real MLflow throughout: a database file for most tests, a server of its own where a server's misfortunes matter.
"""

import json
import math
import os
import pickle
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from mlflow_runs import Reader
from mlflow_server import MLflowServer

from search.records import EpochResult, Reason, Role, TrialRecord
from search.tracking import (
    Closing,
    Confirmed,
    Findings,
    TrackedData,
    TrackedStudy,
    Tracker,
    TrackingOutcome,
    comparison_link,
    default_tracking_uri,
)
from search.tracking.messages import without_passwords

STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ENDED = STARTED + timedelta(hours=1)
STUDY = TrackedStudy("digits", '{"name": "digits"}', "Eight by eight digits.", {"team": "a"}, {"budget.trials": "4"})
PATIENT = 60.0


def a_trial(number: int, reason: Reason = Reason.COMPLETED, epochs: int = 3, **more: Any) -> TrialRecord:
    rows = tuple(
        EpochResult(n, 1.0 / n, 1.0 / n + 0.2 * abs(n - 2), 0.5 + n / 1000, 0.25) for n in range(1, epochs + 1)
    )
    started = STARTED + timedelta(seconds=10 * number)
    params = {"dropout_0": 0.2, "l1": number / 100}
    return TrialRecord(number, params, reason, rows, started, started + timedelta(seconds=epochs), **more)


def track(uri: str, trials: Sequence[TrialRecord], root: Path | None = None, **more: Any) -> TrackingOutcome:
    """Search and finish: every trial arrives while the search runs."""
    tracker = Tracker(uri, root, more.pop("study", STUDY), [])
    for record in trials:
        tracker.trial(record)
    return finish(tracker, **more)


def finish(
    tracker: Tracker, timeout: float = PATIENT, ended: datetime = ENDED, interrupted: bool = False, **findings: Any
) -> TrackingOutcome:
    return tracker.finish(Closing(interrupted, ended, Findings(**findings)), timeout)


def wait_until(happened: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)


def wait_for_notice(tracker: Tracker, seconds: float = 60.0) -> str:
    wait_until(lambda: bool(tracker._notices), seconds)
    return str(tracker.notice())


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an artifact root, MLflow keeps artifacts in the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def uri(database: Path, tmp_path: Path) -> str:
    shutil.copy(database, tmp_path / "mlflow.db")
    return default_tracking_uri(tmp_path)


@pytest.fixture(scope="module")
def server(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    home = tmp_path_factory.mktemp("server")
    shutil.copy(database, home / "mlflow.db")
    server = MLflowServer(home)
    yield server
    server.kill()


@pytest.fixture
def silent_uri() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(32)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_trial_shows_as_a_child_run_with_its_story(uri: str, tmp_path: Path) -> None:
    trials = [
        a_trial(0, Reason.COMPLETED, role=Role.BASELINE),
        a_trial(1, Reason.EARLY_STOPPED),
        a_trial(2, Reason.PRUNED, retry_of=1),
        a_trial(3, Reason.ERROR, epochs=0, error="RuntimeError: no memory"),
    ]
    outcome = track(uri, trials, tmp_path / "artifacts")
    assert outcome == TrackingOutcome(4, 0, None)

    found = Reader(uri)
    [study] = found.studies
    assert [run.info.status for run in found.trials] == ["FINISHED", "FINISHED", "KILLED", "FAILED"]
    assert [run.info.run_name for run in found.trials][:2] == [
        "trial-0000 0.5000 completed, baseline",
        "trial-0001 0.5000 early_stopped",
    ]
    assert {run.data.tags["mlflow.parentRunId"] for run in found.trials} == {study.info.run_id}
    assert found.trials[0].data.tags["regsearch.role"] == "baseline"
    assert found.trials[2].data.tags["regsearch.reason"] == "pruned"
    assert "no memory" in found.trials[3].data.tags["mlflow.note.content"]
    assert found.trials[1].data.params == {"dropout_0": "0.2", "l1": "0.01"}
    assert found.trials[1].info.start_time == trials[1].started.timestamp() * 1000
    assert found.trials[1].info.end_time == trials[1].ended.timestamp() * 1000

    expected = [(row.epoch, row.val_loss) for row in trials[1].epochs]
    assert found.curve(1, "val_loss") == expected
    assert found.curve(1, "gap") == [(row.epoch, row.gap) for row in trials[1].epochs]
    start = found.trials[1].info.start_time
    assert [point.timestamp - start for point in found.history(1, "train_loss")] == [1000, 2000, 3000]
    metrics = found.trials[1].data.metrics
    assert (metrics["best_val_loss"], metrics["best_epoch"], metrics["epochs"]) == (0.5, 2, 3)
    assert (metrics["best_sparsity"], metrics["best_val_accuracy"]) == (0.25, 0.502)


def test_the_study_shows_as_the_parent_run_with_its_artifacts(uri: str, tmp_path: Path) -> None:
    report = tmp_path / "some.html"
    report.write_text("<p>report</p>")
    artifacts = {"best.toml": b"dropout = 0.2\n", "report/index.html": report}
    found = {"headline": "best 0.5000", "metrics": {"best_test_accuracy": 0.97}, "artifacts": artifacts}
    assert track(uri, [a_trial(0)], tmp_path / "artifacts", **found).message is None

    found = Reader(uri)
    [study] = found.studies
    assert (study.info.status, study.info.run_name) == ("FINISHED", "digits: best 0.5000")
    assert study.data.params == {"budget.trials": "4"}
    assert study.data.tags["team"] == "a"
    assert study.data.tags["mlflow.note.content"] == "Eight by eight digits."
    assert study.data.metrics["best_test_accuracy"] == 0.97
    assert found.artifacts() == {"best.toml", "report", "spec.json"}
    assert found.artifacts("report") == {"report/index.html"}
    assert found.experiment.artifact_location == (tmp_path / "artifacts").as_uri()


def test_an_experiment_says_what_it_is_and_keeps_what_others_say(uri: str) -> None:
    track(uri, [])
    found = Reader(uri)
    assert found.experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert "Eight by eight digits." in found.experiment.tags["mlflow.note.content"]
    own = {"mlflow.experimentKind": "genai_development", "mlflow.note.content": "Mine."}
    for key, value in own.items():
        found.client.set_experiment_tag(found.experiment.experiment_id, key, value)
    track(uri, [])
    assert Reader(uri).experiment.tags.items() >= own.items()


def test_the_confirmed_trials_are_marked_compared_and_told_their_data(uri: str) -> None:
    study = replace(STUDY, data=TrackedData("digits", "0123456789abcdef" * 4, "with scikit-learn"))
    trials = [a_trial(0, role=Role.BASELINE), a_trial(1, worker="1"), a_trial(2)]
    first = {1: Confirmed("best", {"val_loss": 0.25}), 0: Confirmed("baseline", {"val_loss": 0.5})}
    track(uri, trials, study=study, confirmed=first, compared=[1, 0], description="Trial 1 is best.")
    found = Reader(uri)
    assert [run.data.tags.get("regsearch.confirmed") for run in found.trials] == ["baseline", "best", None]
    assert [run.data.metrics.get("confirmed_val_loss") for run in found.trials] == [0.5, 0.25, None]
    assert [run.data.tags.get("regsearch.worker") for run in found.trials] == [None, "1", None]
    [study_run] = found.studies
    for run in (study_run, *found.trials[:2]):
        [given] = run.inputs.dataset_inputs
        assert (given.dataset.name, given.dataset.digest) == ("digits", "0123456789abcdef01ef0123456789abcdef")
        assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]
    link = comparison_link(uri, "digits")
    assert link is not None
    page, _, query = link.partition("?")
    wanted = {"runs": [found.trials[1].info.run_id, found.trials[0].info.run_id]}
    assert page == "#/compare-runs"
    assert {key: json.loads(value) for key, [value] in parse_qs(query).items()} == {
        **wanted,
        "experiments": [found.experiment.experiment_id],
    }
    assert study_run.data.tags["mlflow.note.content"].startswith("Trial 1 is best.")
    assert f"]({link})" in study_run.data.tags["mlflow.note.content"]

    finish(Tracker(uri, None, study, trials), confirmed={2: Confirmed("best", {"val_loss": 0.125})}, compared=[2, 0])
    found = Reader(uri)
    assert [run.data.tags.get("regsearch.confirmed") for run in found.trials] == [None, None, "best"]
    assert comparison_link(uri, "digits") != link


def test_no_comparison_is_saved_where_there_is_nothing_to_compare(uri: str) -> None:
    track(uri, [a_trial(0)], compared=[0])
    assert comparison_link(uri, "digits") is None
    assert comparison_link(uri, "elsewhere") is None
    assert comparison_link(uri, "digits", "another identity") is None


def test_a_resumed_search_writes_only_what_is_missing(uri: str) -> None:
    trials = [a_trial(number) for number in range(5)]
    interrupted = Tracker(uri, None, STUDY, [])
    interrupted.trial(trials[0])
    finish(interrupted, interrupted=True)
    before = Reader(uri)
    assert before.studies[0].info.status == "KILLED"

    for _ in range(2):
        tracker = Tracker(uri, None, STUDY, trials[:4])
        tracker.trial(trials[4])
        assert finish(tracker) == TrackingOutcome(5, 0, None)
    after = Reader(uri)
    assert after.numbers == [0, 1, 2, 3, 4]
    assert after.trials[0].info.run_id == before.trials[0].info.run_id
    assert [run.info.run_id for run in after.studies] == [before.studies[0].info.run_id]
    assert after.studies[0].info.status == "FINISHED"


def test_half_written_double_and_stray_runs_are_put_right(uri: str) -> None:
    track(uri, [a_trial(0), a_trial(1), a_trial(2)])
    before = Reader(uri)
    client, experiment_id = before.client, before.experiment.experiment_id
    client.update_run(before.trials[0].info.run_id, status="RUNNING")  # as a crash in the middle leaves it
    twin = client.create_run(experiment_id, tags=dict(before.trials[1].data.tags))
    client.set_terminated(twin.info.run_id)
    client.delete_run(before.studies[0].info.run_id)  # by hand, in the user interface

    tracker = Tracker(uri, None, STUDY, [a_trial(0), a_trial(1), a_trial(2)])
    assert finish(tracker) == TrackingOutcome(3, 0, None)
    after = Reader(uri)
    assert after.numbers == [0, 1, 2]
    assert after.trials[0].info.run_id != before.trials[0].info.run_id
    assert after.trials[2].info.run_id == before.trials[2].info.run_id
    assert after.curve(0, "val_loss") == before.curve(2, "val_loss")
    assert {run.data.tags["mlflow.parentRunId"] for run in after.trials} == {after.studies[0].info.run_id}


def test_what_another_has_written_meanwhile_is_not_written_again(uri: str) -> None:
    """Of two runners on one MLflow, one connects while the other is in the middle of a trial."""
    trials = [a_trial(number) for number in range(4)]
    one = Tracker(uri, None, STUDY, trials[:1])
    wait_until(lambda: bool(one._written))
    found = Reader(uri)
    [half_written] = found.trials
    found.client.update_run(half_written.info.run_id, status="RUNNING")
    other = Tracker(uri, None, STUDY, [])
    other.trial(trials[1])
    wait_until(lambda: bool(other._written))
    found.client.set_terminated(half_written.info.run_id)
    one.trial(trials[2])
    assert one.finish(Closing(False, ENDED, to_be_continued=True), PATIENT) == TrackingOutcome(2, 0, None)

    other.catch_up(trials, trials)
    assert finish(other, compared=[0, 1]) == TrackingOutcome(4, 0, None)
    after = Reader(uri)
    assert after.numbers == [0, 1, 2, 3]
    assert after.trials[0].info.run_id == half_written.info.run_id
    link = comparison_link(uri, "digits")
    assert link is not None
    assert half_written.info.run_id in link


def test_who_comes_late_and_leaves_the_rest_to_another_leaves_a_completed_study_so(uri: str) -> None:
    track(uri, [a_trial(0)])
    late = Tracker(uri, None, STUDY, [a_trial(0)])
    wait_until(lambda: bool(late._written))
    assert late.finish(Closing(False, ENDED + timedelta(hours=1), to_be_continued=True), PATIENT).message is None
    (study,) = Reader(uri).studies
    assert (study.info.status, study.info.end_time) == ("FINISHED", ENDED.timestamp() * 1000)


def test_a_search_is_told_how_many_trials_a_server_has_lost(uri: str) -> None:
    tracker = Tracker(uri, None, STUDY, [a_trial(0), a_trial(1)])
    wait_until(lambda: len(tracker._written) == 2)
    found = Reader(uri)
    found.client.set_tag(found.trials[0].info.run_id, "regsearch.study_id", "not there")
    outcome = finish(tracker)
    assert (outcome.written, outcome.missing) == (1, 1)
    assert "it had taken them, and holds them no longer" in str(outcome.message)
    assert "regsearch sync --study digits" in str(outcome.message)


def test_who_was_alone_does_not_look_again(uri: str) -> None:
    tracker = Tracker(uri, None, STUDY, [a_trial(0)])
    tracker.trial(a_trial(1))
    wait_until(lambda: len(tracker._written) == 2)
    found = Reader(uri)
    found.client.delete_run(found.trials[0].info.run_id)
    tracker.catch_up([a_trial(0), a_trial(1)], [a_trial(0), a_trial(1)])
    assert finish(tracker) == TrackingOutcome(2, 0, None)
    assert Reader(uri).numbers == [1]


def test_a_deleted_experiment_comes_back(uri: str) -> None:
    track(uri, [a_trial(0)])
    found = Reader(uri)
    found.client.delete_experiment(found.experiment.experiment_id)
    tracker = Tracker(uri, None, STUDY, [a_trial(0), a_trial(1)])
    assert finish(tracker).missing == 0
    assert Reader(uri).numbers == [0, 1]


def test_two_studies_of_one_name_do_not_take_each_others_trials(uri: str) -> None:
    for identity in ("mine", "yours"):
        study = TrackedStudy("digits", "{}", "", identity=identity)
        assert track(uri, [a_trial(0)], study=study).missing == 0
    found = Reader(uri)
    assert found.numbers == [0, 0]
    assert len(found.studies) == 2


def test_losses_that_are_no_numbers_and_long_trials_are_written(uri: str) -> None:
    nan, inf = math.nan, math.inf
    rows = (EpochResult(1, 0.5, 0.7, 0.5, 0.0), EpochResult(2, inf, nan, nan, 0.0), EpochResult(3, nan, inf, 0.1, 0.0))
    diverged = TrialRecord(0, {"l1": nan}, Reason.DIVERGED, rows, STARTED, STARTED)
    hopeless = TrialRecord(1, {"l1[0]": inf}, Reason.DIVERGED, rows[1:], STARTED, STARTED)
    assert track(uri, [diverged, hopeless, a_trial(2, epochs=300)]) == TrackingOutcome(3, 0, None)
    found = Reader(uri)
    assert found.trials[0].data.metrics["best_val_loss"] == 0.7
    values = [value for _, value in found.curve(0, "val_loss")]
    assert values[0] == 0.7
    assert all(math.isnan(value) for value in values[1:])
    assert found.trials[1].data.params == {"l1_0_": "inf"}
    assert len(found.curve(2, "val_accuracy")) == 300


def test_a_server_that_is_down_neither_stops_the_search_nor_loses_a_trial(server: MLflowServer, tmp_path: Path) -> None:
    server.kill()
    trials = [a_trial(number) for number in range(200)]
    began = time.monotonic()
    tracker = Tracker(server.uri, None, STUDY, trials[:100])
    for record in trials[100:]:
        tracker.trial(record)
    assert time.monotonic() - began < 1.0
    assert "Connection refused" in wait_for_notice(tracker)
    outcome = finish(tracker)
    assert (outcome.written, outcome.missing) == (0, 200)
    assert outcome.message is not None
    assert "regsearch sync --study digits" in outcome.message
    assert tracker.notice() is None

    server.start()
    tracker = Tracker(server.uri, tmp_path, STUDY, trials[:20])
    assert finish(tracker, artifacts={"best.toml": b"x"}) == TrackingOutcome(20, 0, None)
    found = Reader(server.uri)
    assert found.numbers == list(range(20))
    assert found.artifacts() == {"best.toml", "spec.json"}
    assert found.experiment.artifact_location.startswith("mlflow-artifacts:")


def test_a_server_that_is_killed_and_restarted_gets_everything_once(server: MLflowServer) -> None:
    study = TrackedStudy("it's restarted", "{}", "")
    trials = [a_trial(number) for number in range(100)]
    nan = EpochResult(1, math.nan, math.inf, 0.1, 0.0)
    trials.append(TrialRecord(100, {"l1": math.nan}, Reason.DIVERGED, (nan,), STARTED, STARTED))
    server.start()
    tracker = Tracker(server.uri, None, study, [])
    for record in trials:
        tracker.trial(record)
    wait_until(lambda: len(tracker._written) >= 3)
    server.kill()
    assert "cannot be written" in wait_for_notice(tracker)
    assert len(tracker._written) < 100
    server.start()
    assert "takes trials again" in wait_for_notice(tracker)
    assert finish(tracker) == TrackingOutcome(101, 0, None)
    found = Reader(server.uri, "it's restarted")
    assert found.numbers == list(range(101))
    assert {run.info.status for run in found.trials[:100]} == {"FINISHED"}


def test_the_end_of_a_search_waits_for_a_server_no_longer_than_it_may(silent_uri: str) -> None:
    outcome = Tracker(silent_uri, None, STUDY, [a_trial(0)]).finish(Closing(False, ENDED), PATIENT, limit=0.5)
    assert "it took longer than 0.5 s" in str(outcome.message)


def test_a_server_that_never_answers_is_given_up(silent_uri: str) -> None:
    tracker = Tracker(silent_uri.replace("//", "//user:hunter2@"), None, STUDY, [a_trial(0)])
    tracker.trial(a_trial(1))
    outcome = finish(tracker, timeout=1.5)
    assert (outcome.written, outcome.missing) == (0, 2)
    assert outcome.message is not None
    assert "no progress for 1.5 s" in outcome.message
    assert "hunter2" not in outcome.message
    assert finish(tracker) == outcome


def test_the_users_own_timeout_is_respected(silent_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1000")
    patient = Tracker(silent_uri, None, STUDY, [a_trial(0)])
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    tracker = Tracker(silent_uri, None, STUDY, [a_trial(0)])
    assert "timed out" in wait_for_notice(tracker)
    assert not patient._notices
    for each in (patient, tracker):
        each.abandon()


@pytest.mark.parametrize("wrong", ["ftp://user:hunter2@nowhere/x", "not a uri", "sqlite:////proc/none/mlflow.db"])
def test_a_wrong_address_is_told(wrong: str) -> None:
    tracker = Tracker(wrong, None, STUDY, [a_trial(0)])
    assert "hunter2" not in wait_for_notice(tracker)
    outcome = finish(tracker)
    assert outcome.missing == 1
    assert outcome.message is not None
    assert "hunter2" not in outcome.message


def test_a_damaged_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database " * 1000)
    outcome = track(default_tracking_uri(tmp_path), [a_trial(0)])
    assert outcome.missing == 1
    assert outcome.message is not None
    assert "file is not a database" in outcome.message


def test_a_param_that_is_refused_costs_neither_its_trial_nor_another(uri: str) -> None:
    """Refused by a database that works: 250 characters is the longest name."""
    refused = TrialRecord(1, {"x" * 300: 1.0, "l1": 0.5}, Reason.COMPLETED, (), STARTED, STARTED)
    tracker = Tracker(uri, None, STUDY, [a_trial(0), refused, a_trial(2)])
    assert finish(tracker) == TrackingOutcome(3, 0, None)
    assert f"refuses param {'x' * 300}" in str(tracker.notice())
    found = Reader(uri)
    assert [run.info.status for run in found.trials] == ["FINISHED"] * 3
    assert found.trials[1].data.params == {"l1": "0.5"}


def test_artifacts_that_cannot_be_stored_hold_up_no_trial(uri: str, tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    root.write_text("a file where a folder should be")
    outcome = track(uri, [a_trial(0)], root, artifacts={"gone.bin": tmp_path / "gone"})
    assert (outcome.written, outcome.missing) == (1, 0)
    assert outcome.message is not None
    assert "could not be stored" in outcome.message
    assert Reader(uri).studies[0].info.status == "FINISHED"


def test_a_killed_process_is_told_and_its_trials_are_written_next_time(uri: str) -> None:
    trials = [a_trial(number) for number in range(30)]
    tracker = Tracker(uri, None, STUDY, [])
    tracker.trial(trials[0])
    wait_until(lambda: bool(tracker._written))
    assert tracker._process is not None
    os.kill(tracker._process.pid, signal.SIGINT)  # a Ctrl-C that gets through all the same
    time.sleep(0.1)
    assert tracker.notice() is None
    os.kill(tracker._process.pid, signal.SIGKILL)
    assert "ended unexpectedly" in wait_for_notice(tracker)
    for record in trials[1:]:
        tracker.trial(record)
    outcome = finish(tracker)
    assert (outcome.written + outcome.missing, outcome.missing) == (30, 29)

    assert finish(Tracker(uri, None, STUDY, trials)) == TrackingOutcome(30, 0, None)
    assert Reader(uri).numbers == list(range(30))


def test_abandoning_leaves_at_once(silent_uri: str) -> None:
    tracker = Tracker(silent_uri, None, STUDY, [a_trial(0)])
    began = time.monotonic()
    tracker.abandon()
    tracker.abandon()
    tracker.trial(a_trial(1))
    assert finish(tracker).missing == 2
    assert time.monotonic() - began < 2.0
    assert tracker.notice() is None


def test_what_a_dying_search_has_sent_is_written(uri: str, tmp_path: Path) -> None:
    records = tmp_path / "records"
    records.write_bytes(pickle.dumps((STUDY, [a_trial(number) for number in range(3)])))
    script = (
        "import os, pickle, sys, time\n"
        "from search.tracking import Tracker\n"
        "study, trials = pickle.load(open(sys.argv[2], 'rb'))\n"
        "tracker = Tracker(sys.argv[1], None, study, trials)\n"
        "while not tracker._outbox.empty(): time.sleep(0.01)\n"
        "time.sleep(0.1); assert 'mlflow' not in sys.modules; os.kill(os.getpid(), 9)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    died = subprocess.run(
        [sys.executable, "-c", script, uri, records], env=environment, capture_output=True, timeout=60
    )
    assert (died.returncode, died.stderr, died.stdout) == (-signal.SIGKILL, b"", b"")
    wait_until(lambda: _closed_by_the_orphan(uri))
    found = Reader(uri)
    assert found.numbers == [0, 1, 2]
    assert found.studies[0].info.status == "KILLED"


def _closed_by_the_orphan(uri: str) -> bool:
    from mlflow.tracking import MlflowClient

    if MlflowClient(uri).get_experiment_by_name("digits") is None:
        return False
    return [run.info.status for run in Reader(uri).studies] == ["KILLED"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:hunter2@host:5000/x failed", "http://***@host:5000/x failed"),
        ("postgresql://u:hun/ter@2@host/db", "postgresql://***@host/db"),
        ("http://host/?password=hunter2&x=1", "http://host/?password=***&x=1"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
    ],
)
def test_passwords_are_never_shown(text: str, shown: str) -> None:
    assert without_passwords(text, text.split()[0]) == shown


def test_a_home_folder_with_odd_characters_works(database: Path, tmp_path: Path) -> None:
    home = tmp_path / "my 100%20 home?#1"
    home.mkdir()
    shutil.copy(database, home / "mlflow.db")
    assert track(default_tracking_uri(home), [a_trial(0)], home / "artifacts").message is None
    assert (home / "artifacts").is_dir()
    with closing(sqlite3.connect(home / "mlflow.db")) as connection:
        assert connection.execute("select count(*) from runs where name like 'trial-%'").fetchone() == (1,)
