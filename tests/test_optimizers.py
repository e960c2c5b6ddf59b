"""Each optimizer against torch.optim's own over 50 steps, row by row, and the two ways of L1."""

import pytest
import torch

from search.spec import TrainingSpec
from search.training.optimizers import Strengths, make_optimizer

pytestmark = pytest.mark.usefixtures("kernels")

STEPS = 50
SHAPE = (4, 11)  # slots, parameters
WEIGHTS = 8
PIECES = [3, 6, 2]
"""How gradients arrive: one tensor for each of the model's parameters; one of them is of weights and biases here."""
STRENGTHS = torch.tensor([[1e-3, 0.0], [1e-2, 0.1], [3e-2, 1.0], [1e-4, 1e-3]], dtype=torch.float64)


def vectors(l1: float = 0.0) -> Strengths:
    return Strengths(STRENGTHS[:, :1], STRENGTHS[:, 1:], torch.full((4, 1), l1, dtype=torch.float64))


def take(optimizer, gradients, l1: float = 0.0, rows=slice(0, 4)):
    """Take one step for each of the gradients [steps, slots, n], which are kept."""
    now = optimizer.begin(rows, vectors(l1).rows(rows), len(gradients))
    for gradient, coefficients in zip(gradients, now, strict=True):
        optimizer.step(rows, gradient.split(PIECES, dim=1), coefficients)


def reference(name, lr, decay, row, gradients):
    """Run torch.optim over one slot's parameters, biases exempt from decay; returns them after all steps."""
    weights, biases = row[:WEIGHTS].clone().requires_grad_(), row[WEIGHTS:].clone().requires_grad_()
    groups = [{"params": [weights], "weight_decay": decay}, {"params": [biases], "weight_decay": 0.0}]
    optimizer = {
        "adam": lambda: torch.optim.Adam(groups, lr=lr),
        "adamw": lambda: torch.optim.AdamW(groups, lr=lr),
        "sgd": lambda: torch.optim.SGD(groups, lr=lr, momentum=0.9),
    }[name]()
    for gradient in gradients:
        weights.grad, biases.grad = gradient[:WEIGHTS].clone(), gradient[WEIGHTS:].clone()
        optimizer.step()
    return torch.cat([weights.detach(), biases.detach()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_equals_torch_optim_over_50_steps(name, dtype):
    torch.manual_seed(0)
    start = torch.randn(SHAPE, dtype=dtype)
    gradients = torch.randn(STEPS, *SHAPE, dtype=dtype)
    parameters = start.clone()
    optimizer = make_optimizer(TrainingSpec(optimizer=name), parameters, WEIGHTS)
    take(optimizer, gradients)
    for slot, (lr, decay) in enumerate(STRENGTHS.tolist()):
        expected = reference(name, lr, decay, start[slot], gradients[:, slot])
        torch.testing.assert_close(
            parameters[slot], expected, rtol=2e-5 if dtype == torch.float32 else 1e-12, atol=1e-6
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("l1_mode", ["proximal", "penalty"])
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_slot_by_itself_equals_the_same_slot_among_others(name, l1_mode, dtype):
    torch.manual_seed(0)
    start, gradients = torch.randn(SHAPE, dtype=dtype), torch.randn(STEPS, *SHAPE, dtype=dtype)
    spec = TrainingSpec(optimizer=name, l1_mode=l1_mode)
    together, alone = start.clone(), start.clone()
    take(make_optimizer(spec, together, WEIGHTS), gradients, l1=1e-2)
    optimizer = make_optimizer(spec, alone, WEIGHTS)
    for slot in range(len(alone)):
        rows = slice(slot, slot + 1)
        take(optimizer, gradients[:20, rows], l1=1e-2, rows=rows)
        take(optimizer, gradients[20:, rows], l1=1e-2, rows=rows)
    torch.testing.assert_close(alone, together, rtol=1e-4 if dtype == torch.float32 else 1e-11, atol=1e-6)


def test_slots_count_their_own_steps():
    """A slot that starts later, or anew, is corrected for its own bias."""
    torch.manual_seed(0)
    start, gradients = torch.randn(SHAPE, dtype=torch.float64), torch.randn(20, *SHAPE, dtype=torch.float64)
    parameters = start.clone()
    optimizer = make_optimizer(TrainingSpec(optimizer="adamw"), parameters, WEIGHTS)
    take(optimizer, gradients[:10])
    parameters[2] = start[2]
    optimizer.reset(2)
    take(optimizer, gradients[10:])
    lr, decay = STRENGTHS[2].tolist()
    torch.testing.assert_close(parameters[2], reference("adamw", lr, decay, start[2], gradients[10:, 2]))


def test_slots_outside_the_rows_are_left_alone():
    parameters = torch.ones(SHAPE)
    optimizer = make_optimizer(TrainingSpec(), parameters, WEIGHTS)
    take(optimizer, torch.ones(1, 2, SHAPE[1]), rows=slice(1, 3))
    assert (parameters[[0, 3]] == 1).all()
    assert (parameters[1:3] != 1).all()


@pytest.mark.parametrize("rate", [1e-39, 1e-60, 0.0])
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_rate_that_is_as_good_as_none_changes_nothing(name, rate):
    """As a schedule comes to that goes down at every plateau; a weight that nothing pulls at has no moments yet."""
    parameters = torch.ones(SHAPE)
    optimizer = make_optimizer(TrainingSpec(optimizer=name), parameters, WEIGHTS)
    gradients = [torch.zeros(SHAPE), torch.ones(SHAPE)]
    strengths = Strengths(*(torch.full((4, 1), strength, dtype=torch.float64) for strength in (rate, 0.0, 0.0)))
    for gradient, now in zip(gradients, optimizer.begin(slice(0, 4), strengths, 2), strict=True):
        optimizer.step(slice(0, 4), gradient.split(PIECES, dim=1), now)
    assert torch.equal(parameters, torch.ones(SHAPE))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_proximal_l1_is_a_soft_threshold_after_the_step(name):
    torch.manual_seed(0)
    start, gradient = torch.randn(SHAPE, dtype=torch.float64), torch.randn(SHAPE, dtype=torch.float64)
    plain, sparse = start.clone(), start.clone()
    take(make_optimizer(TrainingSpec(optimizer=name), plain, WEIGHTS), [gradient])
    take(make_optimizer(TrainingSpec(optimizer=name), sparse, WEIGHTS), [gradient], l1=20.0)
    threshold = 20.0 * STRENGTHS[:, :1]
    shrunk = plain[:, :WEIGHTS].sign() * (plain[:, :WEIGHTS].abs() - threshold).clamp(min=0)
    torch.testing.assert_close(sparse[:, :WEIGHTS], shrunk)
    assert (sparse[:, :WEIGHTS] == 0).any()
    torch.testing.assert_close(sparse[:, WEIGHTS:], plain[:, WEIGHTS:])


def test_penalty_l1_is_the_gradient_of_a_term_in_the_loss():
    torch.manual_seed(0)
    start, gradient = torch.randn(SHAPE, dtype=torch.float64), torch.randn(SHAPE, dtype=torch.float64)
    ours = start.clone()
    spec = TrainingSpec(optimizer="sgd", l1_mode="penalty")
    take(make_optimizer(spec, ours, WEIGHTS), [gradient], l1=0.3)
    leaf = start[:, :WEIGHTS].clone().requires_grad_()
    (0.3 * leaf.abs().sum()).backward()
    gradient[:, :WEIGHTS] += leaf.grad
    for slot, (lr, decay) in enumerate(STRENGTHS.tolist()):
        torch.testing.assert_close(ours[slot], reference("sgd", lr, decay, start[slot], gradient[slot : slot + 1]))
