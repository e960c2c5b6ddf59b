"""Studies of several objectives."""

from collections import deque
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from fixed_study import SEVERAL, curve, make_spec, reopen, sparse_curve
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from search.errors import SpecMismatchError
from search.records import Reason
from search.study import Study, list_studies, open_storage


def test_a_study_of_several_objectives_has_their_directions_and_values(storage, tmp_path):
    study = Study.open("fixed", make_spec(objectives=SEVERAL), storage, tmp_path)
    ways = [
        (Reason.COMPLETED, sparse_curve((0.4, 0.0), (0.3, 0.25), (0.5, 0.9))),
        (Reason.EARLY_STOPPED, sparse_curve((0.2, 0.0), (0.4, 0.1))),
        (Reason.PRUNED, sparse_curve((0.1, 0.9))),
        (Reason.COMPLETED, sparse_curve((0.9, 0.0), (0.35, 0.25))),
        (Reason.COMPLETED, sparse_curve((0.9, 0.0), (0.8, 0.0), (0.15, 0.125))),
    ]
    for reason, epochs in ways:
        number = study.ask().number
        for row in epochs:
            study.report({number: row})
        study.finish(number, reason, epochs)
    stored = optuna.load_study(study_name="fixed", storage=storage)
    assert [direction.name for direction in stored.directions] == ["MINIMIZE", "MAXIMIZE", "MINIMIZE"]
    assert stored.metric_names == list(SEVERAL)
    values = [[0.3, 0.25, 2], [0.2, 0.0, 1], None, [0.35, 0.25, 2], [0.15, 0.125, 3]]
    assert [trial.values for trial in stored.trials] == values
    assert stored.trials[2].intermediate_values == {1: 0.1}

    summary = study.summary()
    assert (summary.best.number, summary.objectives) == (4, SEVERAL)
    assert [record.number for record in summary.pareto] == [4, 1, 0]  # the baseline is one of those that none beats
    assert {record.number for record in summary.pareto} == {trial.number for trial in stored.best_trials}
    assert list_studies(storage) == [summary]
    study.close()


def test_a_study_resumes_with_its_objectives_and_refuses_others(study, tmp_path):
    with pytest.raises(SpecMismatchError, match=r'search.objectives: stored nothing, given \["val_loss", "epochs"\]'):
        reopen(study, tmp_path, make_spec(objectives=("val_loss", "epochs")))
    several = Study.open("several", make_spec(objectives=SEVERAL), study._storage, tmp_path)
    several.finish(several.ask().number, Reason.COMPLETED, curve(0.5))
    again = reopen(several, tmp_path)
    assert again.ask().number == 1
    with pytest.raises(SpecMismatchError, match="given nothing"):
        reopen(again, tmp_path, make_spec())


@pytest.mark.parametrize(
    ("objectives", "sparsity"),
    [(("val_loss", "sparsity"), 0.0), (("val_loss", "epochs"), 0.01), (SEVERAL, 0.01)],
    ids=["sparsity, always none", "epochs", "all three"],
)
@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp"])
def test_every_sampler_can_search_for_a_front(tmp_path, sampler, objectives, sparsity):
    def search(study: Study, trials: int) -> None:
        """Four trials at a time; the first to begin is the first to end, every third by being pruned."""
        running = deque(study.ask() for _ in range(4))
        for _ in range(trials):
            asked = running.popleft()
            losses = [1 + asked.params["dropout_0"] / epoch for epoch in range(1, 2 + asked.number % 7)]
            rows = sparse_curve(*((loss, sparsity * asked.number) for loss in losses))
            for row in rows:
                study.report({asked.number: row})
            study.finish(asked.number, Reason.PRUNED if asked.number % 3 == 2 else Reason.COMPLETED, rows)
            running.append(study.ask())

    spec = make_spec(sampler=sampler, objectives=objectives, trials=40)
    study = Study.open("fixed", spec, InMemoryStorage(), tmp_path)
    search(study, 18)
    resumed = reopen(study, tmp_path)
    assert resumed.recovered == 4
    search(resumed, 6)
    assert resumed.summary().pareto
    resumed.close()


def test_a_trial_that_has_only_begun_does_not_look_like_one_that_learned_fast(tmp_path):
    spec = make_spec(objectives=SEVERAL, pruner={"name": "halving", "min_epochs": 1})
    study = Study.open("fixed", spec, InMemoryStorage(), tmp_path)
    number = study.ask().number
    study.report({number: sparse_curve((0.5, 0.25))[0]})
    (promised,) = study._sampling._memory.get_all_trials(0)
    assert (promised.state, promised.values) == (TrialState.COMPLETE, [0.5, 0.25, 9])
    study.close()


def test_importances_of_several_objectives(tmp_path):
    spec = make_spec(objectives=("val_loss", "sparsity"), sampler="random", trials=60)
    study = Study.open("fixed", spec, InMemoryStorage(), tmp_path)
    for _ in range(60):
        asked = study.ask()
        study.finish(asked.number, Reason.COMPLETED, sparse_curve((1 + asked.params["dropout_0"], 0.5)))
    importances = study.importances()
    assert sum(importances.values()) == pytest.approx(1)
    assert max(importances, key=importances.get) == "dropout_0"
    study.close()


@pytest.mark.parametrize("objectives", [("val_loss",), SEVERAL], ids="-".join)
def test_optuna_dashboard_shows_a_study(tmp_path, objectives):
    from optuna_dashboard import wsgi

    storage = open_storage(None, tmp_path)
    study = Study.open("fixed", make_spec(objectives=objectives), storage, tmp_path)
    for number in range(6):
        rows = sparse_curve(*((1 / epoch, number / 10) for epoch in range(1, number + 2)))
        study.finish(study.ask().number, Reason.PRUNED if number == 3 else Reason.COMPLETED, rows)
    study.close()
    answer, environment, said = wsgi(storage), {}, []
    setup_testing_defaults(environment)
    for page in ("/api/studies", "/api/studies/0", "/api/studies/0/param_importances", "/csv/0"):
        body = b"".join(answer(environment | {"PATH_INFO": page}, lambda status, *_: said.append(status)))
        assert body
    assert said == ["200 OK"] * 4
