"""Augmentation against independent references: torchvision's transforms, torch's own turns, the papers' formulas."""

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tvf
from torchvision.transforms import InterpolationMode

from search.training import augmentation
from search.training.augmentation import Augmentation
from search.training.turns import Turn

STEPS, BATCH, HEIGHT, WIDTH = 3, 8, 12, 10
FILL = torch.full((1, 1, 1), -0.4)


def turn(number: int = 0, **params: float) -> Turn:
    return Turn(0, number, 1, params)


def augment(turns, x, fill=FILL):
    return Augmentation(turns, STEPS, BATCH, x.shape[2:], fill, torch.device("cpu"))(0, x)


@pytest.fixture
def drawn(monkeypatch):
    """Let every random number be the one that is set for its name, 0.5 (in the middle) unless told."""

    def draw(**values: float):
        row = torch.tensor([values.get(name, 0.5) for name in augmentation._COLUMNS])
        monkeypatch.setattr(augmentation, "_draw", lambda _turn, steps, batch: row.expand(steps, batch, -1))

    return draw


@pytest.fixture
def images():
    return torch.rand(1, BATCH, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


def affine(images, angle=0.0, scale=1.0):
    """Return what torchvision makes of images [1, n, height, width]."""
    # Without a fill, since torchvision blends that in twice along edges.
    moved = tvf.affine(images - FILL.item(), angle, [0, 0], scale, [0.0, 0.0], InterpolationMode.BILINEAR)
    return moved + FILL.item()


@pytest.mark.parametrize(("number", "angle"), [(0.0, -30.0), (0.25, -15.0), (1.0, 30.0)])
def test_rotation_is_torchvisions(drawn, images, number, angle):
    drawn(rotation=number)
    # torchvision turns clockwise for positive angles, as do we.
    torch.testing.assert_close(augment([turn(rotation=30.0)], images), affine(images, angle), atol=1e-5, rtol=0)


def test_a_quarter_turn_is_exact(drawn):
    square = torch.rand(1, BATCH, 9, 9)
    drawn(rotation=1.0)
    turned = augment([turn(rotation=90.0)], square, torch.zeros(1, 1, 1))
    torch.testing.assert_close(turned, square.rot90(-1, (2, 3)), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("number", "factor"), [(0.0, 1 / 1.5), (1.0, 1.5), (0.75, 1.5**0.5)])
def test_scale_is_torchvisions(drawn, images, number, factor):
    drawn(scale=number)
    torch.testing.assert_close(augment([turn(scale=0.5)], images), affine(images, scale=factor), atol=1e-5, rtol=0)


def test_flip_mirrors_left_to_right(drawn, images):
    drawn(flip=0.4)
    torch.testing.assert_close(augment([turn(flip=0.5)], images), images.flip(-1), atol=1e-5, rtol=0)
    drawn(flip=0.6)
    torch.testing.assert_close(augment([turn(flip=0.5)], images), images, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "strength"), [("crop", 0.2), ("shift", 0.2)])
def test_crop_and_shift_move_and_fill(drawn, images, name, strength):
    drawn(**{f"{name}_x": 0.9999999, f"{name}_y": 0.0})
    moved = augment([turn(**{name: strength})], images)
    right, down = round(strength * WIDTH), round(strength * HEIGHT)  # 2 and 2.4 pixels, the crop's rounded
    padded = np.pad(images[0].numpy(), [(0, 0), (10, 10), (10, 10)], constant_values=FILL.item())
    if name == "crop":
        expected = padded[:, 10 - down : 10 - down + HEIGHT, 10 + right : 10 + right + WIDTH]
        torch.testing.assert_close(moved[0], torch.tensor(expected.copy()), atol=1e-4, rtol=0)
    else:
        share = strength * HEIGHT - down
        lower, upper = (padded[:, 10 - n : 10 - n + HEIGHT, 10 + right : 10 + right + WIDTH] for n in (down, down + 1))
        expected = (1 - share) * lower + share * upper
        torch.testing.assert_close(moved[0], torch.tensor(expected), atol=1e-4, rtol=0)


def test_brightness_and_contrast(drawn, images):
    drawn(brightness=0.75, contrast=0.25)
    mean = images.mean((2, 3), keepdim=True)
    expected = mean + (images - mean) * 0.8 + 0.15
    torch.testing.assert_close(augment([turn(brightness=0.3, contrast=0.4)], images), expected)


def test_cutout_is_the_papers(drawn, images):
    drawn(cutout_x=0.05, cutout_y=0.5)
    cut = augment([turn(cutout=0.4)], images)
    # DeVries and Taylor's code: rows from y - length // 2 to y + length // 2, cut off at the edges.
    expected = images.clone()
    tall, wide = round(0.4 * HEIGHT), round(0.4 * WIDTH)
    top, left = 6 - tall // 2, 0 - wide // 2
    expected[..., max(0, top) : top + tall, max(0, left) : left + wide] = FILL.item()
    torch.testing.assert_close(cut, expected)


def test_colours_are_moved_together(drawn):
    colours = torch.rand(1, BATCH, 3, HEIGHT, WIDTH)
    fill = torch.tensor([-1.0, -2.0, -3.0]).view(3, 1, 1)
    drawn(crop_x=0.9999999)
    moved = augment([turn(crop=0.1)], colours, fill)
    torch.testing.assert_close(moved[..., :-1], colours[..., 1:], atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[..., -1], fill.view(3, 1).expand(1, BATCH, 3, HEIGHT), atol=1e-4, rtol=0)


def test_only_slots_with_a_strength_are_touched(images):
    both = torch.cat([images, images])
    augmented = augment([turn(0), turn(1, rotation=30.0)], both)
    assert torch.equal(augmented[0], both[0])
    assert not torch.equal(augmented[1], both[1])
    torch.testing.assert_close(augmented[1:], augment([turn(1, rotation=30.0)], images))


def test_examples_epochs_and_trials_differ(images):
    x = images[:, :1].expand(1, BATCH, HEIGHT, WIDTH)
    one = augment([turn(0, rotation=30.0)], x)
    assert len({tuple(row.flatten().tolist()) for row in one[0]}) == BATCH
    assert not torch.equal(one, augment([turn(1, rotation=30.0)], x))
    assert not torch.equal(one, augment([Turn(0, 0, 2, {"rotation": 30.0})], x))
    assert torch.equal(one, augment([turn(0, rotation=30.0)], x))


def test_strengths_draw_what_they_draw_whatever_the_others_do(images):
    alone = augment([turn(brightness=0.5)], images)
    beside = augment([turn(brightness=0.5, cutout=0.2)], images)
    kept = beside != FILL.item()
    assert torch.equal(alone[kept], beside[kept])
