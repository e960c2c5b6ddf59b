"""What repeats over seeds say: means, intervals, picks; and that they are run once, scored once and kept."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
from scripted import Notes, ScriptedCrew, ScriptedTrainer

from search.confirm import Confirming
from search.confirmation import (
    METRICS,
    NO_PICKS,
    Confirm,
    Diverged,
    Picks,
    Repeat,
    Repeats,
    conclude,
    one_standard_error,
    pick,
)
from search.errors import UsageError
from search.intervals import Answer, Difference, estimate, paired_difference
from search.records import EpochResult, Reason, Role, TrialRecord
from search.spec import StudySpec
from search.stopping import StopRequest
from search.study.reading import read_as
from search.training.evaluation import calibration_error, standard_error

NOW = datetime.now(UTC)
PARAMS = {0: {}, 5: {}, 6: {}}
STUDY = {
    "name": "rates",
    "data": {"name": "digits"},
    "model": {"hidden": [8]},
    "training": {"max_epochs": 2},
    "space": {"learning_rate": {"low": 1e-4, "high": 0.3, "log": True}, "l1": 1e-4, "patience": 2},
    "search": {"trials": 4},
}


def trial(number, val_loss, train_loss=0.0, error=0.05, epochs=1, reason=Reason.COMPLETED, role=None):
    rows = tuple(
        EpochResult(e, train_loss, val_loss if e == epochs else val_loss + 1, 0.9, 0.0, error)
        for e in range(1, epochs + 1)
    )
    return TrialRecord(number, {"l1": number}, reason, rows, NOW, NOW, role)


def repeat(number, seed, val_loss, accuracy=None):
    test = {} if accuracy is None else {"test_accuracy": accuracy, "test_loss": 0.2, "ece": 0.01}
    return Repeat(number, seed, 3, val_loss, val_loss / 2, 0.9, 0.25, **test)


def test_the_standard_error_of_a_validation_loss_is_that_of_its_mean():
    losses = torch.rand(50, dtype=torch.float64)
    ours = standard_error(losses.mean(), losses.square().mean(), len(losses)).item()
    assert ours == pytest.approx(scipy.stats.sem(losses.numpy()))
    assert math.isnan(standard_error(torch.tensor(1.0), torch.tensor(1.0), 1).item())


def test_the_calibration_error_is_guos():
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(1000, generator=generator)
    right = torch.rand(1000, generator=generator) < confidence**2
    expected = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            expected += inside.float().mean() * (confidence[inside].mean() - right[inside].float().mean()).abs()
    assert calibration_error(confidence, right) == pytest.approx(float(expected), rel=1e-5)
    assert calibration_error(torch.ones(10), torch.ones(10, dtype=torch.bool)) == 0


def test_an_estimate_has_mean_deviation_and_number():
    told = estimate([1.0, 2.0, 4.0])
    assert (told.mean, told.std, told.n) == pytest.approx((7 / 3, (7 / 3) ** 0.5, 3))
    assert told.error == pytest.approx((7 / 9) ** 0.5)
    assert (estimate([3.0]).std, estimate([3.0]).error) == (0.0, math.inf)


def test_the_paired_interval_is_students():
    pairs = [(0.97, 0.95), (0.96, 0.96), (0.98, 0.95), (0.97, 0.94)]
    told = paired_difference(pairs)
    expected = scipy.stats.ttest_rel(*zip(*pairs, strict=True)).confidence_interval(0.95)
    assert (told.low, told.high) == pytest.approx((expected.low, expected.high))
    assert (told.mean, told.n) == (pytest.approx(0.02), 4)
    assert not paired_difference(pairs[:1]).is_clear


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.001, 0.02, "regularization helps"), (-0.02, -0.001, "regularization hurts"), (-0.1, 0.1, "not clearly")],
)
def test_the_verdict_is_in_words(low, high, words):
    told = Difference((low + high) / 2, low, high, 5)
    assert told.answer.startswith(words)
    assert told.points == f"{50 * (low + high):+.2f} points, 95 % interval {100 * low:+.2f} to {100 * high:+.2f}"


def test_one_seed_tells_nothing():
    told = Difference(0.01, -math.inf, math.inf, 1)
    assert told.answer == "one seed tells nothing of chance"
    assert told.points == "+1.00 points"


def test_the_one_standard_error_pick_has_the_smallest_gap_of_those_within_the_error():
    records = [
        trial(0, 0.20, train_loss=0.20, role=Role.BASELINE),
        trial(1, 0.30, train_loss=0.10),
        trial(2, 0.33, train_loss=0.25),
        trial(3, 0.34, train_loss=0.24),
        trial(4, 0.36, train_loss=0.36),
        trial(5, 0.31, train_loss=0.31, reason=Reason.PRUNED),
    ]
    assert one_standard_error(records).number == 2
    assert (
        one_standard_error(
            [replace(r, epochs=(replace(r.epochs[0], val_loss_error=math.nan),)) for r in records]
        ).number
        == 1
    )
    assert one_standard_error(records[:1]) is None


def test_of_equal_gaps_the_shorter_training_is_picked():
    records = [trial(1, 0.3, epochs=9), trial(2, 0.3, epochs=4), trial(3, 0.3, epochs=6)]
    assert one_standard_error(records).number == 2


def test_the_best_few_the_pick_and_the_baseline_are_confirmed():
    records = [
        trial(0, 0.25, role=Role.BASELINE),
        trial(1, 0.5, train_loss=0.1, error=0.2),
        trial(2, 0.3, train_loss=0.1, error=0.3),
        trial(3, 0.4, train_loss=0.1),
        trial(4, 0.59, train_loss=0.55),
    ]
    assert pick(records, 2, ("val_loss",)) == Picks([2, 3], 4, 0)
    assert pick(records, 2, ("val_loss",)).trials == [2, 3, 4, 0]
    assert pick(records[:1], 5, ("val_loss",)) == Picks([], None, 0)


def test_with_several_objectives_the_front_is_confirmed_the_lowest_loss_first():
    records = [
        trial(0, 0.25, epochs=2, role=Role.BASELINE),
        trial(1, 0.5, epochs=1),
        trial(2, 0.3, epochs=3),
        trial(3, 0.2, epochs=7),
        trial(4, 0.1, epochs=9),
    ]
    assert pick(records, 5, ("val_loss", "epochs")).top == [4, 3, 1]
    assert pick(records, 2, ("val_loss", "epochs")).top == [4, 3]


def test_the_winner_has_the_lowest_mean_and_is_compared_with_the_baseline_by_seed():
    runs = [
        *(repeat(7, seed, 0.30 + seed / 100) for seed in range(3)),
        *(repeat(5, seed, 0.28 + seed / 100, 0.95 + seed / 100) for seed in range(3)),
        *(repeat(0, seed, 0.40, 0.93 + seed / 100) for seed in (1, 2, 3)),
    ]
    told = conclude(Repeats(Picks([7, 5], 5, 0), runs), {n: {"l1": n} for n in (0, 5, 7)})
    assert [confirmed.trial for confirmed in told.ranking] == [5, 7]
    assert (told.best.params, told.one_standard_error.trial) == ({"l1": 5}, 5)
    assert told.best.estimates["val_loss"].mean == pytest.approx(0.295)  # of the seeds that all have
    assert set(told.best.estimates) == set(METRICS)
    assert "test_accuracy" not in told.ranking[1].estimates
    assert (told.difference.mean, told.difference.n) == (pytest.approx(0.02), 2)  # seeds 1 and 2


def test_nothing_is_concluded_from_nothing():
    assert conclude(Repeats(Picks([], None, 0)), {0: {}}) is None
    assert conclude(Repeats(Picks([3], None, None)), {3: {}}) is None


def test_nobody_wins_by_seeds_that_the_others_have_still_to_run():
    lucky = [repeat(7, 0, 0.45), repeat(3, 0, 0.40), repeat(3, 1, 0.60)]
    told = conclude(Repeats(Picks([3, 7], None, None), lucky), {3: {}, 7: {}})
    assert [(each.trial, each.estimates["val_loss"].n) for each in told.ranking] == [(3, 1), (7, 1)]
    assert conclude(Repeats(Picks([3, 7], None, None), lucky[:1]), {3: {}, 7: {}}) is None
    killed = [Diverged(7, 1, killed=True)]
    told = conclude(Repeats(Picks([3, 7], None, None), lucky, killed), {3: {}, 7: {}})
    assert [(each.trial, each.killed) for each in told.ranking] == [(3, 0), (7, 1)]
    assert told.remarks == ["No trainer survived trial 7 with 1 of 2 seeds."]


def test_the_one_standard_error_pick_may_win():
    runs = [repeat(trial, seed, loss) for trial, loss in ((7, 0.3), (4, 0.2), (0, 0.1)) for seed in range(2)]
    told = conclude(Repeats(Picks([7], 4, 0), runs), {0: {}, 4: {}, 7: {}})
    assert [each.trial for each in told.ranking] == [4, 7]
    assert told.one_standard_error == told.regularized
    assert (told.best, told.baseline_wins) == (told.baseline, True)


def test_who_diverges_with_some_seeds_does_not_win_by_the_others():
    runs = [*(repeat(7, seed, 0.51) for seed in (0, 1)), *(repeat(3, seed, 0.53) for seed in range(5))]
    diverged = [Diverged(7, seed) for seed in (2, 3, 4)]
    told = conclude(Repeats(Picks([7, 3], None, None), runs, diverged), {3: {}, 7: {}})
    assert [(each.trial, each.diverged) for each in told.ranking] == [(3, 0), (7, 3)]
    assert told.remarks == ["Trial 7 diverged with 3 of 5 seeds."]


def test_without_test_data_losses_are_compared_in_pairs():
    scatter = (0.0, 0.16, 0.31, -0.12)  # shared by both
    runs = [repeat(5, seed, 0.5 + each) for seed, each in enumerate(scatter)]
    runs += [repeat(0, seed, 0.55 + each + seed / 1000) for seed, each in enumerate(scatter)]
    told = conclude(Repeats(Picks([5], None, 0), runs), {0: {}, 5: {}})
    assert told.loss_difference.mean == pytest.approx(0.0515)
    assert told.loss_difference.answer is Answer.HELPS
    assert (told.difference, told.remarks) == (None, [])
    more = conclude(Repeats(Picks([5, 6], None, 0), [*runs, *(repeat(6, seed, 0.9) for seed in range(4))]), PARAMS)
    assert len(more.remarks) == 1
    assert more.remarks[0].startswith("The winner is chosen among 2 by the losses that it is compared by: ")
    one, two = told.loss_difference, more.loss_difference
    assert (two.mean, two.low < one.low, two.high > one.high) == (one.mean, True, True)


def test_the_best_of_several_equal_ones_is_seldom_taken_for_better():
    chance = np.random.default_rng(0)

    def differences() -> list[Difference]:
        losses = chance.standard_normal((7, 5))  # six configurations and the baseline, five seeds
        winner = min(losses[:6], key=np.mean)
        pairs = list(zip(losses[6], winner, strict=True))
        return [paired_difference(pairs), paired_difference(pairs, among=6)]

    drawn = zip(*(differences() for _ in range(2000)), strict=True)
    naive, wide = (sum(each.low > 0 for each in those) / 2000 for those in drawn)
    assert naive > 0.06  # one expects 0.025
    assert wide < 0.025


def test_equal_pairs_tell_nothing_of_chance():
    one_image_more = paired_difference([(0.93 + 1 / 30, 0.93)] * 5)
    assert one_image_more.mean == pytest.approx(1 / 30)
    assert one_image_more.answer is Answer.UNCLEAR


@pytest.mark.parametrize("wanted", [{"top": 0}, {"seeds": 0}, {"seeds": 1001}])
def test_seeds_of_one_trial_do_not_reach_into_the_next_ones(wanted):
    with pytest.raises(UsageError, match="1 to 1000 seeds"):
        Confirm(**wanted)


HOST = SimpleNamespace(asked_to_stop=lambda: False, trouble=None)
RATES = {
    0: {"learning_rate": 1e-3, "l1": 0.0, "patience": 2},
    5: {"learning_rate": 1e-1, "l1": 0.2, "patience": 2},
}


def test_the_baseline_counts_at_the_rate_that_suits_it_better():
    usual = [repeat(0, seed, 0.8 + seed / 100, 0.7 + seed / 100) for seed in range(3)]
    plain = [replace(repeat(5, seed, 0.4 + seed / 100, 0.9 + seed / 100), plain=True) for seed in range(3)]
    ours = [repeat(5, seed, 0.39, 0.91) for seed in range(3)]

    def told(*runs, winner=5):
        return conclude(Repeats(Picks([5], None, 0, winner), [run for each in runs for run in each]), RATES)

    assert told(ours, usual, plain).baseline.params == RATES[0] | {"learning_rate": 1e-1}
    assert told(ours, usual, plain).difference.mean == pytest.approx(0.0)
    assert told(ours, usual, plain).remarks == [
        "The baseline has the winner's learning rate, 0.1: it does better with it than with 0.001."
    ]
    others = [
        told(ours, usual, plain[:2]),  # is not over yet
        told(ours, usual, plain, winner=4),  # was the winner once
        told(ours, usual, [replace(run, val_loss=0.9) for run in plain]),
    ]
    for each in others:
        assert (each.baseline.params, each.remarks) == (RATES[0], [])
        assert each.difference.mean == pytest.approx(0.2)


def test_the_second_baseline_is_trained_with_the_winners_rate_and_nothing_else_of_it(tmp_path):
    seen = {}

    def losses(assignment):
        seen[assignment.number] = dict(assignment.params)
        return lambda epoch: math.nan if assignment.seed % 4 == 3 else assignment.params["l1"] + 1 / epoch

    spec = StudySpec.model_validate(STUDY)
    confirming = Confirming(spec, Repeats(Picks([5], None, 0)), RATES, None)
    saved = []

    def train():
        crew = ScriptedCrew(ScriptedTrainer(losses, slots=4))
        confirming.train(confirming.due(4), crew, Notes(), StopRequest(), saved.append, HOST)

    train()
    assert sorted(run.seed for run in confirming.repeats.of(5)) == [0, 1, 2]
    assert set(confirming.repeats.diverged) == {Diverged(0, 3), Diverged(5, 3)}
    assert confirming.due(4) == []  # what diverged would do so again
    first = set(seen)
    assert confirming.second_baseline() == 5
    labels = confirming.labels(confirming.due(4), {5: "5", 0: "0"})
    assert list(labels.values()) == [f"baseline, {seed}" for seed in (1, 2, 3, 4)]
    train()
    assert [seen[number] for number in set(seen) - first] == [RATES[0] | {"learning_rate": 1e-1}] * 4
    assert saved[-1] == replace(confirming.repeats, picks=NO_PICKS)  # nothing is concluded before all is done
    confirming.finish(saved.append)
    assert saved[-1] == confirming.repeats
    assert saved[-1].picks.plain == 5
    assert len(confirming.repeats.of(5, plain=True)) == 3
    same = Confirming(spec, Repeats(Picks([5], None, 0)), {0: RATES[0], 5: RATES[5] | {"learning_rate": 1e-3}}, None)
    assert same.second_baseline() is None


def test_repeats_survive_json():
    repeats = Repeats(Picks([3, 1], 1, 0, 3), [repeat(3, 0, 0.5), repeat(1, 2, 0.4, 0.9)], [Diverged(1, 3)])
    again = read_as(Repeats, repeats.to_json())
    assert again == repeats
    assert again.of(1) == [repeat(1, 2, 0.4, 0.9)]
