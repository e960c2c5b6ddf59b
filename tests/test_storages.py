"""Storages as a user names them: what is opened, what is refused and why, and that no password is shown."""

import sqlite3
import sys

import pytest
from fixed_study import make_spec
from optuna.storages import RDBStorage

from search.errors import StorageError
from search.printable import mask_password
from search.study import Study, close_storage, list_studies, open_storage


def test_a_plain_path_and_a_journal_url_are_journals(tmp_path):
    Study.open("fixed", make_spec(), open_storage(str(tmp_path / "deep" / "j.log"), tmp_path), tmp_path).close()
    assert [s.study for s in list_studies(open_storage(f"journal://{tmp_path}/deep/j.log", tmp_path))] == ["fixed"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://h:6379", "Redis.*unpickles"),
        ("journal+redis://u:secret@h", "Redis.*unpickles"),
        ("postgres://u:secret@h/db", 'not a storage; did you mean "postgresql"'),
        ("http://u:secret@h/db", "http:// is not a storage"),
        ("journal://j.log", "three slashes"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:////no/such/folder/s.db", "No such file or directory"),
        ("postgresql+psycopg2://u:secret@h:port/db", "not a valid database URL"),
        ("postgresql+pony://u:secret@h/db", "not a valid database URL"),
    ],
)
def test_storages_that_cannot_be_opened_say_why(tmp_path, url, message):
    with pytest.raises(StorageError, match=message) as raised:
        open_storage(url, tmp_path)
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_missing_driver_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StorageError, match=r"pip install 'psycopg\[binary\]'"):
        open_storage("postgresql+psycopg://u:secret@h/db", tmp_path)


def test_a_drivers_message_does_not_show_the_password(tmp_path, monkeypatch):
    def unreachable(url, **_):
        raise sqlite3.OperationalError(f"cannot connect to {url}: p@ss refused")

    monkeypatch.setattr("sqlalchemy.create_engine", unreachable)
    with pytest.raises(StorageError, match=r"user:\*\*\*@host.*\*\*\* refused") as raised:
        open_storage("postgresql://user:p%40ss@host/db", tmp_path)
    assert "p%40ss" not in str(raised.value)
    assert "p@ss" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://u:p@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:p/a@b:c@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://h/d?user=u&password=p&x=1", "postgresql://h/d?user=u&password=***&x=1"),
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
    ],
)
def test_passwords_are_masked(url, masked):
    assert mask_password(url) == masked


def test_databases_of_other_programs_are_left_alone(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table runs (id integer)")
    connection.close()
    with pytest.raises(StorageError, match="not Optuna's"):
        open_storage(f"sqlite:///{path}", tmp_path)
    (tmp_path / "text.db").write_text("this is no database, " * 100)
    with pytest.raises(StorageError, match="not a database"):
        open_storage(f"sqlite:///{tmp_path}/text.db", tmp_path)


def test_a_schema_of_another_optuna_is_refused(tmp_path):
    url = f"sqlite:///{tmp_path}/old.db"
    close_storage(open_storage(url, tmp_path))
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.execute("update alembic_version set version_num = 'v2.4.0.a'")
    connection.close()
    with pytest.raises(StorageError, match=r"storage upgrade"):
        open_storage(url, tmp_path)


def test_a_database_that_fails_while_used_is_a_storage_error(tmp_path):
    storage = open_storage(f"sqlite:///{tmp_path}/s.db", tmp_path)
    assert isinstance(storage, RDBStorage)
    study = Study.open("fixed", make_spec(), storage, tmp_path)
    with sqlite3.connect(tmp_path / "s.db") as connection:
        connection.execute("drop table trials")
    connection.close()
    with pytest.raises(StorageError, match="no such table"):
        study.ask()
    study.close()
    close_storage(storage)
