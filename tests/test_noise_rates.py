"""Rates of every kind of dropout: what a trial sets is what acts, and in the baseline nothing does."""

import pickle
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from conftest import make_assignment, make_data, make_training
from noise_models import Attention, Between, DropPath, Mine, OfSeries, SelfAttention, between
from own_models import examples, find, normalized, plain
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import DropBlock2d, StochasticDepth

from search import Range
from search.errors import UsageError
from search.records import ModelNoise
from search.results import as_json
from search.study.reading import read_noise
from search.training.choosing import choose
from search.training.noise import dropout_rates, known_noise, searchable, with_rates
from search.training.noise_search import find_noise
from search.training.population import Population, Way
from search.training.regularizers import configure

X = make_data().train.x[:2]


class Series(nn.Module):
    """Reads six numbers as a series of them."""

    def __init__(self, layer, width=8):
        super().__init__()
        self.inputs, self.net = nn.Linear(1, 8), OfSeries(layer, width)

    def forward(self, x):
        return self.net(self.inputs(x.unsqueeze(-1)))


def lstm():
    return Series(nn.LSTM(8, 8, 2, dropout=0.3, batch_first=True))


KEPT = {
    "LSTM": lstm,
    "GRU": lambda: Series(nn.GRU(8, 8, 2, dropout=0.3, batch_first=True)),
    "RNN": lambda: Series(nn.RNN(8, 8, 2, dropout=0.3, batch_first=True)),
    "MultiheadAttention": lambda: Series(SelfAttention()),
    "MultiheadAttention with weights": lambda: Series(SelfAttention(need_weights=True)),
    "DropPath": between(module=DropPath),
    "F.dropout with a rate of the model": between(lambda m, x: F.dropout(x, m.drop, m.training), drop=0.3),
    "DropBlock2d": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), DropBlock2d(0.3, 1), nn.Flatten(), nn.Linear(6, 3)
    ),
}
"""Models that draw by themselves, at a rate that is an attribute."""


@pytest.mark.parametrize("name", KEPT)
def test_a_rate_that_is_an_attribute_is_what_the_models_own_forward_pass_applies(name):
    noise = find_noise(KEPT[name], X)
    assert len(noise.rates) == 1
    torch.manual_seed(0)
    theirs = with_rates(KEPT[name](), {"dropout_0": 0.6}, noise).train()
    torch.manual_seed(0)
    ours = searchable(KEPT[name], noise)().train()
    configure(ours, {"dropout_0": 0.6}, 0, 0)
    outputs = []
    for model in (theirs, ours):
        torch.manual_seed(1)
        outputs.append(model(X))
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], theirs.eval()(X))


REPLACED = {
    "a subclass of Dropout": partial(Mine, 0.1),
    "AlphaDropout": partial(nn.AlphaDropout, 0.1),
    "FeatureAlphaDropout": partial(nn.FeatureAlphaDropout, 0.1),
    "StochasticDepth of rows": partial(StochasticDepth, 0.1, "row"),
}
"""Layers with a rate for each slot in their place."""


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.7])
@pytest.mark.parametrize("name", REPLACED)
def test_the_rate_that_is_set_is_the_share_that_is_dropped_to_what_torch_drops_to(name, rate):
    layer = searchable(REPLACED[name])().train()
    configure(layer, {"dropout_0": rate}, 0, 5)
    x = torch.full((4000, 3, 2), 2.0)
    theirs = REPLACED[name]()
    theirs.p = rate
    torch.manual_seed(0)
    expected = theirs.train()(x)
    ours = layer(x)
    assert sorted(ours.unique().tolist()) == pytest.approx(sorted(expected.unique().tolist()), abs=1e-3)
    dropped, theirs_dropped = ((each == each.min()).double().mean().item() for each in (ours, expected))
    if rate:
        assert dropped == pytest.approx(rate, abs=0.03) == pytest.approx(theirs_dropped, abs=0.03)
    patterns = [(each == each.min()).flatten(1).double() for each in (ours, expected)]
    kinds = [{len(row.unique()) for row in pattern} for pattern in patterns]
    assert kinds[0] == kinds[1]  # whole rows or channels, where torch drops these
    assert torch.equal(layer.eval()(x), x)


def trained(factory, way, params, noise=None):
    people = Population(searchable(factory, noise), make_data(), make_training(), 7, len(params), Way(way))
    for number, each in enumerate(params):
        people.admit(make_assignment(number, **each))
    return [people.train_epoch() for _ in range(2)]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", REPLACED)
def test_layers_with_a_rate_for_each_slot_train_stacked_as_looped(name):
    factory = between(module=REPLACED[name])
    params = [{"dropout_0": 0.5}, {"dropout_0": 0.1}, {"dropout_0": 0.0}]
    stacked, looped = (trained(factory, way, params) for way in ("stacked", "looped"))
    for ours, theirs in zip(stacked, looped, strict=True):
        for number in ours:
            assert ours[number].val_loss == pytest.approx(theirs[number].val_loss, rel=1e-9)
    assert len({row.val_loss for row in looped[-1].values()}) == 3


@pytest.mark.parametrize("factory", [lstm, KEPT["MultiheadAttention"], KEPT["DropPath"]])
def test_a_trial_with_such_rates_is_the_same_beside_others(factory):
    noise = find_noise(factory, X)
    crowd = trained(factory, "looped", [{"dropout_0": 0.5}, {"dropout_0": 0.2}, {"dropout_0": 0.0}], noise)
    for number, rate in enumerate((0.5, 0.2, 0.0)):
        people = Population(searchable(factory, noise), make_data(), make_training(), 7, 1, Way("looped"))
        people.admit(make_assignment(number, dropout_0=rate))
        assert [people.train_epoch()[number] for _ in range(2)] == [rows[number] for rows in crowd]


def with_functional_dropout(rate=0.4, recomputed=False):
    def inner(model, x):
        def drop(x):
            return F.dropout(torch.tanh(x), rate, model.training)

        return checkpoint(drop, x, use_reentrant=False) if recomputed else drop(x)

    return lambda: nn.Sequential(Between(inner), nn.Dropout(0.2))


@pytest.mark.parametrize("recomputed", [False, True])
def test_the_baseline_trains_as_a_model_without_any_dropout(recomputed):
    factory = with_functional_dropout(0.4, recomputed)
    noise = find_noise(factory, X)
    params = [{"functional_dropout": 0}, {"functional_dropout": 1}, {"dropout_0": 0.5, "functional_dropout": 0}]
    ours = trained(factory, "looped", params, noise)
    expected = trained(with_functional_dropout(0.0), "looped", [{}, {}, {"dropout_0": 0.5}])
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine[0] == theirs[0]
        assert mine[1].train_loss != theirs[1].train_loss
        assert mine[2] == theirs[2]  # what has a rate goes on


@pytest.mark.parametrize("engine", [lstm, with_functional_dropout()])
def test_the_line_measured_and_chosen_says_why_such_models_are_not_stacked(engine):
    noise = find_noise(engine, X)
    people = Population(searchable(engine, noise), make_data(), make_training(), 7, 3)
    chosen = choose(people, make_assignment(0), ["stacked", "looped"], ["fp32"], [1], seconds=0.01)
    assert chosen.way.engine == "looped"
    reason = "net.layer.dropout" if engine is lstm else "functional dropout"
    assert f"vmap has one dropout rate for all slots in {reason}" in chosen.refusals["stacked"]


def test_a_layer_that_a_model_asks_for_its_rate_tells_the_trials():
    model = searchable(Attention)()
    configure(model, {"dropout_0": 0.25}, 0, 0)
    assert model.attn_drop.p == 0.25
    configure(model, {"dropout_0": 0.0}, 0, 0)
    x = torch.rand(2, 5, 8)
    assert torch.equal(model.train()(x), model(x))


def test_a_model_with_torchs_dropout_alone_keeps_the_names_of_its_rates():
    for factory in (plain, normalized):
        noise = find_noise(factory, X)
        assert dropout_rates(factory(), noise) == [0.5, 0.2]
        assert noise == known_noise(factory())
        assert [layer.parameter for layer in searchable(factory, noise)().modules() if hasattr(layer, "parameter")] == [
            "dropout_0",
            "dropout_1",
        ]


def test_the_model_that_was_found_has_the_rates_and_is_the_users_own():
    def make():
        return nn.Sequential(lstm(), nn.Dropout(0.1), Between(lambda m, x: F.dropout(x, 0.9, m.training)))

    noise = find_noise(lambda: nn.Sequential(lstm(), nn.Linear(3, 6), make()[1:]), X)
    assert noise.told.functional == ("2.2 (Between)",)
    model = with_rates(lstm(), {"dropout_0": 0.45})
    assert type(model.net.layer) is nn.LSTM
    assert type(model.net.layer.dropout) is float
    assert model.net.layer.dropout == 0.45
    assert type(pickle.loads(pickle.dumps(model))) is Series
    factory = with_functional_dropout()
    quiet = with_rates(factory(), {"dropout_0": 0.0, "functional_dropout": 0}, find_noise(factory, X)).train()
    assert torch.equal(quiet(X), quiet(X))


class Everything(nn.Module):
    """Dropout of each kind: a layer, a layer's argument, a function, and noise that nothing shows."""

    def __init__(self):
        super().__init__()
        self.inputs, self.recurrent = nn.Linear(1, 8), nn.GRU(8, 8, 2, dropout=0.3, batch_first=True)
        self.drop, self.output = nn.Dropout(0.1), nn.Linear(8, 3)

    def forward(self, x):
        x = self.drop(self.recurrent(self.inputs(x.unsqueeze(-1)))[0].mean(1))
        x = self.output(F.dropout(x, 0.2, self.training))
        return x + 0.001 * torch.randn_like(x) if self.training else x


@pytest.mark.usefixtures("tables")
def test_a_search_names_layers_and_what_the_baseline_is_not_without(tmp_path, capsys):
    space = {"dropout": Range(low=0.0, high=0.5)}
    found = find(tmp_path, Everything, space=space, quiet=False, training={"max_epochs": 1})
    told = " ".join(capsys.readouterr().err.split())
    assert "dropout_0 = recurrent.dropout, dropout_1 = drop" in told
    assert "functional_dropout = dropout inside Everything: trials keep its rates, and the baseline is without" in told
    remark = "The baseline is not without noise: Everything draws some in training, and it could not be switched off."
    assert remark in told
    assert found.layers == {"dropout_0": "recurrent.dropout", "dropout_1": "drop"}
    assert found.noise == ("Everything",)
    assert found.summary.noise == ModelNoise(found.layers, ("Everything",), ("Everything",))
    assert found.params["functional_dropout"] == 1
    baseline = found.summary.baseline.params
    assert [baseline[name] for name in ("dropout_0", "dropout_1", "functional_dropout")] == [0, 0, 0]
    unconfirmed = replace(found, summary=replace(found.summary, confirmed=None))
    for shown in (" ".join(str(each).split()) for each in (found, unconfirmed)):
        assert "dropout_0 = recurrent.dropout dropout_1 = drop" in shown
        assert remark in shown
    for_scripts = {"layers": found.layers, "functional": ["Everything"], "unknown": ["Everything"]}
    assert as_json(found.summary)["noise"] == for_scripts
    assert remark in as_json(found.summary)["confirmed"]["remarks"]
    page = (tmp_path / "runs" / "artifacts" / "mine" / "report.html").read_text()
    assert "dropout_0 = recurrent.dropout" in page
    assert page.count(remark) >= 2  # beside the verdict, and with what was confirmed
    model = found.model()
    assert model.recurrent.dropout == found.params["dropout_0"]
    assert not torch.equal(model.train()(examples()[0]), model(examples()[0]))


def test_names_of_layers_in_a_storage_command_no_terminal():
    evil, shown = "\x1b[2J", "\\x1b[2J"
    assert read_noise(ModelNoise({evil: evil}, [evil], [evil])) == ModelNoise({shown: shown}, (shown,), (shown,))


@pytest.mark.usefixtures("tables")
def test_functional_dropout_is_not_searched_where_there_is_none(tmp_path):
    space = {"dropout": Range(low=0.0, high=0.5), "functional_dropout": True}
    with pytest.raises(UsageError, match=r"space\.functional_dropout: the model has none"):
        find(tmp_path, plain, space=space)
    with pytest.raises(UsageError, match=r"space\.functional_dropout is for models from Python"):
        find(tmp_path, {"name": "mlp", "hidden": [8]}, space=space)
