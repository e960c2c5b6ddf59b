"""Checks of a user's model on a few examples, before it is trained: mistakes that would train without an error.

What is surely wrong raises ModelError. What is likely wrong is returned as a sentence that says what to do.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from search.errors import ModelError
from search.training.data import Split
from search.training.losses import CROSS_ENTROPY, Loss, on_device
from search.training.regularizers import Dropout
from search.training.seeds import seeded

_NUMBERS, _FEWEST, _MOST = 2**14, 8, 256
"""Numbers that the examples have together, and how many they are at least and at most."""
_RATE = 0.25
_NATS, _TIMES = 1.5, 2.0
"""How much worse than guessing an untrained model is at most."""
_BOUNDED = {nn.Sigmoid: "below 1", nn.Tanh: "between -1 and 1", nn.ReLU: "above 0", nn.Softmax: "below 1"}
_CPU = torch.device("cpu")


def check_training(model: nn.Module, examples: Split, loss: Loss = CROSS_ENTROPY, named: bool = False) -> list[str]:
    """Return what is likely wrong with a model, by a training pass and an evaluation of some examples.

    The model is a fresh one with its dropout searchable, and is of no further use. `named` says that the examples only
    stand for a data set's.
    Raises ModelError.
    """
    count = max(_FEWEST, min(_MOST, _NUMBERS // max(1, examples.x[0].numel())))
    some = examples.take(torch.linspace(0, len(examples) - 1, min(count, len(examples))).long())
    told = _parts_in_evaluation(model)
    logits, last = _evaluated(model, some.x)
    if _are_probabilities(logits):
        told.append(
            "The model returns probabilities, and the loss takes logits: leave out the softmax at its end, which slows "
            "training and makes probabilities of probabilities"
        )
    elif last in _BOUNDED:
        told.append(
            f"The model ends with {last.__name__}, which keeps logits {_BOUNDED[last]}: leave it out, the loss takes "
            "any numbers"
        )
    if isinstance(loss, nn.NLLLoss) and not _are_log_probabilities(logits):
        told.append(
            "The loss is nn.NLLLoss, which takes logarithms of probabilities, and the model returns others: end the "
            "model with nn.LogSoftmax, or leave the loss out, which is cross-entropy then"
        )
    if len(some) > 1 and not _depend_on_inputs(model, some.x):
        told.append("The model returns the same for all inputs: check that its forward pass uses them")
    of_step = _loss_of_step(model, some, loss)
    if loss is CROSS_ENTROPY and not named:
        # Normalizations make it another one in training: inputs are badly scaled where both are high.
        told += _badly_scaled(some.x, min(CROSS_ENTROPY(logits, some.y).mean().item(), of_step), logits.shape[1])
    return told


def _badly_scaled(x: Tensor, loss: float, classes: int) -> list[str]:
    guessing = math.log(classes)
    if loss <= guessing + max(_NATS, (_TIMES - 1) * guessing):
        return []
    low, high = (f"{value.item():.3g}" for value in x.double().aminmax())
    return [
        f"The untrained model has a loss of {loss:.1f}, where guessing has {guessing:.1f}: it learns badly from there. "
        f"Inputs go from {low} to {high}: scale them, as pixels by x / 255, or begin the model with a BatchNorm"
    ]


def _loss_of_step(model: nn.Module, some: Split, loss: Loss) -> float:
    """Return the mean loss of a training step's forward pass, after its backward pass. Raises ModelError."""
    for layer in model.modules():
        if isinstance(layer, Dropout):
            layer.configure(_RATE, 0)
    x = some.x.clone()
    try:
        with seeded(0, _CPU):
            logits = model.train()(x)
            _check_unchanged(x, " in training")
            if not logits.requires_grad:
                raise ModelError(
                    "the model's logits have no gradient, so that nothing can be trained: look for torch.no_grad, "
                    "detach, argmax or .data in its forward pass"
                )
            # As trials are trained: half precision in single.
            losses = on_device(loss, "cpu")(logits.to(torch.promote_types(logits.dtype, torch.float32)), some.y)
            losses.sum().backward()  # type: ignore[no-untyped-call]
    except ModelError:
        raise
    except Exception as error:  # whatever a user's model may raise
        raise ModelError(f"the model fails in a training step: {type(error).__name__}: {error}") from error
    if not bool(losses.isfinite().all()):
        raise ModelError(
            f"the loss of the untrained model is {losses.mean().item():g} on examples of train: check its layers and "
            "the scale of the inputs"
        )
    return losses.mean().item()


@torch.no_grad()
def _evaluated(model: nn.Module, x: Tensor) -> tuple[Tensor, type[nn.Module] | None]:
    """Return logits in evaluation mode, and the kind of the layer that they come from. Raises ModelError."""
    outputs: list[tuple[type[nn.Module], object]] = []
    leaves = [layer for layer in model.modules() if not list(layer.children())]
    handles = [layer.register_forward_hook(lambda m, _, output: outputs.append((type(m), output))) for layer in leaves]
    given = x.clone()
    try:
        with seeded(0, _CPU):
            logits: Tensor = model.eval()(given)
    finally:
        for handle in handles:
            handle.remove()
    _check_unchanged(given, "")
    return logits.float(), next((kind for kind, output in outputs if output is logits), None)


def _check_unchanged(x: Tensor, mode: str) -> None:
    """Raise ModelError where a forward pass has written into its inputs: those of all epochs are in one tensor."""
    if x._version:
        raise ModelError(
            f"the model changes its inputs in place{mode}, and with them the data: set inplace=False in its first "
            "layers, write x = x - 1 for x -= 1, or begin with x = x.clone()"
        )


def _parts_in_evaluation(model: nn.Module) -> list[str]:
    """Return which parts a factory has put into evaluation mode by themselves; a whole model often comes in it."""
    parts = [
        name
        for name, part in model.named_modules()
        if model.training and not part.training and isinstance(part, _NormBase | Dropout)  # others do the same in both
    ]
    if not parts:
        return []
    return [
        f"Parts of the model are in evaluation mode ({', '.join(parts[:3])}), and training puts all of it into "
        "training mode: to keep them as they are, override train() in the model"
    ]


def _are_probabilities(logits: Tensor) -> bool:
    return logits.shape[1] > 1 and bool((logits >= 0).all()) and _is_one(logits.sum(1))


def _are_log_probabilities(logits: Tensor) -> bool:
    return _is_one(logits.exp().sum(1))


def _is_one(sums: Tensor) -> bool:
    return torch.allclose(sums, torch.ones_like(sums), atol=1e-3)


@torch.no_grad()
def _depend_on_inputs(model: nn.Module, x: Tensor) -> bool:
    """Return whether logits of different inputs differ, also where the last layer begins with zeros."""
    try:
        other = copy.deepcopy(model).eval()
    except Exception as error:  # whatever a user's model may raise
        raise ModelError(f"the model cannot be copied: {type(error).__name__}: {error}") from error
    generator = torch.Generator().manual_seed(0)
    for parameter in other.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        parameter.add_(0.1 * noise.to(parameter.dtype))
    with seeded(0, _CPU):
        logits = other(x.clone())
    return bool((logits != logits[:1]).any()) or not bool((x != x[:1]).any())
