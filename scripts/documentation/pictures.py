"""The command `scripts/pictures`: docs/pictures, from a study that has been searched.

    scripts/pictures --home runs --study mnist
    scripts/pictures --home runs --study mnist --only report

A picture is a function of a `Scene`, and `PICTURES` names them all. They are light, sharp at GitHub's width, and have
few enough colours to be small. The browser is the one that is there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from PIL import Image, ImageOps
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from scripts.documentation.live import live_view
from search.errors import RegsearchError, ReportError
from search.report import gather, where_is, write_page
from search.report.static import find_browser
from search.study import StoredStudy
from search.study.storage import open_existing

PICTURES_FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
WIDTH = 830
"""Of GitHub's pages, in CSS pixels."""
_SCREEN = (1120, 645)
_PIXELS = 1660
"""Of a picture's width, whatever it shows: two for each of GitHub's."""
_MARGIN = 16
_COLOURS = 128
_QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


@dataclass(frozen=True)
class Scene:
    """What pictures are taken of."""

    home: Path
    study: str
    browser: Browser
    file: Path
    """The study's report, written anew."""
    report: Page
    """The same, opened as wide as GitHub's pages."""


Picture = Callable[[Scene], bytes]
"""Returns a PNG file."""


def first_screen(scene: Scene) -> bytes:
    """Return what one sees on opening the report on a laptop."""
    page = open_report(scene.browser, scene.file, *_SCREEN)
    return page.screenshot()


def plots(section: str, first: int = 0, last: int | None = None) -> Picture:
    """Return a picture of a section's plots, as they stand there, from the `first` to before the `last`."""

    def picture(scene: Scene) -> bytes:
        shown = scene.report.locator(f"#{section} .plot").all()[first:last]
        if not shown:
            raise ReportError(f"the report of {scene.study} has no plots in its section {section}")
        return _around(scene.report, shown)

    return picture


PICTURES: Mapping[str, Picture] = {
    "live": lambda scene: live_view(scene.browser),
    "report": first_screen,
    "curves": plots("curves"),
    "history": plots("history"),
    "parameters": plots("parameters", last=6),
    "importances": plots("relations", last=1),
    "parallel": plots("relations", first=1, last=2),
    "slices": plots("relations", first=2, last=4),
    "contours": plots("relations", first=5, last=7),
    "life": plots("life"),
    "cost": plots("cost"),
    "confirmed": plots("confirmed"),
}


@click.command()
@click.option("--home", type=click.Path(path_type=Path), default="runs", show_default=True, help="The studies' home.")
@click.option("--study", required=True, metavar="NAME", help="Name of a stored study.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=PICTURES_FOLDER, help="Folder, docs/pictures by default."
)
@click.option("--only", type=click.Choice(list(PICTURES)), multiple=True, help="Leave the others as they are.")
def main(home: Path, study: str, out: Path, only: Sequence[str]) -> None:
    """Make the documentation's pictures from a study that has been searched and confirmed."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        with opened(home.absolute(), study) as scene:
            for name in only or PICTURES:
                small = with_few_colours(PICTURES[name](scene))
                (out / f"{name}.png").write_bytes(small)
                click.echo(f"{name}.png  {len(small) / 1000:.0f} kB")
    except RegsearchError as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def opened(home: Path, study: str) -> Iterator[Scene]:
    """Open the study's report, written anew, in a browser. Raises RegsearchError."""
    program = find_browser()
    if program is None:
        raise ReportError("pictures are taken in a browser, and there is none; for instance apt install chromium")
    material = gather(StoredStudy.load(study, open_existing(None, home)), where_is(home, None))
    with TemporaryDirectory(prefix="regsearch-") as folder, sync_playwright() as playwright:
        file = Path(folder) / "report.html"
        write_page(material, file)
        browser = playwright.chromium.launch(executable_path=program, args=list(_QUIET))
        yield Scene(home, study, browser, file, open_report(browser, file, WIDTH))
        browser.close()


def open_report(browser: Browser, file: Path, width: int, height: int = 800) -> Page:
    """Open a report in a window of so many CSS pixels, and wait until its plots are drawn."""
    page = browser.new_page(
        viewport={"width": width, "height": height}, device_scale_factor=_PIXELS / width, color_scheme="light"
    )
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-drawn=all]", state="attached")
    return page


def with_few_colours(picture: bytes) -> bytes:
    """Return a smaller PNG file: text and plots on white need no more colours."""
    return _png(Image.open(BytesIO(picture)).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE))


def _around(page: Page, shown: Sequence[Locator]) -> bytes:
    """Return the strip of the page that the elements are in, with a white margin above and below."""
    boxes = [box for each in shown if (box := each.bounding_box()) is not None]
    top, bottom = min(box["y"] for box in boxes), max(box["y"] + box["height"] for box in boxes)
    strip = page.screenshot(full_page=True, clip={"x": 0, "y": top, "width": WIDTH, "height": bottom - top})
    picture = Image.open(BytesIO(strip)).convert("RGB")
    return _png(ImageOps.expand(picture, (0, _MARGIN), "white"))


def _png(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


if __name__ == "__main__":
    main()
