"""Cross-validation: folds are slots, a trial's value is their mean, and their spread is kept."""

import json
from dataclasses import replace
from statistics import fmean, stdev

import pytest
import torch
from conftest import SPEC, make_assignment, make_data, make_training, regsearch

from search.errors import DataError
from search.spec import DataSpec, ModelSpec
from search.training.data import Dataset, Split, divide, load_data
from search.training.folding import FoldedPopulation, of_fold
from search.training.models import model_factory
from search.training.population import Population, Way

FOLDS = 3


def known(examples=60):
    data = make_data(examples)
    return Split(torch.cat([data.train.x, data.val.x]), torch.cat([data.train.y, data.val.y]))


def folded(folds=FOLDS) -> Dataset:
    return divide(known(), DataSpec(name="digits", folds=folds), seed=3, classes=3)


def factory(data):
    return model_factory(ModelSpec(name="mlp", hidden=[8, 5]), data.shape, data.classes)


def trained(engine, data, assignments, epochs=3):
    people = Population(factory(data), data, make_training(), 7, len(assignments) * FOLDS, Way(engine))
    trials = FoldedPopulation(people, FOLDS)
    for assignment in assignments:
        trials.admit(assignment)
    return [trials.train_epoch() for _ in range(epochs)]


TRIALS = [make_assignment(0, dropout_0=0.4), make_assignment(1, l1=1e-2, weight_decay=0.1)]


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_each_class_is_dealt_out_evenly(folds):
    data = folded(folds)
    sizes = data.held_in.bincount()
    assert len(sizes) == data.folds == folds
    assert sizes.max() - sizes.min() <= 1
    for label in range(3):
        of_class = data.held_in[data.train.y == label].bincount(minlength=folds)
        assert of_class.max() - of_class.min() <= 1
    for fold in range(folds):
        rows = data.train_rows(fold)
        assert len(rows) == 90 - sizes[fold]
        assert not bool((data.held_in[rows] == fold).any())


def test_other_seeds_deal_otherwise():
    other = divide(known(), DataSpec(name="digits", folds=FOLDS), seed=4, classes=3)
    assert not torch.equal(folded().held_in, other.held_in)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("engine", ["stacked", "looped"])
def test_a_fold_is_what_training_on_the_others_would_be(engine):
    data = folded()
    rows = trained(engine, data, TRIALS)
    for trial in TRIALS:
        alone = []
        for fold in range(FOLDS):
            held = data.held_in == fold
            part = replace(data, train=data.train.take(~held), val=data.train.take(held), held_in=None)
            people = Population(factory(data), part, make_training(), 7, 1, Way("looped"))
            people.admit(replace(of_fold(trial, fold, FOLDS), fold=None))
            alone.append([people.train_epoch()[trial.number * FOLDS + fold] for _ in rows])
        for ours, theirs in zip(rows, zip(*alone, strict=True), strict=True):
            losses = [row.val_loss for row in theirs]
            result = ours[trial.number]
            assert result.val_loss == pytest.approx(fmean(losses), rel=1e-9)
            assert result.val_loss_error == pytest.approx(stdev(losses) / FOLDS**0.5, rel=1e-6)
            assert result.val_accuracy == pytest.approx(fmean(row.val_accuracy for row in theirs))
            assert result.sparsity == pytest.approx(fmean(row.sparsity for row in theirs))


def test_trials_come_and_go_with_all_their_folds():
    data = folded()
    people = Population(factory(data), data, make_training(), 7, 2 * FOLDS, Way())
    trials = FoldedPopulation(people, FOLDS)
    for trial in TRIALS:
        trials.admit(trial)
    trials.train_epoch()
    trials.free([0])
    trials.admit(make_assignment(5))
    assert trials.numbers == [1, 5]
    assert {number: row.epoch for number, row in trials.train_epoch().items()} == {1: 2, 5: 1}
    alone = trained("stacked", data, TRIALS[1:], epochs=2)[1][1]
    trials.free([5])
    assert alone.epoch == 2


def test_a_trial_diverges_with_any_of_its_folds():
    data = folded()
    rows = trained("stacked", data, [make_assignment(0, learning_rate=1e30), make_assignment(1)], epochs=2)[1]
    assert rows[0].val_loss != rows[0].val_loss
    assert rows[1].val_loss == rows[1].val_loss


def test_more_folds_than_examples_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"data.folds = 5000 are more than there are examples, 1498: choose fewer"):
        load_data(DataSpec(name="digits", folds=5000), tmp_path, 0)


def test_folds_and_a_share_exclude_each_other(tmp_path):
    path = tmp_path / "both.toml"
    path.write_text(SPEC.replace('name = "digits"', 'name = "digits"\nfolds = 5\nvalidation = 0.2'))
    told = regsearch("start", "--study", str(path), code=1)
    assert "data.validation = 0.2: has no effect with folds, which are held out in turn; remove it" in told


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.usefixtures("tables")
def test_a_cross_validated_search(tmp_path, workers):
    path, home = tmp_path / "crossed.toml", ("--home", str(tmp_path / "runs"))
    folded = SPEC.replace('[data]\nname = "digits"', '[data]\nname = "digits"\nfolds = 3')
    path.write_text(folded.replace("[space]", "[space]\nlearning_rate = 1e-2"))
    regsearch("start", "--study", str(path), *home, "--workers", workers, "--name", "crossed", "--no-confirm")
    regsearch("confirm", "--study", "crossed", *home, "--workers", workers, "--top", "1", "--seeds", "2")
    shown = json.loads(regsearch("show", "--study", "crossed", *home, "--json"))
    assert shown["test"]["best"]["accuracy"] > 0.3
    assert shown["confirmed"]["best"]["test_accuracy"]["n"] == 2
    assert shown["confirmed"]["difference"] is not None
    folder = tmp_path / "runs" / "artifacts" / "crossed"
    assert (folder / "best.safetensors").exists()
    assert (folder / "report.html").exists()
    regsearch("export", "--study", "crossed", *home, "--out", str(tmp_path / "model"), "--no-register")
