"""How soon the report of a large study can be used, in the browser that is there.

The study is that of `scripts/growth`: the real runner and storage, trainers that cost nothing. Its page is opened again
and again, each time in a browser that has just been started; several pages (`--page`) take turns. While it loads, the
wheel is turned once, in each opening at another moment.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from scripts.benchmarks.chromium import Chromium
from scripts.benchmarks.growth import measure
from search.report import gather, write_page
from search.report.static import find_browser
from search.study import StoredStudy, close_storage, open_storage

FIRST_SECONDS = 3.0
"""Of which the longest block is told."""
LONGEST_WAIT = 60.0
WHEEL_FROM, WHEEL_TO = 0.3, 2.0
TIMES = {
    "first paint": "first-contentful-paint",
    "verdict on the screen": "verdict",
    "first plot drawn": "plot",
    "longest block, first 3 s": "longest",
    "a turn of the wheel moves the page after": "wheel",
    "all plots drawn": "all",
}
"""What is measured, in seconds since the page was asked for but for the blocks and the wheel."""
WATCH = """
window.watched = { blocks: [] };
const now = () => performance.now();
new PerformanceObserver((list) => list.getEntries().forEach((entry) => { watched[entry.name] = entry.startTime; }))
  .observe({ type: "paint", buffered: true });
new PerformanceObserver((list) => {
  list.getEntries().forEach((entry) => watched.blocks.push([entry.startTime, entry.duration]));
}).observe({ type: "longtask", buffered: true });
addEventListener("scroll", () => { watched.moved ??= performance.timeOrigin + now(); });
function look() {
  if (document.querySelector(".headline")) requestAnimationFrame(() => { watched.verdict ??= now(); });
  if (document.querySelector(".canvas svg")) watched.plot ??= now();
  if (document.documentElement.dataset.drawn === "all") watched.all ??= now();
  else requestAnimationFrame(look);
}
requestAnimationFrame(look);
"""


def opened(program: str, page: Path, wheel_at: float) -> dict[str, float]:
    """Return what one opening takes, by the names of `TIMES`."""
    with Chromium(program) as browser:
        tab = browser.open_tab()
        tab("Page.enable")
        tab("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        tab("Page.navigate", url=page.as_uri())
        begin = tab.value("performance.timeOrigin") / 1000
        time.sleep(max(0.0, begin + wheel_at - time.time()))
        turned = time.time()
        tab("Input.dispatchMouseEvent", type="mouseWheel", x=600, y=400, deltaX=0, deltaY=300)
        until = time.monotonic() + LONGEST_WAIT
        while not tab.value("watched.all && watched.moved"):
            if time.monotonic() > until:
                raise SystemExit(f"{page} is not drawn after {LONGEST_WAIT:g} s")
            time.sleep(0.2)
        watched = json.loads(tab.value("JSON.stringify(watched)"))
    blocks = [length for start, length in watched["blocks"] if start < 1000 * FIRST_SECONDS]
    watched["longest"], watched["wheel"] = max(blocks, default=0.0), watched["moved"] - 1000 * turned
    # A frame's callbacks come before its paint, and the browser's own time of that after the next frame's.
    watched["verdict"] = max(watched["verdict"], watched["first-contentful-paint"])
    return {name: watched[key] / 1000 for name, key in TIMES.items()}


def make_page(trials: int, folder: Path) -> Path:
    """Search a study that costs nothing and write its report."""
    options = argparse.Namespace(trials=trials, population=16, sampler=None, pruner=None)
    measure(options, None, folder / "runs")
    storage, page = open_storage(None, folder / "runs"), folder / "report.html"
    write_page(gather(StoredStudy.load("growth", storage)), page)
    close_storage(storage)
    return page


def show(openings: Mapping[Path, Sequence[Mapping[str, float]]]) -> None:
    for page, runs in openings.items():
        print(f"{page.name}, {page.stat().st_size / 1e6:.1f} MB, {len(runs)} openings: seconds, median and range")
        for name in TIMES:
            values = sorted(run[name] for run in runs)
            print(f"  {name:<41}{median(values):6.2f}  {values[0]:.2f}-{values[-1]:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--openings", type=int, default=10)
    parser.add_argument("--page", type=Path, action="append", help="a report that is there, instead of making one")
    options = parser.parse_args()
    program = find_browser()
    if program is None:
        parser.error("there is no browser; for instance apt install chromium")
    with tempfile.TemporaryDirectory(prefix="regsearch-opening-") as folder:
        pages = [page.absolute() for page in options.page or [make_page(options.trials, Path(folder))]]
        openings: dict[Path, list[dict[str, float]]] = {page: [] for page in pages}
        for i in range(options.openings):
            wheel_at = WHEEL_FROM + (WHEEL_TO - WHEEL_FROM) * i / max(1, options.openings - 1)
            for page in pages:
                openings[page].append(opened(program, page, wheel_at))
        show(openings)


if __name__ == "__main__":
    main()
