"""Several writes in one commit: all or none of them, on every storage that can promise it."""

import optuna
import pytest
import sqlalchemy
from optuna.storages import InMemoryStorage, RDBStorage

from search.errors import StorageError
from search.study.commits import one_commit
from search.study.storage import storage_errors


@pytest.fixture
def trial(storage) -> int:
    """The id of a running trial."""
    study = optuna.create_study(study_name="s", storage=storage)
    study.ask()
    return storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name("s"), 0)


def test_all_that_was_written_is_there(storage, trial):
    with one_commit(storage):
        storage.set_trial_user_attr(trial, "a", 1)
        storage.set_trial_user_attr(trial, "b", [2])
        storage.set_trial_intermediate_value(trial, 1, 0.5)
    with one_commit(storage):
        pass
    stored = storage.get_trial(trial)
    assert (stored.user_attrs, stored.intermediate_values) == ({"a": 1, "b": [2]}, {1: 0.5})


def test_a_block_that_fails_writes_nothing(storage, trial):
    if isinstance(storage, InMemoryStorage):
        pytest.skip("memory writes at once, and is gone with the process that failed")

    def fail() -> None:
        with one_commit(storage):
            storage.set_trial_user_attr(trial, "a", 1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert storage.get_trial(trial).user_attrs == {}
    storage.set_trial_user_attr(trial, "b", 2)
    assert storage.get_trial(trial).user_attrs == {"b": 2}


def test_others_see_nothing_before_the_end(url, storage, trial, tmp_path):
    if url == "memory":
        pytest.skip("memory is nobody else's")
    from search.study import close_storage, open_storage

    other = open_storage(url, tmp_path)
    with one_commit(storage):
        storage.set_trial_user_attr(trial, "a", 1)
        assert other.get_trial(trial).user_attrs == {}
    assert other.get_trial(trial).user_attrs == {"a": 1}
    close_storage(other)


@pytest.mark.parametrize("last", [True, False])
def test_what_a_database_refuses_in_silence_is_told(storage, trial, last):
    if not isinstance(storage, RDBStorage):
        pytest.skip("no database")

    def be_refused() -> None:
        with storage_errors(storage), one_commit(storage):
            storage.set_trial_user_attr(trial, "a", 1)
            # What some of Optuna's calls do when another process has written the same: roll back, and say nothing.
            session = storage.scoped_session()
            session.execute(sqlalchemy.text("select 1"))
            session.rollback()
            if not last:
                storage.set_trial_user_attr(trial, "b", 2)

    with pytest.raises(StorageError):
        be_refused()
    storage.set_trial_user_attr(trial, "c", 3)
    assert storage.get_trial(trial).user_attrs == {"c": 3}


def test_a_database_commits_once(storage, trial):
    if not isinstance(storage, RDBStorage):
        pytest.skip("no database")
    commits = []
    sqlalchemy.event.listen(storage.engine, "commit", commits.append)
    with one_commit(storage):
        for step in range(5):
            storage.set_trial_intermediate_value(trial, step, 0.5)
    assert len(commits) == 1
