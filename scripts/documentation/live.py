"""A picture of the terminal while a search is at work: a real one of the study `digits`, at half its trials."""

from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from search.places import default_data_dir
from search.pruning import make_ladder
from search.records import Assignment, TrialRecord
from search.session import Options, Session
from search.spec import load_spec
from search.stopping import StopRequest
from search.terminal.progress import Progress
from search.terminal.view import draw
from search.trainers import Report
from search.wishes import Wishes

_STUDY = "digits"
_SIZE = (80, 28)
_TITLE = "regsearch start --study digits"


class Camera:
    """Looks on at a search as the live view does, and keeps what that shows when half the trials have ended."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.view: list[Text] = []

    def started(self, assignment: Assignment) -> None:
        """Take note of a slot taken."""
        self._progress.started(assignment)

    def epoch_ended(self, report: Report) -> None:
        """Take note of an epoch, and the picture when it is time."""
        self._progress.epochs_ended(report.results)
        if not self.view and 2 * self._progress.done >= self._progress.total:
            self.view = draw(self._progress, *_SIZE)

    def ended(self, record: TrialRecord) -> None:
        """Take note of a trial's end."""
        self._progress.ended(record)

    def message(self, text: str) -> None:
        """Say nothing."""

    def repeating(self, title: str, labels: Mapping[int, str]) -> "Camera":  # noqa: ARG002
        """Return who looks on at repeats, of which there are none here."""
        return self


def live_view(browser: Browser) -> bytes:
    """Run the search in a folder of its own and return the picture as PNG."""
    spec = load_spec(_STUDY)
    camera = Camera(Progress(spec.search.trials, spec.training.max_epochs, make_ladder(spec)))
    with TemporaryDirectory(prefix="regsearch-") as folder:
        session = Session(spec, Options(_STUDY, Path(folder) / "runs", Wishes(default_data_dir())))
        session.prepare()
        session.run(camera, StopRequest())
    console = Console(record=True, width=_SIZE[0], force_terminal=True, file=StringIO())
    for line in camera.view:
        console.print(line)
    page = browser.new_page(device_scale_factor=2)
    page.set_content(console.export_svg(title=_TITLE, theme=MONOKAI))
    return page.locator("svg").screenshot()
