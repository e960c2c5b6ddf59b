"""The two sides: runs the plain script, or `regsearch start`, as a real command, and returns both in the same terms.

A search's seconds are those that each side states itself: `study.optimize` of the plain script; `wall_seconds` of
regsearch, which also hold the scoring of the test data. What either needs before and after shows in the command's own.
"""

from __future__ import annotations

import json
import re
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from scripts.benchmarks.cases import write_spec
from scripts.benchmarks.processes import Finished, run_command
from search.records import TrialRecord
from search.spec import StudySpec

REGSEARCH = "regsearch"
BestSoFar = Sequence[tuple[float, float | None]]
"""At the end of each trial: seconds since the search began, and the best validation loss of the complete trials."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One search by one side. Times in seconds."""

    side: str
    """`plain loader`, `plain tensor` or `regsearch`."""
    study: str
    seed: int
    command_s: float
    search_s: float
    search_began_s: float
    """From the command's start."""
    start_up_s: float | None
    """From the command's start to the first training step; None where the program does not tell, as below."""
    training_s: float | None
    evaluation_s: float | None
    waiting_s: float | None
    """What of the search was neither training nor evaluation: asking, recording, idling; mean over trainers."""
    asking_s: float | None = None
    """Of the thread that asks and records, beside training; the plain script does both in turn, and waits."""
    recording_s: float | None = None
    trainers: int = 1
    trials: Mapping[str, int]
    """Count by Optuna's state: complete, pruned, failed."""
    trial_epochs: int
    best_val_loss: float
    best_so_far: BestSoFar
    peak_mib: float | None
    chosen: str = ""
    """How regsearch computed, in its own words."""

    @property
    def ms_per_trial_epoch(self) -> float:
        """Return the whole search's time for each epoch of each trial."""
        return 1e3 * self.search_s / self.trial_epochs

    @property
    def busy_s(self) -> float | None:
        """Return the seconds in which models were computed."""
        if self.training_s is None or self.evaluation_s is None:
            return None
        return self.training_s + self.evaluation_s


@dataclass(frozen=True)
class Setup:
    """What holds for every run of the benchmark."""

    device: str
    data_dir: Path


def run_side(side: str, spec: StudySpec, setup: Setup, options: Mapping[str, object]) -> Run:
    """Run one side in a temporary folder. Raises CommandFailed.

    `options` are those of `regsearch start`, None for the program's own choice; the plain script has none.
    """
    with tempfile.TemporaryDirectory(prefix="regsearch-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_spec(spec, folder / "study.toml")
        given = {"study": folder / "study.toml", "device": setup.device, "data-dir": setup.data_dir}
        if side == REGSEARCH:
            return _run_regsearch(spec, folder, given | dict(options))
        return _run_plain(side, spec, folder, given | {"feed": side.removeprefix("plain ")})


def _arguments(options: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items() if value is not None]


def _run_plain(side: str, spec: StudySpec, folder: Path, options: Mapping[str, object]) -> Run:
    script = Path(__file__).with_name("plain.py")
    finished = run_command([sys.executable, str(script), *_arguments(options)], folder)
    told = json.loads(finished.stdout)
    return Run(
        side=side,
        study=spec.name,
        seed=spec.search.seed,
        command_s=finished.wall_s,
        search_s=told["search_s"],
        search_began_s=told["search_began"] - finished.started,
        start_up_s=told["first_step_s"],
        training_s=told["training_s"],
        evaluation_s=told["evaluation_s"],
        waiting_s=told["search_s"] - told["training_s"] - told["evaluation_s"],
        trials=told["trials"],
        trial_epochs=told["trial_epochs"],
        best_val_loss=told["best_val_loss"],
        best_so_far=told["best_so_far"],
        peak_mib=finished.peak_mib,
    )


def _run_regsearch(spec: StudySpec, folder: Path, options: Mapping[str, object]) -> Run:
    program, home = str(Path(sysconfig.get_path("scripts")) / "regsearch"), folder / "runs"
    # Confirmation is more than the plain script does.
    command = [program, "start", f"--home={home}", "--no-confirm", *_arguments(options)]
    finished = run_command(command, folder)
    show = [program, "show", f"--home={home}", f"--study={spec.name}", "--json"]
    shown = json.loads(run_command(show, folder).stdout)
    records, search_s = _records(spec.name, home), shown["wall_seconds"]
    # The storage tells when trials began and ended, but not when the search did. Its last seconds, after the last
    # trial, are counted to its beginning: that can only make it look slower.
    began = max(record.ended.timestamp() for record in records) - search_s
    time: Mapping[str, Any] = shown.get("time") or {}
    return Run(
        side=REGSEARCH,
        study=spec.name,
        seed=spec.search.seed,
        command_s=finished.wall_s,
        search_s=search_s,
        search_began_s=max(0.0, began - finished.started),
        start_up_s=time.get("start_up"),
        training_s=time.get("training"),
        evaluation_s=time.get("evaluation"),
        waiting_s=time.get("waiting"),
        asking_s=time.get("asking"),
        recording_s=time.get("recording"),
        trainers=time.get("trainers", 1),
        trials={state: shown["trials"][state] for state in ("complete", "pruned", "failed") if shown["trials"][state]},
        trial_epochs=shown["trial_epochs"],
        best_val_loss=shown["best"]["val_loss"],
        best_so_far=best_so_far(records, began),
        peak_mib=finished.peak_mib,
        chosen=_chosen(finished),
    )


def _records(study: str, home: Path) -> Sequence[TrialRecord]:
    from search.study import StoredStudy
    from search.study.storage import open_existing

    return StoredStudy.load(study, open_existing(None, home)).records()


def best_so_far(records: Iterable[TrialRecord], began: float) -> BestSoFar:
    """Return the best loss at each trial's end; `began` in seconds since the epoch. Pruned trials are no answer."""
    best, rows = inf, []
    for record in sorted(records, key=lambda record: record.ended):
        if record.state == "complete" and record.best is not None:
            best = min(best, record.best.val_loss)
        rows.append((record.ended.timestamp() - began, best if best < inf else None))
    return rows


def _chosen(finished: Finished) -> str:
    """Return what regsearch says of how it computes: trainers and slots, engine, precision and threads."""
    said = finished.stderr + finished.stdout
    found = (re.search(pattern, said, re.MULTILINE) for pattern in (r"^On \S+, (.*?);", r"^Measured and chosen: (.*)"))
    return ", ".join(match[1] for match in found if match)
