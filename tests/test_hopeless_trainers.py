"""Trainers that cannot work at all: a search goes on without them while there are others."""

import pytest
from scripted import ScriptedCrew, ScriptedTrainer, falling
from test_runner import Dying, Machine, run_on, spec, study  # noqa: F401  fixtures

from search.errors import DataError
from search.posts import Post
from search.records import Reason
from search.trainers import Report


@pytest.mark.parametrize("where", ["begin", "collect", "replace"])
def test_a_trainer_that_cannot_work_at_all_is_given_up_while_there_are_others(study, where):  # noqa: F811
    error = DataError("the data in /data are not what the others have")

    def fail(*_args, **_kwargs):
        raise error

    class Hiring(Machine):
        def replace(self, index, fewer_slots=False):
            return fail() if where == "replace" else super().replace(index, fewer_slots)

    useless = ScriptedTrainer(falling)
    setattr(useless, where, fail)
    notes = run_on(Hiring([Dying(falling), ScriptedTrainer(falling)], useless, room=0), study, trials=9)
    assert notes.reasons.count(Reason.COMPLETED) == study.spent() == 9
    assert study.summary().trials["running"] == study.waiting() == 0
    assert str(error) in notes.messages[-1]
    assert notes.messages[-1].startswith("The search goes on with 1 of its trainers: ")


def test_the_error_of_the_last_trainer_is_that_of_the_search(study):  # noqa: F811
    def fail(*_args):
        raise DataError("no such data")

    alone = ScriptedTrainer(falling)
    alone.collect = fail
    with pytest.raises(DataError, match="no such data"):
        run_on(ScriptedCrew(alone), study, trials=9)
    assert alone.closed
    assert study.summary().trials["running"] == 0


def test_a_new_trainer_has_as_long_for_its_first_epoch_as_the_one_before(monkeypatch):
    monkeypatch.setattr("search.posts._LONGEST_LOOK_AWAY", 1e6)
    post = Post(0, ScriptedTrainer(falling), waiting=True)
    assert not post.hangs(3000.0)
    post.take_time(Report({}, training=1.0))
    post.waiting, post.waited, post.slowest = True, 0.0, 1.0
    assert post.hangs(400.0)
    post.take_on(ScriptedTrainer(falling))
    post.waiting, post.waited = True, 0.0
    assert not post.hangs(3000.0)
    assert post.hangs(1000.0)
