"""`scripts/reliability [OPTIONS]`: inject all faults, print the rows of the table, write them into the docs."""

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed

from scripts.faults.injections import FAULTS
from scripts.faults.processes import REPOSITORY
from scripts.faults.rows import PAGE, rewritten, tried


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", action="store_true", help="the short form, as the tests have it")
    parser.add_argument("--only", default="", help="faults whose name or description has this text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="so many faults side by side")
    parser.add_argument("--write", action="store_true", help=f"write the rows into {PAGE.relative_to(REPOSITORY)}")
    options = parser.parse_args()
    wanted = {
        which: times
        for which, fault in enumerate(FAULTS)
        if (times := fault.few if options.few else fault.times) and options.only in f"{fault.name}: {fault.how}"
    }
    outcomes = []
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        # What is tried most often goes first, lest it goes on alone in the end.
        often_first = sorted(wanted, key=lambda which: -wanted[which])
        under_way = [pool.submit(tried, which, wanted[which], options.seed) for which in often_first]
        for done in as_completed(under_way):
            outcomes.append(done.result())
            print(outcomes[-1], flush=True)
    if options.write:
        PAGE.write_text(rewritten(PAGE.read_text(), [outcome.row for outcome in outcomes if outcome.row]))
    sys.exit(0 if all(outcome.holds for outcome in outcomes) else 1)


if __name__ == "__main__":
    main()
