"""Small models with dropout of every kind, and models without any: each a factory, and a few inputs."""

import random
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import nn
from torchvision.ops import DropBlock2d, DropBlock3d, StochasticDepth, drop_block2d, stochastic_depth

ROWS = torch.rand(2, 6, generator=torch.Generator().manual_seed(0))
SERIES = torch.rand(2, 5, 8, generator=torch.Generator().manual_seed(1))
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
WORDS = torch.randint(3, 50, (2, 7), generator=torch.Generator().manual_seed(3))


class Between(nn.Module):
    """Two linear layers, and what is given between them: a function of the model and its hidden units, or a module."""

    def __init__(self, inner=None, module=None, **attributes):
        super().__init__()
        self.hidden, self.output = nn.Linear(6, 16), nn.Linear(16, 3)
        self.inner, self.module = inner, module
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        x = torch.tanh(self.hidden(x))
        return self.output(self.inner(self, x) if self.module is None else self.module(x))


def between(inner=None, module=None, **attributes):
    return lambda: Between(inner, None if module is None else module(), **attributes)


class OfSeries(nn.Module):
    """A layer for series, and its mean over time."""

    def __init__(self, layer, width=8):
        super().__init__()
        self.layer, self.output = layer, nn.Linear(width, 3)

    def forward(self, x):
        x = self.layer(x)
        return self.output((x[0] if isinstance(x, tuple) else x).mean(1))


def of_series(layer, width=8):
    return lambda: OfSeries(layer(), width)


class SelfAttention(nn.MultiheadAttention):
    def __init__(self, need_weights=False, **options):
        super().__init__(8, 2, dropout=0.3, batch_first=True, **options)
        self.need_weights = need_weights

    def forward(self, x):
        return super().forward(x, x, x, need_weights=self.need_weights)


class Packed(nn.LSTM):
    def __init__(self):
        super().__init__(8, 8, 2, dropout=0.3, batch_first=True)

    def forward(self, x):
        packed = nn.utils.rnn.pack_padded_sequence(x, [5, 4], batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(super().forward(packed)[0], batch_first=True)[0]


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.3, batch_first=True)

    def forward(self, x):
        return self.layer(x, x)


class Whole(nn.Transformer):
    def __init__(self):
        super().__init__(8, 2, 1, 1, 16, dropout=0.3, batch_first=True)

    def forward(self, x):
        return super().forward(x, x)


def encoder_layer(**options):
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True, **options)


class Mine(nn.Dropout):
    """A subclass that changes nothing."""


class Scheduled(nn.Dropout):
    """A subclass with a forward pass of its own, which asks for its rate."""

    def forward(self, x):
        return F.dropout(x, self.p, self.training)


TORCH = {
    "LSTM": (of_series(lambda: nn.LSTM(8, 8, 2, dropout=0.3, batch_first=True)), SERIES),
    "bidirectional GRU": (
        of_series(lambda: nn.GRU(8, 8, 2, dropout=0.3, batch_first=True, bidirectional=True), 16),
        SERIES,
    ),
    "RNN": (of_series(lambda: nn.RNN(8, 8, 3, dropout=0.3, batch_first=True)), SERIES),
    "RNN with ReLU": (of_series(lambda: nn.RNN(8, 8, 2, "relu", dropout=0.3, batch_first=True)), SERIES),
    "LSTM with projections": (
        of_series(lambda: nn.LSTM(8, 8, 2, dropout=0.3, batch_first=True, proj_size=4), 4),
        SERIES,
    ),
    "LSTM of a packed batch": (of_series(Packed), SERIES),
    "MultiheadAttention": (of_series(SelfAttention), SERIES),
    "MultiheadAttention with weights": (of_series(partial(SelfAttention, need_weights=True)), SERIES),
    "TransformerEncoderLayer": (of_series(encoder_layer), SERIES),
    "TransformerEncoder, norm first": (
        of_series(lambda: nn.TransformerEncoder(encoder_layer(norm_first=True), 2, enable_nested_tensor=False)),
        SERIES,
    ),
    "TransformerDecoderLayer": (of_series(Decoder), SERIES),
    "Transformer": (of_series(Whole), SERIES),
    "AlphaDropout": (between(module=lambda: nn.AlphaDropout(0.3)), ROWS),
    "FeatureAlphaDropout": (between(module=lambda: nn.FeatureAlphaDropout(0.3)), ROWS),
    "a subclass of Dropout": (between(module=lambda: Mine(0.3)), ROWS),
    "a subclass of Dropout with its own forward": (between(module=lambda: Scheduled(0.3)), ROWS),
    "F.dropout": (between(lambda m, x: F.dropout(x, 0.3, m.training)), ROWS),
    "F.dropout in place": (between(lambda m, x: F.dropout(x, 0.3, m.training, inplace=True)), ROWS),
    "F.dropout1d": (between(lambda m, x: F.dropout1d(x.unsqueeze(2), 0.3, m.training).squeeze(2)), ROWS),
    "F.dropout with a rate of the model": (between(lambda m, x: F.dropout(x, m.drop, m.training), drop=0.3), ROWS),
    "F.alpha_dropout": (between(lambda m, x: F.alpha_dropout(x, 0.3, m.training)), ROWS),
    "F.feature_alpha_dropout": (between(lambda m, x: F.feature_alpha_dropout(x, 0.3, m.training)), ROWS),
    "torch.dropout": (between(lambda m, x: torch.dropout(x, 0.3, m.training)), ROWS),
    "scaled_dot_product_attention": (
        between(lambda m, x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.3 if m.training else 0.0)),
        ROWS,
    ),
    "RReLU": (between(module=nn.RReLU), ROWS),
    "gumbel_softmax": (between(lambda m, x: F.gumbel_softmax(x) if m.training else x.softmax(-1)), ROWS),
    "FractionalMaxPool2d": (
        lambda: nn.Sequential(nn.FractionalMaxPool2d(2, output_ratio=0.6), nn.Flatten(), nn.Linear(1083, 3)),
        IMAGES,
    ),
    "a mask by bernoulli": (
        between(lambda m, x: x * torch.bernoulli(torch.full_like(x, 0.7)) / 0.7 if m.training else x),
        ROWS,
    ),
}


def swin(block=tv.swin_transformer.SwinTransformerBlock, merging=tv.swin_transformer.PatchMerging):
    return tv.SwinTransformer(
        [4, 4],
        16,
        [1, 1],
        [2, 2],
        [4, 4],
        dropout=0.2,
        attention_dropout=0.2,
        stochastic_depth_prob=0.3,
        num_classes=3,
        block=block,
        downsample_layer=merging,
    )


def vision_transformer():
    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    model = tv.VisionTransformer(**sizes, dropout=0.2, attention_dropout=0.3, num_classes=3)
    nn.init.normal_(model.heads[0].weight)
    return model


def convnext():
    stages = [tv.convnext.CNBlockConfig(8, 16, 1), tv.convnext.CNBlockConfig(16, None, 1)]
    return tv.ConvNeXt(stages, stochastic_depth_prob=0.5, layer_scale=1.0, num_classes=3)


def efficientnet():
    settings = [
        tv.efficientnet.MBConvConfig(*each, 0.25, 0.25) for each in ((1, 3, 1, 32, 16, 1), (4, 3, 2, 16, 24, 2))
    ]
    return tv.EfficientNet(settings, dropout=0.2, stochastic_depth_prob=0.5, num_classes=3)


def mobilenet_v3():
    settings = [tv.mobilenetv3.InvertedResidualConfig(16, 3, 16, 16, True, "RE", 2, 1, 0.5)]
    return tv.MobileNetV3(settings, 32, num_classes=3)


def backbone(*layers):
    return lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        *(make() for make in layers),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


TORCHVISION = {
    "VisionTransformer": (vision_transformer, IMAGES),
    "SwinTransformer": (swin, IMAGES),
    "SwinTransformer V2": (
        partial(swin, tv.swin_transformer.SwinTransformerBlockV2, tv.swin_transformer.PatchMergingV2),
        IMAGES,
    ),
    "DenseNet": (lambda: tv.DenseNet(8, (2, 2), 8, drop_rate=0.3, num_classes=3), IMAGES),
    "ConvNeXt": (convnext, IMAGES),
    "EfficientNet": (efficientnet, IMAGES),
    "MaxVit": (
        lambda: tv.MaxVit((32, 32), 8, 4, [8], [2], 4, 0.4, attention_dropout=0.2, mlp_dropout=0.2, num_classes=3),
        IMAGES,
    ),
    "MobileNetV3": (mobilenet_v3, IMAGES),
    "MNASNet": (lambda: tv.MNASNet(0.1, num_classes=3), IMAGES),
    "SqueezeNet": (lambda: nn.Sequential(nn.Upsample(64), tv.SqueezeNet("1_1", num_classes=3)), IMAGES),
    "StochasticDepth of rows": (backbone(lambda: StochasticDepth(0.5, "row")), IMAGES),
    "StochasticDepth of batches": (backbone(lambda: StochasticDepth(0.5, "batch")), IMAGES),
    "DropBlock2d": (backbone(lambda: DropBlock2d(0.3, 3)), IMAGES),
    "DropBlock3d": (
        backbone(lambda: nn.Unflatten(0, (1, -1)), lambda: DropBlock3d(0.3, 1), lambda: nn.Flatten(0, 1)),
        IMAGES,
    ),
    "stochastic_depth": (between(lambda m, x: stochastic_depth(x, 0.5, "row", m.training)), ROWS),
    "drop_block2d": (
        between(lambda m, x: drop_block2d(x[:, :, None, None], 0.3, 1, training=m.training).flatten(1)),
        ROWS,
    ),
}


class DropPath(nn.Module):
    """As timm has it."""

    def __init__(self, drop_prob=0.5, scale_by_keep=True):
        super().__init__()
        self.drop_prob, self.scale_by_keep = drop_prob, scale_by_keep

    def forward(self, x):
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep_prob = 1 - self.drop_prob
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep_prob)
        if keep_prob > 0.0 and self.scale_by_keep:
            mask.div_(keep_prob)
        return x * mask


class DropPathByRand(nn.Module):
    """As many papers' code has it."""

    def __init__(self, drop_prob=0.5):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x):
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep_prob = 1 - self.drop_prob
        mask = keep_prob + torch.rand((x.shape[0],) + (1,) * (x.ndim - 1), dtype=x.dtype, device=x.device)
        return x.div(keep_prob) * mask.floor_()


class DropBlock(nn.Module):
    """As timm's fast one."""

    def __init__(self, drop_prob=0.3, block_size=3):
        super().__init__()
        self.drop_prob, self.block_size = drop_prob, block_size

    def forward(self, x):
        if not self.training or not self.drop_prob:
            return x
        mask = torch.empty_like(x).bernoulli_(self.drop_prob / self.block_size**2)
        mask = 1 - F.max_pool2d(mask, self.block_size, 1, self.block_size // 2)
        return x * mask * (mask.numel() / mask.sum().add(1e-7))


class PatchDropout(nn.Module):
    """Keeps some of the tokens, as timm's, with the others at zero."""

    def __init__(self, prob=0.5):
        super().__init__()
        self.prob = prob

    def forward(self, x):
        if not self.training or self.prob == 0.0:
            return x
        kept = max(1, int(x.shape[1] * (1 - self.prob)))
        chosen = torch.randn(x.shape[:2]).argsort(-1)[:, :kept, None]
        return torch.zeros_like(x).scatter(1, chosen.expand(-1, -1, x.shape[2]), 1.0) * x


class Attention(nn.Module):
    """As timm's: fused attention asks the layer for its rate."""

    def __init__(self, fused=True, attn_drop=0.3, proj_drop=0.2):
        super().__init__()
        self.fused, self.qkv, self.proj = fused, nn.Linear(8, 24), nn.Linear(8, 8)
        self.attn_drop, self.proj_drop = nn.Dropout(attn_drop), nn.Dropout(proj_drop)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=self.attn_drop.p if self.training else 0.0)
        else:
            x = self.attn_drop((q @ k.transpose(-2, -1) / 2).softmax(-1)) @ v
        return self.proj_drop(self.proj(x.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """A residual block whose branch begins at zero, as with LayerScale: noise has no effect on a fresh model."""

    def __init__(self, path, scale=0.0):
        super().__init__()
        self.attention, self.path, self.scale = Attention(), path, nn.Parameter(torch.full((8,), scale))

    def forward(self, x):
        return x + self.path(self.scale * self.attention(x))


class CausalSelfAttention(nn.Module):
    """As nanoGPT's: a rate that is an attribute, beside a layer."""

    def __init__(self, dropout=0.3):
        super().__init__()
        self.dropout, self.qkv, self.resid_dropout = dropout, nn.Linear(8, 24), nn.Dropout(dropout)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        dropped = self.dropout if self.training else 0
        return self.resid_dropout(F.scaled_dot_product_attention(q, k, v, dropout_p=dropped, is_causal=True))


class LayerDrop(nn.Module):
    """Leaves layers out by a number from Python or torch, as encoders in Hugging Face's library."""

    def __init__(self, draw, layerdrop=0.4):
        super().__init__()
        self.layers, self.draw, self.layerdrop = nn.ModuleList(nn.Linear(8, 8) for _ in range(4)), draw, layerdrop

    def forward(self, x):
        for layer in self.layers:
            if not (self.training and self.draw() < self.layerdrop):
                x = x + layer(x)
        return x


class ExpertDrop(nn.Module):
    """Reads its rate from a configuration, not from an attribute."""

    def __init__(self):
        super().__init__()
        self.config, self.layer = {"dropout": 0.3}, nn.Linear(8, 8)

    def forward(self, x):
        return F.dropout(self.layer(x), self.config["dropout"], self.training)


BLOCKS = {
    "DropPath": (of_series(DropPath), SERIES),
    "DropPath that does not scale": (of_series(partial(DropPath, scale_by_keep=False)), SERIES),
    "DropPath by rand": (of_series(DropPathByRand), SERIES),
    "DropBlock": (backbone(DropBlock), IMAGES),
    "PatchDropout": (of_series(PatchDropout), SERIES),
    "attention with attn_drop.p": (of_series(Attention), SERIES),
    "attention, not fused": (of_series(partial(Attention, fused=False)), SERIES),
    "a block with DropPath that begins at zero": (of_series(lambda: Block(DropPath())), SERIES),
    "a block with StochasticDepth": (of_series(lambda: Block(StochasticDepth(0.5, "row"), 1.0)), SERIES),
    "nanoGPT's attention": (of_series(CausalSelfAttention), SERIES),
    "LayerDrop by torch": (of_series(lambda: LayerDrop(lambda: torch.rand([]))), SERIES),
    "LayerDrop by random": (of_series(lambda: LayerDrop(lambda: random.uniform(0, 1))), SERIES),
    "a rate in a configuration": (of_series(ExpertDrop), SERIES),
}


def trains(noise):
    """Return a function that changes hidden units in training alone."""
    return lambda model, x: noise(x) if model.training else x


UNKNOWN = {
    "Gaussian noise": between(trains(lambda x: x + 0.01 * torch.randn_like(x))),
    "a mask by rand": between(trains(lambda x: x * (torch.rand_like(x) > 0.01) / 0.99)),
    "a mask by bernoulli that becomes a condition": between(
        trains(lambda x: torch.where(torch.bernoulli(torch.full_like(x, 0.99)).bool(), x / 0.99, 0.0))
    ),
    "uniform noise": between(trains(lambda x: x + torch.empty_like(x).uniform_(-0.01, 0.01))),
    "mixing with another example": between(trains(lambda x: 0.9 * x + 0.1 * x[torch.randperm(len(x))])),
    "a step left out by random": between(trains(lambda x: x * 2 if random.random() < 0.01 else x)),
    "a mask by NumPy": between(trains(lambda x: x * torch.from_numpy(np.random.rand(*x.shape) > 0.01))),
    "a generator of its own": between(trains(lambda x: x * random.SystemRandom().random())),
}


class Remembers(nn.Module):
    """Centres by a running mean, in training too, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.training:
            self.mean.lerp_(x.detach().mean((0, 1)), 0.1)
        return x - self.mean * self.calls


class Rooted(nn.Module):
    """Fails where its parameters are below zero."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((16,), 0.01))

    def forward(self, x):
        if bool((self.scale < 0).any()):
            raise ValueError("scales must not be negative")
        return x * self.scale.sqrt()


NOISELESS = {
    "linear layers": (between(lambda m, x: x), ROWS),
    "BatchNorm": (between(module=lambda: nn.BatchNorm1d(16)), ROWS),
    "LayerNorm": (between(module=lambda: nn.LayerNorm(16)), ROWS),
    "GroupNorm": (backbone(lambda: nn.GroupNorm(2, 8)), IMAGES),
    "InstanceNorm with statistics": (backbone(lambda: nn.InstanceNorm2d(8, track_running_stats=True)), IMAGES),
    "BatchNorm of images": (backbone(lambda: nn.BatchNorm2d(8)), IMAGES),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 3)), ROWS),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)), ROWS),
    "LSTM without dropout": (of_series(lambda: nn.LSTM(8, 8, 2, batch_first=True)), SERIES),
    "LSTM whose one layer drops nothing": (of_series(partial(nn.LSTM, 8, 8, batch_first=True)), SERIES),
    "attention without dropout": (of_series(partial(Attention, True, 0.0, 0.0)), SERIES),
    "TransformerEncoderLayer without dropout": (
        of_series(lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)),
        SERIES,
    ),
    "DropPath at zero": (of_series(partial(DropPath, 0.0)), SERIES),
    "LayerDrop at zero, which draws all the same": (of_series(lambda: LayerDrop(lambda: torch.rand([]), 0.0)), SERIES),
    "LayerDrop by random at zero": (of_series(lambda: LayerDrop(random.random, 0.0)), SERIES),
    "numbers drawn and not used": (between(lambda m, x: (torch.randn(3), x)[1]), ROWS),
    "a running mean that training reads": (of_series(Remembers), SERIES),
    "F.dropout at zero": (between(lambda m, x: F.dropout(x, 0.0)), ROWS),
    "F.dropout that never trains": (between(lambda m, x: F.dropout(x, 0.5, training=False)), ROWS),
    "a threshold with dropout in its name": (between(lambda m, x: x * (x > m.drop_below), drop_below=0.1), ROWS),
    "an attribute named dropout that nothing reads": (between(lambda m, x: x, dropout=0.3), ROWS),
    "Embedding": (lambda: nn.Sequential(nn.Embedding(50, 4), nn.Flatten(), nn.Linear(28, 3)), WORDS),
    "a root of a parameter": (between(module=Rooted), ROWS),
    "ResNet": (lambda: tv.ResNet(tv.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3), IMAGES),
    "RegNet": (lambda: tv.RegNet(tv.regnet.BlockParams([1], [8], [8], [1.0], [2], 0.25), num_classes=3), IMAGES),
}
