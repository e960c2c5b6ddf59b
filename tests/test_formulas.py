"""Regularizers' formulas against independent references, torch's own where there is one."""

import pytest
import torch
import torch.nn.functional as F
from conftest import make_assignment, make_data, make_training
from torch import nn

from search.spec import ModelSpec
from search.training.feeding import Mixing
from search.training.losses import LOSSES, cross_entropy_gradients, loss_gradients
from search.training.models import model_factory
from search.training.population import Population, Way
from search.training.regularizers import BatchNorm, GradientNoise, NormLimits
from search.training.schedules import make_schedule
from search.training.turns import Turn

CPU = torch.device("cpu")
SLOTS, BATCH, CLASSES = 2, 16, 5


def turns(**params: float) -> list[Turn]:
    """Return a trial with a regularizer, and one without."""
    return [Turn(0, 0, 1, params), Turn(0, 1, 1, {})]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SLOTS, BATCH, 3, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (SLOTS, BATCH), generator=generator)


def gradients_by_autograd(logits, loss):
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


def test_label_smoothing_is_torchs(batch):
    x, y = batch
    logits = torch.randn(SLOTS, BATCH, CLASSES, dtype=torch.float64)
    _, targets = Mixing(turns(label_smoothing=0.2), 1, CLASSES, CPU)(0, x, y)
    ours = cross_entropy_gradients(logits, targets.double())
    for slot, smoothing in enumerate((0.2, 0.0)):
        expected = gradients_by_autograd(
            logits[slot], lambda leaf, slot=slot, s=smoothing: F.cross_entropy(leaf, y[slot], label_smoothing=s)
        )
        torch.testing.assert_close(ours[slot], expected, rtol=1e-6, atol=1e-8)


def test_mixup_is_the_papers(batch):
    x, y = batch
    mixing = Mixing(turns(mixup=0.7), 3, CLASSES, CPU)
    mixed, targets = mixing(1, x, y)
    share = mixing._shares[0, 1].item()
    assert 0 < share < 1
    assert torch.equal(mixed[1], x[1])
    torch.testing.assert_close(mixed[0], share * x[0] + (1 - share) * x[0].flip(0), rtol=1e-6, atol=1e-7)
    logits = torch.randn(SLOTS, BATCH, CLASSES, dtype=torch.float64)
    expected = gradients_by_autograd(
        logits[0],
        lambda leaf: share * F.cross_entropy(leaf, y[0]) + (1 - share) * F.cross_entropy(leaf, y[0].flip(0)),
    )
    torch.testing.assert_close(cross_entropy_gradients(logits, targets.double())[0], expected, rtol=1e-6, atol=1e-8)


def test_mixups_shares_have_the_betas_moments():
    shares = Mixing(turns(mixup=0.4), 20_000, CLASSES, CPU)._shares[0].double()
    assert shares.mean().item() == pytest.approx(0.5, abs=0.02)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.05)  # of Beta(a, a)


def test_gradient_noise_fades_as_in_the_paper():
    steps, strength = 50, 0.3
    noise = GradientNoise([Turn(0, 0, 3, {"gradient_noise": strength}), Turn(0, 1, 1, {})], steps, CPU)
    for step in (0, 1, 10):
        pieces = [torch.zeros(SLOTS, 300, 100), torch.zeros(SLOTS, 100)]
        noisy = noise.added(step, pieces)
        variance = strength / (1 + 2 * steps + step) ** 0.55
        assert noisy[0][0].var().item() == pytest.approx(variance, rel=0.05)
        assert noisy[0][0].mean().item() == pytest.approx(0, abs=5 * (variance / 30_000) ** 0.5)
        assert noisy[1][0].abs().min() > 0
        assert not noisy[0][1].any()
        assert not any(piece.any() for piece in pieces)


def test_max_norm_is_torchs_renorm():
    weights = torch.randn(SLOTS, 6, 4, 3, 3)
    weights[0, 0] = 0
    expected = torch.renorm(weights[0], p=2, dim=0, maxnorm=1.5)
    untouched = weights[1].clone()
    NormLimits(turns(max_norm=1.5), CPU).apply_({"w": weights})
    torch.testing.assert_close(weights[0], expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(weights[1], untouched)


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 4, 4)])
def test_batch_norm_is_torchs(shape):
    ours, theirs = BatchNorm(6), (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(6)
    ours.on.fill_(True)
    for _ in range(3):
        x = 2 + 3 * torch.randn(shape)
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    ours.on.fill_(False)
    assert torch.equal(ours.train()(x), x)


def rates(schedule, epochs, steps, losses=()):
    """Return a schedule's factors of one slot, step by step."""
    rows = []
    for epoch in range(epochs):
        done = torch.tensor([[epoch * steps]], dtype=torch.float64)
        rows += schedule.factors(slice(0, 1), done, steps).expand(steps, 1, 1).flatten().tolist()
        if losses:
            schedule.epoch_ended(0, losses[epoch])
    return rows


def torchs_rates(make, count, losses=None):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rows = make(optimizer), []
    for step in range(count):
        rows.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(*(() if losses is None else (losses[step],)))
    return rows


def test_cosine_is_torchs():
    schedule = make_schedule(make_training(schedule="cosine", max_epochs=4), 1)
    expected = torchs_rates(lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12), 12)
    assert rates(schedule, 4, 3) == pytest.approx(expected, abs=1e-12)


def test_plateau_is_torchs():
    losses = [1.0, 0.9, 0.95, 0.9, 0.92, 0.8, 0.81, 0.82, 0.83, 0.84, 0.85, 0.86]
    schedule = make_schedule(make_training(schedule="plateau", plateau_factor=0.5, plateau_epochs=2), 1)
    expected = torchs_rates(
        lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2, threshold=0),
        len(losses),
        losses,
    )
    assert rates(schedule, len(losses), 1, losses) == pytest.approx(expected)
    assert min(expected) < 1


def test_a_scheduled_rate_scales_step_decay_and_threshold(double):
    """The first epoch at a tenth of the rate and the first of a cosine that stands at a tenth are the same."""
    data = make_data(examples=16)
    factory = model_factory(ModelSpec(name="mlp", hidden=[4]), data.shape, data.classes)

    def last_weights(rate, **training):
        spec = make_training(batch_size=16, max_epochs=2, **training)
        people = Population(factory, data, spec, 0, 1, Way("stacked"))
        people.admit(make_assignment(0, learning_rate=rate, weight_decay=0.5, l1=0.1))
        people._optimizer.steps += 1  # one step is an epoch here: the second stands at half the rate
        people.train_epoch()
        return people._rows.clone()

    torch.testing.assert_close(last_weights(0.02, schedule="cosine"), last_weights(0.01))


def test_weight_averaging_is_torchs_averaged_model(double):
    data = make_data()
    factory = model_factory(ModelSpec(name="mlp", hidden=[4]), data.shape, data.classes, batch_norm=True)
    training = make_training(max_epochs=6)
    averaged, plain = (Population(factory, data, training, 0, 1, Way("stacked")) for _ in range(2))
    averaged.admit(make_assignment(0, weight_averaging=0.5, batch_norm=1))
    plain.admit(make_assignment(0, batch_norm=1))
    model = factory()
    swa = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    for epoch in range(1, 7):
        ours, theirs = averaged.train_epoch()[0], plain.train_epoch()[0]
        if epoch <= 3:
            assert ours == theirs
            continue
        state = plain._layout.views(plain._rows[0]) | {name: b[0] for name, b in plain._buffers.items()}
        model.load_state_dict({name: state[name] for name in model.state_dict()})
        swa.update_parameters(model)
        logits = swa.module.eval()(data.val.x)
        assert ours.val_loss == pytest.approx(F.cross_entropy(logits, data.val.y).item(), rel=1e-9)
    assert ours.val_loss != theirs.val_loss


def test_dropout_of_a_linear_model_has_no_layers():
    data = make_data()
    model = model_factory(ModelSpec(name="mlp", hidden=[]), data.shape, data.classes)()
    assert [tuple(p.shape) for p in model.parameters()] == [(3, 6), (3,)]
    assert model(data.val.x).shape == (len(data.val), 3)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("slots", [1, 3])
def test_a_loss_has_the_gradient_that_autograd_finds(name, slots):
    logits, y = torch.randn(slots, 5, 4, requires_grad=True), torch.randint(4, (slots, 5))
    of_torch = {"cross_entropy": nn.CrossEntropyLoss(), "multi_margin": nn.MultiMarginLoss()}[name]
    (expected,) = torch.autograd.grad(sum(of_torch(*each) for each in zip(logits, y, strict=True)), logits)
    torch.testing.assert_close(loss_gradients(LOSSES[name], logits, y), expected)
    torch.testing.assert_close(loss_gradients(LOSSES[name], logits[0], y[0]), expected[0])
    torch.testing.assert_close(LOSSES[name](logits[0], y[0]).mean(), of_torch(logits[0], y[0]))
