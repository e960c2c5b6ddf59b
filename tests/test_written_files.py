"""How files are written where others of the machine may write too: no link of theirs is followed, nothing left open."""

import ast
import os
import stat
import threading
from pathlib import Path

import pytest
from conftest import SPEC, regsearch

from search import export, places
from search.errors import ExportError, HomeError, StorageError
from search.logs import NewLog
from search.places import closed_to_others, replace_file, write_whole
from search.report import static
from search.study import open_storage
from search.study.leases import _hold
from search.training import files

SEARCH = Path(__file__).parent.parent / "search"

ELSEWHERE = {
    "places.py: open": "the way that all others take: new, by a random name, then renamed",
    "places.py: os.open": "the same",
    "detached.py: open": "a pipe",
    "logs.py: os.open": "new, by a random name, then renamed",
    "report/static.py: file.write_text": "in a temporary folder that nobody else can enter",
    "tracking/artifacts.py: file.write_bytes": "likewise",
    "tracking/artifacts.py: shutil.copyfile": "likewise",
    "dashboards/ui.py: file.write_text": "likewise",
    "sqlite_files.py: shutil.copyfile": "likewise",
    "training/files.py: open": "likewise, as are all downloads",
    "training/files.py: shutil.copyfile": "likewise",
    "tracking/process.py: open": "the null device",
    "study/journal.py: open": "new, or not at all",
    "study/repair.py: open": "the same",
    "study/journal.py: os.open": "Optuna's journal and its lock, which many share; links to the lock are refused",
    "memory.py: path.write_text": "a file of the kernel's",
    "study/leases.py: os.open": "new, by a random name",
}
"""Where else than by `write_whole` and `replace_file` files are written, and why that follows no link."""


def writes(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    if name == "os.open":
        return "O_CREAT" in ast.unparse(call) or "O_RDWR" in ast.unparse(call) or "flags" in ast.unparse(call)
    if name == "open":
        modes = [ast.unparse(each) for each in (*call.args[1:2], *(key.value for key in call.keywords))]
        return any(set("wax+") & set(mode.strip("'")) and len(mode) <= 5 for mode in modes)
    return name in (
        "shutil.copy",
        "shutil.copy2",
        "shutil.copyfile",
        "shutil.copytree",
        "shutil.move",
    ) or name.endswith((".write_text", ".write_bytes", "save_file", "torch.save", "np.save", ".touch"))


def test_files_are_written_in_known_ways_alone():
    found = set()
    for path in SEARCH.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and writes(node):
                found.add(f"{path.relative_to(SEARCH)}: {ast.unparse(node.func)}")
    assert found == set(ELSEWHERE)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "precious.txt"
    path.write_text("precious")
    return path


def test_no_link_that_somebody_has_put_there_is_followed(tmp_path, victim, monkeypatch):
    shared = tmp_path / "shared"
    shared.mkdir()
    names = ("report.html.part", ".report.html.part", "report.part")
    for name in names:
        (shared / name).symlink_to(victim)
    (shared / "report.html").symlink_to(victim)
    write_whole(shared / "report.html", b"new")
    assert victim.read_text() == "precious"
    assert (shared / "report.html").read_text() == "new"
    assert sorted(path.name for path in shared.iterdir()) == sorted([*names, "report.html"])

    monkeypatch.setattr(places.secrets, "token_hex", lambda _: "guessed")
    (shared / "report.html.guessed.part").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_whole(shared / "report.html", b"newer")
    assert (victim.read_text(), (shared / "report.html").read_text()) == ("precious", "new")


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    contents = [bytes([number]) * 200_000 for number in range(8)]
    writers = [threading.Thread(target=write_whole, args=(tmp_path / "file", content)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert (tmp_path / "file").read_bytes() in contents
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            replace_file(tmp_path / "file", b"new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
    write_whole(tmp_path / ("x" * 255), b"as long as a name may be")


def test_the_report_s_plots_and_an_export_replace_links(searched, tmp_path, victim, monkeypatch):
    shared = tmp_path / "shared"
    shared.mkdir()
    for name in ("curves.svg", "report.html", "report.html.part"):
        (shared / name).symlink_to(victim)
    monkeypatch.setattr(static, "find_browser", lambda: "browser")
    monkeypatch.setattr(static, "_draw", lambda *_: {"curves": "<svg/>"})
    home = ["--study=tiny", "--home", str(searched / "runs")]
    regsearch("report", *home, "--out", str(shared / "report.html"), "--plots", str(shared))
    assert victim.read_text() == "precious"
    assert (shared / "curves.svg").read_text() == "<svg/>"

    # Somebody makes the folder, with links in it, while the model is trained.
    def refit(*_: object) -> object:
        (shared / "model").mkdir()
        (shared / "model" / "README.md").symlink_to(victim)
        return trained(*_)

    trained = export.refit
    monkeypatch.setattr(export, "refit", refit)
    refused = regsearch("export", *home, "--out", str(shared / "model"), "--no-register", code=1)
    assert "is not empty; name a new folder with --out" in refused
    assert victim.read_text() == "precious"


def test_logs_and_locks_are_new_files(tmp_path, victim, monkeypatch):
    monkeypatch.setattr("search.logs.secrets.token_hex", lambda _: "guessed")
    (tmp_path / "logs").mkdir()
    log = NewLog(tmp_path, "tiny")
    path = log.path
    log.remove()
    path.symlink_to(victim)
    monkeypatch.setattr("search.logs.datetime", Frozen(path.name))
    with pytest.raises(HomeError, match="File exists"):
        NewLog(tmp_path, "tiny")
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "x.lock").symlink_to(tmp_path / "made")
    with pytest.raises(HomeError, match="File exists"):
        _hold(tmp_path / "locks" / "x.lock")
    (tmp_path / "optuna.journal.flock").symlink_to(tmp_path / "made")
    with pytest.raises(StorageError, match="Too many levels of symbolic links"):
        open_storage(None, tmp_path)
    assert not (tmp_path / "made").exists()
    assert victim.read_text() == "precious"


class Frozen:
    """A clock that stands where a log has its name from."""

    def __init__(self, name: str) -> None:
        self._time = "-".join(name.split("-")[1:3])

    def now(self, _zone: object) -> "Frozen":
        return self

    def __format__(self, _format: str) -> str:
        return self._time


def test_downloads_are_written_where_nobody_else_can_be(tmp_path, victim, monkeypatch):
    """Libraries write to names that everybody knows."""
    raw = tmp_path / "data/MNIST/raw"
    raw.mkdir(parents=True)
    names = ("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz")
    (raw / names[0]).symlink_to(tmp_path / "nothing")
    (raw / names[1]).symlink_to(victim)

    def fetch(folder: Path) -> None:
        assert stat.S_IMODE((folder).stat().st_mode) == 0o700
        there = folder / "MNIST/raw"
        there.mkdir(parents=True, exist_ok=True)
        for name in names:
            (there / name).write_bytes(b"new")

    download = files._Download("MNIST", lambda: {names[0]: (3, None)}, fetch)
    files._download(download, tmp_path / "data", raw)
    assert victim.read_text() == "precious"
    assert not (tmp_path / "nothing").exists()
    assert (raw / names[0]).read_bytes() == b"new"
    assert sorted(path.name for path in raw.iterdir()) == sorted(names)


@pytest.mark.parametrize(("umask", "forbidden"), [(0o000, 0o002), (0o077, 0o077)])
def test_nothing_that_a_search_writes_is_writable_for_everybody(tmp_path, tables, umask, forbidden):
    (tmp_path / "tiny.toml").write_text(SPEC)
    (tmp_path / "runs").chmod(0o777 & ~umask & ~0o002)  # which the fixture has made
    (tmp_path / "runs/mlflow.db").chmod(0o600)
    before = os.umask(umask)
    try:
        home = ["--home", str(tmp_path / "runs")]
        start = ["start", "--study", str(tmp_path / "tiny.toml"), "--trials=2", "--no-confirm", "--workers=1"]
        regsearch(*start, *home)
        regsearch("export", "--study=tiny", "--out", str(tmp_path / "model"), "--no-register", "--device=cpu", *home)
        assert os.umask(umask) == umask  # it is the caller's again
    finally:
        os.umask(before)
    written = [path for folder in ("runs", "model") for path in (tmp_path / folder).rglob("*")]
    assert len(written) > 10
    assert {str(path): oct(path.stat().st_mode) for path in written if path.stat().st_mode & forbidden} == {}


@pytest.mark.parametrize(("umask", "heeded"), [(0o000, 0o002), (0o022, 0o022), (0o077, 0o077)])
def test_the_caller_s_umask_is_given_back(umask, heeded):
    before = os.umask(umask)
    try:
        with closed_to_others():
            assert os.umask(heeded) == heeded
        assert os.umask(umask) == umask
    finally:
        os.umask(before)


def test_a_folder_to_export_to_may_be_there_if_it_is_empty(tmp_path):
    export._check_place(tmp_path)
    export._check_place(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="is not empty"):
        export._check_place(tmp_path)
