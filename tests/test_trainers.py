"""The trainer interface at both homes: same results, ends with its runner, tells when it is lost."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import make_assignment, make_data, make_training

from search.errors import DeviceError
from search.spec import ModelSpec
from search.trainers import (
    LocalTrainer,
    ProcessTrainer,
    TrainerLost,
    TrainerSetup,
    TrainerStopped,
    pick_device,
    wait_for_any,
)


def setup(**changes) -> TrainerSetup:
    values = {
        "model": ModelSpec(name="mlp", hidden=[8, 5]),
        "training": make_training(),
        "data": make_data(),
        "seed": 0,
        "slots": 3,
        "probe": make_assignment(0),
        "engine": "stacked",
        "precision": "fp32",
        "threads": 1,
    }
    return TrainerSetup(**(values | changes))


@pytest.fixture
def process_trainer():
    trainer = ProcessTrainer(setup())
    yield trainer
    trainer.close()


def two_epochs(trainer):
    trials = [make_assignment(0, dropout_0=0.5), make_assignment(1, l1=1e-3)]
    trainer.begin(trials, [])
    first = trainer.collect()
    trainer.begin([make_assignment(2)], [0])
    return first, trainer.collect(), trainer.best_weights(1)


def test_process_and_local_trainers_agree(process_trainer):
    local, remote = two_epochs(LocalTrainer(setup())), two_epochs(process_trainer)
    assert [report.results for report in local[:2]] == [report.results for report in remote[:2]]
    assert sorted(local[1].results) == [1, 2]
    assert all(local[2][name].equal(tensor) for name, tensor in remote[2].items())


def test_killed_trainer_is_lost_at_once(process_trainer):
    process_trainer.begin([make_assignment(0)], [])
    process_trainer.collect()
    os.kill(process_trainer.process.pid, signal.SIGKILL)
    assert wait_for_any([process_trainer], 10.0) == [process_trainer]
    with pytest.raises(TrainerLost, match="died"):
        process_trainer.collect()


def test_error_in_the_process_is_told(process_trainer):
    process_trainer.begin([], [99])  # frees a trial that is not there
    with pytest.raises(TrainerLost, match="ValueError"):
        process_trainer.collect()


def test_trial_that_cannot_be_admitted_does_not_end_the_others():
    trainer = LocalTrainer(setup())
    broken = make_assignment(1)
    del broken.params["l1"]
    trainer.begin([make_assignment(0), broken, make_assignment(2)], [])
    report = trainer.collect()
    assert sorted(report.results) == [0, 2]
    assert "KeyError" in report.failed[1]


def test_local_trainer_stops_amid_an_epoch():
    trainer = LocalTrainer(setup(), should_stop=lambda: True)
    trainer.begin([make_assignment(0)], [])
    with pytest.raises(TrainerStopped):
        trainer.collect()


RUNNER = """
import sys, time
sys.path.insert(0, {tests!r})
from test_trainers import setup
from search.trainers import ProcessTrainer
if __name__ == "__main__":
    trainer = ProcessTrainer(setup())
    print(trainer.process.pid, flush=True)
    time.sleep(60)
"""


def test_trainer_ends_when_its_runner_is_killed(tmp_path):
    script = tmp_path / "runner.py"
    script.write_text(RUNNER.format(tests=os.path.dirname(__file__)))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as runner:
        trainer = int(runner.stdout.readline())
        runner.kill()
    deadline = time.monotonic() + 30
    while is_alive(trainer):
        assert time.monotonic() < deadline, "the trainer outlived its runner"
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert (pick_device("auto"), pick_device("cpu")) == ("cpu", "cpu")
    with pytest.raises(DeviceError, match="--device cpu"):
        pick_device("cuda")
