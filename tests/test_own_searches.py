"""Bring your own through the Python API: searches for models, data and losses that no study file names."""

import signal

import pytest
import torch
import torch.nn.functional as F
from conftest import regsearch
from own_models import SMALL, WORDS, Tokens, examples, find, plain, unseen
from torch import nn
from torch.utils.data import TensorDataset

from search import Data, Range, SearchWarning
from search.errors import DataError, SpecMismatchError, UsageError
from search.training.kernels import compiled
from search.training.own import (
    dropout_rates,
    torch_left_alone,
)

pytestmark = pytest.mark.usefixtures("tables")


def test_a_search_for_a_model_of_ones_own(tmp_path):
    space = {"learning_rate": 1e-2, "dropout": Range(low=0.0, high=0.3), "l1": 0.0, "weight_decay": 1e-3}
    found = find(tmp_path, space=space, training={"max_epochs": 8, "batch_size": 8})
    assert set(found.params) >= {"dropout_0", "dropout_1", "weight_decay", "l1", "patience"}
    assert "Confirmed" in str(found)
    assert found.summary.confirmed.difference is not None
    model = found.model()
    assert type(model) is nn.Sequential
    assert dropout_rates(model) == [found.params["dropout_0"], found.params["dropout_1"]]
    x, y = unseen()
    assert (model(x).argmax(1) == y).float().mean() > 0.5
    assert "dropout_1" in regsearch("show", "--study", "mine", "--home", str(tmp_path / "runs"))


def test_the_same_call_goes_on_and_another_model_is_refused(tmp_path):
    find(tmp_path, confirm=None)
    more = {**SMALL["search"], "trials": 6}
    assert find(tmp_path, confirm=None, search=more).summary.trials["complete"] == 6
    with pytest.raises(SpecMismatchError, match=r"model\.architecture"):
        find(tmp_path, model=plain)


def test_scores_on_other_test_data_are_not_those_of_the_study(tmp_path):
    find(tmp_path, confirm=None)
    x, y = unseen()
    with pytest.raises(DataError, match='the test data is not what study "mine" was started with'):
        find(tmp_path, data=Data(train=examples(), test=(x * 0, y)))


def test_rates_that_are_not_searched_stay_as_the_model_has_them(tmp_path):
    found = find(tmp_path, space={"dropout_1": Range(low=0.0, high=0.3), "l1": {"low": 1e-6, "high": 1e-3}})
    regularized = found.summary.confirmed.regularized.params
    assert regularized["dropout_0"] == 0.5
    assert regularized["dropout_1"] <= 0.3


def test_a_torch_data_set_given_validation_data_and_no_test_data(tmp_path):
    x, y = examples()
    data = Data(train=TensorDataset(x[:90], y[:90]), validation=(x[90:].numpy(), y[90:].tolist()))
    found = find(tmp_path, data=data)
    assert found.summary.best is not None
    assert not found.summary.test
    assert found.summary.confirmed.difference is None
    assert (tmp_path / "runs" / "artifacts" / "mine" / "best.safetensors").exists()
    assert found.model()(x[:2]).shape == (2, 3)


def test_own_data_for_a_shipped_model_and_a_data_set_for_an_own_model(tmp_path):
    found = find(tmp_path, model={"name": "mlp", "hidden": [8]}, confirm=None)
    assert found.model()(examples()[0]).shape == (120, 3)

    def make():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    found = find(tmp_path, model=make, data="digits", name="digits-mine", confirm=None)
    assert found.summary.test["best"].accuracy > 0.2


def test_more_logits_than_classes_can_be_smoothed(tmp_path):
    def make():
        return nn.Linear(6, 5)

    space = {"label_smoothing": Range(low=0.05, high=0.2), "mixup": 0.3}
    with pytest.warns(SearchWarning, match="the model has 5 outputs, and no example is of classes 3, 4"):
        assert find(tmp_path, model=make, space=space, confirm=None).summary.best is not None


def test_labels_that_are_a_column_of_a_table(tmp_path):
    x, y = examples()
    table = torch.column_stack([y, y]).numpy()
    assert find(tmp_path, data=Data(train=(x.numpy(), table[:, 1])), confirm=None).summary.best is not None


def test_inputs_of_half_precision_for_a_shipped_model(tmp_path):
    x, y = examples()
    x_test, y_test = unseen()
    train, validation = (x[:90].half(), y[:90]), (x[90:].half(), y[90:])
    data = Data(train=train, validation=validation, test=(x_test.half(), y_test))
    found = find(tmp_path, model={"name": "mlp", "hidden": [8]}, data=data, confirm=None)
    assert found.model()(x).dtype == torch.float32


def test_no_model_is_made_of_data_that_were_changed_after_the_search(tmp_path):
    x, y = (part.clone() for part in examples())
    found = find(tmp_path, data=Data(train=(x, y)), training={"max_epochs": 1}, confirm=None)
    x.add_(1)
    with pytest.raises(DataError, match=r"^the data are not what the study was started with"):
        found.model()


def test_inputs_that_are_whole_numbers(tmp_path):
    assert find(tmp_path, model=Tokens, data=WORDS, confirm=None).model()(WORDS.train[0]).shape == (90, 3)


def test_folds_with_too_little_time(tmp_path):
    data = Data(train=examples(), folds=3, test=unseen())
    found = find(tmp_path, data=data, timeout=1.0, search={"trials": 500, "pruner": {"name": "none"}})
    assert found.summary.trials["complete"] < 500


def test_what_each_ingredient_is_worth(tmp_path):
    told = find(tmp_path, confirm=None).explain(seeds=2)
    assert "Without each ingredient" in told
    assert "What the curves say" in told


def test_torch_is_left_as_it_was(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    numbers = torch.get_rng_state()
    found = find(tmp_path, confirm=None)
    assert torch.equal(torch.get_rng_state(), numbers)
    found.model()
    assert torch.equal(torch.get_rng_state(), numbers)
    assert torch.get_num_threads() == 2
    assert compiled._active is None
    torch.set_num_threads(threads)


def test_the_generators_of_a_device_that_was_first_used_meanwhile_begin_anew(monkeypatch):
    old, new = torch.Generator().manual_seed(3), torch.Generator().manual_seed(5)
    torch.rand(1, generator=old)
    states = [old.get_state(), new.get_state()]
    monkeypatch.setattr(torch.cuda, "default_generators", (old,))
    with torch_left_alone():
        monkeypatch.setattr(torch.cuda, "default_generators", (old, new))
        for generator in (old, new):
            torch.rand(1, generator=generator)
    assert all(map(torch.equal, [old.get_state(), new.get_state()], states))


def test_another_loss_is_another_study(tmp_path):
    find(tmp_path, loss=nn.CrossEntropyLoss(reduction="none"), confirm=None)
    with pytest.raises(SpecMismatchError, match="loss_digest"):
        find(tmp_path, loss=nn.MultiMarginLoss(reduction="none"), confirm=None)


def test_a_loss_of_ones_own(tmp_path):
    def loss(logits, classes):
        return F.cross_entropy(logits, classes, reduction="none") * 2

    doubled, once = find(tmp_path, loss=loss, confirm=None), find(tmp_path, name="once", confirm=None)
    ours, theirs = doubled.summary.baseline.best.val_loss, once.summary.baseline.best.val_loss
    assert ours == pytest.approx(2 * theirs, rel=0.2)  # Adam does not mind the factor


def test_several_processes(tmp_path):
    found = find(tmp_path, workers=2, confirm=None)
    assert found.summary.trials["complete"] == 4
    with pytest.raises(UsageError, match="cannot be sent to other processes"):
        find(tmp_path, model=lambda: plain(), workers=2, name="other")


def test_ctrl_c_leaves_things_tidy(tmp_path):
    calls = []

    def loss(logits, classes):
        calls.append(1)
        if len(calls) == 30:
            signal.raise_signal(signal.SIGINT)
        return F.cross_entropy(logits, classes, reduction="none")

    with pytest.raises(KeyboardInterrupt):
        find(tmp_path, loss=loss, confirm=None)
    assert find(tmp_path, loss=loss, confirm=None).summary.trials["complete"] == 4


def test_the_command_line_leaves_such_studies_to_python(tmp_path):
    find(tmp_path, confirm=None)
    for command in ("confirm", "explain"):
        told = regsearch(command, "--study", "mine", "--home", str(tmp_path / "runs"), code=2)
        assert "was made in Python" in told
