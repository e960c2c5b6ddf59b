"""Trainers without room: told once, borne while others work, and not for ever while nobody does."""

import pytest

from search import shortage
from search.errors import TrainerError
from search.shortage import Shortage


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(shortage, "time", clock)
    return clock


@pytest.fixture
def told():
    return []


def test_it_is_told_once_and_anew_after_there_was_room(clock, told):
    waiting = Shortage(told.append)
    for clock.now in range(30):
        waiting.note(["1 CPU"] if clock.now != 15 else [], 2)
    assert told == ["1 of 2 trainers must wait for room, the others go on; each needs 1 CPU"] * 2


def test_what_is_soon_over_is_not_told(clock, told):
    waiting = Shortage(told.append)
    for clock.now in range(4):
        waiting.note(["1 CPU"], 1)
    waiting.note([], 1)
    assert told == []


def test_it_ends_once_nobody_has_worked_for_too_long(clock, told):
    waiting = Shortage(told.append, patience=60.0)
    for clock.now in range(1000):
        waiting.note(["1 CPU"], 2)
    for clock.now in range(1000, 1061):
        waiting.note(["1 CPU"] * 2, 2)
    clock.now += 1
    with pytest.raises(TrainerError, match="2 of 2 trainers found no room in 60 seconds; each needs 1 CPU: make room"):
        waiting.note(["1 CPU"] * 2, 2)
