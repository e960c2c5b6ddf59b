"""Commands that hand a study on: export to files, sync to MLflow, ui to a browser."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from search.arguments import Folder, for_tracking, open_place, option, place, port, where_to_train
from search.commands.output import say, tell
from search.streams import progress_only

_POLL_SECONDS = 0.2


@click.command(short_help="Refit the winner and write it as a program.")
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
    from search.export import choose, export, register
    from search.places import default_data_dir
    from search.study import StoredStudy
    from search.tracking import default_tracking_uri
    from search.verdict import headline, hurts
    from search.wishes import Wishes

    stored = StoredStudy.load(study, open_place(storage, home))
    wishes = Wishes(given["data_dir"] or default_data_dir(), given["device"])
    summary = stored.summary()
    choice = choose(summary, "best" if pick == "best" else "one_standard_error")
    exported = export(stored.spec, summary, choice, stored.fact("data_fingerprint", str), wishes, out)
    registered = None
    if given["register"]:
        registered = register(exported, study, given["tracking_uri"] or default_tracking_uri(home))
    told = f"test accuracy {exported.accuracy:.2%}, test loss {exported.loss:.4f}"
    if (verdict := headline(summary)) is not None and hurts(summary):
        say(f"{verdict[0].upper()}{verdict[1:]}")
    name = exported.choice.name
    tell(f"{name[0].upper()}{name[1:]}, trained for {exported.choice.epochs} epochs: {told}")
    tell(f"It is in {out}: README.md tells how to use it")
    if registered is not None:
        tell(registered)


@click.command(short_help="Write to MLflow what it misses of a study.")
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

    say(f"Writing study {study} to MLflow")
    tell(write_study(study, storage, home, tracking_uri))


@click.command(short_help="Start optuna-dashboard and MLflow's UI.")
@for_tracking
@port("--port", help="Port of both.", show_default="8080, or a free one")
@option(
    "--host",
    default="127.0.0.1",
    metavar="ADDRESS",
    help="Address to listen on; another than this machine's own needs --allow-anyone.",
)
@option("--allow-anyone", is_flag=True, help="Yes, other machines may reach the address, and nothing is encrypted.")
@option(
    "--allowed-host", multiple=True, metavar="NAME", help="Another name of this machine, by which a proxy calls it."
)
@option(
    "--token-file",
    type=Folder(),
    metavar="FILE",
    show_default="a new token each time",
    help="File with the token that a browser needs, readable by you alone.",
)
@option("--open", "open_browser", is_flag=True, help="Open both in the browser.")
@place
def ui(open_browser: bool, allowed_host: tuple[str, ...], **given: Any) -> None:
    """Start optuna-dashboard and MLflow's UI on this home, for those who have the printed links; Ctrl-C ends both.

    \b
      regsearch ui
      regsearch ui --home ~/runs --open
    """
    from search.dashboards.ui import Wanted, dashboards, openable
    from search.stopping import StopRequest

    say("Starting optuna-dashboard and MLflow's UI ...")
    with StopRequest() as stop, dashboards(Wanted(**given, allowed_hosts=allowed_host), stop) as running:
        if not stop():
            with progress_only():
                tell(f"optuna-dashboard   {running.optuna}\nMLflow             {running.mlflow}")
            if running.copied:
                say("MLflow shows a copy of its database as it is now, since that cannot be written to here")
            say("Ctrl-C ends both")
        with openable(running.optuna, running.mlflow) as files:
            if open_browser and not stop():
                for file in files:
                    click.launch(file)
            while not stop():
                running.check()
                time.sleep(_POLL_SECONDS)
