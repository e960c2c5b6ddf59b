"""Dropout's noise: the right share, unbiased, new each step, unrelated between positions, steps, trials and layers."""

import pytest
import torch

from search.training.regularizers import Dropout, configure, soft_threshold_

pytestmark = pytest.mark.usefixtures("kernels")


def dropout(rate: float, trial: int = 0) -> Dropout:
    module = Dropout("dropout_0")
    configure(module, {"dropout_0": rate}, 0, trial)
    return module


def masks(module: Dropout, steps: int, shape=(128, 256)) -> torch.Tensor:
    return torch.stack([module(torch.ones(shape)) != 0 for _ in range(steps)]).double()


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.9])
def test_drops_the_right_share_and_keeps_the_mean(rate):
    outputs = torch.stack([dropout(rate, trial)(torch.ones(256, 256)) for trial in range(8)])
    deviation = (rate * (1 - rate) / outputs.numel()) ** 0.5
    assert (outputs == 0).double().mean().item() == pytest.approx(rate, abs=5 * deviation)
    assert outputs.mean().item() == pytest.approx(1.0, abs=5 * deviation / (1 - rate))


def test_rate_zero_and_evaluation_change_nothing():
    x = torch.randn(5, 7)
    assert torch.equal(dropout(0.0)(x), x)
    assert torch.equal(dropout(0.9).eval()(x), x)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def test_noise_is_unrelated_between_steps_trials_and_positions():
    first, second = masks(dropout(0.5), 2)
    other = masks(dropout(0.5, trial=1), 1)[0]
    limit = 5 / first.numel() ** 0.5
    pairs = [
        (first, second),
        (first, other),
        (first[:, 1:], first[:, :-1]),
        (first[1:], first[:-1]),
        (first, first.flip(1)),
    ]
    assert max(abs(correlation(a, b)) for a, b in pairs) < limit


def test_noise_is_uniform_over_units_and_examples():
    """Counts of kept units scatter as independent coin tosses do: neither more nor less."""
    kept = masks(dropout(0.5), 64)
    for axes in ((0, 1), (0, 2), (1, 2)):
        counts = kept.sum(axes)
        tosses = kept.numel() / counts.numel()
        chi_square = ((counts - tosses / 2) ** 2 / (tosses / 4)).sum().item() / counts.numel()
        assert chi_square == pytest.approx(1.0, abs=6 * (2 / counts.numel()) ** 0.5)


def test_same_trial_same_noise():
    assert torch.equal(masks(dropout(0.5), 3), masks(dropout(0.5), 3))


def test_layers_of_one_model_have_noise_of_their_own():
    model = torch.nn.Sequential(Dropout("dropout_0"), Dropout("dropout_1"))
    configure(model, {"dropout_0": 0.5, "dropout_1": 0.5}, 0, 0)
    x = torch.ones(64, 64)
    assert not torch.equal(model[0](x), model[1](x))


def test_soft_threshold_gives_exact_zeros():
    weights = torch.tensor([[0.3, -0.3, 0.1, -0.1, 0.0]])
    soft_threshold_(weights, torch.tensor([[0.1]]))
    torch.testing.assert_close(weights, torch.tensor([[0.2, -0.2, 0.0, 0.0, 0.0]]))
    assert (weights[0, 2:] == 0).all()
