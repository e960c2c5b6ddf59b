"""The faults: each injects itself into one study with a seed of its own, and has what became of it counted."""

import fcntl
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from scripts.faults import tracked
from scripts.faults.beginnings import all_killed_at_first, first_starts_at_once, killed_at_a_file
from scripts.faults.damage import any_line, damaged_file, flip_bit
from scripts.faults.databases import ROWS as DATABASES
from scripts.faults.outputs import folder_deleted, log_full, mounted, redirected, terminal_closed
from scripts.faults.pretend import NAME, POINTS
from scripts.faults.processes import pretend
from scripts.faults.proxy import Proxy
from scripts.faults.reading import anothers_folder, read_only_mount
from scripts.faults.startups import ROWS as STARTUPS
from scripts.faults.strangers import deleted, thrown_in
from scripts.faults.tally import Tally
from scripts.faults.whole import (
    GROUPS,
    killed_for_real,
    mlflow_cut_off,
    mlflow_restarted,
    out_of_memory,
    ray_node_killed,
)
from search.study import StoredStudy, close_storage, open_storage
from tests.postgresql import crash, postgresql_server

TRIALS = 24
_PATIENCE = 30.0  # seconds for a runner to take over on a busy machine


@dataclass(frozen=True)
class Fault:
    """One row of the table."""

    name: str
    how: str
    inject: Callable[[random.Random, Path, Tally], None]
    times: int
    """How often in the long form."""
    few: int = 1
    """How often in the short one."""
    needs: tuple[str, ...] = ()
    """Programs, or `root`, or a folder to write to, or `ray`, the package."""

    def cannot(self) -> str | None:
        """Return why this fault cannot be injected here, or None."""
        lacking = [name for name in self.needs if not _is_there(name)]
        return f"needs {', '.join(lacking)}" if lacking else None


def _is_there(need: str) -> bool:
    if need == "root":
        return os.geteuid() == 0
    if need == "ray":
        return find_spec("ray") is not None
    return os.access(need, os.W_OK) if need.startswith("/") else shutil.which(need) is not None


def until_done(home: Path, storage: str | None = None, **options: object) -> str:
    """Run a study to its end, as its user does: the same command again."""
    last = pretend(home, storage, trials=TRIALS, **options)
    code = last.end()
    assert code == 0, f"ended with {code}: {last.output[-2000:]}"
    return last.output


def took_over(tally: Tally, home: Path, storage: str | None, since: float) -> None:
    """Take down how long the lost trials of a death took to be back in the queue."""
    tally.took_over += lost_since(home, storage, since)


def lost_since(home: Path, storage: str | None, since: float) -> list[float]:
    """Return after how many seconds each trial was lost that was lost since then."""
    opened = open_storage(storage, home)
    ends = [
        trial.datetime_complete.timestamp()
        for trial in StoredStudy.load(NAME, opened)._study.trials
        if trial.user_attrs.get("reason") == "lost"
    ]
    close_storage(opened)
    return [end - since for end in ends if end >= since]


def killed_alone(dice: random.Random, home: Path, tally: Tally) -> None:
    runner = pretend(home, trials=TRIALS)
    runner.wait_for("training")
    time.sleep(dice.uniform(0, 1.5))
    since = runner.kill()
    runner.end()
    until_done(home)
    took_over(tally, home, None, since)
    tally.count(home, None, TRIALS)


def killed_among_three(dice: random.Random, home: Path, tally: Tally, storage: str | None = None) -> None:
    runners = [pretend(home, storage, trials=TRIALS, slots=2, seconds=0.05) for _ in range(3)]
    for runner in runners:
        runner.wait_for("training")
    time.sleep(dice.uniform(0, 1.0))
    victim = dice.choice(runners)
    since = victim.kill()
    for runner in runners:
        runner.end()
    until_done(home, storage)
    took_over(tally, home, storage, since)
    tally.count(home, storage, TRIALS)


def killed_at(point: str, storage_of: Callable[[], Iterator[str | None]]) -> Callable:
    def inject(dice: random.Random, home: Path, tally: Tally) -> None:
        with storage_of() as storage:
            if point == "between fail and queue":
                first = pretend(home, storage, trials=TRIALS)  # somebody has to be taken over first
                first.wait_for("training")
                time.sleep(0.3)
                first.kill()
                first.end()
                times = 1
            else:
                times = dice.randint(1, 12)
            others = 2 if storage else 0
            runners = [pretend(home, storage, trials=TRIALS, die=f"{point}:{times}", slots=2)]
            runners += [pretend(home, storage, trials=TRIALS, slots=2) for _ in range(others)]
            for runner in runners:
                runner.end()
            until_done(home, storage)
            tally.count(home, storage, TRIALS)

    return inject


def holds_lock(home: Path) -> bool:
    """Return whether a process that was stopped amid an append holds the journal, so that nobody can take it over."""
    with suppress(FileNotFoundError), open(home / "optuna.journal.flock") as file:
        for _ in range(10):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.1)
            else:
                return False
        return True
    return False


def asleep(dice: random.Random, home: Path, tally: Tally, storage: str | None = None) -> None:
    # PostgreSQL may first have to end a transaction in which the runner fell asleep, which takes it 10 s.
    lease = 2.0 if storage is None else 6.0
    sleeper = pretend(home, storage, trials=TRIALS, lease=lease, slots=3, seconds=0.1)
    sleeper.wait_for("training")
    time.sleep(dice.uniform(0.3, 1.0))
    since = sleeper.kill(signal.SIGSTOP)
    other = pretend(home, storage, trials=TRIALS, lease=lease, slots=3)
    time.sleep(3 * lease)
    # On a busy machine the other one may have begun to look at it only now.
    end = time.monotonic() + _PATIENCE
    while not lost_since(home, storage, since) and not holds_lock(home) and time.monotonic() < end:
        time.sleep(0.5)
    sleeper.kill(signal.SIGCONT)
    other.end()
    sleeper.end()
    until_done(home, storage)
    took_over(tally, home, storage, since)
    tally.count(home, storage, TRIALS)
    if lost_since(home, storage, since) and "lost its lease" not in sleeper.output:
        tally.complaints.append(f"the sleeper did not say that it lost its lease: {sleeper.output[-500:]}")


def many_starts(dice: random.Random, home: Path, tally: Tally, storage: str | None = None) -> None:  # noqa: ARG001
    runners = [pretend(home, storage, trials=40, slots=2) for _ in range(16)]
    for runner in runners:
        runner.end()
    tally.count(home, storage, 40)


def wrong_clocks(dice: random.Random, home: Path, tally: Tally) -> None:
    with postgresql_server() as storage:
        shifts = ("-1h", "+1h", "+0h")
        runners = [
            pretend(home, storage, ("faketime", "-f", shift), trials=TRIALS, slots=2, seconds=0.05, lease=4)
            for shift in shifts
        ]
        for runner in runners:
            runner.wait_for("training")
        time.sleep(dice.uniform(0, 1))
        runners[dice.randrange(3)].kill()
        for runner in runners:
            runner.end()
        until_done(home, storage)
        tally.count(home, storage, TRIALS)


@contextmanager
def postgresql() -> Iterator[str]:
    with postgresql_server() as url:
        yield url


@contextmanager
def journal() -> Iterator[None]:
    yield None


def with_postgresql(fault: Callable) -> Callable:
    def inject(dice: random.Random, home: Path, tally: Tally) -> None:
        with postgresql_server() as storage:
            fault(dice, home, tally, storage)

    return inject


def restarted(dice: random.Random, home: Path, tally: Tally) -> None:
    with postgresql_server() as storage:
        runner = pretend(home, storage, trials=60, seconds=0.1)
        runner.wait_for("training")
        for _ in range(10):
            time.sleep(dice.uniform(0.1, 0.6))
            with suppress(OSError, IndexError):  # it is not up again yet
                crash(storage)
        code = runner.end()
        if code:
            tally.complaints.append(f"the runner ended with {code}: {runner.output[-3000:]}")
        tally.count(home, storage, 60)


def cut_off(seconds: float) -> Callable:
    def inject(dice: random.Random, home: Path, tally: Tally) -> None:
        with postgresql_server() as storage:
            folder = storage.partition("host=")[2]
            proxy = Proxy(f"{folder}/.s.PGSQL.5432")
            through = f"postgresql+psycopg://postgres@127.0.0.1:{proxy.port}/postgres"
            runner = pretend(home, through, trials=TRIALS, seconds=0.1, lease=max(10, seconds / 2))
            runner.wait_for("training")
            time.sleep(dice.uniform(0.3, 1.0))
            proxy.cut()
            time.sleep(seconds)
            proxy.mend()
            code = runner.end()
            proxy.close()
            if code:
                tally.complaints.append(f"the runner ended with {code}: {runner.output[-500:]}")
            tally.count(home, storage, TRIALS)

    return inject


def torn_tail(kind: str) -> Callable:
    def inject(dice: random.Random, home: Path, tally: Tally) -> None:
        killed = pretend(home, trials=TRIALS)
        killed.wait_for("training")
        time.sleep(dice.uniform(0.2, 1.0))
        killed.kill()
        killed.end()
        path = home / "optuna.journal"
        match kind:
            case "torn":
                content = path.read_bytes()
                last = content.rstrip(b"\n").rfind(b"\n") + 1
                path.write_bytes(content[: dice.randint(last + 1, len(content) - 1)])
            case "NUL-filled":
                with path.open("ab") as file:
                    file.write(b"\0" * dice.randint(1, 5000))
            case _:
                with path.open("ab") as file:
                    file.write(bytes(dice.randrange(256) for _ in range(dice.randint(1, 500))))
        until_done(home)
        tally.count(home, None, TRIALS)

    return inject


def full_disk(dice: random.Random, home: Path, tally: Tally) -> None:
    """The home is a small file system in a mount namespace of the runner's own; somebody fills it, and tidies up."""
    with mounted(home, "2m") as enter:
        runner = pretend(home, None, enter, trials=TRIALS, seconds=0.1)
        runner.wait_for("training")
        time.sleep(dice.uniform(0.2, 0.6))
        fill = f"dd if=/dev/zero of={home}/ballast bs=4k 2>/dev/null; sleep 4; rm {home}/ballast"
        subprocess.run([*enter, "sh", "-c", fill], check=False)
        code = runner.end()
        subprocess.run([*enter, "cp", "-a", f"{home}/.", f"{home}-copy"], check=True)
    if code or "The storage is back" not in runner.output:
        tally.complaints.append(f"the runner ended with {code}: {runner.output[-500:]}")
    tally.count(home.with_name(home.name + "-copy"), None, TRIALS)


def read_only(dice: random.Random, home: Path, tally: Tally) -> None:
    with mounted(home, "20m") as enter:
        _remounted(dice, home, tally, enter)
    tally.count(home.with_name(home.name + "-copy"), None, TRIALS)


def _remounted(dice: random.Random, home: Path, tally: Tally, enter: tuple[str, ...]) -> None:
    runner = pretend(home, None, enter, trials=TRIALS, seconds=0.1)
    runner.wait_for("training")
    time.sleep(dice.uniform(0.2, 0.6))
    again = f"i=0; until mount -o remount,ro {home}; do i=$((i+1)); [ $i -gt 200 ] && exit 1; sleep 0.02; done"
    subprocess.run([*enter, "sh", "-c", f"{again}; sleep 4; mount -o remount,rw {home}"], check=False)
    code = runner.end()
    subprocess.run([*enter, "cp", "-a", f"{home}/.", f"{home}-copy"], check=True)
    if code or "The storage is back" not in runner.output:
        tally.complaints.append(f"the runner ended with {code}: {runner.output[-500:]}")


_MOUNTS = ("root", "unshare", "nsenter", "mount")

FAULTS = (
    Fault("runner killed", "kill -9 at a random moment, journal, started again", killed_alone, 60, 4),
    Fault("1 of 3 runners killed", "kill -9 at a random moment, journal", killed_among_three, 20, 2),
    Fault("1 of 3 runners killed", "the same on PostgreSQL", with_postgresql(killed_among_three), 20, 2),
    Fault("runner killed", "kill -9 of `regsearch start`, journal and MLflow", killed_for_real(False), 10, 1),
    Fault("trainer killed", "kill -9 of a trainer of `regsearch start`", killed_for_real(True), 10, 1),
    Fault(
        "Ray node killed", "kill -9 of 1 of 2 nodes amid `regsearch start --ray`", ray_node_killed, 10, needs=("ray",)
    ),
    *(Fault("runner killed", f"{point}, journal", killed_at(point, journal), 5) for point in POINTS),
    *(
        Fault("runner killed", f"{point}, 1 of 3 on PostgreSQL", killed_at(point, postgresql), 5)
        for point in POINTS[:3]
    ),
    Fault("new home killed", "kill -9 of all processes in its first seconds", all_killed_at_first, 10, 0),
    Fault("new home killed", "kill -9 at one of its first file operations, journal", killed_at_a_file(None), 30),
    Fault("new home killed", "kill -9 at one of its first statements, SQLite", killed_at_a_file("sqlite"), 30),
    Fault("4 starts at once", "of a new home, with MLflow", first_starts_at_once, 10, 0),
    *(Fault(*row) for row in STARTUPS),
    Fault("runner asleep", "SIGSTOP for three leases of 2 s, journal", asleep, 5),
    Fault("runner asleep", "the same for leases of 6 s, on PostgreSQL", with_postgresql(asleep), 5),
    Fault("16 starts at once", "one study, journal", many_starts, 3),
    Fault("16 starts at once", "the same on PostgreSQL", with_postgresql(many_starts), 3),
    *(
        Fault(f"{kind} journal", "killed, then the file's end damaged", torn_tail(kind), 10)
        for kind in ("torn", "NUL-filled", "garbage")
    ),
    Fault("damaged journal", "a line of a finished study's, mended as is advised", damaged_file(None, any_line), 20, 2),
    Fault("flipped bit", "in a finished study's journal, mended as is advised", damaged_file(None, flip_bit), 20, 2),
    Fault("flipped bit", "in a finished study's SQLite file", damaged_file("sqlite", flip_bit), 20),
    Fault("disk full", "a tmpfs of 2 MB, full for 4 s", full_disk, 5, needs=_MOUNTS),
    Fault("home read-only", "remounted for 4 s", read_only, 5, needs=_MOUNTS),
    Fault("home read-only", "read by each command, on such a mount", read_only_mount, 10, needs=_MOUNTS),
    Fault("home read-only", "another user's, read by each command", anothers_folder, 10, 0, needs=("root", "setpriv")),
    Fault("progress cannot be written", "the log's disk full for 8 s, `start --detach`", log_full, 10, 0, _MOUNTS),
    *(
        Fault("progress cannot be written", how, redirected(shell, code), times, few)
        for how, shell, code, times, few in (
            ("`start` into a pipe that `head -n 1` closes", "| head -n 1", 141, 10, 1),
            ("`start >/dev/full 2>&1`", ">/dev/full 2>&1", 1, 10, 0),
            ("`start 2>/dev/full`", "2>/dev/full", 0, 10, 0),
            ("`start` without standard streams", "<&- >&- 2>&-", 1, 20, 0),
        )
    ),
    Fault("terminal closed", "amid the live view of `start`", terminal_closed, 10),
    Fault("working directory deleted", "amid `start`, and its trainer killed", folder_deleted, 10),
    Fault("PostgreSQL restarted", "ten times in a row, at once", restarted, 3),
    *(
        Fault("PostgreSQL cut off", f"for {seconds} s, by a TCP proxy", cut_off(seconds), times, few)
        for seconds, times, few in ((5, 3, 1), (30, 2, 0), (120, 1, 0))
    ),
    *(Fault(*row) for row in DATABASES),
    Fault("MLflow server killed", "and started again, ten times in a row", mlflow_restarted, 2, 0),
    *(
        Fault("MLflow server cut off", f"for {seconds} s, by a TCP proxy", mlflow_cut_off(seconds), times, few)
        for seconds, times, few in ((5, 3, 1), (30, 2, 0), (120, 1, 0))
    ),
    *(
        Fault("MLflow server fails", f"on 3 of 10 requests: {how}", tracked.fails_in_part(way), 20, few)
        for how, way, few in tracked.IN_PART
    ),
    Fault("MLflow server set back", "to an older database, amid the search", tracked.set_back, 20, 0),
    Fault("4 starts at once", "of a new study on an MLflow server", tracked.first_starts_at_once, 20, 0),
    Fault(
        "clocks one hour off", "3 runners by libfaketime, one killed, PostgreSQL", wrong_clocks, 3, needs=("faketime",)
    ),
    Fault("foreign trials", "random enqueues, adds, asks and tells by plain Optuna, journal", thrown_in, 10),
    Fault("foreign trials", "random ones of plain Optuna on PostgreSQL", with_postgresql(thrown_in), 10, 0),
    Fault("study deleted", "by Optuna, amid `regsearch start` and `watch`", deleted("study"), 10),
    Fault("home deleted", "rm -rf, amid `regsearch start` and `watch`", deleted("home"), 10),
    Fault("out of memory", "the kernel kills a trainer", out_of_memory, 3, needs=("root", str(GROUPS))),
)
