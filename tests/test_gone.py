"""A study, or all of its storage, that somebody deletes while it is in use: whoever uses it ends at once."""

import shutil
import threading

import optuna
import pytest
import sqlalchemy
from conftest import regsearch
from fixed_study import curve, make_spec
from scripted import Notes, ScriptedCrew, ScriptedTrainer, falling

from search.errors import StudyGoneError
from search.pruning import NoPruner
from search.records import Reason
from search.runner import Runner
from search.stopping import StopRequest
from search.study import StoredStudy, Study, close_storage, open_storage
from search.study.gone import WatchedFile

DELETED = 'study "fixed" has been deleted while it was in use'


def delete(url, storage, tmp_path) -> None:
    """Delete the study as another program does, with plain Optuna."""
    opened = storage if url == "memory" else open_storage(url, tmp_path)
    optuna.delete_study(study_name="fixed", storage=opened)
    if opened is not storage:
        close_storage(opened)


def test_whoever_runs_reads_or_watches_a_study_that_is_deleted_is_told(url, storage, study, tmp_path):
    asked = study.ask()
    reader = StoredStudy.load("fixed", storage)
    following = reader.follow()
    following.look()
    dismissal = reader.dismiss(tmp_path)
    delete(url, storage, tmp_path)
    for use in (
        study.ask,
        lambda: study.report({asked.number: curve(0.5)[0]}),
        lambda: study.finish(asked.number, Reason.COMPLETED, curve(0.5)),
        study.news,
        study.unfinished,
        lambda: study.set_fact("time", {}),
        reader.summary,
        following.look,
        dismissal.answers,
    ):
        with pytest.raises(StudyGoneError, match=DELETED):
            use()


def test_a_search_whose_study_is_deleted_ends_at_once(url, storage, study, tmp_path):
    losses = falling(None)

    def deleted_amid_training(_assignment):
        return lambda epoch: losses(epoch) if epoch < 3 or watched.epochs != 2 else _delete_once()

    def _delete_once():
        if not done:
            done.append(delete(url, storage, tmp_path))
        return losses(3)

    done, watched = [], Notes()
    runner = Runner(
        study, ScriptedCrew(ScriptedTrainer(deleted_amid_training)), NoPruner(), None, watched, StopRequest(20)
    )
    with pytest.raises(StudyGoneError, match=DELETED):
        runner.run()


@pytest.fixture(params=["journal", "sqlite"])
def file_url(request, tmp_path):
    return None if request.param == "journal" else f"sqlite:///{tmp_path}/home/study.db"


def test_whoever_uses_a_home_that_is_deleted_is_told(file_url, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    storage = open_storage(file_url, home)
    study = Study.open("fixed", make_spec(), storage, home, patience=20)
    other = open_storage(file_url, home)
    reader = StoredStudy.load("fixed", other)
    following = reader.follow()
    asked = study.ask()
    shutil.rmtree(home)
    for use in (
        study.ask,
        lambda: study.report({asked.number: curve(0.5)[0]}),
        lambda: study.finish(asked.number, Reason.COMPLETED, curve(0.5)),
        study.news,
        reader.summary,
        following.look,
    ):
        with pytest.raises(StudyGoneError, match="has been deleted while it was in use"):
            use()
    study.set_aside(asked.number, Reason.COMPLETED, curve(0.5), None, None)
    study.close()
    close_storage(storage)
    close_storage(other)
    assert not home.exists()


def test_a_home_that_is_made_anew_is_not_written_to_by_a_search_of_the_old_one(file_url, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    old = Study.open("fixed", make_spec(), open_storage(file_url, home), home)
    asked = old.ask()
    shutil.rmtree(home)
    home.mkdir()
    new = Study.open("fixed", make_spec(), open_storage(file_url, home), home)
    begun = new.ask()
    for use in (old.ask, lambda: old.finish(asked.number, Reason.COMPLETED, curve(0.5)), old.news):
        with pytest.raises(StudyGoneError, match="another file has its name now"):
            use()
    assert new.records() == []
    assert new.report({begun.number: curve(0.5)[0]}) == set()
    for study in (old, new):
        study.close()


def test_a_study_that_takes_a_deleted_one_s_place_in_sqlite_is_not_written_to(tmp_path):
    """SQLite gives its number, and those of its trials, to the next one."""
    storage = open_storage(f"sqlite:///{tmp_path}/study.db", tmp_path)
    old = Study.open("fixed", make_spec(), storage, tmp_path)
    asked = old.ask()
    old.report({asked.number: curve(0.5)[0]})
    optuna.delete_study(study_name="fixed", storage=storage)
    new = Study.open("fixed", make_spec(), storage, tmp_path)
    begun = new.ask()
    assert new._study_id == old._study_id
    for use in (lambda: old.report({asked.number: curve(0.5)[0]}), old.ask, old.news, old.summary):
        with pytest.raises(StudyGoneError, match=DELETED):
            use()
    assert new._study.trials[begun.number].intermediate_values == {}
    for study in (old, new):
        study.close()
    close_storage(storage)


def test_a_database_that_is_dropped_ends_whoever_uses_it(postgresql, tmp_path):
    storage = open_storage(postgresql, tmp_path)
    study = Study.open("fixed", make_spec(), storage, tmp_path, patience=20)
    other = open_storage(postgresql, tmp_path)
    following = StoredStudy.load("fixed", other).follow()
    asked = study.ask()
    url = sqlalchemy.make_url(postgresql)
    server = sqlalchemy.create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(sqlalchemy.text(f"drop database {url.database} with (force)"))
    server.dispose()
    for use in (study.ask, lambda: study.finish(asked.number, Reason.COMPLETED, curve(0.5)), following.look):
        with pytest.raises(StudyGoneError, match="the database has been deleted while it was in use"):
            use()
    study.close()
    close_storage(storage)
    close_storage(other)


def test_a_file_system_that_is_not_there_is_waited_for(tmp_path):
    """Nothing tells the two apart but that the folders above are then on another device."""
    path = tmp_path / "home" / "optuna.journal"
    path.parent.mkdir()
    path.write_text("")
    watched = WatchedFile(path)
    watched._identity = (watched._identity[0] + 1, watched._identity[1])
    shutil.rmtree(path.parent)
    watched.check()


def test_who_watches_a_study_that_is_deleted_sees_the_end(tmp_path):
    study = Study.open("fixed", make_spec(), open_storage(None, tmp_path), tmp_path)
    study.ask()
    timer = threading.Timer(1.0, lambda: delete(None, None, tmp_path))
    timer.start()
    told = regsearch("watch", "--study", "fixed", "--home", str(tmp_path), "--interval", "0.1", code=1)
    assert DELETED in told
    timer.join()
    study.close()
