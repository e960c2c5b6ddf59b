"""Bring your own: any module is searchable by its dropout layers, and trains stacked as it does by itself."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from conftest import kernels_in_use, make_assignment, make_data, make_training
from own_models import (
    Branching,
    Casting,
    Convolutional,
    Frozen,
    Noisy,
    NoisyInEvaluation,
    Paired,
    RarelyNoisy,
    Tied,
    normalized,
    plain,
)
from torch import nn

from search.memory import is_out_of_memory
from search.training.choosing import choose
from search.training.engines import TwinEngine, VmappedEngine
from search.training.layout import layout_of
from search.training.models import ChannelDropout
from search.training.own import (
    dropout_rates,
    searchable,
)
from search.training.population import Population, Way
from search.training.regularizers import Dropout
from search.training.stacking import stacked_twin

STRENGTHS = [{"dropout_0": 0.5, "l1": 1e-3}, {"dropout_1": 0.3, "weight_decay": 0.1}, {"learning_rate": 3e-3}]


def assignments():
    return [make_assignment(number, **strengths) for number, strengths in enumerate(STRENGTHS)]


def trained(factory, engine, epochs=3):
    people = Population(searchable(factory), make_data(), make_training(), 7, 3, Way(engine))
    for assignment in assignments():
        people.admit(assignment)
    rows = [people.train_epoch() for _ in range(epochs)]
    return people, rows, [people.best_weights(number) for number in range(3)]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("factory", "engine"),
    [
        (plain, TwinEngine),
        (normalized, TwinEngine),
        (Convolutional, VmappedEngine),
        (Tied, TwinEngine),
        (Frozen, VmappedEngine),
    ],
)
def test_stacked_equals_looped(factory, engine):
    people, rows, weights = trained(factory, "stacked")
    assert isinstance(people._engine, engine)
    _, expected_rows, expected = trained(factory, "looped")
    for ours, theirs in zip(rows, expected_rows, strict=True):
        for number in ours:
            assert ours[number].val_loss == pytest.approx(theirs[number].val_loss, rel=1e-9)
    for ours, theirs in zip(weights, expected, strict=True):
        assert ours.keys() == theirs.keys() == factory().state_dict().keys()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-7, atol=1e-9)


class OtherInEvaluation(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        x = self.layer(x)
        return x if self.training else x.log_softmax(1)


class ZeroHead(nn.Module):
    """Mixes what would be slots, behind a layer whose weights begin at zero."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        x = F.relu(self.layer(x))
        return self.head(x - x.mean(1, keepdim=True))


@pytest.mark.parametrize("factory", [OtherInEvaluation, ZeroHead, Branching, RarelyNoisy])
def test_what_would_mix_slots_has_no_twin(factory):
    assert stacked_twin(searchable(factory)(), torch.randn(8, 6)) is None


def odd_layer_norms():
    return nn.Sequential(
        *(nn.Linear(6, 8), nn.LayerNorm(8, bias=False), nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 3))
    )


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("factory", [OtherInEvaluation, ZeroHead, odd_layer_norms])
def test_without_a_twin_vmap_does_as_well(factory):
    _, rows, _ = trained(factory, "stacked")
    _, expected, _ = trained(factory, "looped")
    for number in range(3):
        assert rows[-1][number].val_loss == pytest.approx(expected[-1][number].val_loss, rel=1e-9)


@pytest.mark.filterwarnings("ignore:dropout2d")
def test_dropout_of_channels_is_torchs():
    x = torch.ones(4, 50, 7)
    for layer, shape in ((nn.Dropout2d(0.5), (4, 50, 1)), (nn.Dropout1d(0.5), (4, 50, 1))):
        ours = searchable(lambda layer=layer: deepcopy(layer))().train()
        ours.configure(0.5, 3)
        for dropped in (ours(x), layer(x)):
            assert torch.equal(dropped, dropped[..., :1].expand_as(x))
            assert 0.2 < (dropped[..., 0] == 0).float().mean() < 0.8
            assert dropped.unique().tolist() == [0.0, 2.0]
            assert dropped[..., :1].shape == shape


def test_biases_by_any_name_are_not_regularized():
    recurrent, attention = nn.GRU(3, 4), nn.MultiheadAttention(4, 2)
    assert layout_of(recurrent).weights == 4 * 3 * (3 + 4)
    assert layout_of(attention).weights == 4 * 4 * 4


def test_memory_format_is_not_memory():
    assert not is_out_of_memory(RuntimeError("is_contiguous inside of vmap for memory_format other than"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("engine", ["stacked", "looped"])
def test_an_own_model_without_dropout_trains_as_with_torch(engine):
    data, assignment = make_data(), make_assignment(0, weight_decay=0.1)
    people = Population(searchable(Tied), data, make_training(batch_size=70), 7, 1, Way(engine))
    people.admit(assignment)
    model = deepcopy(people._fresh_model(assignment))
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    weights = [p for name, p in model.named_parameters() if not name.endswith("bias")]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    for _ in range(4):  # whole batches: their order does not matter
        optimizer.zero_grad()
        F.cross_entropy(model(data.train.x), data.train.y).backward()
        optimizer.step()
        rows = people.train_epoch()
    assert rows[0].val_loss == pytest.approx(F.cross_entropy(model(data.val.x), data.val.y).item(), rel=1e-9)


def test_every_dropout_layer_has_a_rate():
    shared = nn.Dropout(0.1)

    def make():
        torch.manual_seed(0)
        return nn.Sequential(shared, nn.Linear(6, 8), nn.Sequential(nn.Dropout(0.4), nn.Dropout2d(0.2)), shared)

    assert dropout_rates(make()) == [0.1, 0.4, 0.2]
    model = searchable(make)()
    assert [layer.parameter for layer in model.modules() if isinstance(layer, Dropout)] == [
        "dropout_0",
        "dropout_1",
        "dropout_2",
    ]
    assert model[0] is model[3]
    assert isinstance(model[2][1], ChannelDropout)
    assert isinstance(searchable(lambda: nn.Dropout(0.5))(), Dropout)


def test_what_is_frozen_stays_as_it_is():
    _, _, weights = trained(Frozen, "looped")
    for state in weights:
        assert bool((state["features.weight"] == 0.1).all())
    assert not torch.equal(weights[0]["output.weight"], weights[1]["output.weight"])


@pytest.mark.parametrize("factory", [Branching, Noisy])
def test_a_model_that_cannot_be_stacked_is_left_to_the_looped_engine(factory):
    people = Population(searchable(factory), make_data(), make_training(), 7, 3)
    chosen = choose(people, make_assignment(0), ["stacked", "looped"], ["fp32", "bf16"], [1], seconds=0.01)
    assert chosen.way.engine == "looped"
    assert "vmap" in chosen.refusals["stacked"]
    people.admit(make_assignment(0))
    assert people.train_epoch()[0].epoch == 1


@pytest.mark.parametrize("factory", [Noisy, NoisyInEvaluation])
def test_a_model_that_draws_by_itself_draws_the_same_beside_others_and_from_a_checkpoint(factory):
    def population():
        return Population(factory, make_data(), make_training(), 7, 3, Way("looped"))

    alone, crowded, resumed = population(), population(), population()
    alone.admit(make_assignment(1))
    torch.manual_seed(0)
    expected = [alone.train_epoch()[1] for _ in range(3)]
    for assignment in assignments():
        crowded.admit(make_assignment(assignment.number))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert [crowded.train_epoch()[1] for _ in range(2)] == expected[:2]
    assert torch.equal(torch.get_rng_state(), before)
    resumed.restore(make_assignment(1), crowded.state(1))
    assert resumed.train_epoch()[1] == expected[2]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("engine", ["stacked", "looped"])
def test_parameters_of_other_types_train_with_kernels_as_without(engine, dtype, precision):
    def train():
        people = Population(lambda: Casting(dtype), make_data(), make_training(), 7, 3, Way(engine, precision))
        for assignment in assignments():
            people.admit(assignment)
        people.train_epoch()
        return [people.best_weights(number)["weight"] for number in range(3)]

    with kernels_in_use("compiled"):
        ours = train()
    for left, right in zip(ours, train(), strict=True):
        assert left.dtype == dtype
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("engine", ["stacked", "looped"])
def test_parameters_with_one_gradient_have_noise_of_their_own(engine):
    people = Population(Paired, make_data(), make_training(optimizer="sgd"), 7, 1, Way(engine))
    people.admit(make_assignment(0, gradient_noise=1.0))
    people.train_epoch()
    weights = people.best_weights(0)
    assert (weights["left"] - weights["right"]).abs().min() > 0
    assert len(weights["total"].unique()) == 4


def test_a_model_that_nothing_can_train_says_why():
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.output = nn.Linear(6, 3)

        def forward(self, x):
            if self.training:
                raise ValueError("not like that")
            return self.output(x)

    people = Population(Failing, make_data(), make_training(), 7, 2)
    with pytest.raises(ValueError, match="not like that"):
        choose(people, make_assignment(0), ["stacked", "looped"], ["fp32"], [1])
