"""Commands that train: start, confirm, explain."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from search.arguments import Duration, of_spec, of_trainers, open_place, option, place, place_as_given, wishes_of
from search.commands.output import say, stdout, tell
from search.detached import Order, launch
from search.errors import OutputError
from search.stopping import terminal_outlived
from search.streams import progress_only

if TYPE_CHECKING:
    from search.session import Ending, Options, Session
    from search.spec import StudySpec

_STARTED = time.monotonic()
_SEEDS = "How often each is trained; earlier ones count."
GIVEN = "search.given"
"""Where a context keeps the arguments that the program was given."""


@click.command(short_help="Run a search, or resume it.")
@option("--study", required=True, metavar="NAME|FILE", help="A shipped study (see `regsearch studies`) or a TOML file.")
@option("--name", metavar="NAME", show_default="the file's", help="Name to store the study under.")
@of_spec
@option("--timeout", type=Duration(), help="Stop after this time: 90 (seconds), 15m or 2h; the same command resumes.")
@of_trainers
@option(
    "--lease",
    type=Duration(),
    default="60s",
    help="Others may take over this process's trials when it has given no sign of life for so long.",
)
@option(
    "--outage", type=Duration(), default="1h", help="How long to ask a storage that does not answer; training goes on."
)
@option("--confirm/--no-confirm", default=True, help="Train the best with five seeds each at the end, or don't.")
@option("--detach", is_flag=True, help="Search in a process of its own, which goes on when you log out.")
@place
@click.pass_context
def start(context: click.Context, /, timeout: float | None, detach: bool, **given: Any) -> None:
    """Run a search, or resume it: the same command goes on where it was cut off.

    \b
      regsearch start --study digits
      regsearch start --study my-study.toml --trials 128 --timeout 2h
      regsearch start --study mnist --detach
    """
    from search.session import Session

    order = context.find_object(Order)
    spec, options = _read(given)
    say(f"Study {options.name}: {spec.search.trials} trials of at most {spec.training.max_epochs} epochs")
    if detach and order is None:
        _detach(context.find_root().meta[GIVEN], options)
        return
    context.with_resource(terminal_outlived())
    session = Session(spec, options, _STARTED)
    session.prepare()
    say(session.choices)
    if order is not None:
        order.tell(session.choices)
    _search(session, timeout)


@click.command(short_help="Train the best again with several seeds, beside the baseline.")
@option("--study", required=True, metavar="NAME", help="Name of a stored study.")
@option("--top", type=click.IntRange(min=1), metavar="N", default=5, help="How many of the best configurations.")
@option("--seeds", type=click.IntRange(1, 1000), metavar="N", default=5, help=_SEEDS)
@of_trainers
@place
def confirm(study: str, top: int, seeds: int, home: Path, storage: str | None, **given: Any) -> None:
    """Train the best configurations with several seeds, beside the baseline, and score them on the test data.

    \b
      regsearch confirm --study digits
      regsearch confirm --study digits --top 3 --seeds 10
    """
    from search.confirmation import Confirm

    _search(_stored(study, home, storage, given, confirm=Confirm(top, seeds)), None)


@click.command(short_help="Tell what each regularizer is worth.")
@option("--study", required=True, metavar="NAME", help="Name of a stored study.")
@option("--seeds", type=click.IntRange(1, 1000), metavar="N", default=5, help=_SEEDS)
@of_trainers
@place
def explain(study: str, seeds: int, home: Path, storage: str | None, **given: Any) -> None:
    """Tell which regularizer mattered: train the best without each of its ingredients, and read the curves.

    \b
      regsearch explain --study digits
    """
    from search import printing
    from search.study import StoredStudy
    from search.study.storage import is_writable

    ending = None
    if is_writable(storage, home):
        ending = _run(_stored(study, home, storage, given, ablate=seeds), None)
    else:
        say(f"Study {study} cannot be written to: nothing is trained, and only what is known already is printed")
    stored = StoredStudy.load(study, open_place(storage, home))
    with _all_recorded(ending, "explain", study):
        printing.print_explanation(stored.summary(), stored.importances(), stdout())
    _leave(ending)


def _detach(arguments: list[str], options: Options) -> None:
    """Start a process with the same arguments, and tell how to look at it once it has begun."""
    launched = launch(arguments, options.name, options.home)
    if not launched.began:
        say(launched.said.rstrip("\n"))
        sys.exit(launched.exit_code)
    say(launched.said)
    tell(f"Process {launched.pid} goes on with it, and writes to {launched.log}")
    study = f"--study {shlex.quote(options.name)}"
    tell(f"Look at it       regsearch watch {study}{place_as_given()}")
    tell(f"Who runs it      regsearch status {study}{place_as_given()}")
    tell(f"What it prints   regsearch logs {study}{place_as_given('home')} --follow")
    tell(f"Stop it          regsearch stop {study}{place_as_given()}")


def _read(given: dict[str, Any]) -> tuple[StudySpec, Options]:
    from search.confirmation import Confirm
    from search.session import Options
    from search.spec import check_study_name, load_spec

    overrides = {key: given.pop(key) for key in ("trials", "seed", "sampler", "pruner", "optimizer")}
    spec = load_spec(given.pop("study")).with_overrides(**overrides)
    name = check_study_name(given.pop("name") or spec.name)
    confirm = Confirm() if given.pop("confirm") else None
    return spec, Options(name=name, trainers=wishes_of(given), confirm=confirm, **given)


def _stored(study: str, home: Path, storage: str | None, given: dict[str, Any], **wanted: Any) -> Session:
    """Return a stored study ready for what is wanted of it beside a search."""
    from search.session import Options, Session
    from search.study import StoredStudy

    spec = StoredStudy.load(study, open_place(storage, home)).spec
    click.get_current_context().with_resource(terminal_outlived())
    tracking_uri = given.pop("tracking_uri")
    session = Session(
        spec, Options(study, home, wishes_of(given), storage, tracking_uri, search=False, **wanted), _STARTED
    )
    session.prepare()
    say(session.choices)
    return session


def _search(session: Session, timeout: float | None) -> None:
    """Run a session and tell what came of it."""
    from search import printing

    ending = _run(session, timeout)
    with _all_recorded(ending, "show", session.options.name):
        printing.print_ending(ending, session, stdout())
    _leave(ending)


def _run(session: Session, timeout: float | None) -> Ending:
    from search.stopping import StopRequest
    from search.terminal.live import make_progress, redraws

    console = stdout()
    answers_itself = redraws(console)
    with (
        progress_only(),
        StopRequest(timeout, lambda: None if answers_itself else _stopping()) as stop,
        make_progress(console, session, stop) as progress,
    ):
        return session.run(progress, stop)


@contextmanager
def _all_recorded(ending: Ending | None, verb: str, study: str) -> Iterator[None]:
    """Add to the error of an answer that could not be printed the command that prints it. Raises OutputError."""
    try:
        yield
    except OutputError as error:
        _leave(ending)
        command = f"regsearch {verb} --study {shlex.quote(study)}{place_as_given()}"
        raise error.with_advice(f"everything is recorded, and `{command}` prints it") from error


def _leave(ending: Ending | None) -> None:
    """Leave as a program does that was interrupted, if it was."""
    if ending is not None and ending.interrupted_by is not None:
        sys.exit(128 + ending.interrupted_by)


def _stopping() -> None:
    """Answer Ctrl-C past all file objects, since it may have come amid a write. The live view answers by itself."""
    with suppress(OSError):  # nobody may be left to read it
        os.write(2, b"Stopping: running trials go back to the queue. Ctrl-C again leaves at once.\n")
