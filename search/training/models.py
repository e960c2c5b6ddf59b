"""Ordinary modules, written for ONE trial; `population` makes many of one. Each kind stands in `MODELS`."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

import torch.nn.functional as F
from torch import Tensor, nn

from search.spec import ModelSpec
from search.training.regularizers import Dropout

ModelFactory = Callable[[], nn.Module]

Shape = Sequence[int]
"""Shape of one example."""


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


class ChannelDropout(Dropout):
    """Dropout of whole channels (Tompson et al. 2015), as `nn.Dropout2d`: neighbouring pixels replace single ones."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` [..., channels, height, width] with channels dropped and the rest scaled up."""
        if not self.training:
            return x
        return x * super().forward(x.new_ones((*x.shape[:-2], 1, 1)))


class MaxPool(nn.Module):
    """Max-pooling of 2 x 2 pixels; an odd row or column at the end is left out."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels, height, width] to the same with half the height and width."""
        # On CPUs torch pools five times faster when the channels come last in memory. They do after a convolution of
        # such images, then this copies nothing; when vmap has stacked the convolutions, the copy is still cheaper.
        return F.max_pool2d(x.movedim(-3, -1).contiguous().movedim(-1, -3), 2)


class ConvNet(nn.Module):
    """Convolutions of 3 x 3 pixels, each with ReLU, pooling and dropout of channels; then a multilayer perceptron."""

    def __init__(self, shape: Shape, channels: Sequence[int], hidden: Sequence[int], classes: int) -> None:
        """For images of `shape`: height and width, with the number of colours in front where there are several."""
        super().__init__()
        *colours, height, width = shape
        halvings = len(channels)
        features = channels[-1] * (height >> halvings) * (width >> halvings)
        self._gray = not colours
        self.input_dropout = Dropout("input_dropout")
        self.convolutions = nn.ModuleList(
            nn.Conv2d(*ends, kernel_size=3, padding=1) for ends in pairwise([*(colours or [1]), *channels])
        )
        self.channel_dropouts = nn.ModuleList(ChannelDropout(f"dropout_{i}") for i in range(halvings))
        self.pool = MaxPool()
        self.flatten = nn.Flatten()
        self.hidden = nn.ModuleList(nn.Linear(*ends) for ends in pairwise([features, *hidden]))
        self.dropouts = nn.ModuleList(Dropout(f"dropout_{halvings + i}") for i in range(len(hidden)))
        self.output = nn.Linear(hidden[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [batch, *shape] to logits [batch, classes]."""
        x = self.input_dropout(x)
        if self._gray:
            x = x.unsqueeze(-1).movedim(-1, -3)  # unsqueeze(1), but with the strides of channels that come last
        for convolution, dropout in zip(self.convolutions, self.channel_dropouts, strict=True):
            # The same as pooling after ReLU, on a quarter of the numbers.
            x = dropout(F.relu(self.pool(convolution(x))))
        x = self.flatten(x)
        for layer, dropout in zip(self.hidden, self.dropouts, strict=True):
            x = dropout(F.relu(layer(x)))
        logits: Tensor = self.output(x)
        return logits


def _mlp(spec: ModelSpec, shape: Shape, classes: int) -> nn.Module:
    return RegularizedNet(prod(shape), spec.hidden, classes)


def _cnn(spec: ModelSpec, shape: Shape, classes: int) -> nn.Module:
    return ConvNet(shape, spec.channels, spec.hidden, classes)


MODELS: dict[str, Callable[[ModelSpec, Shape, int], nn.Module]] = {"mlp": _mlp, "cnn": _cnn}


def model_factory(spec: ModelSpec, shape: Shape, classes: int) -> ModelFactory:
    """Return a function that makes one freshly initialised model from torch's global generator, on the CPU."""
    return lambda: MODELS[spec.name](spec, shape, classes)
