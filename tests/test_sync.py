"""`regsearch sync`: what MLflow misses of a study is written from Optuna's storage, once, and as a search writes it."""

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import SPEC, regsearch
from mlflow_runs import Reader
from mlflow_server import free_port

from search.records import EpochResult, Reason
from search.spec import load_spec
from search.study import Study, open_storage
from search.tracking import default_tracking_uri

FAST = ("--workers=0", "--engine=looped", "--precision=fp32", "--no-confirm")


def told(uri: str) -> dict[str, dict[str, Any]]:
    """Return all that MLflow says of the runs of study `tiny`, by name; runs are named where it has its own ids."""
    found = Reader(uri, "tiny")
    runs = [*found.studies, *found.trials]
    names = {run.info.run_id: run.info.run_name for run in runs}
    names[f"%22{found.experiment.experiment_id}%22"] = "experiment"
    return {run.info.run_name: _told(found, run, names) for run in runs} | {
        "artifacts": {"names": found.artifacts()},
        "experiment": dict(found.experiment.tags),
    }


def _told(found: Reader, run: Any, names: dict[str, str]) -> dict[str, Any]:
    tags = dict(run.data.tags)
    for theirs, name in names.items():
        tags = {key: value.replace(theirs, name) for key, value in tags.items()}
    curves = {
        name: [(point.step, point.value) for point in found.client.get_metric_history(run.info.run_id, name)]
        for name in ("train_loss", "val_loss", "val_accuracy", "gap")
    }
    return {
        "status": run.info.status,
        "times": (run.info.start_time, run.info.end_time),
        "tags": tags,
        "params": run.data.params,
        "metrics": run.data.metrics,
        "curves": curves,
        "data": [
            (given.dataset.name, given.dataset.digest, given.dataset.source) for given in run.inputs.dataset_inputs
        ],
    }


def raw(uri: str) -> list[Any]:
    """Return MLflow's runs with their own ids, and how many values each has of each metric."""
    found = Reader(uri, "tiny")
    runs = [*found.studies, *found.trials]
    return [
        (
            run.to_dictionary(),
            {name: len(found.client.get_metric_history(run.info.run_id, name)) for name in run.data.metrics},
        )
        for run in runs
    ]


@pytest.fixture
def elsewhere(database: Path, tmp_path: Path) -> str:
    """Another tracking server, empty."""
    shutil.copy(database, tmp_path / "mlflow.db")
    return default_tracking_uri(tmp_path)


def sync(home: Path, uri: str, code: int = 0) -> str:
    return regsearch("sync", "--study", "tiny", "--home", str(home), "--tracking-uri", uri, code=code)


def test_another_server_gets_what_a_search_wrote(searched: Path, elsewhere: str) -> None:
    home = searched / "runs"
    assert "6 trials: 6 written, 0 were there" in sync(home, elsewhere)
    original = told(default_tracking_uri(home))
    assert told(elsewhere) == original
    roles = {name: run["tags"].get("regsearch.confirmed") for name, run in original.items() if "tags" in run}
    assert {"best", "baseline"} <= {role for joined in roles.values() if joined for role in joined.split(", ")}
    assert {"report.html", "best.toml", "best.safetensors", "confirmed.json"} <= original["artifacts"]["names"]
    assert len({tuple(run["params"]) for name, run in original.items() if name.startswith("trial-")}) == 1


def test_a_second_time_adds_nothing(searched: Path, elsewhere: str) -> None:
    sync(searched / "runs", elsewhere)
    before = raw(elsewhere)
    assert "6 trials: 0 written, 6 were there" in sync(searched / "runs", elsewhere)
    assert raw(elsewhere) == before


def test_what_is_half_written_is_put_right(searched: Path, elsewhere: str) -> None:
    home = searched / "runs"
    sync(home, elsewhere)
    found = Reader(elsewhere, "tiny")
    client, [study], trials = found.client, found.studies, found.trials
    client.update_run(study.info.run_id, status="RUNNING", name="tiny")
    client.update_run(trials[1].info.run_id, status="RUNNING")
    client.delete_run(trials[3].info.run_id)
    client.set_tag(trials[4].info.run_id, "regsearch.confirmed", "worst")
    client.delete_tag(trials[0].info.run_id, "regsearch.confirmed")
    assert "6 trials: 2 written, 4 were there" in sync(home, elsewhere)
    assert told(elsewhere) == told(default_tracking_uri(home))


def test_a_search_without_its_server_is_written_as_one_with_it(tmp_path: Path, database: Path, elsewhere: str) -> None:
    (tmp_path / "tiny.toml").write_text(SPEC.replace("trials = 6", "trials = 4"))
    up, down, nowhere = tmp_path / "up", tmp_path / "down", f"http://me:hunter2@127.0.0.1:{free_port()}"
    up.mkdir()
    shutil.copy(database, up / "mlflow.db")
    start = ("start", "--study", str(tmp_path / "tiny.toml"), *FAST, "--home")
    regsearch(*start, str(up))
    ended = regsearch(*start, str(down), "--tracking-uri", nowhere)
    masked = nowhere.replace("me:hunter2", "***")
    again = f"`regsearch sync --study tiny --home {down} --tracking-uri '{masked}'` writes what MLflow misses"
    assert again in " ".join(ended.split())

    failed = sync(down, nowhere, code=1)
    assert "4 of 4 trials could not be written" in failed
    assert "hunter2" not in ended + failed
    assert "4 trials: 4 written, 0 were there" in sync(down, elsewhere)
    assert _without_times(told(elsewhere)) == _without_times(told(default_tracking_uri(up)))


def _without_times(runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what two searches for the same thing have in common."""
    for run in runs.values():
        run.pop("times", None)
        run.get("metrics", {}).pop("wall_seconds", None)
        run.get("tags", {}).pop("regsearch.study_id", None)
    return runs


def test_a_study_that_is_being_run_is_left_to_its_search(searched: Path, elsewhere: str) -> None:
    running = Study.load("tiny", open_storage(None, searched / "runs"))
    running.hold(searched / "runs")
    try:
        assert 'study "tiny" is being run right now' in sync(searched / "runs", elsewhere, code=1)
    finally:
        running.close()
    assert "6 written" in sync(searched / "runs", elsewhere)


def test_a_study_of_an_earlier_version_is_written_too(tmp_path: Path, elsewhere: str) -> None:
    """It does not say when its searches ran, on what, or who trained its trials; and this one was killed."""
    (tmp_path / "tiny.toml").write_text(SPEC)
    study = Study.open("tiny", load_spec(str(tmp_path / "tiny.toml")), open_storage(None, tmp_path), tmp_path)
    study.finish(study.ask().number, Reason.COMPLETED, [EpochResult(1, 0.5, 0.75, 0.5, 0.0)])
    study.ask()
    study.close()
    assert "1 trial: 1 written, 0 were there" in sync(tmp_path, elsewhere)
    assert "1 trial: 0 written, 1 were there" in sync(tmp_path, elsewhere)
    found = Reader(elsewhere, "tiny")
    [run], [trial], [record] = found.studies, found.trials, study.records()
    assert (run.info.status, run.info.run_name) == ("KILLED", "tiny: best 0.7500")
    assert trial.info.run_name == "trial-0000 0.7500 completed, baseline"
    assert abs(run.info.start_time - record.started.timestamp() * 1000) <= 1
    assert run.info.end_time == trial.info.end_time
    assert timedelta(milliseconds=run.info.end_time - run.info.start_time) >= timedelta(0)


def test_there_must_be_such_a_study(searched: Path, elsewhere: str) -> None:
    told = regsearch("sync", "--study", "tinny", "--home", str(searched / "runs"), "--tracking-uri", elsewhere, code=2)
    assert 'there is no study "tinny"; did you mean "tiny"?' in told
