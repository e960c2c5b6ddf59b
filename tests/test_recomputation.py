"""Dropout whose layer is computed again for the backward pass: the gradient is that of the loss, with the same mask."""

import pytest
import torch
from conftest import kernels_in_use, make_assignment, make_data, make_training
from torch import nn
from torch.utils.checkpoint import checkpoint

from search.training.engines import LoopedEngine, TwinEngine
from search.training.models import ChannelDropout
from search.training.own import searchable
from search.training.population import Population, Way
from search.training.regularizers import AlphaDropout, Dropout, StochasticDepth, configure

KINDS = {
    "reentrant": lambda part, x: checkpoint(part, x, use_reentrant=True),
    "not reentrant": lambda part, x: checkpoint(part, x, use_reentrant=False),
    "nested": lambda part, x: checkpoint(
        lambda inner: checkpoint(part, inner, use_reentrant=False), x, use_reentrant=False
    ),
    "reentrant in the other": lambda part, x: checkpoint(
        lambda inner: checkpoint(part, inner, use_reentrant=True), x, use_reentrant=False
    ),
}


def plain_call(part, x):
    return part(x)


class Net(nn.Module):
    """Two dropout layers; the first is used three times in a forward pass, with other inputs each time."""

    def __init__(self, call=plain_call):
        super().__init__()
        self.call = call
        self.first, self.second, self.output = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.dropout, self.other = nn.Dropout(0.5), nn.Dropout(0.5)

    def forward(self, x):
        x = self.dropout(torch.tanh(self.first(x)))
        call = self.call if self.training else plain_call
        x = call(self.again, call(self.again, x))
        return self.output(self.dropout(x))

    def again(self, x):
        return torch.tanh(self.dropout(self.other(torch.tanh(self.second(x)))))


def made(call=plain_call, slots=None):
    torch.manual_seed(0)
    model = searchable(lambda: Net(call))().train()
    configure(model, {"dropout_0": 0.5, "dropout_1": 0.3}, 0, 0)
    if slots is not None:  # as the stacked engine has it
        for layer in model.modules():
            if isinstance(layer, Dropout):
                layer.key = torch.arange(slots, dtype=torch.int32) * 7919 + layer.key
                layer.dropped_below, layer.scale = layer.dropped_below.repeat(slots), layer.scale.repeat(slots)
    return model


def gradients(model, x, steps=2):
    """Return outputs and gradients of some steps, each of two forward passes whose gradients add up."""
    found = []
    for _ in range(steps):
        outputs = [model(x), model(x + 1)]
        sum(each.square().sum() for each in outputs).backward()  # reentrant checkpoints take no other way
        found += [each.detach() for each in outputs] + [parameter.grad for parameter in model.parameters()]
        model.zero_grad()
    return found


@pytest.mark.parametrize("kernels", ["torch", "compiled"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [None, 3])
def test_a_checkpointed_model_has_the_gradient_of_its_loss(kind, kernels, slots):
    x = torch.randn(*(() if slots is None else (slots,)), 20, 6, generator=torch.Generator().manual_seed(1))
    with kernels_in_use(kernels):
        found, expected = gradients(made(KINDS[kind], slots), x), gradients(made(slots=slots), x)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_each_use_of_a_layer_draws_another_mask_in_a_checkpoint_too():
    layer = Dropout("dropout_0")
    layer.configure(0.5, 1)
    x = torch.ones(1000, requires_grad=True)
    masks = [KINDS["not reentrant"](layer, x) != 0 for _ in range(3)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert 0.3 < (masks[one] != masks[other]).float().mean() < 0.7


def test_a_gradient_of_a_retained_graph_is_the_same_again():
    model, x = made(KINDS["not reentrant"]), torch.randn(20, 6)
    loss = model(x).square().sum()
    first, second = (torch.autograd.grad(loss, model.first.weight, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("call", [plain_call, KINDS["not reentrant"]])
def test_a_gradient_of_a_gradient_goes_through_the_same_mask(call):
    def second_order(kernels, call):
        with kernels_in_use(kernels):
            model = made(call)
            x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
            (slope,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
            return torch.autograd.grad(slope.square().sum(), [p for p in model.parameters() if p.dim() == 2])

    expected = second_order("torch", plain_call)
    for ours, theirs in zip(second_order("compiled", call), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def unkept(part, x):
    return checkpoint(part, x, use_reentrant=False, preserve_rng_state=False)


def test_a_checkpoint_that_keeps_no_random_numbers_is_told_instead_of_trained_with_another_mask():
    with pytest.raises(RuntimeError, match=r"dropout_\d is computed again .* leave out preserve_rng_state=False"):
        gradients(made(unkept), torch.randn(20, 6))
    without = made(unkept)
    configure(without, {"dropout_0": 0.0, "dropout_1": 0.0}, 0, 0)
    gradients(without, torch.randn(20, 6))  # nothing is dropped, nothing can differ


def test_a_model_without_checkpoints_leaves_torch_s_generator_alone():
    before = torch.get_rng_state()
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    gradients(made(), x)
    torch.manual_seed(0)
    made(), torch.random.get_rng_state()
    expected = torch.get_rng_state()
    model = made()
    gradients(model, x)
    assert torch.equal(torch.get_rng_state(), expected)
    torch.set_rng_state(before)


def trained(factory, engine, cut=None):
    people = Population(searchable(factory), make_data(), make_training(), 7, 3, Way(engine))
    assignments = [make_assignment(number, dropout_0=0.5, dropout_1=0.2 * number) for number in range(3)]
    for assignment in assignments:
        people.admit(assignment)
    for epoch in range(3):
        people.train_epoch()
        if epoch == cut:
            states = [people.state(number) for number in range(3)]
            people = Population(searchable(factory), make_data(), make_training(), 7, 3, Way(engine))
            for assignment, state in zip(assignments, states, strict=True):
                people.restore(assignment, state)
    return people._engine, [people.best_weights(number) for number in range(3)]


def checkpointed():
    return Net(KINDS["not reentrant"])


def reentrant():
    return Net(KINDS["reentrant"])


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("factory", "engine", "kind", "cut"),
    [
        (checkpointed, "stacked", TwinEngine, None),
        (checkpointed, "looped", LoopedEngine, None),
        (checkpointed, "stacked", TwinEngine, 1),
        (reentrant, "looped", LoopedEngine, None),
        (reentrant, "looped", LoopedEngine, 1),
    ],
)
def test_a_checkpointed_model_trains_as_one_without_checkpoints(factory, engine, kind, cut):
    used, weights = trained(factory, engine, cut)
    assert isinstance(used, kind)
    _, expected = trained(Net, "looped")
    for ours, theirs in zip(weights, expected, strict=True):
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-7, atol=1e-9)


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
@pytest.mark.parametrize("call", [plain_call, KINDS["not reentrant"]])
def test_a_compiled_model_has_the_gradient_of_its_loss(call):
    def compiled():
        return torch.compile(Net(call), backend="aot_eager_decomp_partition")  # recomputes as the default one does

    torch.manual_seed(0)
    model = searchable(compiled)().train()
    configure(model, {"dropout_0": 0.5, "dropout_1": 0.3}, 0, 0)
    twin = made()
    configure(twin, {}, 0, 0)
    named = {name.removeprefix("_orig_mod."): layer for name, layer in model.named_modules()}
    for name, layer in twin.named_modules():
        if isinstance(layer, Dropout):
            layer.load_state_dict({})
            for buffer in ("key", "dropped_below", "scale"):
                getattr(layer, buffer).copy_(getattr(named[name], buffer))
    twin.load_state_dict({name.removeprefix("_orig_mod."): value for name, value in model.state_dict().items()})
    x = torch.randn(20, 6)
    for ours, theirs in zip(gradients(model, x), gradients(twin, x), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "layer",
    [
        ChannelDropout("dropout_0"),
        AlphaDropout("dropout_0"),
        AlphaDropout("dropout_0", channels=True),
        StochasticDepth("dropout_0", rows=True),
    ],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_dropout_has_its_mask_again(layer, kind):
    layer.configure(0.5, 1)
    x = torch.ones(40, 12, 4, 4, requires_grad=True)
    y = KINDS[kind](nn.Sequential(layer, nn.Tanh()), x)  # what tanh keeps comes from the recomputation
    y.sum().backward()
    dropped = y.detach() == y.detach().min()
    assert 0.3 < dropped.float().mean() < 0.7
    assert x.grad[dropped].abs().max() == 0
    assert x.grad[~dropped].abs().min() > 0
