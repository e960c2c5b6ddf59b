"""Ordinary modules, written for ONE trial; `population` makes many of one. Each kind stands in `MODELS`."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.spec import ModelSpec
from search.training.regularizers import BatchNorm, Dropout

ModelFactory = Callable[[], nn.Module]

Shape = Sequence[int]
"""Shape of one example."""


class RegularizedNet(nn.Module):
    """A multilayer perceptron with dropout on its input and after each hidden layer's ReLU.

    Without hidden layers it is a linear softmax (multinomial logistic regression). `batch_norm` puts a normalization
    that can be switched off before each ReLU.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], classes: int, batch_norm: bool = False) -> None:
        super().__init__()
        widths = [inputs, *hidden]
        self.flatten = nn.Flatten()
        self.input_dropout = Dropout("input_dropout")
        self.hidden = nn.ModuleList(nn.Linear(*shape) for shape in pairwise(widths))
        self.norms = nn.ModuleList(BatchNorm(width) if batch_norm else nn.Identity() for width in hidden)
        self.dropouts = nn.ModuleList(Dropout(f"dropout_{i}") for i in range(len(hidden)))
        self.output = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs [batch, ...] to logits [batch, classes]."""
        x = self.input_dropout(self.flatten(x))
        for layer, norm, dropout in zip(self.hidden, self.norms, self.dropouts, strict=True):
            x = dropout(F.relu(norm(layer(x))))
        logits: Tensor = self.output(x)
        return logits


class ChannelDropout(Dropout):
    """Dropout of whole channels (Tompson et al. 2015), as `nn.Dropout2d`: neighbouring pixels replace single ones."""

    def __init__(self, parameter: str, extent: int = 2) -> None:
        """`extent` is how many dimensions a channel has."""
        super().__init__(parameter)
        self._extent = extent

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` [..., channels, *extent] with channels dropped and the rest scaled up."""
        if not self.training:
            return x
        # As in torch, what has fewer dimensions has channels without one: [batch, channels, length] for `nn.Dropout2d`.
        extent = min(self._extent, x.dim() - 2)
        return x * super().forward(x.new_ones((*x.shape[: x.dim() - extent], *[1] * extent)))


class MaxPool(nn.Module):
    """Max-pooling of 2 x 2 pixels; an odd row or column at the end is left out."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels, height, width] to the same with half the height and width."""
        # On CPUs torch pools five times faster when the channels come last in memory. They do after a convolution of
        # such images, then this copies nothing; when vmap has stacked the convolutions, the copy is still cheaper.
        return F.max_pool2d(x.movedim(-3, -1).contiguous().movedim(-1, -3), 2)


class ConvNet(nn.Module):
    """Convolutions of 3 x 3 pixels, each with ReLU, pooling and dropout of channels; then a multilayer perceptron."""

    def __init__(
        self, shape: Shape, channels: Sequence[int], hidden: Sequence[int], classes: int, batch_norm: bool = False
    ) -> None:
        """For images of `shape`: height and width, with the number of colours in front where there are several.

        `batch_norm` puts a normalization that can be switched off before each ReLU.
        """
        super().__init__()
        *colours, height, width = shape
        halvings = len(channels)
        features = channels[-1] * (height >> halvings) * (width >> halvings)
        self._gray, self._normalized = not colours, batch_norm
        self.input_dropout = Dropout("input_dropout")
        self.convolutions = nn.ModuleList(
            nn.Conv2d(*ends, kernel_size=3, padding=1) for ends in pairwise([*(colours or [1]), *channels])
        )
        self.channel_norms = nn.ModuleList(BatchNorm(width) if batch_norm else nn.Identity() for width in channels)
        self.channel_dropouts = nn.ModuleList(ChannelDropout(f"dropout_{i}") for i in range(halvings))
        self.pool = MaxPool()
        self.flatten = nn.Flatten()
        self.hidden = nn.ModuleList(nn.Linear(*ends) for ends in pairwise([features, *hidden]))
        self.norms = nn.ModuleList(BatchNorm(width) if batch_norm else nn.Identity() for width in hidden)
        self.dropouts = nn.ModuleList(Dropout(f"dropout_{halvings + i}") for i in range(len(hidden)))
        self.output = nn.Linear([features, *hidden][-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [batch, *shape] to logits [batch, classes]."""
        x = self.input_dropout(x)
        if self._gray:
            x = x.unsqueeze(-1).movedim(-1, -3)  # unsqueeze(1), but with the strides of channels that come last
        for convolution, norm, dropout in zip(
            self.convolutions, self.channel_norms, self.channel_dropouts, strict=True
        ):
            # The same as pooling after ReLU, on a quarter of the numbers, where it comes before.
            x = dropout(
                self.pool(F.relu(norm(convolution(x)))) if self._normalized else F.relu(self.pool(convolution(x)))
            )
        x = self.flatten(x)
        for layer, norm, dropout in zip(self.hidden, self.norms, self.dropouts, strict=True):
            x = dropout(F.relu(norm(layer(x))))
        logits: Tensor = self.output(x)
        return logits


class Patches(nn.Module):
    """Images cut into patches, each a row of numbers."""

    def __init__(self, patch: Sequence[int], gray: bool) -> None:
        super().__init__()
        self._patch, self._gray = tuple(patch), gray

    def forward(self, x: Tensor) -> Tensor:
        """Map images [..., colours, height, width], or without colours, to [..., patches, numbers]."""
        x = x.unsqueeze(-3) if self._gray else x
        *rest, colours, height, width = x.shape
        rows, columns = height // self._patch[0], width // self._patch[1]
        x = x.view(*rest, colours, rows, self._patch[0], columns, self._patch[1])
        return x.movedim(-5, -1).transpose(-4, -3).reshape(*rest, rows * columns, -1)


class Positions(nn.Module):
    """What tells tokens apart by their place: learned, added, and like any bias never decayed."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(0.02 * torch.randn(tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, tokens, width] to the same; with a dimension of slots in front, so has the bias."""
        return x + (self.bias if self.bias.dim() == 2 else self.bias.unsqueeze(1))


class Attention(nn.Module):
    """Self-attention with several heads (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., tokens, width] to the same."""
        tokens, width = x.shape[-2:]
        parts = self.inputs(x).view(-1, tokens, 3, self._heads, width // self._heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind()  # each [n, heads, tokens, width / heads]
        mixed = F.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.output(mixed.transpose(1, 2).reshape(x.shape))
        return result


class Block(nn.Module):
    """Attention and a feed-forward layer, each normalized before and added to what comes in (Xiong et al. 2020)."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: str) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.attention_dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        self.hidden, self.output = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.hidden_dropout, self.output_dropout = Dropout(dropout), Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., tokens, width] to the same."""
        x = x + self.attention_dropout(self.attention(self.attention_norm(x)))
        inner = self.hidden_dropout(F.gelu(self.hidden(self.norm(x))))
        result: Tensor = x + self.output_dropout(self.output(inner))
        return result


class Transformer(nn.Module):
    """A small vision transformer (Dosovitskiy et al. 2021) on patches or rows of images; its end averages tokens.

    `hidden` has the width of each block's feed-forward layer.
    """

    def __init__(
        self, shape: Shape, patch: Sequence[int], width: int, heads: int, hidden: Sequence[int], classes: int
    ) -> None:
        super().__init__()
        *colours, height, columns = shape
        tokens = (height // patch[0]) * (columns // patch[1])
        self.patches = Patches(patch, gray=not colours)
        self.input_dropout = Dropout("input_dropout")
        self.embedding = nn.Linear(prod(colours) * prod(patch), width)
        self.positions = Positions(tokens, width)
        self.blocks = nn.ModuleList(Block(width, heads, inner, f"dropout_{i}") for i, inner in enumerate(hidden))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [batch, *shape] to logits [batch, classes]."""
        x = self.positions(self.embedding(self.input_dropout(self.patches(x))))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.output(self.norm(x).mean(-2))
        return logits


def _mlp(spec: ModelSpec, shape: Shape, classes: int, batch_norm: bool) -> nn.Module:
    return RegularizedNet(prod(shape), spec.hidden, classes, batch_norm)


def _cnn(spec: ModelSpec, shape: Shape, classes: int, batch_norm: bool) -> nn.Module:
    return ConvNet(shape, spec.channels, spec.hidden, classes, batch_norm)


def _transformer(spec: ModelSpec, shape: Shape, classes: int, batch_norm: bool) -> nn.Module:
    assert not batch_norm, "the spec refuses it"
    return Transformer(shape, spec.patch, spec.width, spec.heads, spec.hidden, classes)


MODELS: dict[str, Callable[[ModelSpec, Shape, int, bool], nn.Module]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "transformer": _transformer,
}


SHIPPED = frozenset({RegularizedNet, ConvNet, Transformer})
"""The kinds of models that are known from the inside."""


def model_factory(spec: ModelSpec, shape: Shape, classes: int, batch_norm: bool = False) -> ModelFactory:
    """Return a function that makes one freshly initialised model from torch's global generator, on the CPU.

    `batch_norm` gives it normalization layers that a configuration switches on.
    """
    return lambda: MODELS[spec.name](spec, shape, classes, batch_norm)
