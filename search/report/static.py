"""Plots as SVG files, drawn by a browser that is there: plotly draws in browsers only. Downloads nothing."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path

from search.children import find_program
from search.errors import ReportError
from search.places import replace_file
from search.report.figure import Figure
from search.report.page import in_script, plotly_js
from search.report.theme import PALETTES, TEMPLATE, resolve
from search.whole_folders import whole_folder

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
_SECONDS = 120
_NARROWEST = 480
_SHAPE = 1.7
"""Width of a plot by its height."""
QUIET = (
    "--headless",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
)
"""Options of a browser that only does what it is asked to."""

_PAGE = """<!DOCTYPE html><meta charset="utf-8"><div id="plot"></div><pre id="drawn"></pre>
<script type="application/json" id="figures">{figures}</script>
<script>{plotly}</script>
<script>
(async () => {{
  const drawn = {{}};
  for (const [name, plot] of Object.entries(JSON.parse(document.getElementById("figures").textContent))) {{
    const size = {{ width: plot.layout.width, height: plot.layout.height }};
    drawn[name] = await Plotly.toImage(plot, {{ format: "svg", imageDataOnly: true, ...size }});
  }}
  document.getElementById("drawn").textContent = JSON.stringify(drawn);
}})();
</script>
"""


def find_browser() -> str | None:
    """Return the program of a Chromium or Chrome, None where there is none."""
    return next((path for name in BROWSERS if (path := find_program(name)) is not None), None)


def write_figures(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Write each plot as NAME.svg and return the files.

    Raises ReportError where there is no browser, it fails, or the folder cannot be written to.
    """
    browser = find_browser()
    if browser is None:
        raise ReportError(
            f"plots are drawn by a browser, and there is none ({', '.join(BROWSERS)}); install one, for instance "
            "apt install chromium, or leave out --plots: the report draws its plots where it is opened"
        )
    try:
        with whole_folder(folder) as unfinished:
            files = {f"{name}.svg": text for name, text in _draw(figures, browser).items()}
            for name, text in files.items():
                replace_file(unfinished / name, text.encode())
    except OSError as error:
        raise ReportError(f"{folder}: the plots cannot be written ({error.strerror or error}); name another") from error
    return [folder / name for name in files]


def _draw(figures: Sequence[Figure], browser: str) -> Mapping[str, str]:
    """Have the browser draw all of them in one page, and read them out of it."""
    page = _PAGE.format(figures=in_script({figure.name: _sized(figure) for figure in figures}), plotly=plotly_js())
    with tempfile.TemporaryDirectory(prefix="regsearch-") as temporary:
        file = Path(temporary) / "plots.html"
        file.write_text(page, encoding="utf-8")
        # The sandbox does not work for root, as in most containers; the page is our own.
        sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        profile = f"--user-data-dir={temporary}/profile"
        dump = ["--virtual-time-budget=60000", "--dump-dom", file.as_uri()]
        try:
            done = subprocess.run(
                [browser, *QUIET, *sandbox, profile, *dump],
                capture_output=True,
                timeout=_SECONDS,
                check=True,
                cwd=temporary,
            )
        except subprocess.SubprocessError as error:
            raise ReportError(f"{browser} could not draw the plots: {error}") from error
    reader = _Reader()
    reader.feed(done.stdout.decode("utf-8", "replace"))
    if not reader.text:
        raise ReportError(f"{browser} drew nothing; it may be too old for plotly.js")
    drawn: dict[str, str] = json.loads(reader.text)
    return drawn


def _sized(figure: Figure) -> object:
    plot = figure.plot
    width = max(_NARROWEST, int(_SHAPE * figure.height))
    layout = {**plot["layout"], "width": width, "template": TEMPLATE, "paper_bgcolor": "@paper"}
    return resolve({"data": plot["data"], "layout": layout}, PALETTES["light"])


class _Reader(HTMLParser):
    """Reads the text of the element `drawn`."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "pre" and ("id", "drawn") in attrs

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.text += data
