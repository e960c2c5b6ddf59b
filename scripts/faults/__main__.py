"""`scripts/reliability [--few] [--only TEXT] [--write]`: inject all faults, print the table, write it into the docs."""

import argparse
import random
import shutil
import statistics
import sys
import tempfile
import time
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", action="store_true", help="the short form, as the tests have it")
    parser.add_argument("--only", default="", help="faults whose name or description has this text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help=f"write the rows into {PAGE.relative_to(REPOSITORY)}")
    options = parser.parse_args()
    rows, wrong = [], []
    for fault in FAULTS:
        times = fault.few if options.few else fault.times
        if times == 0 or options.only not in f"{fault.name}: {fault.how}":
            continue
        if reason := fault.cannot():
            print(f"{fault.name}, {fault.how}: left out, {reason}", flush=True)
            continue
        start = time.monotonic()
        try:
            tally = inject(fault, times, options.seed)
        except NoPostgreSQL as reason:
            print(f"{fault.name}, {fault.how}: left out, {reason}", flush=True)
            continue
        rows.append(row(fault, options.seed, tally))
        good = "holds" if tally.holds else "DOES NOT HOLD"
        print(f"{good}: {' | '.join(rows[-1])} | {time.monotonic() - start:.0f} s", flush=True)
        if not tally.holds:
            wrong.append(fault)
            print("\n".join(f"    {complaint}" for complaint in tally.complaints), flush=True)
    if options.write:
        PAGE.write_text(rewritten(PAGE.read_text(), rows))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
