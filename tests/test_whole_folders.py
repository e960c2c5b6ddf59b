"""Files that belong together are all in their folder or none is, whenever the process that writes them is killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from whole_searches import environment

from search.whole_folders import remove_old, remove_unfinished, whole_folder

REPOSITORY = str(Path(__file__).parents[1])
FILES = {"weights": "numbers", "program": "code", "card": "about"}
KILLED = f"""
import os, signal, sys
from pathlib import Path
from search.whole_folders import remove_unfinished, whole_folder

FILES, is_there = {FILES!r}, sys.argv[1] == "there"


def write(out):
    remove_unfinished(out, FILES)
    with whole_folder(out, last="card") as folder:
        for name, text in FILES.items():
            (folder / name).write_text(text)


def killed_at(operation, out):
    left = operation

    def count(event, _):
        nonlocal left
        left -= event.startswith(("open", "os.", "fcntl."))
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    write(out)
    os._exit(0)


for operation in range(1, 200):
    home = Path(f"{{operation}}")
    out = home / "out"
    home.mkdir()
    if is_there:
        out.mkdir()
    if (child := os.fork()) == 0:
        killed_at(operation, out)
    _, status = os.waitpid(child, 0)
    names = {{path.name for path in out.iterdir()}} if out.exists() else set()
    if "card" in names and not names >= set(FILES):
        print("looks whole and is not:", operation, names)
    if not is_there and names not in (set(), set(FILES)):
        print("neither there nor not:", operation, names)
    write(out)
    if {{path.name: path.read_text() for path in out.iterdir()}} != FILES or len(list(home.iterdir())) != 1:
        print("not whole after the second time:", operation, list(home.rglob("*")))
    if status == 0:
        print("operations:", operation)
        break
"""


@pytest.mark.parametrize("place", ["new", "there"])
def test_a_kill_at_any_moment_leaves_nothing_that_looks_whole_and_the_same_again_makes_it_whole(place, tmp_path):
    command = [sys.executable, "-P", "-c", KILLED, place]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(PYTHONPATH=REPOSITORY), capture_output=True, text=True, timeout=60
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith("operations: ")
    assert int(line.split()[1]) > 8
    assert done.stderr == ""


def write(out, files):
    with whole_folder(out) as folder:
        files(folder)


def test_a_failure_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "weights").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "out", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_stays_the_same_with_its_mode_and_what_else_is_in_it(tmp_path):
    out = tmp_path / "out"
    out.mkdir(mode=0o700)
    (out / "mine").write_text("mine")
    (out / "card").write_text("old")
    before = out.stat()
    with whole_folder(out, last="card") as folder:
        (folder / "card").write_text("new")
        assert (out / "card").read_text() == "old"
    assert (out.stat().st_ino, out.stat().st_mode) == (before.st_ino, before.st_mode)
    assert {path.name: path.read_text() for path in out.iterdir()} == {"mine": "mine", "card": "new"}


def test_a_folder_that_somebody_has_made_meanwhile_is_not_mixed_with_this_one(tmp_path):
    out = tmp_path / "out"

    def disturbed(folder):
        (folder / "weights").write_text("ours")
        out.mkdir()
        (out / "theirs").write_text("theirs")

    with pytest.raises(OSError, match="not empty"):
        write(out, disturbed)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "theirs"]


@pytest.mark.parametrize("is_there", [True, False])
def test_what_another_process_is_writing_is_not_taken_for_a_leftover(tmp_path, is_there):
    out = tmp_path / "out"
    if is_there:
        out.mkdir()
    with whole_folder(out) as folder:
        remove_unfinished(out, FILES)
        (folder / "weights").write_text("numbers")
    assert (out / "weights").read_text() == "numbers"


def test_a_link_is_no_leftover_and_is_not_followed(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("precious")
    (tmp_path / f".out.{'0' * 16}.part").symlink_to(tmp_path / "precious")
    remove_unfinished(tmp_path / "out")
    assert (tmp_path / "precious" / "file").read_text() == "precious"


def test_files_of_that_name_are_left_alone_where_nothing_was_cut_off(tmp_path):
    (tmp_path / "card").write_text("somebody's")
    remove_unfinished(tmp_path, FILES)
    assert (tmp_path / "card").exists()


def test_temporary_folders_of_killed_processes_are_removed_after_a_day(tmp_path):
    for name, age in ((".compile-old", 100_000), (".compile-new", 10), ("other", 100_000)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    remove_old(tmp_path, ".compile-")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".compile-new", "other"]
