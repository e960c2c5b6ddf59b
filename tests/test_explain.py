"""What each ingredient is worth: trained without it, with the same seeds, and told with its interval."""

import json

import pytest
from conftest import regsearch

from search.ablation import Ablation
from search.confirmation import Diverged, Repeat
from search.study.reading import read_as

PARAMS = {"learning_rate": 1e-3, "dropout_0": 0.2, "l1": 0.0, "weight_decay": 1e-3, "patience": 5}


def repeat(number: int, seed: int, val_loss: float) -> Repeat:
    return Repeat(number, seed, 3, val_loss, 0.1, 0.9, 0.0)


def test_ingredients_are_the_regularizers_that_are_on():
    ablation = Ablation.of(7, PARAMS)
    assert ablation.names == ("dropout_0", "weight_decay")
    assert ablation.variants(PARAMS) == {
        0: PARAMS,
        1: PARAMS | {"dropout_0": 0.0},
        2: PARAMS | {"weight_decay": 0.0},
    }


def test_effects_are_paired_by_seed_and_sorted_by_size():
    runs = [repeat(0, seed, 0.2 + seed) for seed in range(3)]
    runs += [repeat(1, seed, 0.25 + seed) for seed in range(3)] + [repeat(2, seed, 0.5 + seed) for seed in range(2)]
    effects = Ablation(7, ("dropout_0", "weight_decay"), tuple(runs)).effects()
    assert list(effects) == ["weight_decay", "dropout_0"]
    assert (effects["dropout_0"].mean, effects["dropout_0"].n) == (pytest.approx(0.05), 3)
    assert (effects["weight_decay"].mean, effects["weight_decay"].n) == (pytest.approx(0.3), 2)


def test_an_ingredient_without_which_training_diverges_is_told_of():
    runs = tuple(repeat(0, seed, 0.2) for seed in range(2))
    ablation = Ablation(7, ("dropout_0", "weight_decay"), runs, (Diverged(2, 0), Diverged(2, 1)))
    assert ablation.effects() == {}
    assert ablation.remarks == ["With no weight_decay training ends without a result with 2 of 2 seeds."]


def test_an_ablation_survives_json():
    ablation = Ablation(7, ("l1",), (repeat(0, 0, 0.5), repeat(1, 0, 0.6)), (Diverged(1, 1),))
    assert read_as(Ablation, json.loads(json.dumps(ablation.to_json()))) == ablation


def test_a_study_is_explained(searched):
    home = str(searched / "runs")
    told = regsearch("explain", "--study", "tiny", "--home", home, "--workers=0", "--seeds=2")
    assert "Importance of each parameter" in told
    assert "Without each ingredient of trial" in told
    assert "What the curves say" in told
    assert all(len(line) <= 80 for line in told[told.index("Importance") :].splitlines())
    shown = json.loads(regsearch("show", "--study", "tiny", "--home", home, "--json"))
    winner = shown["confirmed"]["regularized"]
    assert shown["ablation"]["trial"] == winner["trial"]
    strengths = {
        name for name, value in winner["params"].items() if value and name not in ("patience", "learning_rate")
    }
    assert set(shown["ablation"]["effects"]) == strengths
    assert all(effect["n"] == 2 for effect in shown["ablation"]["effects"].values())
    # What is there is not trained again.
    assert "Training trial" not in regsearch("explain", "--study", "tiny", "--home", home, "--workers=0", "--seeds=2")
