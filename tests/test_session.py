"""One run of a search as others see it: what it leaves them, and that it leaves."""

import signal
from types import SimpleNamespace

import pytest
from conftest import SPEC
from scripted import Notes

from search import session as session_module
from search.errors import StorageError
from search.session import Options, Session
from search.spec import load_spec
from search.stopping import StopRequest
from search.study import Study, open_storage
from search.study.roster import all_running
from search.trainers import LocalTrainer, TrainerStopped
from search.weights import WeightStore
from search.wishes import Wishes


class Untracked:
    """In MLflow's place."""

    def __init__(self, *_settings):
        pass

    def trial(self, record):
        pass

    def notice(self):
        return None

    def finish(self, closing, patience):
        return SimpleNamespace()


class Onlooker(Notes):
    def repeating(self, title, labels):
        return self


@pytest.fixture
def session(tmp_path, monkeypatch):
    monkeypatch.setattr(session_module, "Tracker", Untracked)
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

    def lost(weights, number):
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


def test_a_search_that_cannot_be_prepared_is_run_by_nobody(session, monkeypatch):
    def fail(*_args):
        raise StorageError("the storage is away")

    monkeypatch.setattr(Study, "settle", fail)
    with pytest.raises(StorageError, match="the storage is away"):
        session.prepare()
    assert all_running(open_storage(None, session.options.home)) == []
