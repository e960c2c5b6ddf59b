"""MLflow's database file in a home is made whole, by one process, and anew where its making was cut off."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from mlflow_runs import Reader

from search.records import EpochResult, Reason, TrialRecord
from search.tracking import Closing, TrackedStudy, Tracker, TrackingOutcome, artifact_root, default_tracking_uri
from search.tracking import database as made
from search.tracking.location import database_file
from search.tracking.messages import Opening

NOW = datetime(2026, 1, 2, tzinfo=UTC)
STUDY = TrackedStudy("digits", "{}", "")
TRIALS = [TrialRecord(n, {"l1": 0.1}, Reason.COMPLETED, (EpochResult(1, 1, 1, 1, 0),), NOW, NOW) for n in range(3)]
KILLED_AT = (1, 30, 250, 400)
"""Statements: before the first table, before there is a version, and twice amid the copying of a table."""


@pytest.fixture(scope="module")
def half_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Databases whose making was killed, as by MLflow itself or an earlier version."""
    folder = tmp_path_factory.mktemp("half")
    script = Path(__file__).with_name("half_made.py")
    subprocess.run([sys.executable, script, folder, *map(str, KILLED_AT)], capture_output=True, check=True)
    for path in folder.glob("*.db*"):
        os.utime(path, (0, 0))
    return folder


def tables(file: Path) -> set[str]:
    with closing(sqlite3.connect(file)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def execute(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def old(file: Path) -> Path:
    """Let a file look as if nobody had written to it for long."""
    os.utime(file, (0, 0))
    return file


def finish(tracker: Tracker) -> TrackingOutcome:
    return tracker.finish(Closing(False, NOW), 120.0)


@pytest.fixture
def whole(database: Path, tmp_path: Path) -> Path:
    shutil.copy(database, tmp_path / "mlflow.db")
    return old(tmp_path / "mlflow.db")


def a_maker(monkeypatch: pytest.MonkeyPatch, template: Path) -> list[Path]:
    """Let a new database be a copy of the template; return the list of those that are made."""
    files: list[Path] = []

    class Store:
        def __init__(self, uri: str, _root: str) -> None:
            part = database_file(uri)
            assert part is not None
            shutil.copy(template, part)
            files.append(part)

        def _dispose_engine(self) -> None: ...

    monkeypatch.setattr("mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore", Store)
    return files


def test_killed_makings_leave_what_mlflow_can_never_mend(half_made: Path) -> None:
    assert tables(half_made / "1.db") == set()
    assert "_alembic_tmp_latest_metrics" in tables(half_made / "250.db")
    assert "_alembic_tmp_trace_tags" in tables(half_made / "400.db")


@pytest.mark.parametrize("statement", KILLED_AT)
def test_a_half_made_database_is_made_anew(
    half_made: Path, statement: int, tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    file = home / "mlflow.db"
    for path in half_made.glob(f"{statement}.db*"):
        shutil.copy2(path, home / path.name.replace(f"{statement}.db", "mlflow.db"))
    files = a_maker(monkeypatch, database)
    uri = default_tracking_uri(home)
    with made.opened(uri, artifact_root(uri)) as notice:
        assert notice is None or f"{file} was half-made" in notice
    with made.opened(uri, artifact_root(uri)) as notice:
        assert notice is None
    assert len(files) == 1
    assert tables(file) == tables(database)
    assert {path.name for path in home.iterdir()} == {"mlflow.db", "mlflow.db.lock"}


def test_several_first_searches_make_one_database_one_experiment_and_one_run_of_the_study(
    half_made: Path, tmp_path: Path
) -> None:
    shutil.copy(half_made / "30.db", tmp_path / "mlflow.db.part")  # of a process that was killed
    (tmp_path / "mlflow.db.part-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" * 100)
    uri = default_tracking_uri(tmp_path)
    trackers = [Tracker(uri, artifact_root(uri), STUDY, TRIALS[n : n + 1]) for n in range(3)]
    assert [finish(tracker) for tracker in trackers] == [TrackingOutcome(1, 0, None)] * 3
    found = Reader(uri)
    assert len(found.studies) == 1
    assert sorted(found.numbers) == [0, 1, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock", "artifacts"}
    assert {experiment.artifact_location for experiment in found.client.search_experiments()} == {
        (tmp_path / "artifacts/mlflow").as_uri(),
        (tmp_path / "artifacts/mlflow/0").as_uri(),
    }


def test_a_database_with_runs_that_is_half_changed_is_kept_and_its_study_written_anew(whole: Path) -> None:
    from search.tracking.writer import MlflowWriter

    uri = default_tracking_uri(whole.parent)
    writer = MlflowWriter(Opening(uri, artifact_root(uri), STUDY, NOW), lambda: None)
    for trial in TRIALS:
        assert writer.write(trial)
    # As an upgrade of MLflow's schema that was killed leaves it.
    execute(whole, "UPDATE alembic_version SET version_num = '97727af70f4d'", "CREATE TABLE _alembic_tmp_tags (a)")
    old(whole)
    tracker = Tracker(uri, artifact_root(uri), STUDY, TRIALS)
    assert finish(tracker) == TrackingOutcome(3, 0, None)
    [aside] = whole.parent.glob("mlflow.db.half-made-*")
    notice = " ".join(iter(tracker.notice, None))
    assert f"holds runs, is kept as {aside.name}" in notice
    assert "`sync` writes each other study" in notice
    assert Reader(uri).numbers == [0, 1, 2]
    with closing(sqlite3.connect(aside)) as connection:
        assert connection.execute("SELECT count(*) FROM runs WHERE name LIKE 'trial-%'").fetchone() == (3,)


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE _alembic_tmp_tags (a)"],  # two that made it at once, and one came through
        [
            "UPDATE alembic_version SET version_num = '97727af70f4d'",
            "INSERT INTO registered_models (name) VALUES ('m')",
        ],
        ["UPDATE alembic_version SET version_num = 'ffffffffffff'"],  # a later MLflow's
    ],
    ids=["whole", "older", "newer"],
)
def test_a_database_that_mlflow_opens_or_can_upgrade_is_left_alone(whole: Path, statements: list[str]) -> None:
    execute(whole, *statements)
    content = old(whole).read_bytes()
    with made.opened(default_tracking_uri(whole.parent), None) as notice:
        assert notice is None
    assert whole.read_bytes() == content


@pytest.mark.parametrize("content", [b"no database " * 1000, None], ids=["not SQLite", "another program's"])
def test_a_file_of_another_program_is_left_alone(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "mlflow.db"
    if content is None:
        execute(file, "CREATE TABLE mine (a)")
    else:
        file.write_bytes(content)
    before = old(file).read_bytes()
    with made.opened(default_tracking_uri(tmp_path), tmp_path / "artifacts") as notice:
        assert notice is None
    assert file.read_bytes() == before


def test_another_program_that_makes_it_in_place_is_waited_for(half_made: Path, tmp_path: Path, whole: Path) -> None:
    complete = whole.rename(tmp_path / "complete.db")
    shutil.copyfile(half_made / "400.db", whole)
    threading.Thread(target=lambda: (time.sleep(1), os.replace(complete, whole))).start()
    with made.opened(default_tracking_uri(tmp_path), None) as notice:
        assert notice is None


def test_a_lock_that_another_process_keeps_is_told_after_a_while(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    monkeypatch.setattr(made, "_LOCK_SECONDS", 0.2)
    uri = default_tracking_uri(whole.parent)
    with (
        FileLock(f"{whole}.lock"),
        pytest.raises(TimeoutError, match=r"another process has kept .*mlflow\.db\.lock locked for 0 s"),
        made.opened(uri, None),
    ):
        pass
