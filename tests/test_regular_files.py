"""What is no file, or larger than it can be, is refused before it is read: nothing waits and no memory is filled."""

import os
import signal
from pathlib import Path

import pytest
from conftest import make_assignment

from search.errors import DataError, HomeError, SpecError, StorageError
from search.logs import read_log
from search.regular_files import open_regular, read_regular
from search.spec import load_spec
from search.study.journal import open_journal
from search.study.journal_reader import open_journal_to_read
from search.study.spool import Spool
from search.study.storage import open_storage
from search.training import files
from search.training.checkpoints import CheckpointFolder
from search.training.files import prepare_files
from search.weights import WeightStore


@pytest.fixture(autouse=True)
def impatient():
    """End a test that waits for a pipe, or reads without end."""

    def give_up(*_: object) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(2**42)


NONE = pytest.mark.parametrize("make", [pipe, device, sparse])


@NONE
def test_only_files_that_are_small_enough_are_opened(make, tmp_path):
    make(tmp_path / "x")
    with pytest.raises(
        OSError, match=r"it is a (pipe|device) and no file|it has 4,398,046,511,104 bytes, and at most 10"
    ):
        open_regular(tmp_path / "x", 10)


def test_a_file_is_read_whole_through_a_link_too_and_up_to_its_limit(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("x")
    assert read_regular(tmp_path / "link", 5) == b"12345"
    with pytest.raises(OSError, match="it has 5 bytes, and at most 4 are read"):
        read_regular(tmp_path / "link", 4)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path, 4)


def test_a_file_that_says_that_it_is_empty_and_is_not_is_read_up_to_its_limit():
    with pytest.raises(OSError, match="at most 100 are read"):
        read_regular(Path("/proc/self/maps"), 100)


@NONE
def test_a_study_file_that_is_none_is_an_error(make, tmp_path):
    make(tmp_path / "study.toml")
    with pytest.raises(SpecError, match=r"study\.toml: cannot be read: it (is a|has)"):
        load_spec(str(tmp_path / "study.toml"))


@NONE
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "newsgroups"])
def test_a_data_file_that_is_none_is_an_error(make, name, tmp_path):
    folder = tmp_path / files.FOLDERS[name]
    folder.mkdir(parents=True)
    for file in files._DOWNLOADS[name].files():
        make(folder / file)
    with pytest.raises(DataError, match=r"cannot be read: it (is a|has)"):
        prepare_files(name, tmp_path)


@pytest.mark.parametrize("make", [pipe, device])
@pytest.mark.parametrize("open_it", [open_journal, open_journal_to_read])
def test_a_journal_that_is_none_is_an_error(make, open_it, tmp_path):
    make(tmp_path / "optuna.journal")
    with pytest.raises(StorageError, match="the journal cannot be opened: it is a"):
        open_it(tmp_path / "optuna.journal")
    assert [path.name for path in tmp_path.iterdir()] == ["optuna.journal"]


def test_a_journal_of_nothing_but_holes_is_an_error_and_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("search.study.journal_format.LONGEST_ENTRY", 2**16)
    monkeypatch.setattr("search.study.journal.LONGEST_ENTRY", 2**16)
    sparse(tmp_path / "optuna.journal")
    with pytest.raises(StorageError, match="bytes hold no entry"):
        open_journal(tmp_path / "optuna.journal")
    assert (tmp_path / "optuna.journal").stat().st_size == 2**42
    assert list(tmp_path.glob("*.corrupt-*")) == []
    assert open_journal_to_read(tmp_path / "optuna.journal").get_all_studies() == []


@pytest.mark.parametrize("make", [pipe, device])
@pytest.mark.parametrize("to_read", [False, True])
def test_a_database_that_is_no_file_is_an_error(make, to_read, tmp_path):
    make(tmp_path / "study.db")
    with pytest.raises(StorageError, match="is a folder, a pipe or a device"):
        open_storage(f"sqlite:///{tmp_path}/study.db", tmp_path, to_read=to_read)


@NONE
def test_weights_checkpoints_and_spooled_results_that_are_none_count_as_not_there(make, tmp_path):
    store, folder = WeightStore(tmp_path / "weights"), CheckpointFolder(tmp_path / "a" / "checkpoints", {})
    spool = Spool(tmp_path, "x", "y")
    spooled = tmp_path / "undelivered" / "x" / "000000000000-00003.json"
    for path in (store.path(3), folder.path(make_assignment(0)), spooled):
        path.parent.mkdir(parents=True)
        make(path)
    assert store.load(3) is None
    assert folder.read(make_assignment(0)) is None
    assert list(spool.left_by_others(())) == []


@pytest.mark.parametrize("make", [pipe, device])
def test_a_log_that_is_none_is_an_error(make, tmp_path):
    make(tmp_path / "x.log")
    with pytest.raises(HomeError, match="the log cannot be read: it is a"):
        list(read_log(tmp_path / "x.log", None, follow=False))


def test_a_log_of_one_endless_line_comes_in_pieces(tmp_path):
    (tmp_path / "x.log").write_bytes(b"x" * (5 * 2**20) + b"\nend\n")
    pieces = list(read_log(tmp_path / "x.log", 2, follow=False))
    assert pieces[-1] == "end\n"
    assert max(map(len, pieces)) <= 2**20
