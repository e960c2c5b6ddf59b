"""Gives optuna-dashboard what it shows of a study beside the trials: notes, learning curves, the report's plots."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.dashboards.curves import curves_svg
from search.dashboards.notes import study_note, trial_note, verdict_note
from search.places import artifact_folder
from search.records import TrialRecord
from search.report import Material
from search.report.figure import Figure
from search.report.sections import figures
from search.report.theme import PALETTES, TEMPLATE, resolve
from search.results import finite

if TYPE_CHECKING:
    from search.study import StoredStudy

_ITS_OWN = ("history", "importances", "parallel", "slice-", "contour-", "parameter-")
"""What optuna-dashboard draws by itself, and always of the present."""
_OURS = "regsearch-"
_NOTHING: Mapping[str, Any] = {"data": [], "layout": {"title": {"text": "See the report"}, "height": 80}}
_MOST_CHARACTERS = 200_000
"""Of a plot: a study's attributes are read whole, again and again, by every page that is open."""
_DIGITS = 4
_HEIGHT = 450
"""Of a plot, in pixels: what its place in the dashboard has."""
_SECONDS_BETWEEN_NOTES = 5.0


def annotate(study: StoredStudy, material: Material, home: Path) -> None:
    """Write what there is to say of a study that has been searched. Raises StorageError, OSError."""
    annotations, folder = study.annotations, artifact_folder(home, "optuna")
    names: dict[int, list[str]] = {}
    for which, record in material.chosen.items():
        names.setdefault(record.number, []).append(which)
    pictures = {}
    for record in {record.number: record for record in material.chosen.values()}.values():
        # By its number alone: the picture stays with the trial, and what the trial is called may change.
        drawn = curves_svg(record, f"Trial {record.number}")
        path = annotations.artifact(folder, "curves.svg", drawn, record.number)
        pictures[record.number] = path
        annotations.note(trial_note(record, names[record.number], material, path), record.number)
    annotations.drop_notes(pictures)
    plots = {f"{_OURS}{figure.name}": _plot(figure) for figure in figures(material) if not _draws_itself(figure)}
    for name in annotations.plots() - plots.keys():
        if name.startswith(_OURS):
            annotations.plot(name, _NOTHING)  # the dashboard knows no way to take one away
    for name, plot in plots.items():
        annotations.plot(name, plot if len(json.dumps(plot)) <= _MOST_CHARACTERS else _NOTHING)
    winner = material.winner
    annotations.note(verdict_note(material, [pictures[winner.number]] if winner is not None else []))


def _draws_itself(figure: Figure) -> bool:
    """Return whether optuna-dashboard has such a plot of its own."""
    return figure.name.startswith(_ITS_OWN)


def _plot(figure: Figure) -> Mapping[str, Any]:
    """Return a plot of the report as one that stands alone."""
    title = {"text": figure.title, "y": 0.98, "yanchor": "top", "font": {"size": 16}}
    alone = {"title": title, "margin": {"t": 70}, "template": TEMPLATE, "paper_bgcolor": "@paper", "height": _HEIGHT}
    layout = {**figure.plot["layout"], **alone}
    drawn: Mapping[str, Any] = resolve({"data": figure.plot["data"], "layout": layout}, PALETTES["light"])
    return finite(drawn, _DIGITS)  # type: ignore[no-any-return]


class NoticeBoard:
    """Keeps a study's own note up to date while it is run."""

    def __init__(self, study: StoredStudy) -> None:
        self._study = study
        self._best: TrialRecord | None = None
        self._done = 0
        for record in study.records():
            self._count(record)
        self._write()

    def ended(self, record: TrialRecord) -> None:
        """Take note of a trial, and say so in the note if that is some time ago."""
        self._count(record)
        if time.monotonic() - self._written >= _SECONDS_BETWEEN_NOTES:
            self._write()

    def _count(self, record: TrialRecord) -> None:
        self._done += not record.reason.is_no_result
        if record.state == "complete" and record.best is not None:
            there = None if self._best is None else self._best.best
            if there is None or record.best.val_loss < there.val_loss:
                self._best = record

    def _write(self) -> None:
        self._written = time.monotonic()
        # A note is worth no search. If it is the storage that fails, the next trial's record says so.
        with suppress(Exception):
            note = study_note(self._study.name, self._study.spec, self._best, self._done)
            self._study.annotations.note(note)
