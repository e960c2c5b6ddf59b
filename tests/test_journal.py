"""The journal file survives kills, power cuts and full disks, and nothing good is ever dropped."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search.errors import StorageError
from search.study import journal
from search.study.file_systems import refuse_network_file_system
from search.study.journal import JournalBackend, JournalLock, open_journal
from search.study.journal_format import line_of


@pytest.fixture
def path(tmp_path) -> Path:
    """A journal with a study `s` and three finished trials."""
    path = tmp_path / "j.journal"
    study = optuna.create_study(storage=open_journal(path), study_name="s")
    for value in range(3):
        study.tell(study.ask(), float(value))
    return path


def values(path: Path) -> list[float | None]:
    return [trial.value for trial in optuna.load_study(study_name="s", storage=open_journal(path)).trials]


def corrupt_files(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.corrupt-*"))


def test_a_new_journal_is_made_with_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage = open_journal(Path("deep/down/j.journal"))
    monkeypatch.chdir("/")  # a relative path is made absolute once
    optuna.create_study(storage=storage, study_name="s").ask()
    assert values(tmp_path / "deep/down/j.journal") == [None]


def test_plain_optuna_reads_it(path):
    plain = JournalStorage(JournalFileBackend(str(path)))
    assert [trial.value for trial in optuna.load_study(study_name="s", storage=plain).trials] == [0.0, 1.0, 2.0]


TORN = {
    "half a line": b'{"op_code":4,"worker_id":"x","stu',
    "a line without its newline": b'{"op_code":4,"worker_id":"x","study_id":0,"datetime_start":null}',
    "zeros": bytes(3000),
    "zeros and a newline": bytes(500) + b"\n",
    "several broken lines": b"\x00\x01\n\xff{\n{}\n[]\n3\n{",
    "more than one block": b"\x00\r\n" * 100_000,
}


@pytest.mark.parametrize("tail", TORN.values(), ids=TORN.keys())
def test_a_torn_end_is_moved_aside_on_opening(path, caplog, tail):
    good = path.read_bytes()
    path.write_bytes(good + tail)
    assert values(path) == [0.0, 1.0, 2.0]
    assert path.read_bytes() == good
    (aside,) = corrupt_files(path)
    assert aside.read_bytes() == tail
    assert aside.name in caplog.text


@pytest.mark.parametrize("tail", [TORN["half a line"], TORN["zeros"]])
def test_a_torn_end_left_by_another_process_is_moved_aside_on_append(path, tail):
    study = optuna.load_study(study_name="s", storage=open_journal(path))
    reader = optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(path))))
    with open(path, "ab") as file:
        file.write(tail)
    assert len(reader.trials) == 3  # a reader, also of plain Optuna, passes over it
    trial = study.ask()
    assert trial.number == 3
    study.tell(trial, 3.0)
    assert values(path) == [0.0, 1.0, 2.0, 3.0]
    assert [trial.value for trial in reader.trials] == [0.0, 1.0, 2.0, 3.0]  # and is not confused by its going
    assert [file.read_bytes() for file in corrupt_files(path)] == [tail]


def test_a_journal_torn_in_its_first_line(tmp_path):
    path = tmp_path / "j.journal"
    for beginning in (b'{"op', b'{"op_code":0,"wor', bytes(10), b""):
        path.write_bytes(beginning)
        open_journal(path)
        assert path.read_bytes() == b""


@pytest.mark.parametrize(
    "garbage", [b"garbage\n", bytes(100) + b"\n", b'{"op_code":4,"wo{"op_code":4}\n', b"\xff\xfe\n"]
)
def test_damage_in_the_middle_is_told_and_nothing_changed(path, garbage):
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:2], garbage, *lines[2:]])
    path.write_bytes(damaged)
    with pytest.raises(
        StorageError, match=rf"line 3 of {len(lines) + 1} is damaged.*regsearch repair --storage {path}"
    ):
        open_journal(path)
    assert path.read_bytes() == damaged
    assert corrupt_files(path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello\nworld\n", "is not an Optuna journal"),
        (b"hello", "is not an Optuna journal"),
        (bytes(20) + b"tape archive", "is not an Optuna journal"),
        (b"SQLite format 3\0" + bytes(100), "is not an Optuna journal; it is an SQLite file: --storage sqlite:///"),
        (b'{"a": 1}\n', "is not an Optuna journal"),
        (b'{"op_code":77,"worker_id":"x"}\n', "is not an Optuna journal"),
        (b'{"op_code":5}\n', "is not an Optuna journal"),
    ],
)
def test_other_files_are_left_alone(tmp_path, content, message):
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=message):
        open_journal(path)
    assert path.read_bytes() == content


def test_a_folder_is_no_journal(tmp_path):
    with pytest.raises(StorageError, match="cannot be opened"):
        open_journal(tmp_path)


def test_a_full_disk_takes_back_the_half_line(path, monkeypatch):
    study = optuna.load_study(study_name="s", storage=open_journal(path))
    good, real = path.read_bytes(), os.write

    def full_disk(file: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full_disk)
        with pytest.raises(StorageError, match="cannot be written: No space left on device"):
            study.ask()
    assert path.read_bytes() == good
    assert study.ask().number == 3
    assert corrupt_files(path) == []


def test_a_whole_line_stays_when_its_fsync_fails(path, monkeypatch):
    study = optuna.load_study(study_name="s", storage=open_journal(path))

    def broken(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(StorageError, match="Input/output error"):
            study.ask()
    assert len(study.trials) == 4  # readers may have seen it already


@contextmanager
def grouped(backend):
    with backend.held_back() as logs:
        yield
    backend.append_logs(logs)


def test_a_group_is_one_append(path, monkeypatch):
    backend, waits, fsync = JournalBackend(path), [], os.fsync
    before = len(list(backend.read_logs(0)))
    monkeypatch.setattr(os, "fsync", lambda file: (waits.append(1), fsync(file)))
    with grouped(backend):
        for i in range(3):
            backend.append_logs([{"op_code": 5, "i": i}])
            assert list(backend.read_logs(0)) == []
    assert [log["i"] for log in backend.read_logs(before)] == [0, 1, 2]
    assert len(waits) == 1


def test_a_group_comes_behind_what_others_appended_meanwhile(path):
    study = optuna.load_study(study_name="s", storage=open_journal(path))
    storage, trial = open_journal(path), study.ask()
    with storage.grouped():
        storage.set_trial_user_attr(3, "a", 1)
        trial.set_user_attr("a", 2)
        trial.set_user_attr("b", 2)
        storage.set_trial_user_attr(3, "c", 1)
    assert storage.get_trial(3).user_attrs == {"a": 1, "b": 2, "c": 1} == study.trials[3].user_attrs


def test_a_group_that_fails_appends_nothing(path):
    backend, good = JournalBackend(path), path.read_bytes()

    def fail() -> None:
        with grouped(backend):
            backend.append_logs([{"op_code": 5}])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == good
    backend.append_logs([{"op_code": 5}])
    assert path.read_bytes() == good + line_of({"op_code": 5})


def test_a_group_is_its_threads_own(path):
    backend, good = JournalBackend(path), path.read_bytes()
    with grouped(backend):
        backend.append_logs([{"op_code": 5, "i": 0}])
        thread = threading.Thread(target=backend.append_logs, args=[[{"op_code": 5, "i": 1}]])
        thread.start()
        thread.join()
    assert path.read_bytes() == good + line_of({"op_code": 5, "i": 1}) + line_of({"op_code": 5, "i": 0})


def test_a_full_disk_leaves_the_whole_lines_of_a_group(path, monkeypatch):
    backend, good, real = JournalBackend(path), path.read_bytes(), os.write

    def full_disk(file: int, data: bytes) -> int:
        if len(data) < 50:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data[: len(data) // 2])

    def append_six() -> None:
        with grouped(backend):
            for i in range(6):
                backend.append_logs([{"op_code": 5, "i": i}])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full_disk)
        with pytest.raises(StorageError, match="No space left on device"):
            append_six()
    assert path.read_bytes().startswith(good)
    left = path.read_bytes()[len(good) :].splitlines(keepends=True)
    assert left == [line_of({"op_code": 5, "i": i}) for i in range(len(left))]
    assert 0 < len(left) < 6
    backend.append_logs([{"op_code": 5, "i": 9}])
    assert corrupt_files(path) == []


def test_a_journal_removed_while_in_use(path):
    study = optuna.load_study(study_name="s", storage=open_journal(path))
    path.unlink()
    with pytest.raises(StorageError, match=r"j.journal has been deleted"):
        study.ask()


def test_a_writer_that_knows_no_lock_may_finish_its_line(path):
    whole = b'{"op_code":4,"worker_id":"x","study_id":0,"datetime_start":"2030-01-01T00:00:00+00:00"}\n'
    with open(path, "ab", buffering=0) as file:
        file.write(whole[:30])
        finish = threading.Timer(journal._FOREIGN_WRITER_SECONDS / 4, file.write, [whole[30:]])
        finish.start()
        assert len(values(path)) == 4
        finish.join()
    assert corrupt_files(path) == []


def test_threads_take_turns(path):
    backend = JournalBackend(path)
    before = len(list(backend.read_logs(0)))
    log = {"op_code": 5, "filler": "x" * 5000}
    threads = [threading.Thread(target=lambda: [backend.append_logs([log]) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == before + 80
    assert set(lines[before:]) == {line_of(log)}


def start(code: str, *arguments: object) -> subprocess.Popen:
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / "j.flock"
    code = """
        import sys, time
        from pathlib import Path
        from search.study.journal import JournalLock
        with JournalLock(Path(sys.argv[1])):
            print("held", flush=True)
            time.sleep(60)
    """
    with start(code, path) as process:
        assert process.stdout.readline() == "held\n"
        lock, entered = JournalLock(path), threading.Event()
        waiter = threading.Thread(target=lambda: (lock.acquire(), entered.set(), lock.release()))
        waiter.start()
        assert not entered.wait(0.2)
        process.send_signal(signal.SIGKILL)
        assert entered.wait(10)
        waiter.join()


@pytest.mark.parametrize("end", [b"", TORN["half a line"]])
def test_readers_do_not_wait_for_a_process_that_is_stopped_amid_an_append(path, end, monkeypatch):
    monkeypatch.setattr(journal, "_LONG_FOR_AN_APPEND", 0.1)
    with open(path, "ab") as file:
        file.write(end)
    with JournalLock(path.with_name("j.journal.flock")):
        assert values(path) == [0.0, 1.0, 2.0]
    assert corrupt_files(path) == []
    storage = open_journal(path)
    study = optuna.load_study(study_name="s", storage=storage)
    study.tell(study.ask(), 3.0)
    assert values(path) == [0.0, 1.0, 2.0, 3.0]
    assert len(corrupt_files(path)) == (1 if end else 0)


def test_who_waits_for_long_is_told_why(path, monkeypatch, caplog):
    monkeypatch.setattr(journal, "_REMARKABLY_LONG", 0.1)
    backend, lock = JournalBackend(path), JournalLock(path.with_name("j.journal.flock"))
    lock.acquire()
    waiter = threading.Thread(target=backend.append_logs, args=([{"op_code": 5}],))
    waiter.start()
    deadline = time.monotonic() + 30
    while "another process keeps the lock" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.02)
    lock.release()
    waiter.join()
    assert "if it is stopped" in caplog.text


def test_killed_in_the_middle_of_appends(path):
    code = """
        import sys
        from pathlib import Path
        from search.study.journal import JournalBackend
        backend = JournalBackend(Path(sys.argv[1]))
        for i in range(10**9):
            backend.append_logs([{"op_code": 5, "i": i, "who": sys.argv[2], "filler": "x" * 100_000}])
            print(i, flush=True)
    """
    acknowledged = {}
    processes = {who: start(code, path, who) for who in "ab"}
    for who, process in processes.items():
        with process:
            for line in process.stdout:
                if int(line) >= 10:
                    process.send_signal(signal.SIGKILL)
                    break
            acknowledged[who] = [int(line), *map(int, process.stdout)][-1]
    backend = JournalBackend(path)
    logs = [log for log in backend.read_logs(0) if "who" in log]
    for who, last in acknowledged.items():
        written = [log["i"] for log in logs if log["who"] == who]
        assert written == list(range(len(written)))
        assert len(written) >= last + 1


MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /mnt/home nfs4 rw 0 0
/dev/vdb /mnt/home/local xfs rw 0 0
server:/x /mnt/with\\040space cifs rw 0 0
me@server: /mnt/ssh fuse.sshfs rw 0 0
host /mnt/9p 9p rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/mnt/home/me/j", "nfs4"),
        ("/mnt/with space/j", "cifs"),
        ("/mnt/ssh/j", "fuse.sshfs"),
        ("/mnt/home/local/j", None),
        ("/mnt/homestead/j", None),
        ("/mnt/9p/j", None),
        ("/j", None),
    ],
)
def test_network_file_systems_are_refused(tmp_path, path, kind):
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    if kind is None:
        refuse_network_file_system(Path(path), mounts)
    else:
        with pytest.raises(StorageError, match=rf"network file system \({kind}\).*--storage postgresql://"):
            refuse_network_file_system(Path(path), mounts)
    refuse_network_file_system(Path(path), tmp_path / "no-proc-here")
