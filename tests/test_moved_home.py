"""A home can be moved, renamed, copied and linked to: what is done in one place changes nothing in another."""

import fcntl
import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from conftest import regsearch
from mlflow_runs import Reader

from search.study import Study, close_storage, open_storage
from search.study.leases import runners_of, sign_of_life
from search.study.roster import standing
from search.tracking import artifact_root, default_tracking_uri
from search.tracking.database import opened
from search.tracking.relocation import correct_locations


def content(home: Path) -> dict[str, str]:
    """Return all files of a home with the digests of what is in them."""
    files = (path for path in home.rglob("*") if path.is_file())
    return {str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def named_places(home: Path, text: str) -> set[str]:
    """Return where in a home's files a text stands; a database's file holds what was overwritten in it, too."""
    found = {
        str(path.relative_to(home))
        for path in home.rglob("*")
        if path.is_file() and path.suffix != ".db" and text.encode() in path.read_bytes()
    }
    with closing(sqlite3.connect(home / "mlflow.db")) as connection:
        return found | {f"mlflow.db: {line[:40]}" for line in connection.iterdump() if text in line}


def correct(home: Path) -> None:
    root = artifact_root(default_tracking_uri(home))
    assert root is not None
    correct_locations(home.resolve() / "mlflow.db", root)


@pytest.fixture(scope="module")
def template(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a confirmed study and a registered model, where it was made."""
    home = tmp_path_factory.mktemp("first") / "home"
    shutil.copytree(searched / "runs", home)
    regsearch("export", "--study", "tiny", "--home", str(home), "--out", str(home.parent / "model"))
    return home


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path / "home")
    correct(tmp_path / "home")
    return tmp_path / "home"


def test_no_file_of_a_home_names_the_place_that_it_was_copied_from(template: Path, home: Path) -> None:
    assert named_places(template, str(template)) >= {
        "artifacts/mlflow/models/" + next((template / "artifacts/mlflow/models").iterdir()).name + "/artifacts/MLmodel"
    }
    assert named_places(home, str(template)) == set()
    assert len(named_places(home, str(home))) == len(named_places(template, str(template)))


def test_running_a_copy_leaves_the_original_as_it_is(home: Path) -> None:
    copy = home.with_name("copy")
    shutil.copytree(home, copy)
    before = content(home)
    (copy / "artifacts/tiny/best.toml").write_text("# of the copy")
    (copy / "artifacts/tiny/report.html").write_text("of the copy")
    regsearch("sync", "--study", "tiny", "--home", str(copy))
    assert content(home) == before
    [study] = Reader(default_tracking_uri(copy), "tiny").studies
    assert study.info.artifact_uri == (copy / "artifacts/mlflow" / study.info.run_id / "artifacts").as_uri()
    assert (copy / "artifacts/mlflow" / study.info.run_id / "artifacts/report.html").read_text() == "of the copy"
    changed = content(copy)
    correct(home)  # as opening the original does
    assert content(copy) == changed
    assert content(home) == before


def test_a_moved_home_is_synced_and_its_registered_model_loads(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = home.rename(home.with_name("moved to 100% here?"))
    monkeypatch.chdir(moved.parent)
    regsearch("sync", "--study", "tiny", "--home", str(moved))
    assert named_places(moved, str(home)) == set()
    import mlflow.pytorch

    given = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(default_tracking_uri(moved))
    try:
        assert mlflow.pytorch.load_model("models:/tiny/1") is not None
    finally:
        mlflow.set_tracking_uri(given)
    assert not home.exists()


def test_mlflows_ui_looks_for_the_artifacts_of_a_moved_home_where_they_are(home: Path) -> None:
    moved = home.rename(home.with_name("moved"))
    # In a process of its own, since MLflow's server keeps its database for the rest of its process's life.
    code = "import sys; from search.tracking.server import mlflow_application; mlflow_application(*sys.argv[1:])"
    arguments = [default_tracking_uri(moved), (moved / "artifacts" / "mlflow").as_uri()]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    assert named_places(moved, str(home)) == set()


def test_a_link_to_a_home_that_leads_elsewhere_later_leads_no_artifact_back(home: Path) -> None:
    link = home.with_name("link")
    link.symlink_to(home)
    correct(link)
    assert named_places(home, str(link)) == set()
    copy = home.with_name("copy")
    shutil.copytree(home, copy)
    link.unlink()
    link.symlink_to(copy)
    correct(link)
    assert named_places(copy, str(home) + "/") == named_places(copy, str(link)) == set()
    assert len(named_places(copy, str(copy))) == len(named_places(home, str(home)))


def test_a_copy_made_before_there_were_artifacts_writes_none_to_the_original(home: Path) -> None:
    copy = home.with_name("copy")
    shutil.copytree(home, copy, ignore=lambda folder, _: ["mlflow"] if folder.endswith("artifacts") else [])
    correct(copy)
    assert named_places(copy, str(home) + "/") == set()


def test_a_copy_whose_database_is_locked_is_not_opened_as_it_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = home.with_name("copy")
    shutil.copytree(home, copy)
    monkeypatch.setattr("search.tracking.relocation.BUSY_SECONDS", 0.1)
    uri = default_tracking_uri(copy)
    with closing(sqlite3.connect(copy / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="database is locked"), opened(uri, artifact_root(uri)):
            pass
    with opened(uri, artifact_root(uri)):
        assert named_places(copy, str(home) + "/") == set()


def test_artifacts_that_another_home_keeps_for_a_database_stay_there(home: Path) -> None:
    """As earlier versions had them, with `--tracking-uri sqlite:///.../shared.db`."""
    shared = home.with_name("shared") / "shared.db"
    shared.parent.mkdir()
    shutil.copy(home / "mlflow.db", shared)
    before = shared.read_bytes()
    correct_locations(shared, shared.parent / "artifacts" / "mlflow")
    assert shared.read_bytes() == before


def test_a_copy_of_a_home_whose_study_is_being_run_is_run_by_nobody(home: Path) -> None:
    """And a home that is mounted or linked to elsewhere is run by those who run it."""
    storage = open_storage(None, home)
    study = Study.load("tiny", storage)
    study.join(home)
    try:
        copy = home.with_name("copy")
        shutil.copytree(home, copy)
        link = home.with_name("link")
        link.symlink_to(home)
        correct(copy)
        assert named_places(copy, str(home) + "/") == set()
        assert [each.life for each in standing("tiny", open_storage(None, link), link).runners] == ["alive"]
        assert [each.life for each in standing("tiny", open_storage(None, copy), copy).runners] == ["dead"]
        before = content(home)
        taken = Study.load("tiny", open_storage(None, copy))
        taken.hold(copy)
        taken.close()
        assert content(home) == before
    finally:
        study.close()
        close_storage(storage)


@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_a_runner_that_died_in_a_home_that_was_moved_is_known_to_be_dead(home: Path, storage: str) -> None:
    url = None if storage == "journal" else f"sqlite:///{home}/optuna.db"
    if url is None:
        study = Study.load("tiny", open_storage(None, home))
    else:
        from search.spec import StudySpec

        spec = StudySpec.from_json(Study.load("tiny", open_storage(None, home)).spec.to_json())
        study = Study.open("tiny", spec, open_storage(url, home), home)
        study.close()
    study.join(home)
    assert study._membership is not None
    lease = study._membership.lease
    lease._released.set()  # as when it is killed
    fcntl.flock(lease._file, fcntl.LOCK_UN)
    os.close(lease._file)
    study._membership = None
    close_storage(study._storage)
    moved = home.rename(home.with_name("moved"))
    opened = open_storage(None if url is None else f"sqlite:///{moved}/optuna.db", moved)
    attributes = opened.get_study_system_attrs(opened.get_study_id_from_name("tiny"))
    assert [sign_of_life(runner, moved) for runner in runners_of(attributes)] == ["dead"]
    close_storage(opened)
