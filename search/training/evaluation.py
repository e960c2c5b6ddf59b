"""Scoring models on a split: in parts that fit into caches, as mean data loss and accuracy."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from search.training.data import Split
from search.training.losses import CROSS_ENTROPY, Loss

# Activations of one part, all slots together: 2**21 numbers are 8 MiB a layer, small enough for caches to help and
# large enough for matrix products to be efficient. A network of convolutions is four times slower in large parts.
_NUMBERS = 2**21
_FEWEST_EXAMPLES = 64


def parts(split: Split, slots: int, widest: int) -> Iterator[Split]:
    """Yield a split piece by piece; `widest` is how many numbers a layer has for one example and slot."""
    size = max(_FEWEST_EXAMPLES, _NUMBERS // (slots * widest))
    for start in range(0, len(split), size):
        yield split.take(slice(start, start + size))


def score_examples(loss: Loss, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of each slot and example (float64), and whether its answer is right, [slots, batch].

    Shapes: logits [slots, batch, classes], targets [batch].
    """
    expected = targets.expand(logits.shape[:2])
    losses = loss(logits.flatten(0, 1), expected.flatten()).view(expected.shape).double()
    return losses, logits.argmax(2) == targets


def score_logits(loss: Loss, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each slot's summed loss (float64), that of its squares, and its right answers, [slots].

    Shapes: logits [slots, batch, classes], targets [batch].
    """
    losses, right = score_examples(loss, logits, targets)
    return losses.sum(1), losses.square().sum(1), right.sum(1)


def standard_error(mean: Tensor, mean_square: Tensor, count: int | Tensor) -> Tensor:
    """Return the standard error of a mean over `count` examples; nan for one."""
    return ((mean_square - mean.square()).clamp(min=0) / (count - 1)).sqrt()


def calibration_error(confidence: Tensor, right: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error (Guo et al. 2017), 0 to 1.

    The mean distance between confidence and accuracy in bins of equal width, weighted by their examples. Shapes:
    confidence, the highest probability of each example, and whether it is right, both [n].
    """
    index = (confidence.double() * bins).ceil().clamp(1, bins).long() - 1
    zeros = confidence.new_zeros(bins, dtype=torch.float64)
    surplus = zeros.index_add(0, index, confidence.double() - right.double())
    return (surplus.abs().sum() / len(confidence)).item()


@torch.no_grad()
def widest_activation(model: nn.Module, examples: Tensor) -> int:
    """Return how many numbers, for one example, the layer with the largest input or output has."""
    sizes = [examples[0].numel()]

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel() // len(examples))

    training = model.training
    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        model.eval()(examples)
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    return max(sizes)


@torch.no_grad()
def score(
    model: nn.Module, weights: dict[str, Tensor], split: Split, loss: Loss = CROSS_ENTROPY
) -> tuple[float, float, float | None]:
    """Return accuracy, mean loss and calibration error of one model with the given state on a split.

    There is no calibration error of other losses than cross-entropy: their outputs are not trained to be the classes'
    probabilities. Margins are none, and a weighted, focal or smoothed loss has its minimum elsewhere.
    """
    model.load_state_dict(weights)
    model.eval()
    widest = widest_activation(model, split.x[:8])
    logits = torch.cat([model(part.x) for part in parts(split, 1, widest)])
    total, _, hits = (each.item() for each in score_logits(loss, logits[None], split.y))
    error = None
    if loss is CROSS_ENTROPY:
        confidence, answer = logits.softmax(1).max(1)
        error = calibration_error(confidence, answer == split.y)
    return hits / len(split), total / len(split), error
