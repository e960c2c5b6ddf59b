"""Repeats are run like a study's trials: a deadly one is given up, and a storage that is away holds up no trainer."""

import threading

import pytest
from conftest import SPEC
from scripted import Notes, ScriptedCrew, ScriptedTrainer, falling

from search.confirm import Confirming
from search.confirmation import Diverged, Picks, Repeats
from search.errors import StorageUnavailableError
from search.spec import load_spec
from search.stopping import StopRequest
from search.trainers import TrainerLost

MAX_EPOCHS = 8


@pytest.fixture
def confirming(tmp_path):
    (tmp_path / "tiny.toml").write_text(SPEC)
    spec = load_spec(str(tmp_path / "tiny.toml"))
    spec = spec.model_copy(update={"training": spec.training.model_copy(update={"max_epochs": MAX_EPOCHS})})
    return Confirming(spec, Repeats(Picks([0], None, None)), {0: {**spec.textbook(), "patience": 2}}, None)


class Quiet:
    """A study whose storage answers, and whom nobody asks to stop."""

    trouble = None

    def asked_to_stop(self):
        return False

    def hurry(self):
        raise AssertionError("there is no hurry")


class Away(Quiet):
    """A study whose storage is away from its first repeat on."""

    def __init__(self):
        self.hurried = threading.Event()

    def save(self, _repeats):
        self.trouble = "connection refused"
        assert self.hurried.wait(30), "it was waited for as long as it takes"
        raise StorageUnavailableError("connection refused")

    def hurry(self):
        self.hurried.set()


def test_a_repeat_that_kills_its_trainers_is_tried_three_times(confirming):
    class Dying(ScriptedTrainer):
        def collect(self):
            if any(assignment.number == 1 and epoch for epoch, assignment in self.occupied.values()):
                raise TrainerLost("the model cannot do this")
            return super().collect()

    notes = Notes()
    trainers = [Dying(falling, slots=1) for _ in range(9)]
    confirming.train(confirming.due(3), ScriptedCrew(*trainers), notes, StopRequest(), lambda repeats: None, Quiet())
    assert sorted(run.seed for run in confirming.repeats.runs) == [0, 2]
    assert confirming.repeats.diverged == [Diverged(0, 1, killed=True)]
    assert [each.number for each in confirming.due(3)] == [1]  # other trainers may survive it
    confirming.train(
        confirming.due(3), ScriptedCrew(ScriptedTrainer(falling, slots=1)), notes, StopRequest(), [].append, Quiet()
    )
    assert (len(confirming.repeats.runs), confirming.repeats.diverged, confirming.due(3)) == (3, [], [])
    assert [trainer.closed for trainer in trainers] == [True] * 3 + [False] * 6


def test_trainers_go_on_with_repeats_while_the_storage_is_away_which_is_told(confirming):
    away, notes, stop = Away(), Notes(), StopRequest()

    class Stopping(ScriptedTrainer):
        def collect(self):
            stop.requested = any(epoch == MAX_EPOCHS - 1 for epoch, _ in self.occupied.values())
            return super().collect()

    def curve(assignment):  # the first repeat stops early, the second goes on while nobody can be told of that
        return lambda epoch: float(epoch) if assignment.number == 0 else 1.0 / epoch

    trainer = Stopping(curve, slots=2)
    with pytest.raises(StorageUnavailableError):
        confirming.train(confirming.due(3), ScriptedCrew(trainer), notes, stop, away.save, away)
    assert notes.epochs == MAX_EPOCHS
    assert notes.messages[0].startswith("The storage does not answer, and is asked again; training goes on")
    assert away.hurried.is_set()
