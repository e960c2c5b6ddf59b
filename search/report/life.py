"""The population's life: which trial ran when, in which lane, and why it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import heappop, heappush
from typing import Any

from search.records import Reason, TrialRecord
from search.report.figure import Figure, Trace
from search.report.material import Material
from search.report.theme import LOOKS, filled
from search.report.words import duration

_LONGEST_PAUSE = 0.05
"""Share of the time in which anything ran: longer pauses, between two starts of a search, are cut out."""
_SHORTEST_PAUSE = 5.0
_LANE_PIXELS = 15


@dataclass(frozen=True)
class Bar:
    """A trial's time, in seconds since the first began, pauses of the whole search cut out."""

    record: TrialRecord
    lane: int
    start: float
    end: float


@dataclass(frozen=True)
class Life:
    """All trials' times."""

    bars: Sequence[Bar]
    pauses: Mapping[float, float]
    """How long the search paused, in seconds, by where that was cut out."""

    @property
    def lanes(self) -> int:
        """How many trials there were at once, at most."""
        return 1 + max((bar.lane for bar in self.bars), default=-1)


def live(records: Sequence[TrialRecord]) -> Life:
    """Return when the trials ran. Lanes are packed: each trial is in the first that is free when it begins."""
    spans = sorted(((record.started, _end(record, records), record) for record in records), key=_by_start)
    pauses = _pauses([(start, end) for start, end, _ in spans])
    bars: list[Bar] = []
    busy: list[tuple[datetime, int]] = []
    free: list[int] = []
    lanes = 0
    for start, end, record in spans:
        while busy and busy[0][0] <= start:
            heappush(free, heappop(busy)[1])
        lane = heappop(free) if free else lanes
        lanes = max(lanes, lane + 1)
        heappush(busy, (end, lane))
        bars.append(Bar(record, lane, _seconds(start, spans[0][0], pauses), _seconds(end, spans[0][0], pauses)))
    cut = {_seconds(begin, spans[0][0], pauses): (end - begin).total_seconds() for begin, end in pauses}
    return Life(bars, cut)


def _by_start(span: tuple[datetime, datetime, TrialRecord]) -> tuple[datetime, int]:
    return span[0], span[2].number


def _end(record: TrialRecord, records: Sequence[TrialRecord]) -> datetime:
    """Return a trial's end. That of a killed process's is known only by when it was found: at the next start.

    Then the last sign of life of the process that ran it stands for it.
    """
    if not was_killed(record):
        return max(record.ended, record.started)
    signs = [other.ended for other in records if not was_killed(other)] + [other.started for other in records]
    return max((sign for sign in signs if record.started <= sign < record.ended), default=record.started)


def was_killed(record: TrialRecord) -> bool:
    """Return whether a trial ended with its process: then nobody wrote down how far it had come."""
    unsaid = record.reason is Reason.INTERRUPTED and not record.epochs and record.error is None
    return record.reason is Reason.LOST or unsaid


def _pauses(spans: Sequence[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    """Return the times between starts of a search in which nothing ran for long."""
    if not spans:
        return []
    idle: list[tuple[datetime, datetime]] = []
    reached = spans[0][1]
    for start, end in spans:
        if start > reached:
            idle.append((reached, start))
        reached = max(reached, end)
    working = reached - spans[0][0] - sum((end - begin for begin, end in idle), timedelta())
    longest = max(_LONGEST_PAUSE * working.total_seconds(), _SHORTEST_PAUSE)
    return [(begin, end) for begin, end in idle if (end - begin).total_seconds() > longest]


def _seconds(moment: datetime, first: datetime, pauses: Sequence[tuple[datetime, datetime]]) -> float:
    cut = sum((min(moment, end) - begin for begin, end in pauses if begin < moment), timedelta())
    return (moment - first - cut).total_seconds()


def life_figure(material: Material) -> Figure | None:
    """Return the population's life, None when nothing has ended yet."""
    if not material.records:
        return None
    life = live(material.records)
    unit, name = _unit(max(bar.end for bar in life.bars))
    shortest = max(bar.end for bar in life.bars) / 1000
    return Figure(
        name="life",
        title="What ran when, and why it ended",
        caption="Each bar is a trial, from when its configuration was asked for to its end. Lanes are packed from "
        "these times: a freed one is taken at once. Short bars are what pruning is for; gaps are time in which nothing "
        "trained." + (" Where the search paused, between two starts, the time is cut out." if life.pauses else ""),
        alt=f"{len(life.bars)} trials in {life.lanes} lanes over {duration(max(bar.end for bar in life.bars))}.",
        data=[
            _bars(reason, group, unit, shortest)
            for reason in LOOKS
            if (group := [bar for bar in life.bars if bar.record.reason is reason])
        ],
        layout={
            "xaxis": {"title": {"text": name}, "rangemode": "tozero", "showgrid": True},
            "yaxis": {
                "title": {"text": "lane"},
                "autorange": "reversed",
                "showgrid": False,
                "tickformat": "d",
                "nticks": min(10, life.lanes + 1),
            },
            "barmode": "overlay",
            "bargap": 0.15,
            "showlegend": True,
            "shapes": [_cut(second / unit) for second in life.pauses],
            "annotations": [_cut_words(second / unit, pause) for second, pause in life.pauses.items()],
        },
        height=max(200, min(640, 110 + _LANE_PIXELS * life.lanes)),
    )


def _bars(reason: Reason, bars: Sequence[Bar], unit: float, shortest: float) -> Trace:
    look = LOOKS[reason]
    words = [f"{len(bar.record.epochs)} epochs, {duration(bar.end - bar.start)}" for bar in bars]
    return {
        "type": "bar",
        "orientation": "h",
        "y": [bar.lane + 1 for bar in bars],
        "base": [round(bar.start / unit, 6) for bar in bars],
        "x": [round(max(bar.end - bar.start, shortest) / unit, 6) for bar in bars],
        "customdata": [[bar.record.number, text] for bar, text in zip(bars, words, strict=True)],
        "name": look.words,
        "marker": filled(look.colour, look.pattern),
        "hovertemplate": f"trial %{{customdata[0]}}, {look.words}<br>%{{customdata[1]}}<extra></extra>",
    }


def _unit(seconds: float) -> tuple[float, str]:
    for unit, name in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds > 3 * unit:
            return unit, name
    return 1.0, "seconds"


def _cut(x: float) -> dict[str, Any]:
    line = {"color": "@ink", "width": 1.5, "dash": "dash"}
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def _cut_words(x: float, pause: float) -> dict[str, Any]:
    return {
        "x": x,
        "y": 0,
        "yref": "paper",
        "yanchor": "bottom",
        "xanchor": "left",
        "text": f"paused {duration(pause)}",
    }
