"""A database file that somebody has prepared is refused or an error, in seconds; it is never obeyed."""

import sqlite3
from contextlib import closing

import pytest
from conftest import regsearch
from fuzzing import LONG, damaged, tries
from hypothesis import given
from hypothesis import strategies as st
from resources import little
from small_study import as_if_searched

from search.errors import StorageError
from search.printable import printable
from search.study import open_storage
from search.study.storage import open_to_read

ENDLESS = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS study_id, 'x' AS study_name FROM n"
)
BUSY = "length(randomblob(1000000000)) > 0"


def rewritten(table: str, old: str, new: str) -> list[str]:
    """Return statements by which a table's own statement becomes another, as SQLite lets whoever owns the file do."""
    change = f"UPDATE sqlite_master SET sql = replace(sql, '{old}', '{new}') WHERE name = '{table}'"
    return ["PRAGMA writable_schema = ON", change, "PRAGMA writable_schema = RESET"]


PLANTED = {
    "view studies": ["DROP TABLE studies", f"CREATE VIEW studies AS {ENDLESS}"],
    "view Trials": ["DROP TABLE trials", "CREATE VIEW Trials AS SELECT 1 AS trial_id"],
    "trigger t": ["CREATE TRIGGER t AFTER INSERT ON trials BEGIN DELETE FROM trial_values; END"],
    "trigger u": ["CREATE TRIGGER u BEFORE UPDATE ON STUDIES BEGIN SELECT RAISE(IGNORE); END"],
    "computed column large": ["ALTER TABLE studies ADD COLUMN large AS (zeroblob(1000000000))"],
    "view alembic_version": ["DROP TABLE alembic_version", f"CREATE VIEW alembic_version AS {ENDLESS}"],
    "check constraint of trials": rewritten("trials", "number INTEGER", f"number INTEGER CHECK ({BUSY})"),
    "check constraint of version_info": rewritten("version_info", "version_info_id=1", f"version_info_id=1 AND {BUSY}"),
    "default of the column number": rewritten("trials", "number INTEGER", f"number INTEGER DEFAULT ({BUSY})"),
    "index computed": ["CREATE INDEX computed ON trials (abs(number))"],
    "index partial": ["CREATE INDEX partial ON trial_values (value) WHERE value > 0"],
    "index collated": ["CREATE INDEX collated ON studies (study_name COLLATE NOCASE)"],
    "virtual table trials": ["DROP TABLE trials", "CREATE VIRTUAL TABLE trials USING fts5(trial_id, number)"],
}


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    home = tmp_path_factory.mktemp("database")
    as_if_searched(home, f"sqlite:///{home}/study.db")
    return (home / "study.db").read_bytes()


@pytest.fixture
def change(database, tmp_path):
    """Return what changes a copy of a searched study's database by statements, and gives its address."""

    def prepare(*statements: str) -> str:
        file = tmp_path / "study.db"
        file.write_bytes(database)
        with closing(sqlite3.connect(file)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
        return f"sqlite:///{file}"

    return prepare


@pytest.mark.parametrize("planted", PLANTED)
def test_a_table_that_is_none_or_does_more_than_keep_is_refused(change, tmp_path, planted):
    url = change(*PLANTED[planted])
    for opening in (open_storage, open_to_read):
        with pytest.raises(StorageError, match=f"not as Optuna makes it: it has the {planted}, "):
            opening(url, tmp_path)


def test_views_and_triggers_of_the_user_s_own_are_none_of_ours(change):
    url = change(
        "CREATE VIEW losses AS SELECT value FROM trial_values",
        "CREATE TABLE notes (text)",
        "CREATE TRIGGER n AFTER INSERT ON notes BEGIN DELETE FROM notes; END",
        "CREATE INDEX by_number ON trials (number, state)",
        # As Optuna's own migrations and earlier SQLAlchemys leave it.
        *rewritten("trials", "number INTEGER", "number INTEGER DEFAULT 0"),
        *rewritten("trials", "PRIMARY KEY", "CHECK (state IN (''RUNNING'', ''COMPLETE'', ''FAIL'')), PRIMARY KEY"),
    )
    assert "tiny" in regsearch("studies", "--storage", url)


def test_a_file_of_thousands_of_studies_is_refused(change, tmp_path):
    numbers = "WITH RECURSIVE n(i) AS (SELECT 9 UNION ALL SELECT i + 1 FROM n WHERE i < 2100)"
    url = change(f"{numbers} INSERT INTO studies SELECT i, 's' || i FROM n")
    for opening in (open_storage, open_to_read):
        with pytest.raises(StorageError, match="holds more than 2,000 studies; begin a new file"):
            opening(url, tmp_path)


def test_a_file_of_more_trials_than_it_has_room_for_is_refused(change, tmp_path):
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 15000)"
    url = change(f"{numbers} INSERT INTO trials SELECT {ROWS['trials']} FROM n")
    for opening in (open_storage, open_to_read):
        with pytest.raises(StorageError, match=r"has 14,\d+ trials, where Optuna has no room for more than"):
            opening(url, tmp_path)


def test_a_file_of_thousands_of_the_smallest_trials_of_optuna_s_is_read(change, tmp_path):
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)"
    now = "'2026-11-30 10:11:12.123456'"
    url = change(
        f"{numbers} INSERT INTO trials SELECT i, i, 1, 'COMPLETE', {now}, {now} FROM n",
        f"{numbers} INSERT INTO trial_values SELECT i, i, 0, 0.5, 'FINITE' FROM n",
    )
    for opening in (open_storage, open_to_read):
        opening(url, tmp_path)


ROWS = {
    "study_user_attributes": "i, 1, 'a' || i, '1'",
    "study_system_attributes": "i, 1, printf('runner:%012x', i), '{}'",
    "trial_user_attributes": "i, 1, 'a' || i, '[]'",
    "trial_params": "i, 1, 'p' || i, 0.5, '{}'",
    "trial_intermediate_values": "i, 1, i, 0.5, 'FINITE'",
    "trials": "i, i, 1, 'COMPLETE', NULL, NULL",
}


@pytest.mark.parametrize("table", ROWS)
def test_a_database_of_many_rows_is_read_in_two_seconds_and_100_mb(change, tmp_path, table):
    last = 15_000 if LONG else 4_000
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < {last})"
    url = change(f"{numbers} INSERT INTO {table} SELECT {ROWS[table]} FROM n")
    for command in (["studies"], ["status", "--study", "tiny"]):
        with little():
            shown(*command, "--storage", url, "--home", str(tmp_path))


@tries(12, 1_000)
@given(data=st.data())
def test_a_damaged_database_is_read_or_is_an_error(database, tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "damaged.db"
    file.write_bytes(data.draw(damaged(database)))
    for command in (["show", "--study", "tiny"], ["studies"], ["status"]):
        with little():
            told = shown(*command, "--storage", f"sqlite:///{file}", "--home", str(file.parent))
        assert "Traceback" not in told
        assert printable(told) == told
        assert len(told) < 60_000


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trials SET state = 'KING'",
        "UPDATE trials SET state = 7",
        "UPDATE trials SET number = 'x'",
        "UPDATE trials SET number = NULL",
        "UPDATE trials SET datetime_start = 'yesterday'",
        "UPDATE trials SET datetime_complete = X'00ff'",
        "UPDATE trial_values SET value = 'abc'",
        "UPDATE trial_values SET value_type = 'MANY'",
        "UPDATE trial_params SET distribution_json = '{}'",
        "UPDATE trial_params SET distribution_json = X'ff'",
        "UPDATE trial_params SET param_value = 'abc'",
        "UPDATE trial_user_attributes SET value_json = X'fffe'",
        "UPDATE trial_user_attributes SET value_json = 7",
        'UPDATE trial_user_attributes SET "key" = NULL',
        "UPDATE study_user_attributes SET value_json = NULL",
        'UPDATE study_user_attributes SET "key" = CAST("key" AS BLOB)',
        "UPDATE study_system_attributes SET value_json = '[1, {}]'",
        "UPDATE study_directions SET direction = 'SIDEWAYS'",
        "UPDATE study_directions SET objective = 5",
        "UPDATE studies SET study_name = X'ff00'",
        "DELETE FROM study_directions",
        "DELETE FROM studies",
        "DELETE FROM version_info",
    ],
)
def test_values_of_other_types_are_errors_that_say_so(change, tmp_path, statement):
    url = change("PRAGMA ignore_check_constraints = ON", "PRAGMA foreign_keys = OFF", statement)
    for command in (["show", "--study", "tiny"], ["studies"], ["status"], ["status", "--study", "tiny"]):
        told = shown(*command, "--storage", url, "--home", str(tmp_path))
        assert "Traceback" not in told
        assert "\x00" not in told


def shown(*arguments: str) -> str:
    """Return what a command prints; it raises nothing but what the command line turns into a message."""
    from click.testing import CliRunner

    from search.cli import main

    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code in (0, 1, 2), result.output
    return result.output
