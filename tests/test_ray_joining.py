"""Which Ray cluster `--ray auto` joins: to join one is to run what it sends. Ray itself is not needed here."""

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from search.errors import TrainerError, UsageError
from search.trainers.cluster import RayCluster
from search.trainers.discovery import cluster_of_this_machine


@pytest.fixture
def named(tmp_path, monkeypatch) -> Path:
    """The file in which `ray start` names the machine's cluster."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    path = tmp_path / "ray" / "ray_current_cluster"
    path.parent.mkdir(mode=0o777)
    path.parent.chmod(0o777)  # as Ray does
    path.write_text("127.0.0.1:1\n")
    path.chmod(0o644)
    return path


def test_a_cluster_that_the_user_has_started_is_joined(named):
    assert cluster_of_this_machine() == "127.0.0.1:1"
    named.write_text("")
    assert cluster_of_this_machine() is None
    named.unlink()
    assert cluster_of_this_machine() is None


def test_a_cluster_that_others_name_is_not_joined(named, monkeypatch):
    me = os.getuid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: me + 1)
        if me != 0:  # what the administrator has started is joined
            with pytest.raises(UsageError, match=f"it belongs to user {me}"):
                cluster_of_this_machine()
    for mode in (0o664, 0o646, 0o666):
        named.chmod(mode)
        with pytest.raises(UsageError, match=r"others can write to it.*--ray HOST:PORT; --ray local"):
            cluster_of_this_machine()
    named.rename(named.with_name("another"))
    named.symlink_to("another")
    with pytest.raises(UsageError, match="it cannot be read: Too many levels of symbolic links"):
        cluster_of_this_machine()
    named.unlink()
    os.mkfifo(named)
    with pytest.raises(UsageError, match="it is no file"):
        cluster_of_this_machine()


def test_the_file_of_another_user_is_refused(named, monkeypatch):
    real = os.fstat

    def foreign(file: int) -> os.stat_result:
        return os.stat_result([*real(file)[:4], 12345, *real(file)[5:]])

    monkeypatch.setattr("search.trainers.discovery.os.fstat", foreign)
    with pytest.raises(UsageError, match=r"belongs to user 12345.*name the one that you trust"):
        cluster_of_this_machine()


class Ray(SimpleNamespace):
    """Notes how it is called, and what it would start inherits."""

    def __init__(self) -> None:
        super().__init__(calls=[], job_config=SimpleNamespace(JobConfig=lambda **told: told))

    def init(self, address: str, **settings: object) -> None:
        self.calls.append((address, settings, os.environ.get("PYTHONSAFEPATH"), os.environ.get("PYTHONPATH")))


@pytest.fixture
def cluster() -> RayCluster:
    made = object.__new__(RayCluster)
    made._ray, made._mine, made._folder = Ray(), False, None
    yield made
    made.close()


def test_without_a_cluster_one_is_started_that_others_cannot_get_into(named, cluster):
    named.unlink()
    cluster._connect("auto", 1)
    [(address, settings, safe, path)] = cluster._ray.calls
    assert address == "local"  # and Ray looks for no other, such as by the names of processes
    folder = Path(settings["_temp_dir"])
    assert folder.parent == named.parent.parent
    assert folder.stat().st_mode & 0o077 == 0
    assert (safe, "" in path.split(os.pathsep)) == ("1", False)
    cluster.close()
    assert not folder.exists()


def test_the_machines_of_a_cluster_look_for_no_modules_in_the_working_directory(named, cluster, tmp_path, monkeypatch):
    named.unlink()
    monkeypatch.chdir(tmp_path)
    cluster._connect("local", 1)
    assert cluster._ray.calls[0][1]["job_config"] == {"_client_job": True, "_py_driver_sys_path": []}
    cluster._folder.cleanup()
    monkeypatch.syspath_prepend(str(tmp_path))  # as in a notebook, whose own modules are there
    cluster._connect("local", 1)
    assert cluster._ray.calls[1][1]["job_config"]["_py_driver_sys_path"] == [str(tmp_path)]


def test_a_cluster_that_has_ended_is_told_with_the_way_out(named, cluster):
    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(TrainerError, match=r"no Ray cluster answers at 127.0.0.1, port 1 .*`ray stop` forgets"):
        cluster._connect("auto", 1)
    assert cluster._ray.calls == []


def test_the_address_that_the_user_names_is_taken(named, cluster, monkeypatch):
    named.chmod(0o666)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:2")
    with pytest.raises(TrainerError, match="port 2"):
        cluster._connect("auto", 1)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    cluster._connect("auto", 1)
    assert cluster._ray.calls[0][0] == "local"
