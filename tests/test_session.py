"""One run of a search as others see it: what it leaves them, and that it leaves."""

import os
import signal
from types import SimpleNamespace

import pytest
from conftest import SPEC
from fixed_study import curve
from scripted import Notes

from search import session as session_module
from search import tracked
from search.errors import StorageError
from search.records import Reason, TrialRecord
from search.session import Options, Session, _TrackedWatcher
from search.spec import load_spec
from search.stopping import StopRequest
from search.study import Study, open_storage
from search.study.roster import all_running
from search.trainers import LocalTrainer, TrainerStopped
from search.weights import WeightStore
from search.wishes import Wishes


class Untracked:
    """In MLflow's place."""

    def __init__(self, *settings):
        self.given = [record.number for record in settings[3]]
        self.untold = None

    def trial(self, record):
        self.given.append(record.number)

    def catch_up(self, ended, untold):
        self.untold = [record.number for record in untold]

    def notice(self):
        return None

    def finish(self, closing, *patience):
        return SimpleNamespace(message=None)


class Onlooker(Notes):
    def repeating(self, title, labels):
        return self


@pytest.fixture
def trackers(monkeypatch):
    """Those that were made."""
    made = []
    monkeypatch.setattr(session_module, "Tracker", lambda *settings: made.append(Untracked(*settings)) or made[-1])
    return made


@pytest.fixture
def session(tmp_path, trackers):
    (tmp_path / "tiny.toml").write_text(SPEC)
    spec = load_spec(str(tmp_path / "tiny.toml")).with_overrides(trials=2)
    wishes = Wishes(tmp_path, device="cpu", engine="looped", precision="fp32", kernels="torch", workers=0)
    return Session(spec, Options("tiny", tmp_path / "home", wishes))


def test_who_leaves_early_touches_no_weights_that_others_may_be_writing(session):
    session.prepare()
    others = session.artifacts / "trial-00001.part"
    others.parent.mkdir(parents=True)
    others.write_bytes(b"half of it")
    stop = StopRequest()
    stop.requested = True
    assert session.run(Onlooker(), stop).stopped
    assert others.exists()


def test_a_search_that_ends_leaves_the_weights_of_the_best_alone(session):
    session.prepare()
    old = session.artifacts / "trial-00099.safetensors"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"of a trial that was the best once")
    ending = session.run(Onlooker(), StopRequest())
    kept = {ending.summary.best.number, ending.summary.baseline.number}
    assert {path.name for path in session.artifacts.glob("trial-*")} == {f"trial-{n:05d}.safetensors" for n in kept}


def test_who_is_interrupted_while_it_scores_leaves_the_rest_to_the_next_start(session, monkeypatch):
    session.prepare()
    stop = StopRequest()

    def interrupted(_trainer, _weights):
        stop.signal = signal.SIGINT
        raise TrainerStopped

    with monkeypatch.context() as patch:
        patch.setattr(LocalTrainer, "test", interrupted)
        ending = session.run(Onlooker(), stop)
    assert ending.interrupted_by == signal.SIGINT
    assert (ending.summary.trials["complete"], ending.summary.test) == (2, {})
    again = Session(session.spec, session.options)
    again.prepare()
    assert again.run(Onlooker(), StopRequest()).summary.test.keys() == {"best", "baseline"}


def test_what_was_found_when_time_was_up_is_scored_all_the_same(session, monkeypatch):
    session.spec = session.spec.with_overrides(trials=1000)
    session.prepare()
    stop = StopRequest()

    def lost(weights, number, rate_of=None):
        assert not stop.timed_out

    def time_is_up(watcher, record):
        stop._deadline = 0.0

    monkeypatch.setattr(WeightStore, "load", lost)  # so that they are trained once more
    monkeypatch.setattr(Onlooker, "ended", time_is_up)
    ending = session.run(Onlooker(), stop)
    assert ending.timed_out
    assert "best" in ending.summary.test


def test_a_home_that_takes_no_files_is_told_and_ends_no_search(session):
    session.prepare()
    session.artifacts.parent.mkdir(parents=True)
    session.artifacts.write_text("in the way")
    notes = Onlooker()
    ending = session.run(notes, StopRequest())
    assert ending.summary.trials["complete"] == 2
    assert ending.summary.test.keys() == {"best", "baseline"}
    told = "\n".join(notes.messages)
    assert f"Weights cannot be written to {session.artifacts}" in told
    assert f"What was found could not be written to {session.artifacts}" in told


def join(session):
    """Return another process's part in the study."""
    return Study.open("tiny", session.spec, session._study._storage, session.options.home)


def end(study, assignment) -> TrialRecord:
    return study.finish(assignment.number, Reason.COMPLETED, curve(0.5))


def test_a_start_that_is_late_leaves_the_end_of_a_study_to_who_is_at_it(session):
    session.prepare()
    other = Study.open("tiny", session.spec, session._study._storage, session.options.home, lease=2.0)
    while (assignment := other.ask()) is not None:
        end(other, assignment)
    assert other.elect() is None
    tracked.end(other, finished=True)
    ending = session.run(Onlooker(), StopRequest())
    assert ending.left_to == f"process {os.getpid()} on {os.uname().nodename}"
    assert not tracked.closing(other, session.artifacts).interrupted
    other.close()


@pytest.mark.parametrize("stays", [True, False])
def test_who_ends_a_trial_writes_it_to_mlflow_and_the_last_what_is_missing(session, trackers, stays):
    session.spec = session.spec.with_overrides(trials=4)
    session.prepare()
    other = join(session)
    first, second = other.ask(), other.ask()
    end(other, first)
    stop = StopRequest()

    class Visited(Onlooker):
        """Another process ends a trial meanwhile, too, and leaves; or else this one is stopped."""

        def epoch_ended(self, report):
            super().epoch_ended(report)
            if self.epochs == 1:
                end(other, second)
                stop.requested = stays
                if not stays:
                    other.close()

    session.run(Visited(), stop)
    [tracker] = trackers
    everything = {record.number for record in session.records}
    assert set(tracker.given) == everything - {first.number, second.number} != set()
    assert set(tracker.untold) == (set() if stays else everything)
    other.close()


def test_each_end_of_a_trial_is_told_mlflow_by_one_of_those_who_hear_of_it(session):
    session.spec = session.spec.with_overrides(trials=3)
    session.prepare()
    study, others = session._study, [join(session), join(session)]
    notes, trackers = [Notes(), Notes()], [Untracked(None, None, None, []), Untracked(None, None, None, [])]
    watchers = [
        _TrackedWatcher(note, tracker, runner.has_ended)
        for note, tracker, runner in zip(notes, trackers, (study, others[0]), strict=True)
    ]
    lost = others[1].ask().number
    for runner, watcher in zip((study, others[0]), watchers, strict=True):
        watcher.ended(end(runner, runner.ask()))
    others[1]._membership.lease.release()  # as when it dies
    for runner, watcher in zip((study, others[0]), watchers, strict=True):
        runner.unfinished()
        for record in runner.news().ended:
            watcher.ended(record)
    assert [len(note.records) for note in notes] == [3, 3]
    assert sorted(trackers[0].given + trackers[1].given) == [record.number for record in study.records()]
    assert lost in trackers[0].given
    for each in (session, *others):
        each.close()


def test_a_search_that_cannot_be_prepared_is_run_by_nobody(session, monkeypatch):
    def fail(*_args):
        raise StorageError("the storage is away")

    monkeypatch.setattr(Study, "settle", fail)
    with pytest.raises(StorageError, match="the storage is away"):
        session.prepare()
    assert all_running(open_storage(None, session.options.home), session.options.home) == []
