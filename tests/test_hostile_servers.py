"""A PostgreSQL database that its owner has prepared for others is refused, in words and at once.

Nothing that the owner put there runs with the rights of a role that opens the database. Code that counts its calls by a
sequence, whose numbers no rollback takes back, stands in for all code.
"""

import re
import time
import uuid
from contextlib import suppress

import psycopg
import pytest
import sqlalchemy
from conftest import regsearch
from small_study import as_if_searched

from search.errors import StorageError, StorageUnavailableError
from search.study import Study, close_storage, open_storage
from search.study.schema import OWN_TABLES
from search.study.server_schema import FUNCTIONS
from search.study.storage import is_writable, open_to_read

# Each says what the error names, and how it is made. `spy` returns true, and `spy_row` is a trigger's function.
SPIES = """
CREATE SEQUENCE spied;
CREATE FUNCTION spy() RETURNS boolean LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_catalog.nextval(''public.spied''); RETURN true; END';
CREATE FUNCTION spy_row() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_catalog.nextval(''public.spied''); RETURN NEW; END';
CREATE FUNCTION spy_text(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN PERFORM pg_catalog.nextval(''public.spied''); RETURN $1; END';
CREATE FUNCTION spy_equal(varchar, varchar) RETURNS boolean LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_catalog.nextval(''public.spied''); RETURN $1::text OPERATOR(pg_catalog.=) $2::text; END';
"""
VIEW = "CREATE VIEW {0} AS SELECT * FROM kept WHERE public.spy()"
PLANTED = {
    "view studies": ["ALTER TABLE studies RENAME TO kept", VIEW.format("studies")],
    "view trials": [
        "ALTER TABLE trials RENAME TO kept",
        "CREATE VIEW trials AS SELECT * FROM kept WHERE pg_sleep(1000) IS NULL",
    ],
    "view alembic_version": ["ALTER TABLE alembic_version RENAME TO kept", VIEW.format("alembic_version")],
    "materialized view trial_values": [
        "ALTER TABLE trial_values RENAME TO kept",
        "CREATE MATERIALIZED VIEW trial_values AS SELECT * FROM kept",
    ],
    "partitioned table trial_heartbeats": [
        "DROP TABLE trial_heartbeats",
        "CREATE TABLE trial_heartbeats (trial_heartbeat_id int, trial_id int, heartbeat timestamp)"
        " PARTITION BY LIST (trial_id)",
    ],
    "trigger raises": ["CREATE TRIGGER raises BEFORE INSERT ON trials FOR EACH ROW EXECUTE FUNCTION spy_row()"],
    "trigger changes": ["CREATE TRIGGER changes AFTER UPDATE ON studies EXECUTE FUNCTION spy_row()"],
    "trigger late": [
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON trial_values DEFERRABLE FOR EACH ROW EXECUTE FUNCTION spy_row()"
    ],
    "rule instead": ["CREATE RULE instead AS ON INSERT TO trials DO ALSO SELECT public.spy()"],
    "row security of studies": [
        "ALTER TABLE studies ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY p ON studies USING (public.spy())",
    ],
    "computed column large": [
        "ALTER TABLE studies ADD COLUMN large text GENERATED ALWAYS AS (public.spy_text(study_name)) STORED"
    ],
    "default of the column number": ["ALTER TABLE trials ALTER COLUMN number SET DEFAULT public.spy()::int"],
    "default of the column more": ["ALTER TABLE trials ADD COLUMN more text DEFAULT pg_read_file('/etc/hostname')"],
    "default of the column study_id": [
        "CREATE FUNCTION nextval(regclass) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
        "ALTER TABLE studies ALTER COLUMN study_id SET DEFAULT public.nextval('studies_study_id_seq'::regclass)",
    ],
    "default of the column text": [
        "CREATE DOMAIN word AS text CHECK (public.spy())",
        "ALTER TABLE trials ADD COLUMN text text DEFAULT 'x'::word",
    ],
    "type of the column study_name": [
        "CREATE DOMAIN word AS varchar CHECK (public.spy())",
        "ALTER TABLE studies ALTER COLUMN study_name TYPE word",
    ],
    "type of the column value_json": [
        "CREATE TYPE pair AS (a int, b int)",
        "ALTER TABLE study_user_attributes DROP COLUMN value_json, ADD COLUMN value_json pair",
    ],
    "type trialstate": [
        "CREATE SCHEMA first",
        "CREATE DOMAIN first.trialstate AS text CHECK (public.spy())",
        "ALTER DATABASE {database} SET search_path = first, public",
    ],
    "constraint checked": ["ALTER TABLE trials ADD CONSTRAINT checked CHECK (public.spy())"],
    "constraint version_info_version_info_id_check": [
        "ALTER TABLE version_info DROP CONSTRAINT version_info_version_info_id_check",
        "ALTER TABLE version_info ADD CONSTRAINT version_info_version_info_id_check CHECK (public.spy())",
    ],
    "index computed": ["CREATE INDEX computed ON studies (public.spy_text(study_name))"],
    "index partial": ["CREATE INDEX partial ON trials (number) WHERE public.spy_text('a') = 'a'"],
    "inheritance of trials": ["CREATE TABLE more () INHERITS (trials)"],
    "cast by the function state": [
        "CREATE FUNCTION state(varchar) RETURNS trialstate LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM public.spy(); RETURN ''COMPLETE''; END'",
        "CREATE CAST (varchar AS trialstate) WITH FUNCTION state(varchar) AS IMPLICIT",
    ],
    "function count": [
        "CREATE FUNCTION counted(bigint, int) RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint FROM public.spy()'",
        "CREATE AGGREGATE count(int) (SFUNC = counted, STYPE = bigint, INITCOND = '0')",
    ],
    "function number": [  # of a column that is gone, SQL makes a call
        "ALTER TABLE trials DROP COLUMN number",
        "CREATE FUNCTION number(trials) RETURNS int LANGUAGE sql AS 'SELECT 1 FROM public.spy()'",
    ],
    "function state": [
        "ALTER TABLE trials DROP COLUMN state",
        "CREATE FUNCTION state(anyelement) RETURNS trialstate LANGUAGE sql AS"
        " 'SELECT ''COMPLETE''::public.trialstate FROM public.spy()'",
    ],
    "function lower": ["CREATE FUNCTION lower(varchar) RETURNS text LANGUAGE sql AS 'SELECT ''x'' FROM public.spy()'"],
    "operator =": ["CREATE OPERATOR = (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = spy_equal)"],
    "operator <>": [
        "CREATE FUNCTION differ(trialstate, trialstate) RETURNS boolean LANGUAGE sql AS 'SELECT public.spy()'",
        "CREATE OPERATOR <> (LEFTARG = trialstate, RIGHTARG = trialstate, FUNCTION = differ)",
    ],
    "operator <=": ["CREATE OPERATOR <= (LEFTARG = int, RIGHTARG = int, FUNCTION = pg_catalog.int4gt)"],
    "search path public, pg_catalog": [
        "CREATE FUNCTION version() RETURNS text LANGUAGE sql AS 'SELECT pg_catalog.version() FROM public.spy()'",
        "CREATE FUNCTION current_schema() RETURNS name LANGUAGE sql AS 'SELECT ''public''::name FROM public.spy()'",
        "ALTER DATABASE {database} SET search_path = public, pg_catalog",
    ],
}


@pytest.fixture(scope="module")
def template(_postgresql_server, tmp_path_factory):
    """Return the server's URL, and the name of a database with a searched study and functions that spy."""
    name = f"template_{uuid.uuid4().hex}"
    _execute(_postgresql_server, f"CREATE DATABASE {name}")
    url = _database(_postgresql_server, name)
    close_storage(as_if_searched(tmp_path_factory.mktemp("template"), url)._storage)
    _execute(url, *re.split(r";\n", SPIES.strip().removesuffix(";")))
    return _postgresql_server, name


@pytest.fixture
def prepare(template):
    """Return what makes a copy of a searched study's database, changes it by statements, and gives its address."""
    server, name = template

    def make(*statements: str) -> str:
        copy = f"test_{uuid.uuid4().hex}"
        _execute(server, f"CREATE DATABASE {copy} TEMPLATE {name}")
        url = _database(server, copy)
        _execute(url, *(statement.replace("{database}", copy) for statement in statements))
        return url

    return make


def _database(server: str, name: str) -> str:
    return sqlalchemy.make_url(server).set(database=name).render_as_string(hide_password=False)


def _execute(url: str, *statements: str) -> list:
    """Execute statements, each in a transaction of its own; return the rows of the last."""
    # Without SQLAlchemy, whose first statements would call what is planted.
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        for statement in statements:
            done = connection.execute(statement)
        return done.fetchall() if done.description else []


def _calls(url: str) -> int:
    """Return how often code of the owner's has run."""
    return _execute(url, "SELECT last_value, is_called FROM public.spied")[0]


@pytest.mark.parametrize("planted", PLANTED)
def test_a_server_s_table_that_runs_code_of_others_is_refused_before_it_does(prepare, tmp_path, planted):
    url = prepare(*PLANTED[planted])
    before = _calls(url)
    began = time.monotonic()
    is_writable(url, tmp_path)
    for opening in (open_storage, open_to_read):
        with pytest.raises(StorageError, match=f"not as Optuna makes it: it has (.*, )?the {re.escape(planted)}, "):
            opening(url, tmp_path)
    assert time.monotonic() - began < 10
    assert _calls(url) == before


def test_what_is_the_user_s_own_beside_optuna_s_tables_is_none_of_ours(prepare, tmp_path):
    url = prepare(
        "CREATE VIEW losses AS SELECT value FROM trial_values",
        "CREATE TABLE notes (text text DEFAULT spy_text('a'), more int CHECK (more > 0))",
        "CREATE TRIGGER n BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION spy_row()",
        "CREATE INDEX by_number ON trials (number, state)",
        "CREATE FUNCTION round(float, int) RETURNS float LANGUAGE sql AS 'SELECT $1'",
        "CREATE TYPE pair AS (a int, b int)",
        "CREATE FUNCTION same(pair, pair) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "CREATE OPERATOR = (LEFTARG = pair, RIGHTARG = pair, FUNCTION = same)",
        "CREATE FUNCTION pair(text) RETURNS pair LANGUAGE sql AS 'SELECT 1, 2'",
        "CREATE CAST (text AS pair) WITH FUNCTION pair(text)",
        # As Optuna's own migrations do for a while.
        "ALTER TABLE trial_values ALTER COLUMN value_type SET DEFAULT 'FINITE'",
        "CREATE SCHEMA more",
        "ALTER DATABASE {database} SET search_path = more, public",
    )
    for opening in (open_storage, open_to_read):
        close_storage(opening(url, tmp_path))


def test_a_role_s_own_schema_is_a_place_for_studies_as_good_as_any(prepare, tmp_path):
    url = prepare(
        "CREATE SCHEMA own",
        "CREATE TABLE public.notes (text text)",
        *(f"DROP TABLE public.{table} CASCADE" for table in sorted(OWN_TABLES)),
        "DROP TABLE public.alembic_version",
        "ALTER DATABASE {database} SET search_path = own, public",
    )
    close_storage(as_if_searched(tmp_path, url)._storage)
    assert "tiny" in regsearch("studies", "--storage", url)
    assert _execute(url, "SELECT count(*) FROM own.studies") == [(1,)]


@pytest.mark.parametrize(
    "command", [["studies"], ["show", "--study", "tiny"], ["status"], ["start", "--study", "digits"]]
)
def test_commands_refuse_a_server_that_runs_code_of_others_in_words(prepare, tmp_path, command):
    url = prepare(*PLANTED["operator ="], *PLANTED["view trials"])
    before = _calls(url)
    told = regsearch(*command, "--storage", url, "--home", str(tmp_path / "home"), code=1)
    assert "not as Optuna makes it: it has the view trials, the operator =, by which somebody" in " ".join(told.split())
    assert _calls(url) == before


def test_every_function_that_statements_name_without_a_schema_is_looked_for(prepare, tmp_path):
    url, named = prepare("SELECT 1"), set()

    def listen(_connection, _cursor, statement, *_more):
        if not statement.lstrip().startswith("CREATE"):  # there names of types have parentheses
            named.update(re.findall(r"(?<![\w.])(\w+)\(", statement.lower()))

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", listen)
    try:
        for command in (["studies"], ["show", "--study", "tiny"], ["status"], ["report", "--study", "tiny"]):
            regsearch(*command, "--storage", url, "--home", str(tmp_path))
        close_storage(as_if_searched(tmp_path, _emptied(url))._storage)
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", listen)
    builtin = {name for (name,) in _execute(url, "SELECT proname FROM pg_catalog.pg_proc")}
    assert "count" in named
    assert named & builtin <= {*FUNCTIONS}


def _emptied(url: str) -> str:
    _execute(url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return url


@pytest.mark.parametrize(
    "planted", ["operator =", "trigger raises", "view studies", "function count", "constraint checked"]
)
def test_code_of_others_would_run_where_nobody_looked_for_it(prepare, tmp_path, monkeypatch, planted):
    """The refusals above would be of no use if what they refuse did no harm."""
    url = prepare(*PLANTED[planted])
    monkeypatch.setattr("search.study.storage.find_impostors", lambda *_given: [])
    before = _calls(url)
    storage = open_storage(url, tmp_path)
    with suppress(StorageError):
        study = Study.load("tiny", storage)
        study.records(), study.set_fact("more", 1)
        storage.create_new_trial(study._study_id)
    close_storage(storage)
    assert _calls(url) != before


def test_a_server_that_is_away_as_its_schema_is_looked_at_is_waited_for_as_any_other(tmp_path):
    nobody = f"postgresql+psycopg://postgres@/postgres?host={tmp_path}"
    for opening in (open_storage, open_to_read):
        with pytest.raises(StorageUnavailableError, match="cannot be opened: connection"):
            opening(nobody, tmp_path)
