"""Studies that their reader may not write to: in a colleague's folder, or in a database with the right to select."""

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import pytest
import sqlalchemy
from conftest import regsearch
from optuna_dashboard import wsgi
from small_study import as_if_searched

from search.dashboards.read_only import open_as_allowed, readable_store
from search.errors import RegsearchError, StorageError
from search.export import Exported
from search.sqlite_files import copy_database, reader_of
from search.study import StoredStudy, Study, close_storage, open_storage
from search.study.annotations import artifact_store
from search.study.storage import is_writable, open_to_read

_NOBODY = 65534
_COMMANDS = (
    ["show", "--study=tiny"],
    ["show", "--study=tiny", "--json"],
    ["status"],
    ["status", "--study=tiny"],
    ["report", "--study=tiny", "--out=page.html"],
    ["studies"],
)


@contextmanager
def without_rights(home: Path):
    """Take away the right to write to a home within the block, from root as well, by being somebody else."""
    before = _listing(home)
    for path in (home, *home.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    as_root = os.geteuid() == 0
    if as_root:
        os.setresuid(_NOBODY, _NOBODY, 0)
    try:
        assert not os.access(home, os.W_OK)
        yield
    finally:
        if as_root:
            os.setresuid(0, 0, 0)
        for path in (home, *home.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert _listing(home) == before


def _listing(home: Path) -> dict[Path, tuple[int, float]]:
    return {path: (path.stat().st_size, path.stat().st_mtime) for path in home.rglob("*")}


@pytest.fixture
def home(monkeypatch):
    """An empty home that everybody reaches: pytest's own folders are its user's alone. One may write beside it."""
    with tempfile.TemporaryDirectory(prefix="regsearch-") as folder:
        os.chmod(folder, 0o777)
        monkeypatch.chdir(folder)
        path = Path(folder) / "home"
        path.mkdir()
        yield path


@pytest.fixture(params=["journal", "sqlite", "postgresql"])
def storage(request, home):
    """How the commands are told where the study is, to which whoever calls them has the right to read alone."""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql")
        close_storage(as_if_searched(home, url)._storage)
        return ["--storage", _readers_url(url)]
    url = None if request.param == "journal" else f"sqlite:///{home}/study.db"
    as_if_searched(home, url)
    return [] if url is None else ["--storage", url]


def _readers_url(url: str) -> str:
    """Return the address of a database for a user with the right to select, and no other."""
    engine = sqlalchemy.create_engine(url)
    os.chmod(engine.url.query["host"], 0o711)  # for the socket in it
    name = f"reader_{engine.url.database}"
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(f"CREATE ROLE {name} LOGIN"))
        connection.execute(sqlalchemy.text(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}"))
    engine.dispose()
    return engine.url.set(username=name).render_as_string(hide_password=False)


def test_every_reading_command_needs_no_right_to_write_and_prints_the_same(home, storage):
    wanted = [regsearch(*command, "--home", str(home), *storage) for command in _COMMANDS]
    Path("page.html").unlink()
    with without_rights(home):
        found = [regsearch(*command, "--home", str(home), *storage) for command in _COMMANDS]
    assert found == wanted
    assert "regularization" in Path("page.html").read_text()


def test_explain_prints_what_is_known_and_trains_nothing(home, storage, monkeypatch):
    monkeypatch.setattr("search.session.Session.prepare", lambda _: pytest.fail("it would train"))
    with without_rights(home):
        printed = regsearch("explain", "--study=tiny", "--home", str(home), *storage)
    assert "nothing is trained" in printed
    assert "Without each ingredient" in printed
    assert "Importance" in printed


def test_what_would_write_says_that_it_cannot(home, storage):
    with without_rights(home):
        assert not is_writable(storage[1] if storage else None, home)
        printed = regsearch("sync", "--study=tiny", "--home", str(home), *storage, code=1)
    assert "Traceback" not in printed
    assert "Error: " in printed


@pytest.mark.parametrize("how", ["journal", "sqlite"])
def test_who_runs_a_study_is_seen_by_those_who_may_only_read_it(home, how):
    url = None if how == "journal" else f"sqlite:///{home}/study.db"
    study = as_if_searched(home, url)
    opened = open_storage(url, home)
    running = Study.open("tiny", study.spec, opened, home)
    with without_rights(home):
        printed = regsearch("status", "--home", str(home), *([] if url is None else ["--storage", url]))
    running.close()
    close_storage(opened)
    assert f"process {os.getpid()}" in printed
    assert ", alive" in printed


def test_a_report_in_a_home_that_cannot_be_written_names_the_way_out(home):
    as_if_searched(home)
    regsearch("report", "--study=tiny", "--home", str(home))
    with without_rights(home):
        assert "--out" in regsearch("report", "--study=tiny", "--home", str(home), code=1)


def test_a_search_of_a_colleague_is_watched_and_its_log_read(home, monkeypatch):
    study = as_if_searched(home)
    (home / "logs").mkdir()
    (home / "logs" / "tiny-20260101-000000-1.log").write_text("All is well\n")
    monkeypatch.setattr("search.study.following.spent_trials", lambda _: study.spec.search.trials)
    with without_rights(home):
        assert "All is well" in regsearch("logs", "--study=tiny", "--home", str(home), "--follow")
        assert "have ended" in regsearch("watch", "--study=tiny", "--home", str(home))


def test_the_winner_of_a_colleagues_study_is_exported_elsewhere(home, monkeypatch):
    def refuse(*_):
        try:
            raise sqlite3.OperationalError("attempt to write a readonly database")
        except sqlite3.OperationalError as error:
            raise RuntimeError("a page\nof SQL") from error

    def export(spec, summary, choice, *_):
        return Exported(choice, 0.9, 0.3, 0.02, None, None)

    as_if_searched(home)
    monkeypatch.setattr("search.export.export", export)
    monkeypatch.setattr("search.tracking.registry.add_version", refuse)
    with without_rights(home):
        printed = regsearch("export", "--study=tiny", "--home", str(home), "--out=model")
    assert "test accuracy 90.00%" in printed
    assert "It is not in MLflow's model registry: attempt to write a readonly database\n" in printed


def test_a_home_that_may_not_even_be_looked_into_is_not_called_empty(home):
    as_if_searched(home)
    with without_rights(home):
        if os.geteuid() == _NOBODY:
            os.setresuid(0, 0, 0)
        home.chmod(0)
        if os.getuid() == 0:
            os.setresuid(_NOBODY, _NOBODY, 0)
        printed = regsearch("show", "--study=tiny", "--home", str(home), code=1)
    assert "Permission denied" in printed


def test_readers_of_an_empty_database_make_no_tables_in_it(postgresql):
    assert "No stored studies yet" in regsearch("studies", "--storage", postgresql)
    assert "holds no studies yet" in regsearch("show", "--study=tiny", "--storage", postgresql, code=2)
    engine = sqlalchemy.create_engine(postgresql)
    assert sqlalchemy.inspect(engine).get_table_names() == []
    engine.dispose()


@pytest.mark.parametrize("how", ["journal", "sqlite"])
def test_a_storage_that_is_open_to_be_read_takes_no_writes(home, how):
    url = None if how == "journal" else f"sqlite:///{home}/study.db"
    as_if_searched(home, url)
    before = _listing(home)
    study = StoredStudy.load("tiny", open_to_read(url, home))
    with pytest.raises(RegsearchError):
        study.set_fact("mine", 1)
    assert _listing(home) == before


@pytest.mark.parametrize("end", [b'{"op_code":', b"\0" * 100, b"\xff\xfe\n\xff\n", b"5\n", b'{"op_code"\n'], ids=repr)
def test_the_torn_end_of_a_journal_is_passed_over_until_a_writer_has_mended_it(home, end):
    study = as_if_searched(home)
    path = home / "optuna.journal"
    wanted = StoredStudy.load("tiny", open_to_read(None, home)).records()
    with path.open("ab") as file:
        file.write(end)
    torn = path.read_bytes()
    reader = StoredStudy.load("tiny", open_to_read(None, home))
    assert reader.records() == wanted
    assert path.read_bytes() == torn
    writer = Study.load("tiny", open_storage(None, home))
    writer.set_fact("mine", [1, 2, 3])
    assert reader.fact("mine", list[int]) == [1, 2, 3]
    assert reader.records() == wanted
    assert study.name == "tiny"


def test_damage_that_good_lines_follow_is_told_to_readers_too(home):
    as_if_searched(home)
    path = home / "optuna.journal"
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(first + b"\nbroken\n" + rest)
    with pytest.raises(StorageError, match="line 2 of"):
        open_to_read(None, home)


def _left_behind(home: Path, suffix: str) -> Path:
    """Return a database as a killed writer leaves it: with what was committed, or not, in a second file."""
    source = home.with_name("source.db")
    with closing(sqlite3.connect(source, isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size = 1")
        writer.execute(f"PRAGMA journal_mode = {'WAL' if suffix == '-wal' else 'DELETE'}")
        writer.execute("CREATE TABLE numbers (n INTEGER, filling TEXT)")
        writer.executemany("INSERT INTO numbers VALUES (?, ?)", [(i, "x" * 3000) for i in range(20)])
        if suffix == "-journal":  # a transaction so large that part of it is in the file already
            writer.execute("BEGIN")
            writer.execute("UPDATE numbers SET n = -1, filling = 'y' || filling")
        for each in ("", suffix):
            shutil.copy(f"{source}{each}", home / f"left.db{each}")
    return home / "left.db"


@pytest.mark.parametrize("suffix", ["-journal", "-wal"])
def test_an_sqlite_database_that_its_writer_left_half_done_is_read_as_it_was_committed(home, suffix):
    path = _left_behind(home, suffix)
    with without_rights(home), closing(reader_of(path, 1.0)()) as connection:
        assert [n for (n,) in connection.execute("SELECT n FROM numbers ORDER BY n")] == list(range(20))
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM numbers")


def test_dashboards_show_a_study_that_cannot_be_written_and_refuse_to_change_it(home):
    as_if_searched(home)
    with without_rights(home):
        storage = open_as_allowed(None, home)
        app = wsgi(storage, artifact_store(home / "artifacts" / "optuna"))
        answers, environ = [], {"PATH_INFO": "/api/studies"}
        setup_testing_defaults(environ)
        body = b"".join(app(environ, lambda *answer: answers.append(answer[0])))
        assert answers == ["200 OK"]
        assert b'"study_name": "tiny"' in body
        with pytest.raises(StorageError):
            storage.set_study_user_attr(0, "mine", 1)
        close_storage(storage)


def test_mlflow_is_shown_a_copy_of_a_database_that_cannot_be_written(home):
    with closing(sqlite3.connect(home / "mlflow.db")) as made:
        made.execute("CREATE TABLE experiments (name TEXT)")
    uri, copies = f"sqlite:///{home}/mlflow.db", home.with_name("copies")
    assert readable_store(uri, copies) == uri
    copies.mkdir()
    copies.chmod(0o777)
    with without_rights(home):
        assert readable_store(uri, copies) == f"sqlite:///{copies}/copy-of-mlflow.db"
    assert (copies / "artifacts").readlink() == home / "artifacts"
    with closing(sqlite3.connect(copies / "copy-of-mlflow.db")) as copy:
        assert copy.execute("SELECT count(*) FROM experiments").fetchone() == (0,)


def test_a_database_is_copied_while_others_write_to_it(home):
    path = home / "busy.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE numbers (n INTEGER)")
        writer.execute("INSERT INTO numbers VALUES (7)")
        copy = home.parent / "copy.db"
        copy_database(path, copy)
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT n FROM numbers").fetchall() == [(7,)]
