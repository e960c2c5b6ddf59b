"""The command line: parse, call, print. No logic, and nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from search import __version__
from search.arguments import (
    Duration,
    Folder,
    for_tracking,
    of_spec,
    of_trainers,
    option,
    place,
    place_as_given,
    port,
    where_to_train,
)
from search.errors import RegsearchError

_STARTED = time.monotonic()
_POLL_SECONDS = 0.2
_SEEDS = "How often each is trained; earlier ones count."

if TYPE_CHECKING:
    from rich.console import Console

    from search.crew import Wishes
    from search.session import Ending, Options, Session
    from search.spec import StudySpec


class _Group(click.Group):
    """Tells what a user can mend in one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RegsearchError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            ctx.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="regsearch")
def main() -> None:
    """Find the right amount of regularization for a neural network.

    \b
      regsearch start --study digits
      regsearch start --study mnist --trials 24 --data-dir ~/data

    A search samples dropout rates, weight decay, L1 strength and patience with Optuna, trains many trials at once as
    one population with early stopping and pruning, and records everything in MLflow.
    """


@main.command()
@option("--study", required=True, metavar="NAME|FILE", help="A shipped study (see `regsearch studies`) or a TOML file.")
@option("--name", metavar="NAME", show_default="the file's", help="Name to store the study under.")
@of_spec
@option("--timeout", type=Duration(), help="Stop after this time: 90 (seconds), 15m or 2h; the same command resumes.")
@of_trainers
@option("--confirm/--no-confirm", default=True, help="Train the best with five seeds each at the end, or don't.")
@place
def start(timeout: float | None, **given: Any) -> None:
    """Run a search, or resume it: the same command goes on where it was cut off.

    \b
      regsearch start --study digits
      regsearch start --study my-study.toml --trials 128 --timeout 2h
    """
    from search.session import Session

    spec, options = _read(given)
    _say(f"Study {options.name}: {spec.search.trials} trials of at most {spec.training.max_epochs} epochs")
    session = Session(spec, options, _STARTED)
    session.prepare()
    _say(session.choices)
    _search(session, timeout)


@main.command()
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


@main.command()
@option("--study", required=True, metavar="NAME", help="Name of a stored study.")
@option("--seeds", type=click.IntRange(1, 1000), metavar="N", default=5, help=_SEEDS)
@of_trainers
@place
def explain(study: str, seeds: int, home: Path, storage: str | None, **given: Any) -> None:
    """Tell which regularizer mattered: train the winner without each of its ingredients, and read the curves.

    \b
      regsearch explain --study digits
    """
    from search import printing
    from search.study import Study
    from search.study.storage import open_existing

    ending = _run(_stored(study, home, storage, given, ablate=seeds), None)
    importances = Study.load(study, open_existing(storage, home)).importances()
    printing.print_explanation(ending.summary, importances, _stdout())
    _leave(ending)


@main.command()
@option("--study", required=True, metavar="NAME", help="Name of a stored study.")
@option("--out", required=True, type=Folder(), help="New folder for the files.")
@option(
    "--pick",
    type=click.Choice(["best", "one-standard-error"]),
    default="best",
    help="The winner, or the most regularized one that is as good.",
)
@where_to_train
@option("--register/--no-register", default=True, help="Add it to MLflow's model registry too, or don't.")
@place
def export(study: str, out: Path, pick: str, home: Path, storage: str | None, **given: Any) -> None:
    """Refit the winner on all data that the search saw, and write it as a program that needs PyTorch alone.

    \b
      regsearch export --study digits --out digits-model
    """
    from search.crew import Wishes
    from search.export import choose, export, register
    from search.places import default_data_dir
    from search.study import Study
    from search.study.storage import open_existing
    from search.tracking import default_tracking_uri

    stored = Study.load(study, open_existing(storage, home))
    wishes = Wishes(given["data_dir"] or default_data_dir(), given["device"])
    summary = stored.summary()
    choice = choose(summary, "best" if pick == "best" else "one_standard_error")
    exported = export(stored.spec, summary, choice, stored.fact("data_fingerprint"), wishes, out)
    click.echo(f"Trial {exported.choice.trial}, trained for {exported.choice.epochs} epochs: test accuracy ", nl=False)
    click.echo(f"{exported.accuracy:.2%}, test loss {exported.loss:.4f}")
    click.echo(f"It is in {out}: README.md tells how to use it")
    if given["register"]:
        uri = given["tracking_uri"] or default_tracking_uri(home)
        click.echo(register(exported, study, uri, home))


@main.command()
@option("--study", required=True, metavar="NAME", help="Name of a stored study.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
@place
def show(study: str, as_json: bool, home: Path, storage: str | None) -> None:
    """Show a study's results: best configuration, baseline, how the trials ended.

    \b
      regsearch show --study digits
      regsearch show --study digits --json
    """
    from search import printing, results
    from search.study import Study
    from search.study.storage import open_existing
    from search.terminal.page import print_summary

    summary = Study.load(study, open_existing(storage, home)).summary()
    if as_json:
        click.echo(json.dumps(results.as_json(summary), indent=2, allow_nan=False))
    else:
        print_summary(summary, _stdout())
        printing.print_next_steps(summary, place_as_given(), _stdout())


@main.command()
@option("--study", required=True, metavar="NAME", help="Name of a stored study.")
@option("--interval", type=Duration(), default="1s", help="How often to look (0.5, 10s, 1m).")
@place
def watch(study: str, interval: float, home: Path, storage: str | None) -> None:
    """Watch a search that another terminal or machine runs, until it is finished; Ctrl-C leaves it alone.

    \b
      regsearch watch --study digits
      regsearch watch --study mnist --storage postgresql://me@host/db --interval 10s
    """
    from search.study import Study
    from search.study.storage import open_existing
    from search.terminal.watching import watch

    console = _stdout()
    watch(Study.load(study, open_existing(storage, home)), console, interval)
    click.echo(f"What was found: regsearch show --study {shlex.quote(study)}{place_as_given()}")


@main.command()
@option("--study", required=True, metavar="NAME", help="Name of a stored study.")
@option(
    "--out",
    type=Folder(),
    metavar="FILE",
    show_default="artifacts/STUDY/report.html in the home",
    help="The page's file.",
)
@option("--plots", type=Folder(), metavar="DIR", help="Write each plot as an SVG file too; needs a Chromium or Chrome.")
@place
def report(study: str, out: Path | None, plots: Path | None, home: Path, storage: str | None) -> None:
    """Write a study's report: one page with the verdict and all that it rests on, to read offline and to pass on.

    \b
      regsearch report --study digits
      regsearch report --study digits --out digits.html --plots digits-plots
    """
    from search.report import gather, page_path, where_is, write_page, write_plots
    from search.study import Study
    from search.study.storage import open_existing

    material = gather(Study.load(study, open_existing(storage, home)), where_is(home, storage))
    path = out or page_path(home, study)
    write_page(material, path)
    click.echo(f"The report is {path}")
    if plots is not None:
        click.echo(f"Its {len(write_plots(material, plots))} plots are in {plots}")


@main.command()
@option("--study", required=True, metavar="NAME", help="Name of a stored study.")
@for_tracking
@place
def sync(study: str, tracking_uri: str | None, home: Path, storage: str | None) -> None:
    """Write to MLflow what it misses of a study, from Optuna's storage alone. Once more, it adds nothing.

    \b
      regsearch sync --study digits
      regsearch sync --study digits --tracking-uri http://mlflow.example.org:5000
    """
    from search.sync import write_study

    _say(f"Writing study {study} to MLflow")
    click.echo(write_study(study, storage, home, tracking_uri))


@main.command()
@for_tracking
@port("--port", help="Port of optuna-dashboard.", show_default="8080, or a free one")
@port("--mlflow-port", help="Port of MLflow's UI.", show_default="5000, or a free one")
@option(
    "--host",
    default="127.0.0.1",
    metavar="ADDRESS",
    help="Address to listen on; another than this machine's own needs --allow-anyone.",
)
@option("--allow-anyone", is_flag=True, help="Yes, whoever reaches the address may read and delete studies.")
@option(
    "--allowed-host", multiple=True, metavar="NAME", help="Another name of this machine, by which a proxy calls it."
)
@option("--open", "open_browser", is_flag=True, help="Open both in the browser.")
@place
def ui(open_browser: bool, allowed_host: tuple[str, ...], **given: Any) -> None:
    """Start optuna-dashboard and MLflow's UI on this home, for this machine's own user; Ctrl-C ends both.

    \b
      regsearch ui
      regsearch ui --home ~/runs --open
    """
    from search.dashboards.ui import Wanted, dashboards
    from search.stopping import StopRequest

    _say("Starting optuna-dashboard and MLflow's UI ...")
    with StopRequest() as stop, dashboards(Wanted(**given, allowed_hosts=allowed_host), stop) as running:
        if not stop():
            click.echo(f"optuna-dashboard   {running.optuna}\nMLflow             {running.mlflow}")
            _say("Ctrl-C ends both")
        if open_browser and not stop():
            click.launch(running.optuna)
            click.launch(running.mlflow)
        while not stop():
            running.check()
            time.sleep(_POLL_SECONDS)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
@place
def studies(as_json: bool, home: Path, storage: str | None) -> None:
    """List the shipped studies, and the stored ones with their state.

    \b
      regsearch studies
      regsearch studies --home ~/runs
    """
    from search import printing, results
    from search.spec import load_spec, shipped_studies
    from search.study import list_studies
    from search.study.storage import is_there, open_existing

    shipped = {name: load_spec(name).description for name in shipped_studies()}
    stored = list_studies(open_existing(storage, home)) if is_there(storage, home) else []
    if as_json:
        click.echo(json.dumps({"shipped": shipped, "stored": [results.as_json(s) for s in stored]}, indent=2))
    else:
        printing.print_studies(shipped, stored, _stdout())


def _read(given: dict[str, Any]) -> tuple[StudySpec, Options]:
    from search.confirmation import Confirm
    from search.session import Options
    from search.spec import check_study_name, load_spec

    overrides = {key: given.pop(key) for key in ("trials", "seed", "sampler", "pruner", "optimizer")}
    spec = load_spec(given.pop("study")).with_overrides(**overrides)
    name = check_study_name(given.pop("name") or spec.name)
    confirm = Confirm() if given.pop("confirm") else None
    return spec, Options(name=name, trainers=_wishes(given), confirm=confirm, **given)


def _stored(study: str, home: Path, storage: str | None, given: dict[str, Any], **wanted: Any) -> Session:
    """Return a stored study ready for what is wanted of it beside a search."""
    from search.session import Options, Session
    from search.study import Study
    from search.study.storage import open_existing

    spec = Study.load(study, open_existing(storage, home)).spec
    tracking_uri = given.pop("tracking_uri")
    session = Session(
        spec, Options(study, home, _wishes(given), storage, tracking_uri, search=False, **wanted), _STARTED
    )
    session.prepare()
    _say(session.choices)
    return session


def _wishes(given: dict[str, Any]) -> Wishes:
    """Take out of the options what they say of trainers."""
    from search.crew import Wishes
    from search.places import default_data_dir

    of_trainers = {key: given.pop(key) for key in ("device", "engine", "precision", "kernels", "population", "workers")}
    return Wishes(given.pop("data_dir") or default_data_dir(), **of_trainers)


def _search(session: Session, timeout: float | None) -> None:
    """Run a session and tell what came of it."""
    from search import printing

    ending = _run(session, timeout)
    printing.print_ending(ending, session, _stdout())
    _leave(ending)


def _run(session: Session, timeout: float | None) -> Ending:
    from search.stopping import StopRequest
    from search.terminal.live import make_progress, redraws

    console = _stdout()
    answers_itself = redraws(console)
    with (
        StopRequest(timeout, lambda: None if answers_itself else _stopping()) as stop,
        make_progress(console, session, stop) as progress,
    ):
        return session.run(progress, stop)


def _leave(ending: Ending) -> None:
    """Leave as a program does that was interrupted, if it was."""
    if ending.interrupted_by is not None:
        sys.exit(128 + ending.interrupted_by)


def _stopping() -> None:
    """Answer Ctrl-C past all file objects, since it may have come amid a write. The live view answers by itself."""
    os.write(2, b"Stopping: running trials go back to the queue. Ctrl-C again leaves at once.\n")


def _stdout() -> Console:
    from rich.console import Console

    from search.terminal.stand_ins import readable

    readable(sys.stdout)
    # A pipe has no width of its own, and 80 columns suffice.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 80)


def _say(text: str) -> None:
    click.echo(text, err=True)
