"""One run of `regsearch start`, from options to the summary: puts the parts together and takes them apart again.

Checks come first (device, data, storage), so that a mistake is told before anything is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from search.crew import Crew
from search.errors import DataError, StudyGoneError, TrainerError
from search.findings import Findings
from search.places import artifact_folder, made_home
from search.records import Summary, TrialRecord
from search.spec import StudySpec
from search.stopping import Interruptible, StopRequest
from search.tracked import begin, end, tracked_study
from search.tracking import Closing, Tracker, TrackingOutcome, artifact_root, default_tracking_uri
from search.trainers import NOTHING_OWN, Own, TrainerLost
from search.training.checkpoints import discard
from search.wishes import Wishes

if TYPE_CHECKING:
    from search.aftermath import Onlooker
    from search.confirmation import Confirm
    from search.protocols import Watcher
    from search.records import Assignment
    from search.study import Study
    from search.study.leases import RunnerRecord, Task
    from search.trainers import Report
    from search.weights import WeightStore

_TRACKING_PATIENCE = (30.0, 600.0)
_INTERRUPTED_TRACKING_PATIENCE = (5.0, 30.0)
"""Seconds without progress, and in all, after which MLflow is left behind."""


@dataclass(frozen=True)
class Options:
    """What the command line decides beside the spec."""

    name: str
    home: Path
    trainers: Wishes
    storage: str | None = None
    tracking_uri: str | None = None
    confirm: Confirm | None = None
    """How to confirm what was found; None for not at all."""
    ablate: int | None = None
    """With how many seeds to train the best regularized one without each of its ingredients; None for not at all."""
    search: bool = True
    """Whether to search, or only to confirm and ablate what was found."""
    own: Own = NOTHING_OWN
    """What the user brings along beside the spec."""
    lease: float = 60.0
    """Seconds without a sign of life after which others may take over this process's trials."""
    outage: float = 3600.0
    """Seconds for which a storage that does not answer is asked again."""


@dataclass(frozen=True)
class Ending:
    """What `start` has to tell at the end."""

    summary: Summary
    tracking: TrackingOutcome
    interrupted_by: int | None
    timed_out: bool
    report: Path | None = None
    """The page that tells all of it; None when it could not be written."""
    stopped: bool = False
    """Whether it ended because somebody asked for it with `regsearch stop`."""
    left_to: str | None = None
    """Who else confirms and reports what was found, as `process on host`; None when it was done here."""


class Session:
    """A search being run. `prepare` refuses what cannot work; `run` searches, scores and tidies up."""

    def __init__(self, spec: StudySpec, options: Options, started: float | None = None) -> None:
        """`started` is when the program was, by the monotonic clock."""
        self.spec, self.options = spec, options
        self._stop: Callable[[], bool] = lambda: False
        self._started = time.monotonic() if started is None else started

    def prepare(self) -> None:
        """Check device and data, then open the study. Nothing is written before all of that is known to work."""
        with Interruptible() as interruptible:
            self._prepare(interruptible.check)

    def _prepare(self, interrupted: Callable[[], None]) -> None:
        checkpoints = self._checkpoints if self.options.search else None
        self._crew = Crew(self.spec, self.options.trainers, lambda: self._stop(), self.options.own, checkpoints)
        try:
            self._crew.start()
            # While the trainers' processes import torch and load the data, this one imports what it needs itself.
            from search.study import outlast_restart

            fingerprints = self._crew.get_ready(interrupted)
            interrupted()
            with made_home(self.options.home):
                self._study = outlast_restart(self._open, interrupted)
            try:
                self._check_fingerprints(fingerprints)
                self._check_test_data()
                if (noise := self.options.own.noise) is not None:
                    self._study.keep_noise(noise.told)
            except BaseException:
                self._study.close()  # lest it looks as if somebody ran it
                raise
        except TrainerLost as error:
            self._crew.close()
            raise TrainerError(f"a trainer could not be started: {error}") from error
        except BaseException:
            self._crew.close()
            raise

    def _open(self) -> Study:
        from search.study import Study, close_storage, open_storage

        options = self.options
        storage = open_storage(options.storage, options.home)
        task: Task = "search" if options.search else "finish"
        try:
            return Study.open(options.name, self.spec, storage, options.home, options.lease, options.outage, task)
        except BaseException:
            close_storage(storage)  # a server has few connections, and may be asked again
            raise

    @property
    def choices(self) -> str:
        """What was chosen, in a line."""
        crew = self._crew
        trainers = "1 trainer" if len(crew.trainers) == 1 else f"{len(crew.trainers)} trainers"
        slots = "1 slot" if crew.slots == 1 else f"{crew.slots} slots"
        line = f"On {crew.where}, {trainers} of {slots}; everything goes to {self.options.home}"
        noise = self.options.own.noise
        for notice in (*crew.notices, *([] if noise is None else noise.told.notices)):
            line += f"\n{notice}"
        for remark in self.options.own.remarks:
            line += f"\n{remark}"
        if self._study.recovered:
            line += f"\n{self._study.recovered} trials of an earlier run were cut off and are back in the queue"
        if self._study.delivered:
            line += f"\n{self._study.delivered} results that an earlier run could not record are recorded now"
        if left_out := self._study.summary().left_out:
            line += f"\nOther programs' trials are left out ({len(left_out)}); `show` names them"
        for other in self._study.others:
            line += f"\nThis study is also run by process {other.pid} on {other.host}; the budget counts for both"
        return line

    @property
    def records(self) -> list[TrialRecord]:
        """The trials that have ended by now, from storage alone."""
        return self._study.records()

    @property
    def tracking_uri(self) -> str:
        """Where MLflow's runs go."""
        return self.options.tracking_uri or default_tracking_uri(self.options.home)

    @property
    def artifacts(self) -> Path:
        """Folder of this study's own files: best configuration and weights."""
        return artifact_folder(self.options.home, self.options.name)

    @property
    def _checkpoints(self) -> Path:
        """Folder of what unfinished trials go on from."""
        return self.options.home / "checkpoints" / self.options.name

    def run(self, watcher: Onlooker, stop: StopRequest) -> Ending:
        """Search until the budget is used up or the user stops it; then score, record, and return how it stands."""
        start, self._stop = time.monotonic(), stop
        study, options = self._study, self.options
        findings = Findings(study, options.home, options.storage, options.tracking_uri, watcher.message)
        begin(study)
        if options.own != NOTHING_OWN:
            study.set_fact("remarks", list(options.own.remarks))
        tracker = Tracker(
            self.tracking_uri,
            artifact_root(self.tracking_uri),
            tracked_study(study),
            [] if study.others else study.ended_by_nobody_else(),
            findings.command("sync"),
        )
        try:
            weights = self._weights(study.summary())
            cut_short = self._search(watcher, tracker, weights, stop) if options.search else False
            holder = study.elect(stop) if options.search and not cut_short else None
            if holder is not None:
                return self._leave_to(holder, tracker)
            cut_short = self._look_closer(watcher, weights, stop, cut_short, start)
            return self._conclude(tracker, findings, weights, stop, cut_short)
        except StudyGoneError:
            tracker.abandon()  # what it has not written yet is of a study that is not wanted any more
            raise
        except Exception:
            # What MLflow has not written yet is written all the same, as far as that goes soon.
            tracker.finish(Closing(interrupted=True, ended=datetime.now(UTC)), *_INTERRUPTED_TRACKING_PATIENCE)
            raise
        except BaseException:
            tracker.abandon()
            raise
        finally:
            self._crew.close()
            study.close()

    def _look_closer(
        self, watcher: Onlooker, weights: WeightStore, stop: StopRequest, cut_short: bool, start: float
    ) -> bool:
        """Score, confirm and ablate what was found, as wanted; return whether that, or the search, was cut short.

        `start` is when the search began, by the monotonic clock.
        """
        from search.aftermath import Aftermath

        study, options = self._study, self.options
        if not cut_short:  # others may be writing some, or be about to record what they belong to
            weights.tidy(study.summary())
        after = Aftermath(self.spec, study, self._crew, self.artifacts, watcher, stop)
        if cut_short:  # what was found by then is scored all the same
            stop.forget_time()
        if not (cut_short and (stop.signal or stop.requested)):
            cut_short = not after.score(weights) or cut_short
        study.add_wall_seconds(time.monotonic() - start)
        if options.confirm is not None and not cut_short:
            cut_short = not after.confirm(options.confirm)
        if not cut_short:
            cut_short = not after.keep_winner(weights)
        if options.ablate is not None and not cut_short:
            cut_short = not after.ablate(options.ablate)
        return cut_short

    def _conclude(
        self, tracker: Tracker, findings: Findings, weights: WeightStore, stop: StopRequest, cut_short: bool
    ) -> Ending:
        """Write what was found for people and for MLflow, and return how it stands."""
        study, summary = self._study, self._study.summary()
        findings.write_best(summary, weights)
        to_run = sum(summary.trials[state] for state in ("running", "waiting")) - summary.beyond_budget
        unfinished = cut_short or to_run > 0
        end(study, finished=not unfinished)
        self._crew.close()
        if not unfinished:
            discard(self._checkpoints)
        self._complete(tracker, cut_short)
        report, told = findings.write_report(), findings.closing()
        interrupted_by = stop.signal if cut_short else None
        # As long as this process writes to MLflow it runs the study: who starts it next would write the same.
        patience = _TRACKING_PATIENCE if interrupted_by is None else _INTERRUPTED_TRACKING_PATIENCE
        outcome = tracker.finish(told, *patience)
        if outcome.message is None:
            findings.pass_on(iter(tracker.notice, None))
        stopped = cut_short and interrupted_by is None and stop.requested
        timed_out = cut_short and interrupted_by is None and not stopped
        return Ending(summary, outcome, interrupted_by, timed_out, report, stopped)

    def _complete(self, tracker: Tracker, cut_short: bool) -> None:
        """Have MLflow told of the trials that others have ended and left untold, unless somebody stays to do that."""
        study = self._study
        tracker.catch_up(study.records(), [] if cut_short and study.others else study.ended_by_nobody_else())

    def _leave_to(self, holder: RunnerRecord, tracker: Tracker) -> Ending:
        """Return the ending where somebody else does what follows the search."""
        self._crew.close()
        outcome = tracker.finish(Closing(False, datetime.now(UTC), to_be_continued=True), *_TRACKING_PATIENCE)
        return Ending(self._study.summary(), outcome, None, False, left_to=f"process {holder.pid} on {holder.host}")

    def close(self) -> None:
        """End what is still at work and let others run the study; harmless when `run` has done so."""
        self._crew.close()
        self._study.close()

    def _check_fingerprints(self, fingerprints: set[str]) -> None:
        """A study's trials must all have seen the same data."""
        first, *others = fingerprints
        if others or self._study.settle("data_fingerprint", first) != first:
            if others:
                raise DataError("the trainers' machines do not have the same data: put the same on each of them")
            folder = self.options.trainers.data_dir
            raise DataError(
                f'the data in {folder} is not what study "{self._study.name}" was started with; '
                "use the same data, or give the study a new name: --name NEW"
            )

    def _check_test_data(self) -> None:
        """Scores on test data are read once, so that those on other data would go by the same name."""
        own = self.options.own.data
        told = None if own is None else own.test_fingerprint
        if told is not None and self._study.settle("test_fingerprint", told) != told:
            raise DataError(
                f'the test data is not what study "{self._study.name}" was started with, and is scored by; '
                "use the same, or give the study a new name"
            )
        for examples, majority in ({} if own is None else own.majorities).items():
            self._study.keep_majority(examples, majority)

    def _weights(self, before: Summary) -> WeightStore:
        from search.weights import WeightStore

        best = before.best.best if before.best is not None else None
        return WeightStore(self.artifacts, best.val_loss if best is not None else float("inf"), self._study.identity)

    def _search(self, watcher: Watcher, tracker: Tracker, weights: WeightStore, stop: StopRequest) -> bool:
        """Search, and return whether that was cut short: what is asked once all trials have ended is not."""
        from search.dashboards.content import NoticeBoard
        from search.pruning import make_pruner
        from search.runner import Runner

        tracked = _TrackedWatcher(watcher, tracker, self._study.has_ended)
        self._study.on_end = NoticeBoard(self._study).ended
        runner = Runner(
            self._study,
            self._crew,
            make_pruner(self.spec, self._study.name),
            # A trial of several folds has several models, and none to keep.
            weights if self.spec.data.folds is None else None,
            tracked,
            stop,
            self._started,
        )
        runner.run()
        if runner.time_spent.trainers:
            self._study.set_fact("time", asdict(runner.time_spent))
            engines = {"trained with": "; ".join(sorted(tracked.engines))} if tracked.engines else {}
            self._study.set_fact("machine", self._crew.describe() | engines)
        return self._study.unfinished() > 0


class _TrackedWatcher:
    """Passes everything on to the progress display, and the trials that were ended here to MLflow."""

    def __init__(self, watcher: Watcher, tracker: Tracker, ended_here: Callable[[int], bool]) -> None:
        self._watcher, self._tracker, self._ended_here = watcher, tracker, ended_here
        self.engines: set[str] = set()
        """What the trainers have measured and chosen."""

    def started(self, assignment: Assignment) -> None:
        """Pass on."""
        self._watcher.started(assignment)

    def epoch_ended(self, report: Report) -> None:
        """Pass on, and say what there is to say of trainers and MLflow."""
        if report.engine and report.engine not in self.engines:
            self.engines.add(report.engine)
            self._watcher.message(f"Measured and chosen: {report.engine}")
        self._watcher.epoch_ended(report)
        while (notice := self._tracker.notice()) is not None:
            self._watcher.message(notice)

    def ended(self, record: TrialRecord) -> None:
        """Pass on, also to MLflow, unless another process ended it: that one writes it."""
        if self._ended_here(record.number):
            self._tracker.trial(record)
        self._watcher.ended(record)

    def message(self, text: str) -> None:
        """Pass on."""
        self._watcher.message(text)
