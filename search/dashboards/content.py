"""Gives optuna-dashboard what it shows of a study beside the trials: notes, learning curves, the report's plots."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.dashboards.curves import curves_svg
from search.dashboards.notes import study_note, trial_note, verdict_note
from search.records import Assignment, EpochResult, Reason, TrialRecord
from search.report import Material
from search.report.figure import Figure
from search.report.sections import figures
from search.report.theme import PALETTES, TEMPLATE, resolve
from search.results import finite
from search.spec import StudySpec

if TYPE_CHECKING:
    from search.study import Study

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


def artifact_folder(home: Path) -> Path:
    """Return where the pictures are that the dashboard shows."""
    return home / "artifacts" / "optuna"


def annotate(study: Study, material: Material, home: Path) -> None:
    """Write what there is to say of a study that has been searched. Raises StorageError, OSError."""
    annotations, folder = study.annotations, artifact_folder(home)
    names: dict[int, list[str]] = {}
    for which, record in material.chosen.items():
        names.setdefault(record.number, []).append(which)
    pictures = {}
    for record in {record.number: record for record in material.chosen.values()}.values():
        title = f"{' and '.join(material.names[which] for which in names[record.number])}: trial {record.number}"
        drawn = curves_svg(record, title[0].upper() + title[1:])
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


class Noted:
    """A study that keeps its own note up to date while the runner works on it; everything else is the study's."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._best: TrialRecord | None = None
        self._done = 0
        for record in study.records():
            self._count(record)
        self._write()

    @property
    def spec(self) -> StudySpec:
        return self._study.spec

    def spent(self) -> int:
        return self._study.spent()

    def records(self) -> Sequence[TrialRecord]:
        return self._study.records()

    def ask(self) -> Assignment:
        return self._study.ask()

    def report(self, results: Mapping[int, EpochResult]) -> None:
        self._study.report(results)

    def finish(
        self,
        number: int,
        reason: Reason,
        epochs: Sequence[EpochResult],
        error: str | None = None,
        worker: str | None = None,
    ) -> TrialRecord:
        """Record how a trial ended, and say so in the note if that is some time ago."""
        record = self._study.finish(number, reason, epochs, error, worker)
        self._count(record)
        if time.monotonic() - self._written >= _SECONDS_BETWEEN_NOTES:
            self._write()
        return record

    def _count(self, record: TrialRecord) -> None:
        self._done += record.reason is not Reason.INTERRUPTED
        if record.state == "complete" and record.best is not None:
            there = None if self._best is None else self._best.best
            if there is None or record.best.val_loss < there.val_loss:
                self._best = record

    def _write(self) -> None:
        self._written = time.monotonic()
        # A note is worth no search. If it is the storage that fails, the next trial's record says so.
        with suppress(Exception):
            self._study.annotations.note(study_note(self._study.name, self.spec, self._best, self._done))
