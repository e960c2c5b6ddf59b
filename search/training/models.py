"""Ordinary modules, written for ONE trial; `population` makes many of one. Each kind stands in `MODELS`."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from search.spec import ModelSpec
from search.training.regularizers import Dropout

ModelFactory = Callable[[], nn.Module]


class RegularizedNet(nn.Module):
    """A multilayer perceptron with dropout on its input and after each hidden layer's ReLU."""

    def __init__(self, inputs: int, hidden: Sequence[int], classes: int) -> None:
        super().__init__()
        widths = [inputs, *hidden]
        self.flatten = nn.Flatten()
        self.input_dropout = Dropout("input_dropout")
        self.hidden = nn.ModuleList(nn.Linear(*shape) for shape in pairwise(widths))
        self.dropouts = nn.ModuleList(Dropout(f"dropout_{i}") for i in range(len(hidden)))
        self.output = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs [batch, ...] to logits [batch, classes]."""
        x = self.input_dropout(self.flatten(x))
        for layer, dropout in zip(self.hidden, self.dropouts, strict=True):
            x = dropout(F.relu(layer(x)))
        logits: Tensor = self.output(x)
        return logits


def _mlp(spec: ModelSpec, inputs: int, classes: int) -> nn.Module:
    return RegularizedNet(inputs, spec.hidden, classes)


MODELS: dict[str, Callable[[ModelSpec, int, int], nn.Module]] = {"mlp": _mlp}


def model_factory(spec: ModelSpec, inputs: int, classes: int) -> ModelFactory:
    """Return a function that makes one freshly initialised model from torch's global generator, on the CPU."""
    return lambda: MODELS[spec.name](spec, inputs, classes)
