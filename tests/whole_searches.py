"""Whole searches on the digits data as real processes, and what to check of them in the end.

All are tiny and train on one thread. Those that are to be disturbed take steps of few examples, to last a moment.
"""

import json
import os
import re
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner
from conftest import SPEC
from mlflow_runs import Reader

from search.cli import main
from search.confirmation import Repeats
from search.errors import RegsearchError
from search.records import Summary, TrialRecord
from search.study import StoredStudy, close_storage, open_storage
from search.tracking import default_tracking_uri

SLOW = SPEC.replace("batch_size = 64", "batch_size = 8").replace("trials = 6", "trials = 8")
"""A search of some seconds."""

ENDLESS = "--trials=1000"

TRIAL_LINE = re.compile(r"^\[ *\d+/\d+\] trial \d+ ", re.MULTILINE)


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without settings for the program, and with one thread."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("REGSEARCH_", "MLFLOW_"))}
    return {**outside, "OMP_NUM_THREADS": "1", "COLUMNS": "80", "NO_COLOR": "1", **more}


class Running:
    """A `regsearch` at work, with what it has printed so far."""

    def __init__(self, folder: Path, arguments: tuple[str, ...]) -> None:
        program = Path(sysconfig.get_path("scripts")) / "regsearch"
        number = len(list(folder.glob("out-*")))
        self._out, self._err = folder / f"out-{number}", folder / f"err-{number}"
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            self.process = subprocess.Popen(
                [program, *arguments],
                cwd=folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def wait_for_trials(self, count: int = 1) -> None:
        wait_until(lambda: len(TRIAL_LINE.findall(self.out)) >= count or self.process.poll() is not None)
        assert self.process.poll() is None, self.out + self.err

    def ends(self, code: int) -> "Running":
        assert self.process.wait(timeout=300) == code, self.out + self.err
        assert "Traceback" not in self.err
        assert "Warning" not in self.err
        return self

    def children(self) -> list[int]:
        """Return the ids of the trainer processes."""
        pid = self.process.pid
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in listed if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


class Place:
    """A folder with a study and a home, and all the searches that were started there."""

    def __init__(self, folder: Path, database: Path, spec: str = SPEC) -> None:
        self.folder, self.home = folder, folder / "runs"
        self.home.mkdir()
        shutil.copy(database, self.home / "mlflow.db")
        self.write(spec)
        self._started: list[Running] = []

    def write(self, spec: str) -> None:
        (self.folder / "tiny.toml").write_text(spec)

    def launch(self, *arguments: str) -> Running:
        """Begin a search without waiting for its end."""
        self._started.append(
            Running(
                self.folder,
                ("start", "--study", "tiny.toml", "--engine=stacked", "--precision=fp32", "--population=2", *arguments),
            )
        )
        return self._started[-1]

    def start(self, *arguments: str, code: int = 0) -> Running:
        """Search until the end."""
        return self.launch(*arguments).ends(code)

    def go_on(self) -> int:
        """Finish a search that was cut off, and two trials more. Return how many there should be."""
        trials = self.summary().trials
        total = len(counted(self.records())) + trials["waiting"] + trials["running"] + 2
        self.start(f"--trials={total}", "--population=4")
        return total

    def command(self, *arguments: str) -> str:
        """Run another command on this home."""
        result = CliRunner().invoke(main, [*arguments, "--home", str(self.home)])
        assert result.exit_code == 0, result.output
        return result.output

    def repeats(self) -> Repeats | None:
        """Return what has been confirmed so far; None also as long as there is no study."""
        if not (self.home / "optuna.journal").exists():
            return None
        try:
            return self._read(None).repeats()
        except RegsearchError:
            return None

    def show(self) -> dict:
        result = CliRunner().invoke(main, ["show", "--study", "tiny", "--home", str(self.home), "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def records(self, storage: str | None = None) -> list[TrialRecord]:
        return self._read(storage).records()

    def summary(self, storage: str | None = None) -> Summary:
        return self._read(storage).summary()

    def mlflow(self, uri: str | None = None) -> Reader:
        return Reader(uri or default_tracking_uri(self.home), "tiny")

    def close(self) -> None:
        for running in self._started:
            running.process.kill()
            running.process.wait()

    def _read(self, storage: str | None) -> StoredStudy:
        opened = open_storage(storage, self.home)
        try:
            return StoredStudy.load("tiny", opened)
        finally:
            close_storage(opened)


def wait_until(happened: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def first_attempt(record: TrialRecord) -> int:
    return record.number if record.retry_of is None else record.retry_of


def counted(records: list[TrialRecord]) -> list[TrialRecord]:
    return [record for record in records if not record.reason.is_no_result]


def assert_exact(place: Place, trials: int, storage: str | None = None) -> None:
    """Check that so many configurations counted, each of them once, and that none was lost or is left over."""
    records, summary = place.records(storage), place.summary(storage)
    ended = [first_attempt(record) for record in counted(records)]
    assert len(ended) == len(set(ended)) == trials
    assert {first_attempt(record) for record in records} == set(ended)
    assert (summary.trials["running"], summary.trials["waiting"]) == (0, 0)
    by_number = {record.number: record for record in records}
    for record in records:
        assert record.params == by_number[first_attempt(record)].params
        assert record.role == by_number[first_attempt(record)].role


def assert_all_in_mlflow(place: Place, uri: str | None = None) -> None:
    """Check that MLflow holds every trial once, ended as in Optuna, below one finished run of the study."""
    found, records = place.mlflow(uri), place.records()
    [study] = found.studies
    assert study.info.status == "FINISHED"
    assert found.numbers == [record.number for record in records]
    statuses = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
    assert [run.info.status for run in found.trials] == [statuses[record.state] for record in records]
    assert {run.data.tags["mlflow.parentRunId"] for run in found.trials} == {study.info.run_id}
