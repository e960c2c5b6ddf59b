"""How a runner leaves: nothing that fails keeps the rest of its trials out of the queue, and nobody waits for long."""

import threading
import time

import pytest
from scripted import Notes, ScriptedCrew, ScriptedTrainer, falling
from test_runner import StopAfter, spec, study  # noqa: F401  fixtures

from search.errors import StorageUnavailableError
from search.pruning import NoPruner
from search.records import Reason
from search.runner import Runner
from search.stopping import StopRequest


class Faulty:
    """A study some of whose answers are a test's."""

    trouble = None

    def __init__(self, real):
        self.real = real

    def __getattr__(self, name):
        return getattr(self.real, name)


def run(study, *trainers, stop=None, notes=None):  # noqa: F811
    Runner(study, ScriptedCrew(*trainers), NoPruner(), None, notes or Notes(), stop or StopRequest()).run()


def test_a_result_that_cannot_be_recorded_keeps_no_other_trial_out_of_the_queue(study):  # noqa: F811
    class Refusing(Faulty):
        failures = 2

        def finish(self, *outcome):
            self.failures -= 1
            if self.failures >= 0:
                raise OSError("disk full")
            return self.real.finish(*outcome)

    notes = Notes()
    with pytest.raises(OSError, match="disk full"):
        run(Refusing(study), ScriptedTrainer(falling, slots=3), stop=StopAfter(2), notes=notes)
    asked = len(study._trials()) - study.waiting()
    ended = [record.number for record in study.records()]
    assert len(ended) == asked - 2 > 0
    assert [record.number for record in notes.records] == ended


def test_what_came_before_something_goes_wrong_is_put_back(study):  # noqa: F811
    class Refusing(Faulty):
        calls = 0

        def ask(self):
            self.calls += 1
            if self.calls == 2:
                raise OSError("disk full")
            return self.real.ask()

    with pytest.raises(OSError, match="disk full"):
        run(Refusing(study), ScriptedTrainer(falling, slots=3))
    assert study.summary().trials["running"] == 0
    assert {record.reason for record in study.records()} == {Reason.INTERRUPTED}


def test_what_came_is_put_back_when_nobody_can_be_told_of_it(study):  # noqa: F811
    class Deaf(Notes):
        def started(self, assignment):
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run(study, ScriptedTrainer(falling, slots=3), notes=Deaf())
    assert study.summary().trials["running"] == 0


class Away(Faulty):
    """Its storage is away as soon as it is told of an ending, which it learns after a moment."""

    def __init__(self, real, blocked_ones=()):
        super().__init__(real)
        self.hurried = threading.Event()

    def finish(self, *outcome):
        if not self.hurried.is_set():
            threading.Event().wait(0.05)  # the first call takes until it fails
            self.trouble = "connection refused"
            assert self.hurried.wait(30), "it was waited for as long as it takes"
        raise StorageUnavailableError("connection refused")

    def hurry(self):
        self.hurried.set()


def test_who_leaves_does_not_wait_for_a_storage_that_turns_out_to_be_away(study):  # noqa: F811
    away = Away(study)
    with pytest.raises(StorageUnavailableError):
        run(away, ScriptedTrainer(falling, slots=3), stop=StopAfter(2))
    assert away.hurried.is_set()


def test_who_leaves_does_not_wait_for_every_call_to_a_storage_that_is_away(study, monkeypatch):  # noqa: F811
    monkeypatch.setattr("search.desk._FAREWELL_SECONDS", 0.5)

    class Blocked(Away):
        calls = 0

        def finish(self, *outcome):
            self.calls += 1
            time.sleep(1.0)
            return super().finish(*outcome)

    blocked = Blocked(study)
    with pytest.raises(StorageUnavailableError):
        run(blocked, ScriptedTrainer(falling, slots=8), stop=StopAfter(2))
    assert blocked.calls < 6


def test_the_desk_is_closed_however_a_search_ends(study):  # noqa: F811
    before = threading.active_count()

    class Broken(Faulty):
        def report(self, results):
            raise OSError("disk full")

        def finish(self, *outcome):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run(Broken(study), ScriptedTrainer(falling))
    assert threading.active_count() == before
