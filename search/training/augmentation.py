"""Data augmentation of images: every example moved, recoloured and cut anew in each epoch, in whole minibatches.

Each slot has strengths and random numbers of its own, from its trial's seed and epoch alone; what is drawn for one
strength does not depend on the others. A slot whose strengths are all 0 is left untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import radians

import torch
import torch.nn.functional as F
from torch import Tensor

from search.training.turns import Turn

_AFFINE = ("rotation", "shift", "scale", "flip", "crop")
_COLOUR = ("brightness", "contrast")
_CUTOUT = "cutout"
AUGMENTATIONS = (*_AFFINE, *_COLOUR, _CUTOUT)
"""The parameters that are implemented here."""

_Strengths = Callable[[str], Tensor]
"""Looks up a strength of all active slots, [slots, 1, 1]."""

# A column of random numbers for each thing that is drawn.
_COLUMNS = (
    *("rotation", "shift_x", "shift_y", "scale", "flip", "crop_x", "crop_y"),
    *("brightness", "contrast", "cutout_x", "cutout_y"),
)


class Augmentation:
    """What happens to the minibatches of one epoch of some slots."""

    def __init__(
        self, turns: Sequence[Turn], steps: int, batch: int, shape: Sequence[int], fill: Tensor, device: torch.device
    ) -> None:
        """`shape` of one example: [height, width] or [colours, height, width]; `fill` [colours or 1, 1, 1] is nothing's
        colour.
        """
        self._active = [slot for slot, turn in enumerate(turns) if any(map(turn.strength, AUGMENTATIONS))]
        self._all, self._fill = len(self._active) == len(turns), fill
        self._slots = torch.tensor(self._active, dtype=torch.int64, device=device)
        if not self._active:
            return
        side = (int(shape[-2]), int(shape[-1]))
        own = [turns[slot] for slot in self._active]
        drawn = torch.stack([_draw(turn, steps, batch) for turn in own])
        columns = {name: drawn[..., index] for index, name in enumerate(_COLUMNS)}

        def strengths(name: str) -> Tensor:
            return torch.tensor([turn.strength(name) for turn in own]).view(-1, 1, 1)

        def used(*names: str) -> bool:
            return any(turn.strength(name) for turn in own for name in names)

        self._matrices = _matrices(columns, strengths, side).to(device) if used(*_AFFINE) else None
        self._colours = _colours(columns, strengths).to(device) if used(*_COLOUR) else None
        self._squares = _squares(columns, strengths, side).to(device) if used(_CUTOUT) else None

    def __bool__(self) -> bool:
        """Return whether there is anything to do."""
        return bool(self._active)

    def __call__(self, step: int, x: Tensor) -> Tensor:
        """Return the minibatches of a step, x [slots, batch, *shape], augmented."""
        own = x if self._all else x.index_select(0, self._slots)
        images = own.flatten(0, 1)
        images = (images if images.dim() == 4 else images.unsqueeze(1)) - self._fill
        if self._matrices is not None:
            images = warp(images, self._matrices[:, step].flatten(0, 1))
        if self._colours is not None:
            images = _recolour(images, self._colours[:, step].flatten(0, 1))
        if self._squares is not None:
            images = _cut(images, self._squares[:, step].flatten(0, 1))
        done = (images + self._fill).view(own.shape)
        return done if self._all else x.index_copy(0, self._slots, done)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Return images [n, colours, height, width] moved by affine maps [n, 2, 3] from where a pixel goes to where it is
    from, in coordinates from -1 to 1; bilinear, with zeros from outside (Jaderberg et al. 2015)."""
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _draw(turn: Turn, steps: int, batch: int) -> Tensor:
    """Return uniform random numbers in [0, 1), [steps, batch, columns]."""
    generator = torch.Generator().manual_seed(turn.derive("augmentation"))
    return torch.rand(steps, batch, len(_COLUMNS), generator=generator, dtype=torch.float32)


def _matrices(columns: dict[str, Tensor], strengths: _Strengths, side: tuple[int, int]) -> Tensor:
    """Return the affine maps [slots, steps, batch, 2, 3]: mirror, turn and zoom about the centre, then move."""
    height, width = side
    angle = (2 * columns["rotation"] - 1) * strengths("rotation") * radians(1)
    zoom = (1 + strengths("scale")) ** (2 * columns["scale"] - 1)
    mirror = 1 - 2 * (columns["flip"] < strengths("flip")).to(angle.dtype)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    # Coordinates run from -1 to 1 along both sides, however long they are.
    rows = [
        torch.stack([cos * mirror, sin * (height / width) * mirror, _moved(columns, strengths, "x", width)], -1),
        torch.stack([-sin * (width / height), cos, _moved(columns, strengths, "y", height)], -1),
    ]
    return torch.stack(rows, -2)


def _moved(columns: dict[str, Tensor], strengths: _Strengths, axis: str, side: int) -> Tensor:
    border = (strengths("crop") * side).round()
    pixels = torch.floor(columns[f"crop_{axis}"] * (2 * border + 1)) - border
    return 2 * ((2 * columns[f"shift_{axis}"] - 1) * strengths("shift") + pixels / side)


def _colours(columns: dict[str, Tensor], strengths: _Strengths) -> Tensor:
    """Return [slots, steps, batch, 2]: what is added, and what contrast is multiplied with."""
    added = (2 * columns["brightness"] - 1) * strengths("brightness")
    factor = 1 + (2 * columns["contrast"] - 1) * strengths("contrast")
    return torch.stack([added, factor], -1)


def _recolour(images: Tensor, colours: Tensor) -> Tensor:
    added, factor = colours.view(-1, 2, 1, 1, 1).unbind(1)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * factor + added


def _squares(columns: dict[str, Tensor], strengths: _Strengths, side: tuple[int, int]) -> Tensor:
    """Return [slots, steps, batch, 4]: first and last + 1 row and column of what is cut out."""
    edges = []
    for axis, length in zip("yx", side, strict=True):
        size = (strengths(_CUTOUT) * length).round()
        first = torch.floor(columns[f"cutout_{axis}"] * length) - torch.floor(size / 2)
        edges += [first, first + size]
    return torch.stack(edges, -1)


def _cut(images: Tensor, squares: Tensor) -> Tensor:
    top, bottom, left, right = squares.view(-1, 4, 1, 1, 1).unbind(1)
    rows = torch.arange(images.shape[-2], device=images.device).view(-1, 1)
    columns = torch.arange(images.shape[-1], device=images.device)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    return images.masked_fill(inside, 0.0)
