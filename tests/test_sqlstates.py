"""Databases that fail at any statement, or are set up otherwise than the code relies on: searches go on, exactly."""

import itertools
import shutil
import sqlite3

import pytest
import sqlalchemy
from fixed_study import curve, make_spec
from optuna.study import StudyDirection
from sqlalchemy.exc import OperationalError

from scripts.faults.databases import pgbouncer
from scripts.faults.statements import CODES, HEAD, MARK, PAGE, Sabotage, answer, failing, rewritten
from search.errors import StorageError, StorageUnavailableError, StudyGoneError
from search.records import Reason
from search.study import Study, close_storage, open_storage, outlast_restart
from search.study.sqlstates import AWAY, BRIEFLY, OVERTAKEN, RETRY, SQLSTATES, WAIT, outage_of, sqlstate_of

TRIALS = 3


@pytest.fixture
def impatient(monkeypatch):
    """Pauses between two tries that take no time."""
    monkeypatch.setattr("search.study.patience._FIRST_PAUSE", 0.0)
    monkeypatch.setattr("search.study.patience._START_PAUSE", 0.0)


def search_through(study: Study) -> None:
    """Run a study to its end, as a runner does."""
    while (asked := study.ask()) is not None:
        study.report({asked.number: curve(0.1 + 0.2)[0]})
        study.finish(asked.number, Reason.COMPLETED, curve(0.1 + 0.2))
        study.news()


def outcome(study: Study) -> list[tuple[int, float]]:
    return [(record.number, record.best.val_loss) for record in study.records()]


def test_an_error_at_every_single_statement_of_a_start_is_waited_for(postgresql, tmp_path, impatient):
    storage, sabotage = open_storage(postgresql, tmp_path), Sabotage("53100")
    sabotage.install(storage.engine)
    study = outlast_restart(
        lambda: Study.open("fixed", make_spec(trials=TRIALS), storage, tmp_path, patience=60), lambda: None
    )
    assert len(sabotage.failed) > 20
    search_through(study)
    assert outcome(study) == [(number, 0.1 + 0.2) for number in range(TRIALS)]
    study.close()
    close_storage(storage)


@pytest.mark.parametrize("code", ["53100", "40001", "23505", "57P01"])
def test_an_error_at_every_single_statement_costs_no_trial_and_no_number(code, postgresql, tmp_path, impatient):
    storage = open_storage(postgresql, tmp_path)
    study = Study.open("fixed", make_spec(trials=TRIALS), storage, tmp_path, patience=60)
    sabotage = Sabotage(code)
    sabotage.install(storage.engine)
    search_through(study)
    assert study.elect() is None
    assert outcome(study) == [(number, 0.1 + 0.2) for number in range(TRIALS)]
    assert (study.unfinished(), study.spent(), study.trouble) == (0, TRIALS, None)
    assert len(sabotage.failed) > 40
    study.close()
    close_storage(storage)


def test_each_code_is_answered_as_the_table_says_whatever_optuna_makes_of_it(postgresql, tmp_path):
    storage = open_storage(postgresql, tmp_path)
    for code in CODES:
        with pytest.raises(StorageError) as met, storage.scoped_session() as session:
            session.execute(sqlalchemy.text(failing(code)))
        waited = isinstance(met.value, StorageUnavailableError)
        assert (code, met.value.sqlstate, waited) == (code, code, answer(code) != "end, and say why")
    close_storage(storage)


def test_a_code_that_is_not_in_the_table_goes_by_its_class_and_without_one_ends_the_search(postgresql, tmp_path):
    storage = open_storage(postgresql, tmp_path)
    for code, wanted in {"53400": WAIT, "40002": RETRY, "58P01": WAIT, "08P01": AWAY, "22012": None}.items():
        with pytest.raises(StorageError) as met, storage.engine.connect() as connection:
            connection.exec_driver_sql(failing(code))
        assert (code, outage_of(met.value)) == (code, wanted)
    close_storage(storage)


def test_an_error_that_ends_a_search_is_told_in_the_database_s_words(postgresql, tmp_path):
    storage = open_storage(postgresql, tmp_path)
    study = Study.open("fixed", make_spec(trials=TRIALS), storage, tmp_path, patience=60)
    sqlalchemy.event.listen(
        storage.engine,
        "before_cursor_execute",
        lambda *call: (failing("XX001"), ()) if "INSERT INTO trials " in call[2] else (call[2], call[3]),
        retval=True,
    )
    study.ask(), study.ask()
    with pytest.raises(StorageError, match=r"postgresql.*: XX001 .*; what was recorded is kept"):
        study.ask()
    study.close()
    close_storage(storage)


REFUSALS = {
    "FATAL:  sorry, too many clients already": ("53300", WAIT),
    "FATAL:  remaining connection slots are reserved for superusers": ("53300", WAIT),
    'FATAL:  too many connections for role "someone"': ("53300", WAIT),
    "FATAL:  no more connections allowed (max_client_conn)": ("53300", WAIT),
    "FATAL:  query_wait_timeout": ("53300", WAIT),
    "FATAL:  the database system is starting up": ("57P03", WAIT),
    "FATAL:  server login has been failing, try again later (server_login_retry)": ("57P03", WAIT),
    "server closed the connection unexpectedly": ("57P01", WAIT),
    'FATAL:  database "x" does not exist': ("3D000", None),
    "connection refused": (None, AWAY),
}


@pytest.mark.parametrize("words", REFUSALS)
def test_a_refused_connection_is_known_by_the_server_s_words(words):
    error = OperationalError(None, None, Exception(f"connection failed: {words}"))
    assert (sqlstate_of(error), outage_of(error)) == REFUSALS[words]


CODES_OF_OTHERS = {
    (1213, "Deadlock found when trying to get lock"): RETRY,
    (1205, "Lock wait timeout exceeded"): RETRY,
    (1040, "Too many connections"): WAIT,
    (1290, "The MySQL server is running with the --read-only option"): WAIT,
    (1049, "Unknown database 'x'"): None,
    (2006, "MySQL server has gone away"): AWAY,
}


@pytest.mark.parametrize("words", CODES_OF_OTHERS)
def test_an_error_of_mysql_is_known_by_its_code_and_else_by_its_class(words):
    assert outage_of(OperationalError(None, None, Exception(*words))) == CODES_OF_OTHERS[words]


def test_an_sqlite_file_that_is_busy_or_full_is_waited_for_and_one_that_is_damaged_is_not(tmp_path):
    file = tmp_path / "study.db"
    storage = open_storage(f"sqlite:///{file}", tmp_path)
    pages = sqlite3.connect(file).execute("PRAGMA page_count").fetchone()[0]

    def limit(connection, _record):
        for setting in (f"max_page_count = {pages}", "busy_timeout = 0"):
            connection.execute(f"PRAGMA {setting}")

    sqlalchemy.event.listen(storage.engine, "connect", limit)
    storage.engine.dispose()
    study_id = storage.create_new_study([StudyDirection.MINIMIZE], "s")
    with pytest.raises(StorageUnavailableError, match="disk is full"):
        storage.set_study_user_attr(study_id, "a", "x" * 100_000)
    other = sqlite3.connect(file)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StorageUnavailableError, match="locked"):
        storage.set_study_user_attr(study_id, "a", "x")
    other.close()
    close_storage(storage)
    file.write_bytes(file.read_bytes()[:100] + bytes(file.stat().st_size - 100))
    with pytest.raises(StorageError) as damaged:
        open_storage(f"sqlite:///{file}", tmp_path)
    assert not isinstance(damaged.value, StorageUnavailableError)


def test_an_administrator_s_minute_is_counted_from_the_change_and_not_from_the_outage_before_it(monkeypatch):
    from search.study.patience import Patience

    clock = itertools.count(0.0, 20.0)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    monkeypatch.setattr("search.study.patience.sleep_using_event", lambda event: lambda seconds: None)
    met = []

    def work():
        error = StorageUnavailableError("away")
        error.outage = AWAY if len(met) < 20 else BRIEFLY
        met.append(error.outage)
        raise error

    with pytest.raises(StorageUnavailableError):
        Patience(3600.0, str).call(work)
    assert met.count(AWAY) == 20
    assert 3 <= met.count(BRIEFLY) <= 6


@pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="PgBouncer is not installed")
def test_a_pgbouncer_that_pools_statements_is_refused_with_the_way_out(postgresql, tmp_path):
    with pgbouncer(postgresql, "statement") as through:
        with pytest.raises(StorageError, match="pool_mode = transaction") as refused:
            open_storage(through, tmp_path)
        assert not isinstance(refused.value, StorageUnavailableError)


HOSTILE = {
    "default_transaction_isolation": "'repeatable read'",
    "lock_timeout": "'1ms'",
    "idle_in_transaction_session_timeout": "'50ms'",
    "statement_timeout": "'200ms'",
    "extra_float_digits": "-10",
    "synchronous_commit": "off",
    "client_encoding": "latin1",
    "datestyle": "'German, DMY'",
    "standard_conforming_strings": "on",
    "timezone": "'Asia/Kathmandu'",
}


def test_whatever_a_server_s_defaults_are_a_search_has_the_settings_that_it_relies_on(postgresql, tmp_path):
    url = sqlalchemy.make_url(postgresql)
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for name, value in HOSTILE.items():
            connection.exec_driver_sql(f"ALTER DATABASE {url.database} SET {name} = {value}")
    engine.dispose()
    storage = open_storage(postgresql, tmp_path)
    study = Study.open("fixed", make_spec(trials=TRIALS), storage, tmp_path, patience=60)
    search_through(study)
    assert outcome(study) == [(number, 0.1 + 0.2) for number in range(TRIALS)]
    wanted = {
        "transaction_isolation": "read committed",
        "lock_timeout": "20s",
        "idle_in_transaction_session_timeout": "10s",
        "statement_timeout": "5min",
        "extra_float_digits": "1",
        "synchronous_commit": "on",
        "client_encoding": "UTF8",
    }
    with storage.engine.connect() as connection:
        found = {name: connection.exec_driver_sql(f"SHOW {name}").scalar() for name in wanted}
    assert found == wanted
    study.close()
    close_storage(storage)


def test_a_server_s_stricter_commit_is_left_as_it_is(postgresql, tmp_path):
    storage = open_storage(f"{postgresql}&options=-csynchronous_commit%3Dremote_apply", tmp_path)
    with storage.engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "remote_apply"
    close_storage(storage)


@pytest.fixture
def moved(postgresql, _postgresql_server, tmp_path, impatient):
    """A study of which one trial runs, and what leads its storage to another database of the server."""
    storage, leads_to = open_storage(postgresql, tmp_path), []

    def connect(_dialect, _record, _arguments, parameters):
        if leads_to:
            parameters["dbname"] = leads_to[-1]

    sqlalchemy.event.listen(storage.engine, "do_connect", connect)
    study = Study.open("fixed", make_spec(trials=TRIALS), storage, tmp_path, patience=60)
    study.ask()

    def move(name: str) -> None:
        leads_to.append(name)
        storage.engine.dispose()

    yield study, move
    study.close()
    close_storage(storage)


def test_a_study_that_was_begun_anew_in_another_database_is_not_written_to(moved, request, tmp_path):
    study, move = moved
    another = sqlalchemy.make_url(request.getfixturevalue("postgresql"))
    engine = sqlalchemy.create_engine(another, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {another.database}_anew")
    engine.dispose()
    anew = another.set(database=f"{another.database}_anew")
    storage = open_storage(anew.render_as_string(hide_password=False), tmp_path)
    fresh = Study.open("fixed", make_spec(trials=TRIALS), storage, tmp_path)
    fresh.ask()
    move(anew.database)
    for use in (lambda: study.report({0: curve(0.5)[0]}), lambda: study.finish(0, Reason.COMPLETED, curve(0.5))):
        with pytest.raises(StudyGoneError, match="has been deleted while it was in use"):
            use()
    assert [trial.intermediate_values for trial in storage.get_all_trials(1)] == [{}, {}]
    fresh.close()
    close_storage(storage)


def test_an_empty_database_in_a_study_s_place_is_waited_for_and_nothing_is_made_in_it(moved, postgresql):
    study, move = moved
    home = sqlalchemy.make_url(postgresql).database
    move("template1")
    tries = []

    def back(_connection, _cursor, _statement, *_more):
        tries.append(1)
        if len(tries) == 5:
            move(home)

    sqlalchemy.event.listen(study._storage.engine, "commit", lambda _connection: None)
    sqlalchemy.event.listen(study._storage.engine, "handle_error", lambda context: back(context, None, None))
    study.finish(0, Reason.COMPLETED, curve(0.1 + 0.2))
    assert len(tries) >= 5
    assert outcome(study) == [(0, 0.1 + 0.2)]


def test_the_docs_have_a_row_of_zeros_for_each_code():
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text().split(MARK)[1].split("\n") if line[:3] != "| -"]
    by_code = {row[0]: dict(zip(HEAD, row, strict=True)) for row in rows if len(row) == len(HEAD)}
    for code in CODES:
        row = by_code[code]
        assert row["answer"] == answer(code)
        assert int(row["statements failed"]) > 50
        assert [row[name] for name in HEAD[5:]] == ["0"] * 4


def test_a_row_that_is_measured_anew_replaces_its_old_one_alone():
    page = rewritten(PAGE.read_text(), [[CODES[1], *["x"] * (len(HEAD) - 1)]])
    changed = [line for line in page.split("\n") if line not in PAGE.read_text().split("\n")]
    assert changed == [f"| {CODES[1]} | {' | '.join('x' * (len(HEAD) - 1))} |"]


def test_every_answer_of_the_table_is_one_of_five():
    assert {outage for _, outage in SQLSTATES.values()} == {WAIT, AWAY, BRIEFLY, OVERTAKEN, RETRY, None}
