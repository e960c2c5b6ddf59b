"""Output that cannot be written: progress is dropped and the work goes on; a lost answer is an error."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import regsearch
from rich.console import Console
from whole_searches import environment

from search.places import in_an_existing_folder, module_path, short_path, working_directory
from search.report import where_is
from search.stopping import StopRequest
from search.streams import SteadyText
from search.terminal.live import LiveProgress
from search.terminal.plain import PlainProgress
from search.terminal.progress import Progress
from search.trainers.process import ProcessTrainer

REPOSITORY = str(Path(__file__).parents[1])
_STREAMS = "import os, resource, sys, logging, warnings\nfrom search.streams import *\n"
_PROGRESS = f"""{_STREAMS}
with steady_streams():
    with progress_only():
        for i in range(3000):
            print("line", i)
        print("a notice", file=sys.stderr, flush=True)
        logging.getLogger("x").warning("a warning")
    open("result", "w").write("done")
"""
_COMMAND = "from search.cli import main; main()"
LOST = {
    "a full device": '"$@" >/dev/full 2>&1',
    "full for messages alone": '"$@" >/dev/null 2>/dev/full',
    "a pipe that nobody reads": '"$@" 2>&1 | true',
    "no streams at all": '"$@" <&- >&- 2>&-',
}


def run(code: str, shell: str = '"$@"', folder: Path | None = None, *arguments: str) -> subprocess.CompletedProcess:
    """Run some code whose output goes where `shell` says."""
    command = ["bash", "-c", f"set -o pipefail; {shell}", "bash", sys.executable, "-P", "-c", code, *arguments]
    told = environment(PYTHONPATH=REPOSITORY)
    return subprocess.run(command, env=told, cwd=folder, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("shell", LOST.values(), ids=LOST)
def test_progress_that_cannot_be_written_ends_nothing(shell, tmp_path):
    done = run(_PROGRESS, shell, tmp_path)
    assert (tmp_path / "result").read_text() == "done"
    assert (done.returncode, done.stderr) == (0, "")


def test_progress_goes_on_in_a_file_once_that_can_be_written_again_and_says_where_it_is_missing(tmp_path):
    code = f"""{_STREAMS}
with steady_streams(results=False):
    print("before", flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9, resource.RLIM_INFINITY))
    for _ in range(5000):
        print("lost")
    sys.stdout.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print("after")
"""
    assert run(code, '"$@" >log', tmp_path).returncode == 0
    assert (tmp_path / "log").read_text() == "before\nlo\n[output is missing here: File too large]\nafter\n"


@pytest.mark.parametrize("arguments", [["--help"], ["studies"]], ids=" ".join)
def test_an_answer_that_cannot_be_written_is_an_error(arguments, tmp_path):
    done = run(_COMMAND, '"$@" >/dev/full', tmp_path, *arguments)
    assert (done.returncode, done.stderr) == (1, "Error: standard output cannot be written (No space left on device)\n")
    closed = run(_COMMAND, '"$@" >&-', tmp_path, *arguments)
    assert (closed.returncode, closed.stderr) == (1, "Error: standard output cannot be written (Bad file descriptor)\n")


def test_an_answer_whose_reader_has_enough_ends_quietly_as_other_tools_do(tmp_path):
    done = run(_COMMAND, '"$@" | true', tmp_path, "studies")
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGPIPE, "", "")


def test_a_file_never_takes_the_place_of_a_closed_stream(tmp_path):
    code = f"""{_STREAMS}
with steady_streams(results=False):
    with open("data", "w") as file:
        print("progress")
        os.system("echo from a child >&2")
        file.write("data")
        assert file.fileno() > 2
"""
    assert run(code, '"$@" <&- >&- 2>&-', tmp_path).returncode == 0
    assert (tmp_path / "data").read_text() == "data"


def test_no_file_of_a_search_from_python_takes_the_place_of_a_closed_stream(tmp_path):
    code = """
from search.api import _run


class Session:
    def prepare(self):
        with open("journal", "w") as file:
            file.write(str(file.fileno()))
        raise SystemExit(3)


_run(Session(), None, quiet=True)
"""
    assert run(code, '"$@" <&- >&- 2>&-', tmp_path).returncode == 3
    assert int((tmp_path / "journal").read_text()) > 2


def test_a_pipe_that_somebody_has_made_non_blocking_gets_everything(tmp_path):
    code = f"""{_STREAMS}
os.set_blocking(1, False)
with steady_streams():
    print("x" * 1_000_000)
"""
    assert run(code, '"$@" | (sleep 0.3; wc -c)', tmp_path).stdout.strip() == "1000001"


@pytest.mark.parametrize("shell", LOST.values(), ids=LOST)
def test_being_asked_to_stop_needs_no_terminal_to_answer_to(shell, tmp_path):
    code = """
import os, signal
from search.commands.searching import _stopping
from search.stopping import StopRequest
with StopRequest(on_signal=_stopping) as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop()
    open("first", "w").close()
    os.kill(os.getpid(), signal.SIGTERM)
"""
    done = run(code, shell, tmp_path)
    assert (tmp_path / "first").exists()
    assert (done.returncode, done.stderr) == (143, "")


def test_a_search_and_its_processes_survive_the_closing_of_their_terminal(tmp_path):
    code = """
import os, signal, subprocess, sys
from search.stopping import terminal_outlived
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever these tests were started by
with terminal_outlived():
    child = subprocess.Popen([sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"], stdout=-1)
    child.stdout.readline()
    os.killpg(0, signal.SIGHUP)
    assert child.poll() is None
    child.kill()
os.kill(0, signal.SIGHUP)
"""
    done = run(code, 'setsid "$@"', tmp_path)
    assert (done.returncode, done.stderr) == (128 + signal.SIGHUP, "") or done.returncode == -signal.SIGHUP


class _Broken:
    """A stream of a notebook or a terminal that is gone."""

    encoding = "utf-8"

    def __init__(self, error: Exception) -> None:
        self._error, self.tries = error, 0

    def write(self, _text: str) -> int:
        self.tries += 1
        raise self._error

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        raise self._error

    fileno = flush


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), BrokenPipeError(), ValueError("closed")], ids=repr)
@pytest.mark.parametrize("view", ["live", "plain"])
def test_a_search_from_python_goes_on_without_the_stream_of_its_view(error, view):
    stream = _Broken(error)
    console, progress = Console(file=SteadyText(stream), force_terminal=True), Progress(total=3, max_epochs=2)
    looks_on = LiveProgress(console, progress, StopRequest()) if view == "live" else PlainProgress(console, progress)
    with looks_on:
        looks_on.message("a message")
    assert stream.tries > 0


def test_a_search_from_python_needs_no_standard_error_at_all():
    console = Console(file=SteadyText(None))
    PlainProgress(console, Progress(total=3, max_epochs=2)).message("a message")


@pytest.fixture
def deleted(tmp_path, monkeypatch):
    """A working directory that is no longer there."""
    folder = tmp_path / "deleted"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    yield folder
    monkeypatch.undo()


def test_paths_are_told_whole_and_processes_find_their_modules_when_the_working_directory_is_deleted(deleted, tmp_path):
    assert working_directory() is None
    assert short_path(tmp_path) == str(tmp_path)
    assert where_is(tmp_path, None) == {"home": str(tmp_path)}
    assert REPOSITORY in module_path().split(os.pathsep)
    with in_an_existing_folder():
        assert Path.cwd() == Path("/")
    assert working_directory() is None


def test_a_trainer_is_replaced_when_the_working_directory_is_deleted(deleted):
    trainer = ProcessTrainer()
    try:
        assert trainer.alive
        trainer.process.join(1.0)
        assert trainer.alive
    finally:
        trainer.close()


def test_a_home_relative_to_a_deleted_working_directory_is_a_usage_error_that_says_so(deleted):
    assert "the working directory has been deleted" in regsearch("show", "--study=tiny", code=2)
