"""Faults that are tried, and the rows of docs/reliability.md that this makes."""

import random
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from scripts.faults.injections import FAULTS, Fault
from scripts.faults.processes import REPOSITORY
from scripts.faults.tally import Tally
from tests.postgresql import NoPostgreSQL

PAGE = REPOSITORY / "docs" / "reliability.md"
MARK = "<!-- made by scripts/reliability -->"
HEAD = (
    "fault",
    "how injected",
    "seeds",
    "times tried",
    "results lost",
    "counted twice",
    "budget error",
    "MLflow differs",
    "taken over after, p50 / p99",
    "training thrown away",
)


def inject(fault: Fault, times: int, seed: int) -> Tally:
    """Inject a fault so many times; whatever goes wrong stands in the tally."""
    tally = Tally()
    for which in range(times):
        folder = Path(tempfile.mkdtemp(prefix="regsearch-faults-"))
        try:
            fault.inject(random.Random(seed + which), folder / "home", tally)
        except NoPostgreSQL:
            raise
        except Exception as error:
            tally.complaints.append(f"seed {seed + which}: {type(error).__name__}: {error}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return tally


def row(fault: Fault, seed: int, tally: Tally) -> list[str]:
    """Return a fault's row of the table."""
    return [
        fault.name,
        fault.how,
        f"{seed}-{seed + tally.tried - 1}" if tally.tried > 1 else str(seed),
        str(tally.tried),
        str(tally.lost),
        str(tally.twice),
        str(tally.budget_error),
        "-" if tally.mlflow_differs is None else str(tally.mlflow_differs),
        _times(tally.took_over),
        f"{tally.thrown_away / tally.trained:.1%}" if tally.trained else "-",
    ]


def _times(seconds: list[float]) -> str:
    if not seconds:
        return "-"
    ordered = sorted(seconds)
    return f"{statistics.median(ordered):.1f} / {ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]:.1f} s"


def table(rows: list[list[str]]) -> str:
    lines = [HEAD, ["---"] * len(HEAD), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rewritten(page: str, rows: list[list[str]]) -> str:
    """Return the page with these rows in its table, in the place of older ones of the same faults; others stay."""
    before, old, after = page.split(MARK)
    there = [line.strip("| ").split(" | ") for line in old.split("\n") if line.startswith("| ")]
    by_fault = {(name, how): [name, how, *rest] for name, how, *rest in [*there, *rows]}
    ordered = [by_fault[fault.name, fault.how] for fault in FAULTS if (fault.name, fault.how) in by_fault]
    return f"{before}{MARK}\n\n{table(ordered)}\n\n{MARK}{after}"


@dataclass(frozen=True)
class Outcome:
    """What became of a fault that was injected, or why it was not."""

    fault: int
    """Its index in FAULTS."""
    row: list[str]
    complaints: list[str]
    holds: bool
    seconds: float
    left_out: str | None = None

    def __str__(self) -> str:
        fault = FAULTS[self.fault]
        if self.left_out is not None:
            return f"{fault.name}, {fault.how}: left out, {self.left_out}"
        head = f"{'holds' if self.holds else 'DOES NOT HOLD'}: {' | '.join(self.row)} | {self.seconds:.0f} s"
        return "\n".join([head, *([] if self.holds else (f"    {complaint}" for complaint in self.complaints))])


def tried(which: int, times: int, seed: int) -> Outcome:
    """Inject a fault by its index in FAULTS, a number since functions do not travel between processes."""
    fault, start = FAULTS[which], time.monotonic()
    if reason := fault.cannot():
        return Outcome(which, [], [], True, 0.0, reason)
    try:
        tally = inject(fault, times, seed)
    except NoPostgreSQL as lacking:
        return Outcome(which, [], [], True, 0.0, str(lacking))
    seconds = time.monotonic() - start
    return Outcome(which, row(fault, seed, tally), tally.complaints, tally.holds, seconds)
