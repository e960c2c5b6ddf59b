"""What follows a search outlives its trainers: one that dies while it is asked is replaced, but not for ever."""

from types import SimpleNamespace

import pytest
from conftest import SPEC
from scripted import ScriptedCrew, ScriptedTrainer

from search.aftermath import Aftermath
from search.crew import Crew
from search.errors import TrainerError
from search.records import Score
from search.spec import load_spec
from search.trainers import TrainerLost
from search.wishes import Wishes


class Examiner(ScriptedTrainer):
    """Knows no trial; dies when it is asked to score, or does so."""

    def __init__(self, dies: bool):
        super().__init__(lambda epoch: 1.0)
        self.alive, self._dies = True, dies

    def test(self, weights):
        if self._dies:
            self.alive = False
            raise TrainerLost("a trainer process died (exit code -9)")
        return 0.9, float(weights), 0.01


class ExaminersCrew(ScriptedCrew):
    has_test = True
    idle, _heed = Crew.idle, Crew._heed

    @staticmethod
    def _stop():
        return False


class Weights:
    """Are all there."""

    def load(self, number):
        return str(number).encode()


class OneTrial:
    """A study whose best trial has not been scored."""

    def __init__(self):
        self.scores = []

    def summary(self):
        return SimpleNamespace(best=SimpleNamespace(number=3), baseline=None, test={})

    def record_test(self, which, score):
        self.scores.append((which, score))


def score(*dying: bool) -> OneTrial:
    study = OneTrial()
    crew = ExaminersCrew(*map(Examiner, dying))
    Aftermath(None, study, crew, None, None, None).score(Weights())
    return study


def test_test_data_are_scored_by_another_trainer_when_one_dies():
    assert score(True, True, False).scores == [("best", Score(3, 0.9, 3.0, 0.01))]


def test_trainers_that_die_of_scoring_are_not_replaced_for_ever():
    with pytest.raises(TrainerError, match="could not be scored: a trainer process died"):
        score(True, True, True, False)


def test_trainers_that_died_when_nobody_asked_are_replaced_before_the_next_task(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(SPEC)
    crew = Crew(load_spec(str(path)), Wishes(tmp_path, device="cpu", workers=2, population=1, kernels="torch"))
    crew.start()
    try:
        crew.get_ready()
        dead, other = crew.trainers
        dead.process.kill()
        dead.process.join()
        crew.vacate()
        assert crew.trainers[0] is not dead
        assert crew.trainers[0].alive
        assert crew.trainers[1] is other
    finally:
        crew.close()
