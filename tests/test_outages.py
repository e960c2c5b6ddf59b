"""A storage that is away for a moment, in the middle of something: what got through is found, what did not is done."""

import pytest
from fixed_study import curve, make_spec
from optuna.trial import TrialState

from search.errors import StorageUnavailableError
from search.records import Reason
from search.study import Study


@pytest.fixture
def study(storage, tmp_path):
    opened = Study.open("fixed", make_spec(trials=3), storage, tmp_path, patience=60)
    yield opened
    opened.close()


def test_a_storage_that_fails_just_after_a_queued_trial_has_begun_costs_no_trial(study, monkeypatch):
    real = study._storage.get_trial

    def away(trial_id):
        trial = real(trial_id)
        if trial.state == TrialState.RUNNING:
            monkeypatch.undo()
            raise StorageUnavailableError("the database restarts")
        return trial

    monkeypatch.setattr(study._storage, "get_trial", away)
    asked = [study.ask() for _ in range(3)]
    assert [assignment.number for assignment in asked] == [0, 1, 2]
    assert [assignment.params for assignment in asked[:2]] == [study.spec.baseline(), study.spec.textbook()]
    for assignment in asked:
        assert study.report({assignment.number: curve(0.5)[0]}) == set()
        study.finish(assignment.number, Reason.COMPLETED, curve(0.5))
    assert (study.ask(), study.unfinished(), study.spent()) == (None, 0, 3)


def test_a_storage_that_is_away_as_the_study_ends_is_asked_again(study, monkeypatch):
    def away(study_id):
        monkeypatch.undo()
        raise StorageUnavailableError("the database restarts")

    monkeypatch.setattr(study._storage, "get_study_system_attrs", away)
    assert study.elect() is None
