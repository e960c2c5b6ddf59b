"""How many trainers a search gets, of how many slots, and on which devices they are."""

import pytest

from search import crew


@pytest.mark.parametrize(
    ("trials", "workers", "population", "expected"),
    [
        (64, None, None, (2, 8)),
        (200, None, None, (2, 16)),
        (4, None, None, (2, 1)),
        (1, None, None, (1, 1)),
        (64, 1, None, (1, 16)),
        (64, 4, None, (4, 4)),
        (64, 0, None, (1, 16)),
        (3, 8, None, (3, 1)),
        (64, None, 50, (2, 50)),
        (6, None, 6, (1, 6)),
        (3, 1, 999_999, (1, 3)),
    ],
)
def test_plan_on_two_cores(monkeypatch, trials, workers, population, expected):
    monkeypatch.setattr(crew, "cores", lambda: 2)
    assert crew.plan(trials, workers, population, ["cpu"]) == expected


@pytest.mark.parametrize(
    ("trials", "population", "expected"), [(256, None, (2, 32)), (1000, None, (2, 64)), (256, 128, (2, 128))]
)
def test_plan_on_two_gpus(trials, population, expected):
    assert crew.plan(trials, None, population, ["cuda:0", "cuda:1"]) == expected
