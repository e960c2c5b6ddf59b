"""Models for one trial: what comes out, how many parameters they have, and what their dropout drops."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from search.spec import DATASET_SHAPES, DataSpec, ModelSpec, StudySpec
from search.training.data import load_data
from search.training.layout import layout_of
from search.training.models import ChannelDropout, ConvNet, model_factory
from search.training.regularizers import Dropout, configure

MLP = ModelSpec(name="mlp", hidden=[8, 5])
CNN = ModelSpec(name="cnn", channels=[4, 6], hidden=[5])
TRANSFORMER = ModelSpec(name="transformer", patch=[4, 2], width=8, heads=2, hidden=[6, 10])
RATES = {"input_dropout": 0.1, "dropout_0": 0.3, "dropout_1": 0.4, "dropout_2": 0.5}


def channel_dropout(rate: float, trial: int = 0) -> ChannelDropout:
    module = ChannelDropout("dropout_0")
    configure(module, {"dropout_0": rate}, 0, trial)
    return module


def textbook(model: ConvNet) -> nn.Module:
    """Return the same network with the same weights, as anyone would write it."""
    first, second = model.convolutions
    convolutions = [layer for conv in (first, second) for layer in (conv, nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0))]
    head = [nn.Flatten(), *model.hidden, nn.ReLU(), nn.Dropout(0), model.output]
    return nn.Sequential(*convolutions, *head)


@pytest.mark.parametrize("spec", [MLP, CNN], ids=lambda spec: spec.name)
@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (7, 9), (3, 9, 6)])
def test_images_become_a_logit_for_each_class(spec, shape):
    model = model_factory(spec, shape, 10)()
    assert model(torch.randn(5, *shape)).shape == (5, 10)
    assert model.eval()(torch.randn(1, *shape)).shape == (1, 10)


@pytest.mark.parametrize(
    ("spec", "weights", "biases"),
    [
        (ModelSpec(name="mlp", hidden=[128, 64]), 784 * 128 + 128 * 64 + 64 * 10, 128 + 64 + 10),
        (
            ModelSpec(name="cnn", channels=[16, 32], hidden=[64]),
            16 * 9 + 32 * 16 * 9 + 32 * 7 * 7 * 64 + 64 * 10,
            16 + 32 + 64 + 10,
        ),
    ],
    ids=["mlp", "cnn"],
)
def test_number_of_parameters(spec, weights, biases):
    layout = layout_of(model_factory(spec, (28, 28), 10)())
    assert (layout.weights, layout.size) == (weights, weights + biases)


@pytest.mark.parametrize("shape", [(8, 8), (9, 7), (3, 8, 8)])
def test_a_convolutional_network_is_the_textbooks(double, shape):
    model = model_factory(CNN, shape, 3)()
    x = torch.randn(5, *shape)
    theirs = textbook(model)(x if len(shape) == 3 else x.unsqueeze(1))
    ours = model(x)
    torch.testing.assert_close(ours, theirs)
    parameters = list(model.parameters())
    gradients = [torch.autograd.grad(logits.square().sum(), parameters) for logits in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("spec", [MLP, CNN], ids=lambda spec: spec.name)
def test_each_dropout_rate_of_a_study_has_its_layer(spec):
    search = {"data": {"name": "digits"}, "model": spec, "space": {"dropout": {"low": 0.0, "high": 0.5}}}
    study = StudySpec(name="a", **search)
    layers = [layer.parameter for layer in model_factory(spec, (8, 8), 10)().modules() if isinstance(layer, Dropout)]
    assert layers == [name for name in study.parameters() if "dropout" in name]


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_channel_dropout_drops_whole_channels_and_keeps_the_mean(rate):
    x = torch.rand(256, 32, 3, 5) + 0.5
    outputs = torch.stack([channel_dropout(rate, trial)(x) for trial in range(8)])
    kept = (outputs != 0).flatten(3)
    assert torch.equal(kept.all(3), kept.any(3))
    dropped = 1 - kept.double().mean(3)
    deviation = (rate * (1 - rate) / dropped.numel()) ** 0.5
    assert dropped.mean().item() == pytest.approx(rate, abs=5 * deviation)
    scale = 1 / (1 - rate)
    torch.testing.assert_close(outputs, x * kept.unflatten(3, (3, 5)) * scale, rtol=1e-3, atol=0)


def test_channels_are_dropped_by_themselves_in_each_example_and_step():
    module = channel_dropout(0.5)
    first, second = ((module(torch.ones(128, 64, 2, 2))[..., 0, 0] != 0).double() for _ in range(2))
    limit = 5 / first.numel() ** 0.5
    for a, b in ((first, second), (first[1:], first[:-1]), (first[:, 1:], first[:, :-1])):
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()) < limit


def test_channel_dropout_rests_at_rate_zero_and_in_evaluation():
    x = torch.randn(5, 4, 3, 3)
    assert torch.equal(channel_dropout(0.0)(x), x)
    assert torch.equal(channel_dropout(0.9).eval()(x), x)


@pytest.mark.parametrize("spec", [MLP, CNN], ids=lambda spec: spec.name)
@pytest.mark.parametrize("shape", [(8, 8), (3, 9, 7)])
def test_stacked_by_vmap_a_model_computes_what_each_one_does(double, spec, shape):
    models = [model_factory(spec, shape, 3)() for _ in range(4)]
    for trial, model in enumerate(models):
        configure(model, {name: rate * trial / 4 for name, rate in RATES.items()}, 0, trial)
    states = [dict(model.named_parameters()) | dict(model.named_buffers()) for model in models]
    stacked = {name: torch.stack([state[name].detach() for state in states]) for name in states[0]}
    x = torch.randn(4, 6, *shape)
    together = vmap(lambda state, one: functional_call(models[0], state, (one,)))(stacked, x)
    torch.testing.assert_close(together, torch.stack([model(one) for model, one in zip(models, x, strict=True)]))


def test_data_have_the_shape_that_specs_are_checked_against(tmp_path):
    assert load_data(DataSpec(name="digits"), tmp_path, 0).shape == DATASET_SHAPES["digits"]


@pytest.mark.parametrize("shape", [(8, 8), (3, 8, 4)])
def test_a_transformer_is_torchs_encoder(double, shape):
    model = model_factory(TRANSFORMER, shape, 5)().eval()
    x = torch.randn(4, *shape)
    tokens = torch.nn.functional.unfold(x if len(shape) == 3 else x.unsqueeze(1), (4, 2), stride=(4, 2)).mT
    colours = 1 if len(shape) == 2 else 3
    # unfold puts colours first, patches here put them last
    tokens = tokens.unflatten(-1, (colours, 8)).transpose(-2, -1).flatten(-2)
    assert torch.equal(model.patches(x), tokens)
    state = model.embedding(tokens) + model.positions.bias
    for block in model.blocks:
        layer = nn.TransformerEncoderLayer(
            8, 2, block.hidden.out_features, 0.0, "gelu", batch_first=True, norm_first=True
        ).eval()
        ours = {
            "self_attn.in_proj_weight": block.attention.inputs.weight,
            "self_attn.in_proj_bias": block.attention.inputs.bias,
            "self_attn.out_proj.weight": block.attention.output.weight,
            "self_attn.out_proj.bias": block.attention.output.bias,
            "linear1.weight": block.hidden.weight,
            "linear1.bias": block.hidden.bias,
            "linear2.weight": block.output.weight,
            "linear2.bias": block.output.bias,
            "norm1.weight": block.attention_norm.weight,
            "norm1.bias": block.attention_norm.bias,
            "norm2.weight": block.norm.weight,
            "norm2.bias": block.norm.bias,
        }
        layer.load_state_dict(ours)
        state = layer(state)
    expected = model.output(model.norm(state).mean(1))
    torch.testing.assert_close(model(x), expected)


def test_positions_and_norms_of_a_transformer_are_not_decayed():
    model = model_factory(TRANSFORMER, (8, 8), 5)()
    layout = layout_of(model)
    exempt = sum(p.numel() for name, p in model.named_parameters() if "norm" in name or name.endswith("bias"))
    assert layout.weights == layout.size - exempt
    assert {name.rpartition(".")[0] for name in layout.of_units} >= {"embedding", "output", "blocks.0.attention.inputs"}


@pytest.mark.parametrize("spec", [MLP, CNN], ids=lambda spec: spec.name)
def test_batch_norm_is_off_unless_a_configuration_switches_it_on(spec):
    torch.manual_seed(0)
    plain = model_factory(spec, (8, 8), 5)()
    torch.manual_seed(0)
    switched = model_factory(spec, (8, 8), 5, batch_norm=True)()
    x = torch.randn(6, 8, 8)
    torch.testing.assert_close(switched(x), plain(x))
    configure(switched, {"batch_norm": 1}, 0, 0)
    assert not torch.allclose(switched(x), plain(x))
    assert layout_of(switched).weights == layout_of(plain).weights
