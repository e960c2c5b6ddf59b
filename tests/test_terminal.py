"""What a terminal shows of a search at work: sparklines, the live view, plain lines, and the same from storage."""

import io
import math
import random
import re
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import SPEC
from rich.console import Console

from search.cli import main
from search.pruning import Ladder, Rung, SuccessiveHalving
from search.records import Assignment, EpochResult, Reason, Role, TrialRecord
from search.spec import load_spec
from search.stopping import StopRequest
from search.study import Study, close_storage, open_storage
from search.terminal import watching
from search.terminal.live import LiveProgress, redraws
from search.terminal.plain import PlainProgress
from search.terminal.progress import Progress
from search.terminal.sparkline import BLOCKS, sparklines
from search.terminal.stand_ins import readable
from search.terminal.view import draw
from search.trainers import Report

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def epoch(number: int, loss: float) -> EpochResult:
    return EpochResult(number, loss / 2, loss, 0.875, 0.25)


def record(
    number: int, losses: list[float], reason: Reason = Reason.COMPLETED, role: Role | None = None
) -> TrialRecord:
    return TrialRecord(number, {}, reason, tuple(epoch(*row) for row in enumerate(losses, 1)), NOW, NOW, role)


def plain_console(**settings) -> Console:
    return Console(**{"file": io.StringIO(), "width": 80, "highlight": False, **settings})


def terminal(**settings) -> Console:
    return plain_console(force_terminal=True, **settings)


def shown(progress: Progress, width: int = 80, height: int = 23) -> list[str]:
    return [line.plain for line in draw(progress, width, height)]


def at_work(trials: int, max_epochs: int = 30, total: int = 64) -> Progress:
    """A search with so many trials running, each with some epochs, and two ended."""
    progress = Progress(total, max_epochs, Ladder(4, 2, max_epochs))
    progress.ended(record(0, [0.9, 0.5], role=Role.BASELINE))
    progress.ended(record(1, [0.8, 0.4, 0.3, 0.2, 0.1]))
    for number in range(2, trials + 2):
        progress.started(Assignment(number, number, {}))
        for row in range(1, min(number, max_epochs) + 1):
            progress.epochs_ended({number: epoch(row, 2.0 / row)})
    return progress


# Sparklines


def test_a_falling_curve_falls_and_its_lowest_loss_is_the_lowest_block():
    (line,) = sparklines([[5, 4, 3, 2, 1]], epochs=5, width=5)
    assert len(line) == 5
    heights = [BLOCKS.index(block) for block in line]
    assert heights == sorted(heights, reverse=True)
    assert (heights[0], heights[-1]) == (7, 0)


def test_curves_share_one_scale():
    low, high = sparklines([[2.0, 1.0, 1.0], [3.0, 2.0, 2.0]], epochs=3, width=3)
    assert all(ours <= theirs for ours, theirs in zip(low, high, strict=True))
    assert (low[-1], high[-1] > low[-1]) == (BLOCKS[0], True)


def test_a_huge_first_epoch_leaves_the_others_apart():
    (line,) = sparklines([[1e30, 0.4, 0.3, 0.2, 0.1]], epochs=5, width=5)
    assert len(set(line)) >= 4


@pytest.mark.parametrize(
    ("curve", "line"),
    [
        ([], ""),
        ([0.5], "▁"),
        ([0.5, 0.5, 0.5], "▁▁▁"),
        ([math.nan], "×"),
        ([math.nan, 0.5, math.inf], "×▁×"),
    ],
)
def test_curves_that_have_no_shape(curve, line):
    assert sparklines([curve], epochs=5, width=5) == [line]


def test_many_epochs_share_columns_and_the_line_grows_with_the_trial():
    whole = [1 / (row + 1) for row in range(1000)]
    lines = sparklines([whole, whole[:500], whole[:1]], epochs=1000, width=20)
    assert [len(line) for line in lines] == [20, 10, 1]
    assert lines[0][-1] == BLOCKS[0]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_blocks_gets_a_stand_in_of_the_same_width(encoding):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    readable(stream)
    Console(file=stream, width=80, highlight=False).print(f"{BLOCKS} × 1±2 … ░", markup=False)
    stream.flush()
    told = raw.getvalue().decode(encoding)
    assert told.startswith("_.-:=+*# ")
    assert len(told.rstrip("\n")) == len(f"{BLOCKS} × 1±2 … ░")
    assert told.isascii() or encoding == "latin-1"


# Rungs


def test_the_ladder_tells_what_successive_halving_decides():
    noise = random.Random(0)
    for reduction_factor in (2, 3):
        halving, ladder = SuccessiveHalving(2, reduction_factor, 17), Ladder(2, reduction_factor, 17)
        for number in range(40):
            rows: list[EpochResult] = []
            pruned = False
            while len(rows) < 17 and not pruned:
                rows.append(epoch(len(rows) + 1, noise.choice([math.nan, *[round(noise.uniform(1, 2), 1)] * 9])))
                before = {rung.epoch: rung for rung in ladder.rungs()}
                best = min((row.val_loss for row in rows if row.val_loss == row.val_loss), default=math.inf)
                pruned = bool(halving.epoch_ended({number: rows}))
                ladder.epoch_ended(number, len(rows), None if best == math.inf else epoch(1, best))
                if len(rows) in before:
                    to_beat = before[len(rows)].to_beat
                    assert pruned == (to_beat is not None and best > to_beat)
        assert sum(rung.reached - rung.went_on for rung in ladder.rungs()) > 10


def test_an_interrupted_trial_has_not_reached_its_rungs():
    ladder = Ladder(1, 2, 8)
    for number in (0, 1):
        for row in (1, 2, 3):
            ladder.epoch_ended(number, row, epoch(row, 0.5 + number))
    ladder.forget(0)
    assert ladder.rungs() == [Rung(1, 1, 1, 1.5), Rung(2, 1, 1, 1.5), Rung(4, 0, 0, None)]


def test_the_view_tells_the_rungs_and_leaves_the_baseline_out():
    progress = Progress(8, 6, Ladder(2, 2, 6))
    for number, losses in enumerate([[0.1] * 6, [0.5, 0.4, 0.3], [0.7, 0.6], [0.9, 0.8]]):
        progress.ended(record(number, losses, Reason.PRUNED, Role.BASELINE if number == 0 else None))
    lines = [line.split() for line in shown(progress)]
    at = lines.index(["rung", "at", "epoch", "2"])  # nobody is at epoch 4 yet
    assert lines[at + 1 : at + 4] == [["reached", "3"], ["went", "on", "1"], ["to", "beat", "0.6000"]]


def test_without_rungs_there_is_no_word_of_them():
    progress = Progress(8, 6)
    progress.ended(record(1, [0.5, 0.4]))
    assert not any("rung" in line for line in shown(progress))


# The live view


def test_the_view_tells_how_far_it_is_and_shows_each_slot():
    progress = at_work(2)
    text = "\n".join(shown(progress))
    for words in ("2/64 trials", "left", "best 0.1000 (trial 1)", "trials/min", "trial-epochs/s", "2 completed"):
        assert words in text
    first, second = shown(progress)[-2:]
    assert re.fullmatch(r" +2 +2/30 +█[▁-█] +1\.0000 +87\.5% +\+0\.5000", first)
    assert re.fullmatch(r" +3 +3/30 +█[▁-█]{2} +0\.6667 +87\.5% +\+0\.3333", second)


@pytest.mark.parametrize("max_epochs", [1, 30, 1000])
@pytest.mark.parametrize(("width", "height"), [(80, 23), (80, 60), (60, 10), (40, 23), (20, 5), (200, 23), (80, 1)])
def test_the_view_of_30_slots_stays_within_the_terminal(width, height, max_epochs):
    progress = at_work(30, max_epochs)
    progress.epochs_ended({2: EpochResult(31, math.nan, math.inf, math.nan, 0.0), 3: epoch(32, 1e30)})
    lines = shown(progress, width, height)
    assert 0 < len(lines) <= height
    assert all(len(line) <= width for line in lines)
    console = plain_console(width=width)
    for line in draw(progress, width, height):
        console.print(line)
    assert len(console.file.getvalue().splitlines()) == len(lines)  # nothing is folded


def test_what_does_not_fit_is_counted():
    rows = [line.split() for line in shown(at_work(30)) if re.match(r" +\d+ +\d+/30", line)]
    assert f"… and {30 - len(rows)} more" in shown(at_work(30))
    assert len(rows) > 5


def test_interrupted_trials_run_again_and_are_not_done():
    progress = at_work(1)
    progress.ended(record(2, [0.01], Reason.INTERRUPTED))
    text = "\n".join(shown(progress))
    assert "2/64 trials" in text
    assert "1 interrupted" in text
    assert "best 0.1000" in text


@pytest.mark.parametrize("no_color", ["1", ""])
def test_no_color_is_honoured(no_color, monkeypatch):
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("COLORTERM", raising=False)
    console = terminal(color_system="256")
    with LiveProgress(console, at_work(3), StopRequest()):
        pass
    colours = re.findall(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9\d)(?:;\d+)*m", console.file.getvalue())
    assert bool(colours) == (no_color == "")


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    assert redraws(terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert not redraws(terminal())
    assert not redraws(plain_console())


def test_a_trial_that_goes_on_is_shown_with_all_its_epochs():
    progress = Progress(total=3, max_epochs=4, ladder=Ladder(1, 2, 4))
    view = LiveProgress(terminal(), progress, StopRequest())
    view.started(Assignment(7, 2, {}))
    view.epoch_ended(Report({7: epoch(3, 0.5)}, resumed={7: (epoch(1, 0.75), epoch(2, 0.25))}))
    assert progress.running[7].val_losses == [0.75, 0.25, 0.5]
    assert [rung.reached for rung in progress.ladder.rungs()] == [1, 1]


def test_the_live_view_follows_a_search_and_answers_an_interrupt():
    console, stop = terminal(color_system=None), StopRequest()
    view = LiveProgress(console, Progress(total=3, max_epochs=30), stop)

    def drawn() -> str:
        plain = plain_console()
        plain.print(view._draw())
        return plain.file.getvalue()

    with view:
        view.started(Assignment(7, 7, {}))
        assert "0/30" in drawn()
        view.epoch_ended(Report({7: epoch(1, 0.75)}))
        view.message("a [message]")
        assert re.search(r"7 +1/30 .*0\.7500", drawn())
        view.ended(record(7, [0.75]))
        assert "1/3 trials" in drawn()
        stop.signal = 2
        assert "Ctrl-C again leaves at once" in drawn()
    assert "a [message]" in console.file.getvalue()


def test_the_live_view_shows_how_far_the_repeats_are():
    view = LiveProgress(terminal(), at_work(0), StopRequest())
    labels = {1000: "1, 1", 1001: "1, 2", 5000: "no l1, 1"}
    repeats = view.repeating("Confirming", labels)
    for number in labels:
        repeats.started(Assignment(number, number, {}))
    repeats.epoch_ended(Report({1000: epoch(1, 0.5), 1001: epoch(1, 0.25)}))
    repeats.ended(record(1000, [0.5]))
    plain = plain_console()
    plain.print(view._draw())
    text = plain.file.getvalue()
    assert "1/3 repeats" in text
    assert re.search(r"1, 2 +1/30 +▁ +0\.2500", text)
    assert re.search(r"no l1, 1 +0/30", text)


def test_events_and_drawing_may_come_from_two_threads():
    view = LiveProgress(terminal(), Progress(400, 5, Ladder(1, 2, 5)), StopRequest())

    def search() -> None:
        for number in range(400):
            view.started(Assignment(number, number, {}))
            view.epoch_ended(Report({number: epoch(1, 1.0)}))
            if number >= 20:
                view.ended(record(number - 20, [1.0]))

    runner = threading.Thread(target=search)
    runner.start()
    while runner.is_alive():
        view._draw()
    runner.join()
    assert "380/400" in view._draw().renderables[0].plain


# Plain lines


def test_plain_progress_prints_a_line_a_trial():
    console = plain_console()
    progress = PlainProgress(console, Progress(total=3, max_epochs=2))
    progress.started(Assignment(0, 0, {}))
    progress.ended(record(0, [0.5], Reason.INTERRUPTED))
    progress.ended(record(1, [0.5, 0.25], role=Role.TEXTBOOK))
    progress.ended(record(2, [0.5], Reason.PRUNED))
    repeats = progress.repeating("Confirming", {1000: "1, 1"})
    repeats.started(Assignment(1000, 0, {}))
    repeats.epoch_ended(Report({1000: epoch(1, 0.5)}))
    repeats.ended(record(1000, [0.5]))
    repeats.message("a message")
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 5
    assert all(len(line) < 80 for line in lines)
    assert lines[1].startswith("[1/3] trial 1")
    assert "best 0.2500" in lines[2]
    assert lines[3:] == ["Confirming", "a message"]


# From storage alone


@pytest.fixture
def place(tmp_path, url) -> tuple[Study, Study]:
    """The same study of six trials, once as it is run and once as it is read elsewhere."""
    if url == "memory":
        pytest.skip("no other process can read it")
    (tmp_path / "tiny.toml").write_text(SPEC)
    ours, theirs = open_storage(url, tmp_path), open_storage(url, tmp_path)
    study = Study.open("tiny", load_spec(str(tmp_path / "tiny.toml")), ours, tmp_path)
    yield study, Study.load("tiny", theirs)
    study.close()
    close_storage(ours)
    close_storage(theirs)


class Searching:
    """A search by hand, as the runner tells it."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.told = Progress(6, 4, Ladder(1, 2, 4))
        self.losses: dict[int, list[float]] = {}

    def ask(self) -> int:
        assignment = self.study.ask()
        self.losses[assignment.number] = []
        self.told.started(assignment)
        return assignment.number

    def train(self, *losses: float) -> None:
        """One epoch of all that run."""
        numbers = list(self.losses)
        results = {n: epoch(len(self.losses[n]) + 1, loss) for n, loss in zip(numbers, losses, strict=True)}
        for number, result in results.items():
            self.losses[number].append(result.val_loss)
        self.study.report(results)
        self.told.epochs_ended(results)

    def end(self, number: int, reason: Reason = Reason.COMPLETED) -> None:
        rows = [epoch(*row) for row in enumerate(self.losses.pop(number), 1)]
        self.told.ended(self.study.finish(number, reason, rows))


def state(progress: Progress) -> tuple:
    """All of a search that storage knows."""
    rungs = None if progress.ladder is None else progress.ladder.rungs()
    running = {number: (slot.label, slot.competes, str(slot.val_losses)) for number, slot in progress.running.items()}
    best = None if progress.best is None else progress.best.number
    return progress.total, progress.done, progress.reasons, best, running, rungs


def test_storage_tells_the_same_as_the_events_do(place):
    study, read = place
    search, following, from_storage = Searching(study), read.follow(), Progress(6, 4, Ladder(1, 2, 4))
    view = PlainProgress(plain_console(), from_storage)

    def look() -> bool:
        seen = following.look()
        watching._tell(view, seen)
        assert state(from_storage) == state(search.told)
        return seen.finished

    assert not look()
    first, second = search.ask(), search.ask()
    assert not look()
    search.train(0.9, 0.8)
    search.train(0.7, math.nan)
    assert not look()
    search.end(second, Reason.DIVERGED)
    search.end(first, Reason.INTERRUPTED)
    third = search.ask()
    search.train(0.5)  # it begins and ends between two looks
    search.end(third, Reason.PRUNED)
    assert not look()
    for loss in (0.6, 0.5, 0.4, 0.3):
        number = search.ask()
        search.train(loss)
        search.end(number, Reason.EARLY_STOPPED)
    assert look()
    late = Progress(6, 4, Ladder(1, 2, 4))
    watching._catch_up(late, read.follow().look())
    assert state(late) == state(search.told)


def a_home(tmp_path: Path) -> tuple[Searching, list[str]]:
    (tmp_path / "tiny.toml").write_text(SPEC)
    study = Study.open("tiny", load_spec(str(tmp_path / "tiny.toml")), open_storage(None, tmp_path), tmp_path)
    return Searching(study), ["watch", "--study", "tiny", "--home", str(tmp_path), "--interval", "0.05"]


def test_watch_on_a_pipe_prints_trials_as_they_end_until_the_study_is_finished(tmp_path, monkeypatch):
    search, arguments = a_home(tmp_path)

    def one_more() -> None:
        number = search.ask()
        search.train(0.5 + number)
        search.end(number)

    one_more()
    monkeypatch.setattr(watching.time, "sleep", lambda _: one_more())
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "Study tiny: 1 of 6 trials have ended, best 0.5000 (trial 0)"
    assert [line[:13] for line in lines[1:6]] == [f"[{i}/6] trial {i - 1}" for i in range(2, 7)]
    assert lines[6] == "All 6 trials of study tiny have ended."
    assert lines[7] == f"What was found: regsearch show --study tiny --home {tmp_path}"
    assert len(lines) == 8
    assert "\x1b" not in result.stdout


def test_watch_leaves_quietly_on_ctrl_c_and_writes_nothing(tmp_path, monkeypatch):
    _, arguments = a_home(tmp_path)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", interrupt)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.stderr) == (130, "")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_watch_sees_that_a_study_was_given_more_trials(place, tmp_path):
    study, read = place
    following = read.follow()
    assert following.look().spec.search.trials == 6
    study.close()
    more = load_spec(str(tmp_path / "tiny.toml")).with_overrides(trials=9)
    Study.open("tiny", more, study._storage, tmp_path).close()
    assert following.look().spec.search.trials == 9


def test_watch_in_a_terminal_leaves_the_last_view_there(tmp_path, monkeypatch):
    search, _ = a_home(tmp_path)

    def one_more(_: float) -> None:
        number = search.ask()
        search.train(0.5 + number)
        search.end(number)

    monkeypatch.setattr(watching.time, "sleep", one_more)
    console = terminal(color_system=None, height=24)
    watching.watch(Study.load("tiny", open_storage(None, tmp_path)), console, 0.05)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    assert text.rstrip().endswith("All 6 trials of study tiny have ended.")
    assert "6/6 trials" in text
    assert "6 completed" in text
