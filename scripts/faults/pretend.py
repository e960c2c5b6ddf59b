"""A runner with real storage, sampler, pruner and leases, whose trainers only pretend to train: `python -m` this.

Starts in a second and uses no processor to speak of, so that many can be killed. A configuration's losses depend on
nothing but itself. `--die POINT:N` has it kill itself at the Nth time it comes to a named point.
"""

import argparse
import os
import signal
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import sqlalchemy

from search.errors import RegsearchError, StorageError
from search.pruning import make_pruner
from search.records import Assignment, EpochResult
from search.runner import Runner
from search.spec import StudySpec
from search.stopping import StopRequest
from search.study import Study, close_storage, open_storage, outlast_restart, patience
from search.study.journal import JournalBackend
from search.study.ledger import Ledger
from search.trainers import Report
from search.weights import WeightStore

NAME = "faults"
EPOCHS = 9


def make_spec(trials: int) -> StudySpec:
    return StudySpec.model_validate(
        {
            "name": NAME,
            "data": {"name": "digits"},
            "model": {"hidden": [8]},
            "training": {"max_epochs": EPOCHS},
            "space": {"dropout": {"low": 0.0, "high": 0.5}, "l1": {"low": 1e-6, "high": 1e-2, "log": True}},
            "search": {"trials": trials, "sampler": "random"},
        }
    )


class PretendTrainer:
    """Slots in which epochs pass."""

    lacks = None

    def __init__(self, slots: int, seconds: float) -> None:
        self.slots, self._seconds = slots, seconds
        self._running: dict[int, tuple[Assignment, int]] = {}

    @staticmethod
    def first_done(trainers, timeout):  # noqa: ARG004
        return trainers

    def begin(self, admit, free) -> None:
        for number in free:
            del self._running[number]
        self._running |= {assignment.number: (assignment, 0) for assignment in admit}

    def collect(self) -> Report:
        time.sleep(self._seconds)
        self._running = {number: (who, epoch + 1) for number, (who, epoch) in self._running.items()}
        return Report({number: result(*each) for number, each in self._running.items()})

    def best_weights(self, number: int) -> bytes:
        assert number in self._running
        return bytes(1000)

    def checkpoint(self, free) -> None: ...

    def close(self) -> None:
        pass


class Alone:
    """A crew of one trainer."""

    def __init__(self, trainer: PretendTrainer) -> None:
        self.trainers = [trainer]

    def replace(self, index: int, fewer_slots: bool = False) -> PretendTrainer:  # noqa: ARG002
        return self.trainers[index]


class Onlooker:
    """Prints what is said, and when training has begun."""

    def __init__(self) -> None:
        self._silent = True

    def started(self, assignment) -> None: ...

    def epoch_ended(self, report) -> None:  # noqa: ARG002
        if self._silent:
            print("training", flush=True)
        self._silent = False

    def ended(self, record) -> None: ...

    def message(self, text: str) -> None:
        print(text, flush=True)


def result(assignment: Assignment, epoch: int) -> EpochResult:
    """Return a configuration's losses, which fall, each to an end of its own."""
    end = 0.2 + zlib.crc32(str(sorted(assignment.params.items())).encode()) / 2**32
    loss = end + 1 / epoch
    return EpochResult(epoch, loss / 2, loss, 0.9, 0.0)


def _dying(real: Callable, times: int, before: bool = False) -> Callable:
    left = [times]

    def call(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0 and before:
            os.kill(os.getpid(), signal.SIGKILL)
        told = real(*args, **kwargs)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return told

    return call


POINTS = ("after ask", "before tell", "between fail and queue", "inside the lock")


def die_at(point: str, times: int) -> None:
    """Have this process kill itself the nth time it comes to a point."""
    match point:
        case "file":
            killing = _dying(lambda: None, times)
            sys.addaudithook(lambda event, _: killing() if event.startswith(("open", "os.", "fcntl.")) else None)
        case "statement":
            killing = _dying(lambda: None, times)
            sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", lambda *_: killing())
        case "after ask":
            Study.ask = _dying(Study.ask, times)
        case "before tell":
            Ledger.finish = _dying(Ledger.finish, times, before=True)
        case "between fail and queue":
            Ledger.lose = _dying(Ledger.lose, times)
        case "inside the lock":
            os_write = os.write

            def torn(file: int, data: bytes) -> int:
                """Write a part, as a kill amid a write leaves it."""
                os_write(file, data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
                return 0

            real = JournalBackend.append_logs

            def append(self, logs) -> None:
                nonlocal times
                times -= not hasattr(self._group, "logs")
                if times == 0:
                    os.write = torn
                real(self, logs)

            JournalBackend.append_logs = append


def conclude(study: Study) -> None:
    """Read and write what follows a search."""
    study.elect()
    study.add_wall_seconds(1.0)
    study.set_fact("remarks", [])
    study.settle("probe", 1)
    for read in (study.summary, study.records, study.unfinished, study.waiting, study.spent, study.importances):
        read()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--lease", type=float, default=60.0)
    parser.add_argument("--outage", type=float, default=600.0)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=0.02)
    parser.add_argument("--die")
    parser.add_argument("--fail", help="an SQLSTATE and a file, see scripts/faults/statements.py")
    options = parser.parse_args()
    if options.fail:
        from scripts.faults.statements import Sabotage, may_end

        code, _, file = options.fail.partition(":")
        Sabotage(code, Path(file)).install(sqlalchemy.Engine)
        patience._FIRST_PAUSE = 0.01  # of a hundred failures in a row none lasts
    if options.die:
        point, _, times = options.die.partition(":")
        die_at(point, int(times))
    spec = make_spec(options.trials)
    options.home.mkdir(parents=True, exist_ok=True)

    def opened() -> Study:
        # By the environment: no password stands among a process's arguments.
        storage = open_storage(os.environ.get("REGSEARCH_STORAGE"), options.home)
        try:
            return Study.open(NAME, spec, storage, options.home, options.lease, options.outage)
        except BaseException:
            close_storage(storage)
            raise

    while True:
        try:
            study = outlast_restart(opened, lambda: None)
            break
        except StorageError as error:
            if not options.fail or not may_end(options.fail.partition(":")[0], f"Error: {error}"):
                raise
            # The next start, without the second that its imports take.
    print("running", flush=True)
    with StopRequest() as stop:
        crew = Alone(PretendTrainer(options.slots, options.seconds))
        weights = WeightStore(options.home / "artifacts" / NAME)
        Runner(study, crew, make_pruner(spec, NAME), weights, Onlooker(), stop).run()
    if options.fail and stop.signal is None:
        conclude(study)
    study.close()
    close_storage(study._storage)
    sys.exit(0 if stop.signal is None else 130)


if __name__ == "__main__":
    try:
        main()
    except RegsearchError as error:
        sys.exit(f"Error: {error}")
