"""A storage that is away for a moment, in the middle of something: what got through is found, what did not is done."""

import itertools
import logging
import socket
import struct
import threading
from contextlib import suppress

import pytest
import sqlalchemy
from fixed_study import curve, make_spec
from optuna.trial import TrialState

from search.errors import StorageUnavailableError
from search.records import Reason
from search.study import Study, close_storage, open_storage, outlast_restart


@pytest.fixture
def study(storage, tmp_path):
    opened = Study.open("fixed", make_spec(trials=3), storage, tmp_path, patience=60)
    yield opened
    opened.close()


def test_a_storage_that_fails_just_after_a_queued_trial_has_begun_costs_no_trial(study, monkeypatch):
    real = study._storage.get_trial

    def away(trial_id):
        trial = real(trial_id)
        if trial.state == TrialState.RUNNING:
            monkeypatch.undo()
            raise StorageUnavailableError("the database restarts")
        return trial

    monkeypatch.setattr(study._storage, "get_trial", away)
    asked = [study.ask() for _ in range(3)]
    assert [assignment.number for assignment in asked] == [0, 1, 2]
    assert [assignment.params for assignment in asked[:2]] == [study.spec.baseline(), study.spec.textbook()]
    for assignment in asked:
        assert study.report({assignment.number: curve(0.5)[0]}) == set()
        study.finish(assignment.number, Reason.COMPLETED, curve(0.5))
    assert (study.ask(), study.unfinished(), study.spent()) == (None, 0, 3)


def test_a_storage_that_is_away_as_the_study_ends_is_asked_again(study, monkeypatch):
    def away(study_id):
        monkeypatch.undo()
        raise StorageUnavailableError("the database restarts")

    monkeypatch.setattr(study._storage, "get_study_system_attrs", away)
    assert study.elect() is None


def test_a_connection_that_is_lost_amid_the_reading_of_trials_is_made_anew(postgresql, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("optuna"), "propagate", True)
    storage, other = open_storage(postgresql, tmp_path), sqlalchemy.create_engine(postgresql)
    study = Study.open("fixed", make_spec(trials=3), storage, tmp_path, patience=60)
    study.finish(study.ask().number, Reason.COMPLETED, curve(0.5))
    lost = []

    def lose(connection, cursor, statement, *_):
        if "FROM trials" in statement and not lost:
            lost.append(cursor.connection.info.backend_pid)
            with other.connect() as another:
                another.execute(sqlalchemy.text("SELECT pg_terminate_backend(:pid)"), {"pid": lost[0]})

    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", lose)
    assert [record.number for record in study.records()] == [0]
    assert lost
    assert [record for record in caplog.records if record.name.startswith("optuna")] == []
    study.close()
    close_storage(storage)
    other.dispose()


_STARTING_UP = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"


def _refuse(server: socket.socket) -> None:
    """Answer as PostgreSQL does while it starts (https://www.postgresql.org/docs/15/protocol-message-formats.html)."""
    with suppress(OSError):  # until the socket is closed
        while True:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"E" + struct.pack(">i", 4 + len(_STARTING_UP)) + _STARTING_UP)


def test_a_server_that_is_starting_is_told_from_one_that_is_not_there(tmp_path):
    pytest.importorskip("psycopg", reason="PostgreSQL's driver is not installed")
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_refuse, args=(server,), daemon=True).start()
        url = f"postgresql+psycopg://someone@127.0.0.1:{server.getsockname()[1]}/optuna?sslmode=disable&gssencmode=disable"
        with pytest.raises(StorageUnavailableError, match="starting up") as starting:
            open_storage(url, tmp_path)
        server.shutdown(socket.SHUT_RDWR)
    with pytest.raises(StorageUnavailableError, match="refused") as absent:
        open_storage(url, tmp_path)
    assert (starting.value.passes, absent.value.passes) == (True, False)


def _away(passes: bool) -> StorageUnavailableError:
    error = StorageUnavailableError("away")
    error.passes = passes
    return error


def test_a_restart_is_outlasted_from_its_first_words_on(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    answers = iter([_away(True), _away(False), _away(True), None])

    def work():
        if (error := next(answers)) is not None:
            raise error
        return "opened"

    assert outlast_restart(work, lambda: None) == "opened"


def test_a_server_that_does_not_answer_at_all_is_not_waited_for():
    def absent():
        calls.append(1)
        raise _away(False)

    calls = []
    with pytest.raises(StorageUnavailableError):
        outlast_restart(absent, lambda: None)
    assert len(calls) == 1


def test_waiting_for_a_restart_ends_when_it_is_interrupted_and_not_for_good(monkeypatch):
    def restarting():
        raise _away(True)

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outlast_restart(restarting, interrupted)
    clock = itertools.count(0, 10)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    with pytest.raises(StorageUnavailableError):
        outlast_restart(restarting, lambda: None)
