"""Who is pruned, against cases worked out by hand and against Optuna itself."""

import math
import random
from datetime import UTC, datetime

import optuna
import pytest
from conftest import make_assignment
from optuna.trial import TrialState

from search.judging import Judge
from search.posts import Running
from search.pruning import NoPruner, SuccessiveHalving, make_pruner
from search.records import EpochResult, Reason, TrialRecord
from search.spec import StudySpec
from search.study.mirror import OptunaPruner


def epochs(losses: list[float], sparsities: list[float] | None = None) -> tuple[EpochResult, ...]:
    rows = zip(losses, sparsities or [0.0] * len(losses), strict=True)
    return tuple(EpochResult(i, 0.0, loss, 0.0, sparsity) for i, (loss, sparsity) in enumerate(rows, 1))


def trained(curves: dict[int, list[float]]) -> dict[int, tuple[EpochResult, ...]]:
    return {number: epochs(losses) for number, losses in curves.items()}


def record(number: int, losses: list[float], reason: Reason = Reason.COMPLETED) -> TrialRecord:
    now = datetime.now(UTC)
    return TrialRecord(number, {}, reason, epochs(losses), now, now)


def spec_with(objectives: tuple[str, ...] = ("val_loss",), **pruner) -> StudySpec:
    return StudySpec.model_validate(
        {
            "name": "p",
            "data": {"name": "digits"},
            "model": {"hidden": [4]},
            "training": {"max_epochs": 9},
            "space": {"l1": {"low": 0.0, "high": 1.0}},
            "search": {"objectives": objectives, "pruner": pruner},
        }
    )


def test_rungs_stand_below_the_last_epoch():
    assert SuccessiveHalving(2, 2, 30).rungs == (2, 4, 8, 16)
    assert SuccessiveHalving(1, 3, 9).rungs == (1, 3)
    assert SuccessiveHalving(5, 2, 5).rungs == ()


def test_trials_that_reach_a_rung_together_are_compared_with_each_other():
    halving = SuccessiveHalving(2, 2, 9)
    assert halving.epoch_ended(trained({n: [9.0] for n in range(4)})) == set()
    assert halving.epoch_ended(trained({0: [9, 4.0], 1: [9, 1.0], 2: [9, 3.0], 3: [9, 2.0]})) == {0, 2}


def test_half_rounded_up_goes_on():
    halving = SuccessiveHalving(1, 2, 9)
    assert halving.epoch_ended(trained({0: [1.0], 1: [2.0], 2: [3.0]})) == {2}
    assert SuccessiveHalving(1, 2, 9).epoch_ended(trained({0: [1.0]})) == set()


def test_a_later_trial_is_compared_with_all_that_came_so_far():
    halving = SuccessiveHalving(1, 2, 9)
    assert halving.epoch_ended(trained({0: [5.0]})) == set()
    assert halving.epoch_ended(trained({1: [4.0]})) == set()  # best of two
    assert halving.epoch_ended(trained({2: [4.5]})) == set()  # second of three
    assert halving.epoch_ended(trained({3: [4.6]})) == {3}  # third of four
    assert halving.epoch_ended(trained({0: [5.0, 1.0], 3: [4.6, 0.1]})) == {0}


def test_the_score_is_the_lowest_loss_up_to_the_rung():
    halving = SuccessiveHalving(3, 2, 9)
    assert halving.epoch_ended(trained({0: [1.0, 8.0, 8.0], 1: [2.0, 2.0, 2.0]})) == {1}


def test_ties_go_on_and_nan_is_no_score():
    assert SuccessiveHalving(1, 2, 9).epoch_ended(trained({0: [1.0], 1: [1.0], 2: [1.0]})) == set()
    halving = SuccessiveHalving(2, 2, 9)
    assert halving.epoch_ended(trained({0: [math.nan, 1.0], 1: [math.nan, math.nan]})) == {1}


def test_a_trial_is_judged_once_at_a_rung():
    halving = SuccessiveHalving(1, 2, 9)
    halving.epoch_ended(trained({0: [5.0]}))
    halving.epoch_ended(trained({1: [1.0]}))
    assert halving.epoch_ended(trained({0: [5.0]})) == set()


def test_halving_replayed_on_resume_decides_as_before():
    def curves(number: int) -> list[float]:
        noise = random.Random(number)
        return [noise.uniform(1, 2) / epoch for epoch in range(1, 17)]

    live, resumed = SuccessiveHalving(2, 2, 17), SuccessiveHalving(2, 2, 17)
    for number in range(20):
        epoch, pruned = 0, False
        while epoch < 16 and not pruned:
            epoch += 1
            pruned = bool(live.epoch_ended(trained({number: curves(number)[:epoch]})))
        ended = record(number, curves(number)[:epoch], Reason.PRUNED if pruned else Reason.COMPLETED)
        live.trial_ended(ended)
        resumed.trial_ended(ended)
    resumed.trial_ended(record(20, curves(20), Reason.INTERRUPTED))
    for number in range(21, 30):
        for epoch in range(1, 17):
            sofar = {number: curves(number)[:epoch]}
            assert live.epoch_ended(trained(sofar)) == resumed.epoch_ended(trained(sofar))


def test_an_interrupted_trial_is_forgotten():
    halving = SuccessiveHalving(1, 2, 9)
    halving.epoch_ended(trained({0: [1.0], 1: [2.0]}))
    halving.trial_ended(record(0, [1.0], Reason.INTERRUPTED))
    assert halving.epoch_ended(trained({2: [1.9]})) == set()
    assert halving.epoch_ended(trained({3: [1.95]})) == set()  # the best two of 2.0, 1.9, 1.95


def one_rung(**trials: tuple[float, float]) -> set[int]:
    """Return who of trials with a loss and a sparsity is pruned at epoch 1; they are called t0, t1 and so on."""
    halving = SuccessiveHalving(1, 2, 9, sparsity=True)
    return halving.epoch_ended({int(name[1:]): epochs([loss], [sparse]) for name, (loss, sparse) in trials.items()})


def test_where_sparsity_counts_the_first_front_goes_on():
    assert one_rung(t0=(1.0, 0.0), t1=(1.1, 0.0), t2=(9.0, 0.9), t3=(9.1, 0.8)) == {1, 3}  # by losses {2, 3}


def test_on_one_front_the_lower_loss_goes_on():
    assert one_rung(t0=(4.0, 0.9), t1=(3.0, 0.6), t2=(2.0, 0.3), t3=(1.0, 0.0)) == {0, 1}


def test_the_second_front_fills_the_places_that_the_first_leaves():
    assert one_rung(t0=(1.0, 0.5), t1=(3.0, 0.4), t2=(2.0, 0.3), t3=(4.0, 0.1)) == {1, 3}
    assert one_rung(t0=(1.0, 0.5), t1=(2.0, 0.5), t2=(1.5, 0.5), t3=(1.0, 0.5)) == {1, 2}


def test_the_sparsity_that_counts_is_that_of_the_best_epoch():
    halving = SuccessiveHalving(3, 2, 9, sparsity=True)
    curves = {
        0: epochs([2.0, 1.0, 3.0], [0.5, 0.5, 0.5]),
        1: epochs([2.0, 1.1, 3.0], [0.9, 0.1, 0.9]),
        2: epochs([2.0, 1.2, 3.0], [0.0, 0.6, 0.0]),
        3: epochs([2.0, 1.3, 3.0]),
    }
    assert halving.epoch_ended(curves) == {1, 3}


def test_a_trial_without_a_loss_is_behind_all_others_also_where_sparsity_counts():
    halving = SuccessiveHalving(2, 2, 9, sparsity=True)
    curves = {0: epochs([math.nan, math.nan], [1.0, 1.0]), 1: epochs([9.0, 9.0])}
    assert halving.epoch_ended(curves) == {0}


def test_a_later_trial_is_ranked_among_all_fronts_so_far_and_the_interrupted_are_forgotten():
    halving = SuccessiveHalving(1, 2, 9, sparsity=True)
    assert halving.epoch_ended({0: epochs([1.0], [0.5]), 1: epochs([2.0], [0.6])}) == {1}
    assert halving.epoch_ended({2: epochs([1.1], [0.4])}) == {2}  # on the second front, two places for three
    halving.trial_ended(record(0, [1.0], Reason.INTERRUPTED))
    assert halving.epoch_ended({3: epochs([1.0], [0.3])}) == set()  # behind 0, and before all others
    resumed = SuccessiveHalving(1, 2, 9, sparsity=True)
    resumed.trial_ended(record(5, [0.5]))
    assert resumed.epoch_ended({6: epochs([0.6], [0.0])}) == {6}


@pytest.mark.parametrize(
    ("objectives", "pruned"),
    [
        (("val_loss",), {2}),
        (("val_loss", "epochs"), {2}),
        (("val_loss", "sparsity"), {1}),
        (("val_loss", "epochs", "sparsity"), {1}),
    ],
)
def test_the_spec_tells_what_trials_are_pruned_by(objectives, pruned):
    pruner = make_pruner(spec_with(objectives, name="halving", min_epochs=1))
    assert pruner.epoch_ended({0: epochs([1.0]), 1: epochs([1.1]), 2: epochs([1.2], [0.9])}) == pruned


def test_the_spec_names_the_pruner():
    assert isinstance(make_pruner(spec_with(name="none")), NoPruner)
    assert make_pruner(spec_with(name="halving", min_epochs=2, reduction_factor=2)).rungs == (2, 4, 8)
    for name in ("median", "percentile", "hyperband"):
        assert isinstance(make_pruner(spec_with(name=name)), OptunaPruner)
    assert NoPruner().epoch_ended(trained({0: [1.0]})) == set()


def test_the_median_rule_by_hand():
    pruner = make_pruner(spec_with(name="median", min_epochs=2, startup_trials=3))
    for number, loss in enumerate((1.0, 2.0, 3.0)):
        assert pruner.epoch_ended(trained({number: [loss, loss]})) == set()
        pruner.trial_ended(record(number, [loss, loss]))
    assert pruner.epoch_ended(trained({5: [2.5], 4: [1.5]})) == set()  # too early
    assert pruner.epoch_ended(trained({5: [2.5, 2.5], 4: [1.5, 1.5]})) == {5}


@pytest.mark.parametrize(
    "pruner",
    [
        {"name": "median", "min_epochs": 2, "startup_trials": 3},
        {"name": "percentile", "min_epochs": 1, "startup_trials": 2, "percentile": 40.0},
        {"name": "hyperband", "min_epochs": 1, "reduction_factor": 2},
    ],
    ids=lambda pruner: pruner["name"],
)
def test_optunas_pruners_decide_as_in_an_optuna_study(pruner):
    """Waves of trials in lockstep, starting in a shuffled order; half-way the search is killed and resumed."""
    from search.study.mirror import optuna_pruner

    spec = spec_with(**pruner)
    study = optuna.create_study(study_name="p", pruner=optuna_pruner(spec))
    mirror, records, decisions = make_pruner(spec), [], 0
    for wave in range(6):
        if wave == 3:
            mirror = make_pruner(spec)
            for earlier in sorted(records, key=lambda r: r.number):
                mirror.trial_ended(earlier)
        trials = [study.ask() for _ in range(5)]
        random.Random(wave).shuffle(trials)
        noise = {t.number: random.Random(t.number) for t in trials}
        curves = {t.number: [] for t in trials}
        for epoch in range(1, 10):
            for trial in sorted(trials, key=lambda t: t.number):
                loss = noise[trial.number].uniform(1, 2) / epoch
                curves[trial.number].append(loss)
                trial.report(loss, epoch)
            # Copies of the decision before anything is told, as a population does.
            expected = {t.number for t in sorted(trials, key=lambda t: t.number) if t.should_prune()}
            assert mirror.epoch_ended(trained({t.number: curves[t.number] for t in trials})) == expected
            for trial in [t for t in trials if t.number in expected or epoch == 9]:
                pruned = trial.number in expected
                study.tell(trial, None if pruned else min(curves[trial.number]), TrialState.PRUNED if pruned else None)
                ended = record(trial.number, curves[trial.number], Reason.PRUNED if pruned else Reason.COMPLETED)
                mirror.trial_ended(ended)
                records.append(ended)
                trials.remove(trial)
            decisions += len(expected)
    assert decisions > 3


def test_failed_and_interrupted_trials_do_not_disturb_the_mirror():
    pruner = make_pruner(spec_with(name="median", min_epochs=1, startup_trials=1))
    pruner.trial_ended(record(3, [math.nan], Reason.DIVERGED))
    pruner.trial_ended(record(5, [0.1], Reason.INTERRUPTED))
    pruner.trial_ended(record(4, [], Reason.ERROR))
    pruner.trial_ended(record(0, [1.0]))
    assert pruner.epoch_ended(trained({7: [2.0], 6: [0.5]})) == {7}


@pytest.mark.parametrize("pruner", ["median", "percentile", "hyperband", "halving"])
@pytest.mark.parametrize("already_seen", [True, False])
def test_a_trial_that_others_have_taken_over_ends_once_and_counts_no_more(pruner, already_seen):
    """That comes with the news and by the runner's own write, in either order, and epochs may come in between."""
    judge = Judge(make_pruner(spec_with(name=pruner, min_epochs=1)), 9)
    running = {number: Running(make_assignment(number), epochs=[*epochs([1.0])]) for number in range(3)}
    if already_seen:
        judge.pruned(running)
    judge.take_note(record(0, [1.0], Reason.LOST))
    for run in running.values():
        run.epochs.append(epochs([9.0, 9.0])[1])
    assert 0 not in judge.pruned(running)
    judge.take_note(record(0, [1.0, 9.0], Reason.LOST))
    assert 0 not in judge.pruned(running)
