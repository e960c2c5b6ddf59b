"""A user's factory: its models share no memory with anything else, and begin at their trial's seed."""

import random

import numpy as np
import pytest
import torch
from conftest import make_assignment, make_data, make_training
from own_models import Tied, find, plain
from safetensors.torch import save
from torch import nn

from search import SearchWarning
from search.training.factories import IsolatedFactory, made_under, shared_start
from search.training.own import finished, searchable, torch_left_alone
from search.training.population import Population

VECTORS = torch.randn(12, 6, generator=torch.Generator().manual_seed(5))


class Wrapping(nn.Module):
    """Wraps a tensor of the caller's, in one way or another."""

    def __init__(self, keep):
        super().__init__()
        self.output = nn.Linear(6, 3)
        keep(self)

    def forward(self, x):
        return self.output(x)


def as_embedding(model):
    model.table = nn.Embedding.from_pretrained(VECTORS, freeze=False)


def as_parameter(model):
    model.table = nn.Parameter(VECTORS)


def as_array(model):
    model.table = nn.Parameter(torch.from_numpy(VECTORS.numpy()))


def as_rows(model):
    model.table = nn.Parameter(VECTORS[2:4])


def as_buffer(model):
    model.register_buffer("table", VECTORS)


@pytest.mark.parametrize("keep", [as_embedding, as_parameter, as_array, as_rows, as_buffer])
def test_the_caller_s_tensors_and_other_models_stay_as_they_are(keep):
    before = VECTORS.clone()
    factory = IsolatedFactory(lambda: Wrapping(keep))
    one, other = (searchable(factory)() for _ in range(2))
    weights = save({name: value + 1 for name, value in one.state_dict().items()})
    loaded = finished(factory, {}, weights)
    for tensor in (*one.parameters(), *one.buffers()):
        tensor.data.add_(1)
    assert torch.equal(VECTORS, before)
    for ours, theirs in zip(loaded.state_dict().values(), one.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)
    for name in ("table.weight", "table"):
        if name in other.state_dict():
            assert torch.equal(other.state_dict()[name], before[2:4] if keep is as_rows else before)


def test_tied_weights_stay_tied():
    model = IsolatedFactory(Tied)()
    assert model.first.weight is model.second.weight


class TiedByMemory(nn.Module):
    """Two parameters that lie in one memory, one of them transposed."""

    def __init__(self):
        super().__init__()
        self.coder, self.decoder = nn.Linear(6, 4, bias=False), nn.Linear(4, 6, bias=False)
        self.decoder.weight = nn.Parameter(self.coder.weight.data.t())


def test_parameters_that_lie_in_one_memory_go_on_doing_so():
    original = TiedByMemory()
    model = IsolatedFactory(lambda: original)()
    model.coder.weight.data.mul_(2)
    assert torch.equal(model.decoder.weight, model.coder.weight.t())


def test_recurrent_layers_keep_the_weights_that_they_compute_with():
    model, x = IsolatedFactory(lambda: nn.LSTM(6, 4))(), torch.randn(2, 3, 6)
    before = model(x)[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert not torch.equal(model(x)[0], before)


def start_of(factory):
    return shared_start(*(made_under(factory, seed) for seed in range(2)))


def seeding_torch():
    torch.manual_seed(0)
    return plain()


def seeding_everything():
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(0)
    return plain()


def pretrained():
    model, weights = plain(), torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=weights)
    return model


def drawn_by_numpy_from_a_seed():
    model, generator = plain(), np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data = torch.tensor(generator.normal(size=tuple(parameter.shape))).float()
    return model


@pytest.mark.parametrize("factory", [seeding_torch, seeding_everything, pretrained, drawn_by_numpy_from_a_seed])
def test_equal_initial_weights_under_every_seed_are_noticed(factory):
    start = start_of(factory)
    assert start.share == 1
    assert "the same initial weights under every seed" in start.warning
    assert "remove torch.manual_seed" in start.warning
    assert "not the initialization" in start.remark


def with_pretrained_vectors():
    return nn.Sequential(nn.Embedding.from_pretrained(VECTORS, freeze=False), nn.Flatten(), nn.Linear(24, 3))


def with_one_seeded_layer():
    first = nn.Linear(6, 12)
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 3), nn.ReLU(), first)


@pytest.mark.parametrize(
    ("factory", "name", "part"),
    [(with_pretrained_vectors, "0.weight", "49 %"), (with_one_seeded_layer, "0.weight", "31")],
)
def test_a_part_that_is_the_same_under_every_seed_is_a_remark_and_no_warning(factory, name, part):
    start = start_of(factory)
    assert start.share < 1
    assert name in start.remark
    assert part in start.remark
    assert start.warning is None  # fine-tuning is ordinary use


def by_numpy():
    model = plain()
    for parameter in model.parameters():
        parameter.data = torch.tensor(np.random.normal(size=tuple(parameter.shape))).float()
    return model


def by_python():
    model = plain()
    for parameter in model.parameters():
        parameter.data = torch.tensor([random.gauss() for _ in range(parameter.numel())]).view(parameter.shape)
    return model


def normal_layers():
    """Return a model whose constants, such as scales of normalizations, every seed has alike."""
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.LayerNorm(8), nn.PReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("factory", [plain, by_numpy, by_python, normal_layers])
def test_initial_weights_that_differ_by_seed_are_not_noticed(factory):
    assert start_of(factory) is None


@pytest.mark.parametrize("factory", [plain, by_numpy, by_python])
def test_a_trial_begins_with_the_same_weights_whatever_was_drawn_before(factory):
    def first_weights():
        people = Population(searchable(factory), make_data(), make_training(), 7, 1)
        people.admit(make_assignment(3))
        return people._rows[0].clone()

    expected = first_weights()
    np.random.rand(), random.random(), torch.rand(1)
    assert torch.equal(first_weights(), expected)


def test_generators_of_numpy_and_python_are_left_alone():
    expected = np.random.get_state()[1].tolist(), random.getstate()
    with torch_left_alone():
        seeding_everything()
        by_numpy(), by_python()
    assert (np.random.get_state()[1].tolist(), random.getstate()) == expected


@pytest.mark.usefixtures("tables")
def test_equal_initial_weights_are_told_at_the_start_and_with_the_verdict(tmp_path):
    with pytest.warns(SearchWarning, match="the same initial weights under every seed"):
        found = find(tmp_path, model=seeding_torch, training={"max_epochs": 1})
    remark = "All seeds start from the same initial weights"
    assert any(remark in each for each in found.summary.confirmed.remarks)
    assert remark in str(found)
