"""Noise of users' models: found whatever draws it, off in the baseline, and named where it cannot be switched off."""

import pytest
import torch
from library_models import hugging_face_models, timm_models
from noise_models import (
    BLOCKS,
    NOISELESS,
    ROWS,
    TORCH,
    TORCHVISION,
    UNKNOWN,
    Attention,
    Between,
    DropPath,
    between,
)
from torch import nn

from search.errors import ModelError
from search.training.noise import dropout_rates, searchable
from search.training.noise_search import find_noise
from search.training.regularizers import configure

FUNCTIONAL_ONLY = {
    "F.dropout",
    "F.dropout in place",
    "F.dropout1d",
    "F.alpha_dropout",
    "F.feature_alpha_dropout",
    "torch.dropout",
    "scaled_dot_product_attention",
    "RReLU",
    "gumbel_softmax",
    "FractionalMaxPool2d",
    "a mask by bernoulli",
    "stochastic_depth",
    "drop_block2d",
    "a rate in a configuration",
}


def disturbed(model):
    """Return a model without the zeros that layers begin with, which hide noise."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def two_passes(model, x):
    passes = []
    for seed in range(2):
        torch.manual_seed(seed)
        with torch.no_grad():
            passes.append(model.train()(x))
    return passes


def fault(factory, x, rates=True):
    """Return what is wrong with a model's baseline, None where nothing is."""
    noise = find_noise(factory, x)
    model = disturbed(searchable(factory, noise)())
    configure(model, {}, 0, 0)
    one, other = two_passes(model, x)
    if noise.unknown or not torch.equal(one, other):
        return f"noise is left: {noise}"
    if bool(noise.rates) != rates or bool(noise.functional) == rates:
        return f"other rates: {noise}"
    configure(model, {**{f"dropout_{i}": 0.5 for i in range(len(noise.rates))}, "functional_dropout": 1}, 0, 0)
    passes = [two_passes(model, x) for _ in range(4)]  # a layer that is left out may be so twice
    return "no noise with all rates on" if all(torch.equal(*pair) for pair in passes) else None


@pytest.mark.filterwarnings("ignore:dropout")
@pytest.mark.parametrize("name", [*TORCH, *TORCHVISION, *BLOCKS])
def test_with_every_rate_at_0_two_training_passes_agree(name):
    factory, x = (TORCH | TORCHVISION | BLOCKS)[name]
    assert fault(factory, x, name not in FUNCTIONAL_ONLY) is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("models", [timm_models, hugging_face_models])
def test_with_every_rate_at_0_two_training_passes_of_a_librarys_models_agree(models):
    faults = {name: fault(factory, x) for name, (factory, x) in models().items()}
    assert {name: told for name, told in faults.items() if told} == {}


def test_fifty_models_and_more_are_tried():
    assert min(len(TORCH), len(TORCHVISION), len(BLOCKS)) >= 10
    assert len(TORCH) + len(TORCHVISION) + len(BLOCKS) >= 50
    assert len(NOISELESS) >= 20


@pytest.mark.parametrize("name", UNKNOWN)
def test_noise_that_cannot_be_switched_off_is_named(name):
    inner = UNKNOWN[name]
    noise = find_noise(lambda: nn.Sequential(nn.Linear(6, 6), inner(), nn.Dropout(0.1)), ROWS)
    assert noise.unknown == ("1 (Between)",)
    assert not noise.functional
    assert noise.told.layers == {"dropout_0": "2"}


@pytest.mark.parametrize("name", NOISELESS)
def test_a_model_without_noise_is_not_told_that_it_has_some(name):
    factory, x = NOISELESS[name]
    noise = find_noise(factory, x)
    assert (noise.functional, noise.unknown) == ((), ())
    assert not any(dropout_rates(factory(), noise))  # layers that drop nothing are none the less layers


@pytest.mark.parametrize("rate", [0.001, 0.01])
def test_functional_dropout_at_a_low_rate_is_found_on_two_examples(rate):
    factory = between(lambda m, x: nn.functional.dropout(x, rate, m.training))
    assert find_noise(factory, ROWS).functional == ("Between",)


def test_rates_are_named_by_their_layers_in_the_order_of_the_modules():
    def make():
        encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.3, batch_first=True), 1)
        return nn.Sequential(nn.Dropout(0.1), encoder, DropPath(), Attention(), nn.Flatten(), nn.Linear(40, 3))

    layers = find_noise(make, torch.rand(2, 5, 8)).told.layers
    assert list(layers.values()) == [
        "0",
        "1.layers.0.self_attn.dropout",
        "1.layers.0.dropout",
        "1.layers.0.dropout1",
        "1.layers.0.dropout2",
        "2.drop_prob",
        "3.attn_drop",
        "3.proj_drop",
    ]
    assert list(layers) == [f"dropout_{index}" for index in range(8)]


def test_a_number_that_only_looks_like_a_rate_is_left_alone():
    def make():
        path = DropPath()
        path.drop_below, path.drop_scale = 0.1, 0.5
        inner = Between(lambda m, x: path.train(m.training)(x) * (x > path.drop_below) / path.drop_scale, path=path)
        return nn.Sequential(inner)

    assert find_noise(make, ROWS).told.layers == {"dropout_0": "0.path.drop_prob"}


def test_a_share_that_is_kept_is_no_rate_and_the_noise_is_named():
    def make():
        keep = {"drop_keep_prob": 0.9, "drop": 0.1}
        return Between(lambda m, x: x * (torch.rand_like(x) < m.drop_keep_prob) if m.training else x, **keep)

    noise = find_noise(make, ROWS)
    assert (noise.rates, noise.unknown) == ((), ("Between",))


def test_finding_noise_leaves_generators_and_models_alone():
    made = []

    def make():
        made.append(Between(lambda m, x: x + torch.randn_like(x)))
        return made[-1]

    torch.manual_seed(0)
    make()
    expected = torch.get_rng_state()
    torch.manual_seed(0)
    make()
    find_noise(make, ROWS)
    assert torch.equal(torch.get_rng_state(), expected)
    assert not made[-1]._forward_hooks


class NotToBeCopied(nn.Linear):
    def __deepcopy__(self, memo):
        raise TypeError("one of a kind")


def test_a_model_that_cannot_be_copied_is_refused_with_the_reason():
    with pytest.raises(ModelError, match=r"a copy of the model fails in training: TypeError: one of a kind"):
        find_noise(lambda: NotToBeCopied(6, 3), ROWS)
