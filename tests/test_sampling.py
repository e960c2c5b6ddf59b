"""What samplers are shown of a study, and what they draw: as plain Optuna would, whatever is left out."""

import random
from datetime import datetime

import optuna
import pytest
from fixed_study import SPEC, curve, make_spec
from optuna.pruners import NopPruner
from optuna.samplers import GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from search.records import Reason
from search.spec import Choices, Range, StudySpec
from search.study import Study
from search.study.samplers import distributions
from search.study.sampling import Sampling

CHOICES = Choices(
    {
        "x": Range(low=-1.0, high=1.0),
        "y": Range(low=1e-4, high=1.0, log=True),
        "n": Range(low=1, high=9, integer=True),
    },
    {},
)
SPACE = distributions(CHOICES)


class Recorder(RandomSampler):
    """A sampler that looks at what it is shown."""

    def __init__(self):
        super().__init__(seed=0)
        self.shown: list[FrozenTrial] = []

    def infer_relative_search_space(self, study, trial):
        self.shown = study.get_trials(deepcopy=False)
        return super().infer_relative_search_space(study, trial)

    def numbers(self, *states: TrialState) -> list[int]:
        return [trial.number for trial in self.shown if trial.state in states]


@pytest.fixture
def storage():
    storage = InMemoryStorage()
    optuna.create_study(study_name="s", storage=storage)
    return storage


@pytest.fixture
def storage_of_several():
    """With a study of two objectives, the lowest of the first and the highest of the second."""
    storage = InMemoryStorage()
    optuna.create_study(study_name="s", storage=storage, directions=DIRECTIONS)
    return storage


DIRECTIONS = ["minimize", "maximize"]


def sampling(storage, sampler, recent=None, promising_from=None) -> Sampling:
    return Sampling("s", storage, sampler, NopPruner(), CHOICES, recent, promising_from)


def finished(number: int, params: dict, *values: float, steps: int = 0) -> FrozenTrial:
    """Return a complete trial, or with `steps` a pruned one of such losses."""
    return FrozenTrial(
        number=number,
        trial_id=number,
        state=TrialState.PRUNED if steps else TrialState.COMPLETE,
        value=None,
        values=values if steps == 0 or len(values) == 1 else None,
        datetime_start=datetime.now(),
        datetime_complete=datetime.now(),
        params=params,
        distributions=SPACE,
        user_attrs={},
        system_attrs={},
        intermediate_values=dict.fromkeys(range(1, steps + 1), values[0]),
    )


def objective(params: dict) -> float:
    return params["x"] ** 2 + params["y"] + 0.01 * params["n"]


every_sampler = pytest.mark.parametrize(
    ("make", "trials"),
    [
        (lambda: TPESampler(seed=3), 80),
        (lambda: RandomSampler(seed=3), 20),
        (lambda: QMCSampler(scramble=True, seed=3, warn_independent_sampling=False), 20),
        (lambda: GPSampler(seed=3, warn_independent_sampling=False), 14),
    ],
    ids=["tpe", "random", "qmc", "gp"],
)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@every_sampler
def test_the_draws_are_those_of_an_optuna_study(storage, make, trials):
    """Four trials at a time, ending in a shuffled order: complete, pruned and failed."""
    plain, ours = optuna.create_study(sampler=make()), sampling(storage, make(), recent=300)
    chance, running, draws = random.Random(0), [], 0
    for number in range(trials):
        running.append((plain.ask(SPACE), ours.suggest(number)))
        assert running[-1][1] == running[-1][0].params
        draws += 1
        if len(running) < 4:
            continue
        trial, params = running.pop(chance.randrange(4))
        end = chance.random()
        if end < 0.2:
            plain.tell(trial, state=TrialState.FAIL)
            ours.learn(plain.trials[trial.number])
        elif end < 0.5:
            steps = chance.randrange(1, 4)
            for step in range(1, steps + 1):
                trial.report(objective(params), step)
            plain.tell(trial, state=TrialState.PRUNED)
            ours.learn(finished(trial.number, params, objective(params), steps=steps))
        else:
            plain.tell(trial, objective(params))
            ours.learn(finished(trial.number, params, objective(params)))
    assert draws == trials


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@every_sampler
def test_with_several_objectives_too_the_draws_are_those_of_an_optuna_study(storage_of_several, make, trials):
    """Complete and failed ones; of pruned trials Optuna's TPE would ask for the one direction that there is not."""
    plain = optuna.create_study(sampler=make(), directions=DIRECTIONS)
    ours, chance, running = sampling(storage_of_several, make(), recent=300), random.Random(0), []
    for number in range(trials):
        running.append((plain.ask(SPACE), ours.suggest(number)))
        assert running[-1][1] == running[-1][0].params
        if len(running) < 4:
            continue
        trial, params = running.pop(chance.randrange(4))
        if chance.random() < 0.2:
            plain.tell(trial, state=TrialState.FAIL)
        else:
            plain.tell(trial, [objective(params), params["x"]])
        ours.learn(plain.trials[trial.number])


def test_with_several_objectives_tpe_learns_from_pruned_trials_how_far_they_came(storage_of_several):
    asked, recorder = sampling(storage_of_several, TPESampler(seed=0)), Recorder()
    shown = sampling(storage_of_several, recorder, recent=2)
    for number in range(40):
        params = asked.suggest(number)
        trial = finished(number, params, objective(params), 0.0, steps=number % 4)
        for each in (asked, shown):
            each.learn(trial)
    shown.suggest(40)
    assert recorder.numbers(TrialState.COMPLETE) == [number for number in range(40) if number % 4 == 0]
    furthest = [number for number in range(40) if number % 4 == 3]
    then_the_first = [2, 6, 10, 14, 18]
    the_last_two = [38, 39]
    assert recorder.numbers(TrialState.PRUNED) == sorted({*furthest, *then_the_first, *the_last_two})


def test_with_several_objectives_fronts_are_shown_whole(storage_of_several):
    recorder, params = Recorder(), {"x": 0.0, "y": 0.1, "n": 1}
    asked = sampling(storage_of_several, recorder, recent=1)
    order = random.Random(0).sample(range(60), 60)
    for number, place in enumerate(order):
        # Front k has the places 20k to 20k + 19: more of the second objective for more of the first.
        front, step = divmod(place, 20)
        asked.learn(finished(number, params, front + step / 100, step / 100))
        if number % 10 == 9:  # what is not among the best by then is forgotten
            asked.suggest(60)
    expected = {number for number, place in enumerate(order) if place < 40} | {59}
    assert recorder.numbers(TrialState.COMPLETE) == sorted(expected)


def test_with_several_objectives_a_running_trial_is_worth_what_its_best_epoch_is(storage_of_several):
    ours = sampling(storage_of_several, RandomSampler(seed=0), promising_from=1)
    ours.suggest(0)
    for epoch, (loss, sparsity) in enumerate([(0.9, 0.1), (0.5, 0.3), (0.5, 0.8), (0.7, 0.9), (float("nan"), 1.0)], 1):
        ours.follow(0, epoch, [loss, sparsity])
    (promised,) = ours._memory.get_all_trials(0)
    assert (promised.state, promised.values) == (TrialState.COMPLETE, [0.5, 0.3])


def test_running_trials_are_shown_with_their_parameters(storage):
    recorder = Recorder()
    asked = sampling(storage, recorder)
    first = asked.suggest(0)
    asked.suggest(4)
    asked.suggest(5)
    assert recorder.numbers(TrialState.RUNNING) == [0, 4, 5]
    assert recorder.shown[0].params == first
    asked.learn(finished(4, first, 0.5))
    asked.suggest(6)
    assert recorder.numbers(TrialState.RUNNING) == [0, 5, 6]
    assert recorder.numbers(TrialState.COMPLETE) == [4]


def test_running_trials_that_have_come_far_are_shown_as_complete_with_their_best(storage):
    ours = sampling(storage, RandomSampler(seed=0), promising_from=3)
    for number in (0, 1):
        ours.suggest(number)
    for epoch, loss in ((1, 0.1), (2, 0.9), (3, 0.5), (4, 0.7)):
        ours.follow(0, epoch, [loss])
    ours.follow(1, 2, [0.4])
    far, near = ours._memory.get_all_trials(0)
    assert (far.state, far.value) == (TrialState.COMPLETE, 0.5)
    assert near.state == TrialState.RUNNING
    ours.learn(finished(0, far.params, 0.6))
    assert [trial.value for trial in ours._memory.get_all_trials(0)] == [0.6, None]


def test_the_best_and_the_most_recent_trials_are_shown(storage):
    recorder = Recorder()
    asked, params = sampling(storage, recorder, recent=30), {"x": 0.0, "y": 0.1, "n": 1}
    for number in range(200):
        asked.learn(finished(number, params, number / 100 if number < 20 else 1.0))
    asked.suggest(200)
    best = [*range(20), *range(20, 25)]  # of several with the same value the first
    assert recorder.numbers(TrialState.COMPLETE) == [*best, *range(170, 200)]


def test_pruned_trials_are_among_the_best_where_complete_ones_are_few(storage):
    recorder = Recorder()
    asked, params = sampling(storage, recorder, recent=2), {"x": 0.0, "y": 0.1, "n": 1}
    for number in range(40):
        steps = number % 4
        asked.learn(finished(number, params, 1.0 - number / 100, steps=steps))
    asked.suggest(40)
    complete = [number for number in range(40) if number % 4 == 0]
    furthest = [number for number in range(40) if number % 4 == 3]
    then_the_lowest = [38, 34, 30, 26, 22]
    assert recorder.numbers(TrialState.COMPLETE) == complete
    assert recorder.numbers(TrialState.PRUNED) == sorted({*furthest, *then_the_lowest})


def test_some_parameters_may_be_given(storage):
    params = sampling(storage, RandomSampler(seed=0)).suggest(0, {"x": 0.5, "n": 3})
    assert params.keys() == SPACE.keys()
    assert (params["x"], params["n"]) == (0.5, 3)


def test_a_trial_can_get_another_number(storage):
    recorder = Recorder()
    asked = sampling(storage, recorder)
    asked.suggest(3)
    asked.renumber(3, 5)
    asked.suggest(6)
    assert recorder.numbers(TrialState.RUNNING) == [5, 6]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_place_in_a_qmc_sequence_is_kept_in_the_storage(storage):
    def ask_three() -> list[dict]:
        asked = sampling(storage, QMCSampler(scramble=True, seed=3, warn_independent_sampling=False))
        asked.learn(finished(0, {"x": 0.0, "y": 0.1, "n": 1}, 1.0))
        return [asked.suggest(number) for number in range(1, 4)]

    first, second = ask_three(), ask_three()
    assert all(params not in first for params in second)
    assert any(key.startswith("qmc:") for key in storage.get_study_system_attrs(0))


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp"])
def test_every_sampler_is_seeded_and_does_not_repeat_itself_on_resume(tmp_path, sampler):
    spec = make_spec(sampler=sampler, trials=40)

    def draws(storage: InMemoryStorage, count: int) -> list[dict]:
        study = Study.open("fixed", spec, storage, tmp_path)
        asked = []
        for _ in range(count):
            assignment = study.ask()
            asked.append(dict(assignment.params))
            study.finish(assignment.number, Reason.COMPLETED, curve(1 + assignment.params["dropout_0"]))
        study.close()
        return asked

    one, other = InMemoryStorage(), InMemoryStorage()
    first = draws(one, 13)
    assert first == draws(other, 13)
    resumed = draws(one, 6)
    assert all(params not in first for params in resumed)


def test_hyperband_lets_the_sampler_know_its_brackets(tmp_path):
    spec = make_spec(pruner={"name": "hyperband", "min_epochs": 1})
    study = Study.open("fixed", spec, InMemoryStorage(), tmp_path)
    for _ in range(14):
        study.finish(study.ask().number, Reason.COMPLETED, curve(0.5))
    known = study._sampling._study
    brackets = {known.pruner._get_bracket_id(known, trial) for trial in known.trials}
    assert len(brackets) > 1
    study.close()


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp"])
def test_a_strength_is_sampled_only_where_its_switch_is_on(sampler, tmp_path):
    switched = {
        "l1": {"low": 1e-7, "high": 1e-3, "log": True, "switch": True},
        "mixup": {"low": 0.5, "high": 0.5, "switch": True},
        "batch_norm": {"switch": True},
    }
    changes = {"model": {"hidden": [8, 4]}, "space": SPEC["space"] | switched, "search": {"sampler": sampler}}
    spec = StudySpec.model_validate(SPEC | changes)
    study = Study.open("switched", spec, InMemoryStorage(), tmp_path)
    seen = set()
    for number in range(40):
        asked = study.ask()
        params = study._study.trials[asked.number].params
        assert params["use_l1"] == ("l1" in params) == (asked.params["l1"] != 0)
        assert asked.params["mixup"] == 0.5 * params["use_mixup"]
        if params["use_batch_norm"]:  # dropout acts after the last one alone
            assert asked.params["input_dropout"] == asked.params["dropout_0"] == 0
        seen.add((params["use_l1"], params["use_batch_norm"]))
        study.finish(asked.number, Reason.COMPLETED, curve(1 + number % 7))
    study.close()
    assert len(seen) >= 3
