"""Scoring models on a split: in parts that fit into caches, as mean data loss and accuracy."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.training.data import Split

# Activations of one part, all slots together: 2**21 numbers are 8 MiB a layer, small enough for caches to help and
# large enough for matrix products to be efficient. A network of convolutions is four times slower in large parts.
_NUMBERS = 2**21
_FEWEST_EXAMPLES = 64


def parts(split: Split, slots: int, widest: int) -> Iterator[Split]:
    """Yield a split piece by piece; `widest` is how many numbers a layer has for one example and slot."""
    size = max(_FEWEST_EXAMPLES, _NUMBERS // (slots * widest))
    for start in range(0, len(split), size):
        yield split.take(slice(start, start + size))


def score_logits(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return each slot's summed cross-entropy (nats, float64) and number of right answers, [slots].

    Shapes: logits [slots, batch, classes], targets [batch].
    """
    expected = targets.expand(logits.shape[:2])
    losses = F.cross_entropy(logits.flatten(0, 1), expected.flatten(), reduction="none").view(expected.shape)
    return losses.double().sum(1), (logits.argmax(2) == targets).sum(1)


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
def score(model: nn.Module, weights: dict[str, Tensor], split: Split) -> tuple[float, float]:
    """Return accuracy and mean loss (nats) of one model with the given state on a split."""
    model.load_state_dict(weights)
    model.eval()
    widest = widest_activation(model, split.x[:8])
    scores = [score_logits(model(part.x)[None], part.y) for part in parts(split, 1, widest)]
    loss, hits = (torch.cat(column).sum().item() for column in zip(*scores, strict=True))
    return hits / len(split), loss / len(split)
