"""The trainer interface at both homes: same results, ends with its runner, tells when it is lost."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from conftest import make_assignment, make_data, make_training
from safetensors.torch import load

from search.errors import DataError, DeviceError
from search.spec import DataSpec, ModelSpec
from search.trainers import (
    KilledForMemory,
    LocalTrainer,
    OutOfMemory,
    ProcessTrainer,
    StudyData,
    TrainerDied,
    TrainerLost,
    TrainerSetup,
    TrainerStopped,
    cores,
    pick_devices,
    wait_for_any,
)
from search.training import memory
from search.training.models import model_factory
from search.training.population import Population, Way


@dataclass(frozen=True)
class Given:
    """Data that are at hand."""

    def load(self):
        return make_data()

    def load_test(self):
        return make_data().val


def setup(**changes) -> TrainerSetup:
    values = {
        "model": ModelSpec(name="mlp", hidden=[8, 5]),
        "training": make_training(),
        "data": Given(),
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
    trainer = ProcessTrainer()
    trainer.set_up(setup())
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
    assert local[2] == remote[2]


@dataclass(frozen=True)
class Heavy(Given):
    """Data that no pipe holds."""

    ballast: bytes = bytes(2**22)


def test_nobody_waits_for_a_trainer_that_is_still_starting():
    trainer = ProcessTrainer()
    os.kill(trainer.process.pid, signal.SIGSTOP)
    rescue = threading.Timer(20.0, trainer.process.kill)
    rescue.start()
    trainer.set_up(setup(data=Heavy()))
    trainer.begin([make_assignment(0)], [])
    rescue.cancel()
    assert wait_for_any([trainer], 0.0) == []
    os.kill(trainer.process.pid, signal.SIGCONT)
    assert sorted(trainer.collect().results) == [0]
    trainer.close()


def test_a_trainer_that_dies_while_it_is_starting_is_lost():
    trainer = ProcessTrainer()
    os.kill(trainer.process.pid, signal.SIGSTOP)
    trainer.set_up(setup(data=Heavy()))
    trainer.begin([make_assignment(0)], [])
    trainer.process.kill()
    assert wait_for_any([trainer], 10.0) == [trainer]
    with pytest.raises(TrainerLost, match="died"):
        trainer.collect()
    trainer.close()


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
    trainer = ProcessTrainer()
    trainer.set_up(setup())
    trainer.get_ready()
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
    assert (pick_devices("auto"), pick_devices("cpu")) == (["cpu"], ["cpu"])
    with pytest.raises(DeviceError, match="--device cpu"):
        pick_devices("cuda")


def test_each_gpu_is_a_device(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("search.trainers.machine._may_have_gpu", lambda: True)
    assert pick_devices("auto") == pick_devices("cuda") == ["cuda:0", "cuda:1"]


def test_cores_are_those_this_process_may_use():
    assert 1 <= cores() <= (os.cpu_count() or 1)


def test_data_are_told_by_their_checksum_and_errors_of_the_user_come_through(process_trainer):
    assert process_trainer.get_ready() == LocalTrainer(setup()).get_ready() == "fingerprint"
    broken = ProcessTrainer()
    broken.set_up(setup(data=StudyData(DataSpec(name="digits", validation=0.9999), Path(), 0)))
    with pytest.raises(DataError, match="leaves 0 examples to train on"):
        broken.get_ready()
    broken.close()


def test_a_class_of_a_named_data_set_that_is_not_held_out_is_told_once():
    trainer = LocalTrainer(
        setup(
            data=StudyData(DataSpec(name="digits", validation=0.004), Path(), 0), model=ModelSpec(name="mlp", hidden=[])
        )
    )
    trainer.begin([make_assignment(0)], [])
    assert "validation: no example is of classes" in trainer.collect().notice
    trainer.begin([], [])
    assert trainer.collect().notice == ""


def test_retrained_trial_has_the_weights_of_its_best_epoch_and_scores_alike(process_trainer):
    _, report, weights = two_epochs(process_trainer)
    assert report.results[1].epoch == 2
    again = process_trainer.retrain(make_assignment(1, l1=1e-3), 2)
    assert process_trainer.test(again) == pytest.approx(process_trainer.test(weights), rel=1e-4)
    accuracy, loss, ece = process_trainer.test(weights)
    assert 0 <= ece <= 1
    assert (accuracy, loss) == pytest.approx((report.results[1].val_accuracy, report.results[1].val_loss), rel=1e-4)


@pytest.mark.parametrize(
    ("known", "factors"), [((), [1, 1, 1, 1]), ((0.5, 0.6, 0.4), [1, 1, 0.5, 0.5]), ((1, 1, 1, 1), [1, 1, 0.5, 0.25])]
)
def test_a_refit_goes_by_the_validation_losses_that_are_known(known, factors):
    """Nothing is held out then, and what stands for validation data is trained on."""
    training = make_training(schedule="plateau", plateau_epochs=0, plateau_factor=0.5)
    assignment = replace(make_assignment(0, l1=1e-3), val_losses=known)
    weights = load(LocalTrainer(setup(training=training)).refit(assignment, len(factors)))
    data = make_data().merged
    factory = model_factory(setup().model, data.shape, data.classes)
    people = Population(factory, data, make_training(), 0, 1, Way("looped"), keep_last=True)
    people.admit(assignment)
    for factor in factors:
        people._strengths.learning_rate.fill_(factor * assignment.params["learning_rate"])
        people.train_epoch()
    for name, expected in people.best_weights(0).items():
        torch.testing.assert_close(weights[name], expected)


def test_a_vacated_trainer_takes_other_trials(process_trainer):
    process_trainer.begin([make_assignment(0), make_assignment(1)], [])
    process_trainer.collect()
    process_trainer.vacate()
    process_trainer.begin([make_assignment(1)], [])
    assert {number: row.epoch for number, row in process_trainer.collect().results.items()} == {1: 1}


def test_slots_are_those_that_memory_holds(monkeypatch):
    monkeypatch.setattr("search.training.memory.free_bytes", lambda _device: 100_000)
    assert 1 <= LocalTrainer(setup(slots=1000)).slots < 20
    assert LocalTrainer(setup(slots=1000, sharers=10_000)).slots == 1
    monkeypatch.setattr("search.training.memory.free_bytes", lambda _device: 10**12)
    assert LocalTrainer(setup(slots=1000)).slots == 1000


@pytest.mark.parametrize(("message", "kind"), [("CUDA out of memory", OutOfMemory), ("no such thing", TrainerLost)])
def test_out_of_memory_is_told_from_other_failures(monkeypatch, message, kind):
    def fail(*_args):
        raise RuntimeError(message)

    monkeypatch.setattr("search.trainers.local.make_population", fail)
    trainer = LocalTrainer(setup())
    trainer.begin([make_assignment(0)], [])
    with pytest.raises(TrainerLost) as caught:
        trainer.collect()
    assert type(caught.value) is kind


class Small:
    """Data whose first model does not fit."""

    def load(self):
        data = make_data()
        sys.modules["search.trainers.local"].make_population = out_of_memory
        return data


def out_of_memory(*_args):
    raise RuntimeError("CUDA out of memory")


class Crowded:
    """Data that leave memory for few slots."""

    def load(self):
        memory.free_bytes = lambda _device: 100_000
        return make_data()


def test_more_trials_than_fit_are_refused_together_and_none_of_them_is_to_blame():
    trainer = ProcessTrainer()
    trainer.set_up(setup(data=Crowded(), slots=1000))  # as the one that takes another's place it is not asked first
    trainer.begin([make_assignment(number) for number in range(100)], [])
    with pytest.raises(OutOfMemory, match="of 1000 slots"):
        trainer.collect()
    trainer.close()


def test_freed_slots_are_room(monkeypatch):
    monkeypatch.setattr("search.trainers.local.fit", lambda *_: 2)
    trainer = LocalTrainer(setup())
    trainer.begin([make_assignment(0), make_assignment(1)], [])
    trainer.collect()
    trainer.begin([make_assignment(2)], [0])
    assert sorted(trainer.collect().results) == [1, 2]
    trainer.begin([make_assignment(3)], [])
    with pytest.raises(OutOfMemory, match="the memory that is free holds 2 of 3 slots"):
        trainer.collect()


def test_what_a_trainer_died_of_before_it_was_asked_for_an_epoch_is_told():
    trainer = ProcessTrainer()
    trainer.set_up(setup(data=Small()))
    trainer.get_ready()
    trainer.process.join()
    with pytest.raises(OutOfMemory, match="CUDA out of memory"):
        trainer.begin([make_assignment(0)], [])
    trainer.close()
    with pytest.raises(TrainerLost, match="died"):
        trainer.begin([make_assignment(0)], [])


def test_a_trainer_whose_data_are_wrong_tells_so_however_late_it_is_asked():
    trainer = ProcessTrainer()
    trainer.set_up(setup(data=StudyData(DataSpec(name="digits", validation=0.9999), Path(), 0)))
    trainer.process.join()
    with pytest.raises(DataError, match="leaves 0 examples to train on"):
        trainer.begin([make_assignment(0)], [])
    trainer.close()


def test_a_process_that_cannot_be_started_is_a_lost_trainer(monkeypatch):
    def fail(_process):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", fail)
    with pytest.raises(TrainerLost, match="refuses another process"):
        ProcessTrainer()


@pytest.mark.parametrize(("kills", "kind"), [([0, 0], TrainerDied), ([0, 1], KilledForMemory)])
def test_a_trainer_that_was_killed_is_told_from_one_that_the_kernel_killed_for_its_memory(monkeypatch, kills, kind):
    monkeypatch.setattr("search.trainers.process.memory_kills", lambda: kills.pop(0))
    trainer = ProcessTrainer()
    trainer.set_up(setup())
    trainer.process.kill()
    with pytest.raises(TrainerLost) as caught:
        trainer.get_ready()
    assert type(caught.value) is kind
    assert ("--workers 1" if kind is KilledForMemory else "SIGKILL") in str(caught.value)
    trainer.close()


class Huge:
    """Data that do not fit into memory."""

    def load(self):
        raise MemoryError("Unable to allocate 7.5 TiB for an array")


def test_data_that_do_not_fit_into_memory_are_told_as_such():
    with pytest.raises(OutOfMemory, match="MemoryError: Unable to allocate"):
        LocalTrainer(setup(data=Huge()))


def test_a_process_that_does_not_even_die_is_abandoned(process_trainer, monkeypatch):
    process_trainer.get_ready()
    monkeypatch.setattr("search.trainers.process._DEATH_SECONDS", 0.2)
    with monkeypatch.context() as patch:
        patch.setattr(process_trainer.process, "kill", lambda: None)  # as in the middle of a driver's call
        process_trainer.close()
    assert process_trainer.process not in multiprocessing.active_children()
    os.kill(process_trainer.process.pid, signal.SIGKILL)


@pytest.mark.parametrize("question", ["best_weights", "checkpoint", "vacate"])
def test_an_answer_that_does_not_come_is_a_lost_trainer(process_trainer, monkeypatch, question):
    process_trainer.begin([make_assignment(0)], [])
    process_trainer.collect()
    monkeypatch.setattr("search.trainers.remote._ANSWER_SECONDS", 0.2)
    os.kill(process_trainer.process.pid, signal.SIGSTOP)
    asked = {"best_weights": [0], "checkpoint": [[]], "vacate": []}[question]
    with pytest.raises(TrainerLost, match="has not answered for"):
        getattr(process_trainer, question)(*asked)
    assert not process_trainer.alive


@pytest.mark.parametrize("home", [LocalTrainer, ProcessTrainer])
def test_what_follows_a_search_hears_a_stop(home):
    stopped = threading.Event()
    if home is LocalTrainer:
        trainer = LocalTrainer(setup(), stopped.is_set)
    else:
        trainer = ProcessTrainer(stopped.is_set)
        trainer.set_up(setup())
        trainer.get_ready()
    threading.Timer(0.5, stopped.set).start()
    with pytest.raises(TrainerStopped):
        trainer.retrain(make_assignment(0), 1_000_000)
    assert trainer.alive == (home is LocalTrainer)
    trainer.close()


def test_a_refit_hears_a_stop():
    with pytest.raises(TrainerStopped):
        LocalTrainer(setup(), lambda: True).refit(make_assignment(0), 1)


def test_a_trainer_that_hangs_while_it_scores_does_not_keep_who_wants_to_stop(process_trainer):
    process_trainer.get_ready()
    process_trainer._should_stop = lambda: True
    os.kill(process_trainer.process.pid, signal.SIGSTOP)
    with pytest.raises(TrainerStopped):
        process_trainer.test(b"")
    assert not process_trainer.alive
