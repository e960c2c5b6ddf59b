"""Trainers in a Ray cluster: a search goes on without the machines that it loses, and leaves nothing behind.

The cluster is two nodes on this machine, in a process that a test starts and ends.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from ray_cluster import Machines, processes, settings
from whole_searches import ENDLESS, SLOW, Place, assert_exact, counted, wait_until

from search.errors import DeviceError
from search.records import Role
from search.trainers import cluster as clusters

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'regsearch[ray]'")

SECRETS = {"PGPASSWORD": "hunter2", "MLFLOW_TRACKING_PASSWORD": "hunter2"}


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where Ray keeps its sockets, whose paths must be short; nothing that it started may be left in the end."""
    path = tempfile.mkdtemp(prefix="ray")
    for name, value in {**settings(path), **SECRETS}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield path
    try:
        wait_until(lambda: not processes(path))
    finally:
        for pid in processes(path):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def machines(folder: str) -> Iterator[Machines]:
    cluster = Machines({"RAY_TMPDIR": folder})  # the rest is in the environment
    yield cluster
    cluster.close()


def has_no_gpu() -> bool:
    return not torch.cuda.is_available()


def test_a_search_outlives_a_killed_trainer_and_a_lost_machine(
    make_place: Callable[..., Place], machines: Machines
) -> None:
    trials = "--trials=16"
    place, undisturbed = make_place(SLOW), make_place(SLOW, "undisturbed")
    search = place.launch(trials, "--ray", machines.address, "--device=cpu", "--no-confirm")
    search.wait_for_trials()
    assert "On cpu of 2 machines of a Ray cluster, 2 trainers of 2 slots" in search.err
    os.kill(machines.trainers()[0], signal.SIGKILL)
    wait_until(lambda: "A trainer failed and is replaced by another" in search.err + search.out)
    search.wait_for_trials(4)
    machines.lose_the_second()
    search.ends(0)
    assert_exact(place, 16)
    assert "raylet" not in search.out + search.err
    assert machines.trainers() == []

    undisturbed.start(trials, "--workers=0", "--no-confirm")
    # What is sampled depends on who is first; these two configurations are the same, and so is what comes of them.
    for role in (Role.BASELINE, Role.TEXTBOOK):
        mine, theirs = (
            [record for record in counted(each.records()) if record.role is role] for each in (place, undisturbed)
        )
        assert len(mine) == len(theirs) == 1
        common = min(len(mine[0].epochs), len(theirs[0].epochs))
        assert [row.val_loss for row in mine[0].epochs[:common]] == pytest.approx(
            [row.val_loss for row in theirs[0].epochs[:common]], rel=1e-4
        )


@pytest.mark.parametrize("how", ["Ctrl-C", "killed"])
def test_no_trainer_outlives_its_search(make_place: Callable[..., Place], machines: Machines, how: str) -> None:
    place = make_place(SLOW)
    options = ["--ray", machines.address, "--gpus-per-worker=0.25"]  # of which the only GPU has four
    if how == "Ctrl-C":
        search = place.launch(ENDLESS, *options, "--workers=2")
        wait_until(lambda: "trainers must wait for room" in search.err)
        assert "1 of 2 trainers must wait for room" in search.err
        assert (
            "each needs 1 CPU and 0.25 GPU on one machine of the Ray cluster, which has 2 CPU and 1 GPU" in search.err
        )
        os.killpg(search.process.pid, signal.SIGINT)
        search.ends(130)
    else:
        search = place.launch(ENDLESS, *options)
        search.wait_for_trials()
        assert "1 trainer of" in search.err  # there is but one core beside the GPU
        assert ("Ray reserved a GPU of" in search.err) == has_no_gpu()
        assert len(machines.trainers()) == 1
        free = machines.free()
        assert (free["CPU"], free["GPU"]) == (1.0, 0.75)
        search.process.kill()
    wait_until(lambda: machines.trainers() == [])


def test_trainers_keep_trials_for_whoever_goes_on_when_they_are_asked_to_stop(
    make_place: Callable[..., Place], machines: Machines
) -> None:
    place = make_place(SLOW.replace("max_epochs = 4", "max_epochs = 12"))
    search = place.launch(ENDLESS, "--ray", machines.address, "--device=cpu", "--no-confirm")
    search.wait_for_trials()
    assert "has left" in place.command("stop", "--study=tiny")
    search.ends(0)
    assert "Stopped on request" in search.out
    assert machines.trainers() == []
    # Both machines are this one, and share the home.
    kept = list((place.home / "checkpoints" / "tiny").iterdir())
    assert 0 < len(kept) <= place.summary().trials["waiting"]
    assert_exact(place, place.go_on())


SCRIPT = """
import os, pathlib, sys
import torch
from search import Data, Range, run_search

DRIVER = os.getpid()

def leaks():
    if os.getpid() == DRIVER:
        return []
    parents = [os.getpid(), os.getppid()]
    return [pid for pid in parents if b"hunter2" in pathlib.Path(f"/proc/{pid}/environ").read_bytes()]

if __name__ == "__main__":
    x = torch.randn(200, 4)
    found = run_search(
        lambda: torch.nn.Linear(5 if leaks() else 4, 2),  # which nobody else knows
        Data(train=(x, (x[:, 0] > 0).long())),
        name="mine", ray="local", workers=2, population=2, confirm=None, quiet=True,
        training={"max_epochs": 3}, search={"trials": 6},
    )
    assert os.environ["PGPASSWORD"] == "hunter2"
    print(sum(found.summary.trials[state] for state in ("complete", "pruned")))
"""


def test_what_a_script_defines_trains_on_a_local_cluster_without_the_runner_s_secrets(
    folder: str, tmp_path: Path, database: Path
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "runs").mkdir()
    shutil.copy(database, tmp_path / "runs" / "mlflow.db")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    environment |= {"HOME": folder, "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "6\n"), done.stderr
    token = Path(folder, ".ray", "auth_token")
    assert token.stat().st_mode & 0o077 == 0


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    def run(*options: str, code: int) -> str:
        from conftest import regsearch

        monkeypatch.chdir(tmp_path)
        return regsearch("start", "--study", "digits", *options, code=code)

    return run


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--ray=127.0.0.1:1"], 1, "no Ray cluster answers at 127.0.0.1, port 1"),
        (["--ray=ray://127.0.0.1:1"], 1, "no Ray cluster answers at 127.0.0.1, port 1"),
        (["--ray=somewhere"], 2, "--ray somewhere: neither auto, local, host:port nor ray://host:port"),
        (["--ray=http://127.0.0.1:8265"], 2, "neither auto, local"),
        (["--ray=auto", "--workers=0"], 2, "--workers 0 trains in the program's own process"),
        (["--gpus-per-worker=0.5"], 2, "--gpus-per-worker says what Ray reserves for a trainer: it needs --ray"),
        (["--ray=auto", "--gpus-per-worker=2"], 2, "0<=x<=1"),
    ],
)
def test_what_cannot_work_is_told_at_once(refused, options, code, told):
    assert told in refused(*options, code=code)


def test_without_ray_the_way_to_it_is_told(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'regsearch[ray]'" in refused("--ray=auto", code=2)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@host/db",
        "postgresql://host/db?user=me&password=hunter2",
        "postgresql://me:hunter2/x@host",
    ],
)
def test_a_password_on_the_command_line_is_not_shown_to_a_cluster(refused, monkeypatch, url):
    monkeypatch.setattr(sys, "orig_argv", ["regsearch", "start", f"--storage={url}"])
    told = refused("--ray=127.0.0.1:1", code=2)
    assert "PGPASSWORD" in told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("wanted", "device", "machine", "share", "places"),
    [
        (None, "auto", {"CPU": 4.0}, 0.0, 4),
        (None, "auto", {"CPU": 4.0, "GPU": 2.0}, 1.0, 2),
        (0.5, "auto", {"CPU": 8.0, "GPU": 2.0}, 0.5, 4),
        (0.3, "cuda", {"CPU": 8.0, "GPU": 2.0}, 0.3, 6),
        (0.1, "auto", {"CPU": 8.0, "GPU": 2.0}, 0.1, 8),
        (0.5, "cpu", {"CPU": 4.0, "GPU": 2.0}, 0.0, 4),
        (0.0, "auto", {"CPU": 4.0, "GPU": 2.0}, 0.0, 4),
        (0.5, "auto", {"CPU": 4.0}, 0.5, 0),
    ],
)
def test_trainers_are_as_many_as_there_is_room_for(wanted, device, machine, share, places):
    assert clusters.gpus_of_each(wanted, device, [machine]) == share
    assert clusters.places_on(machine, share) == places


def test_a_cluster_without_a_token_is_told(monkeypatch):
    cluster = object.__new__(clusters.RayCluster)  # connected to nothing
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert cluster.notice is None
    monkeypatch.delenv("RAY_AUTH_MODE")
    assert "without a token: whoever reaches its ports can run code on it" in cluster.notice


@pytest.mark.parametrize(("wanted", "machine"), [(None, {"CPU": 4.0}), (0.0, {"CPU": 4.0, "GPU": 1.0})])
def test_a_gpu_that_no_trainer_would_have_is_told(wanted, machine):
    with pytest.raises(DeviceError, match="--device cuda: the trainers would have no GPU"):
        clusters.gpus_of_each(wanted, "cuda", [machine])
