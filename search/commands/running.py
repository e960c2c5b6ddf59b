"""Commands about searches that are running, here or elsewhere, and their storage: status, stop, logs, repair."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import click

from search.arguments import in_home, open_place, option, place, place_as_given
from search.commands.output import say, stdout, tell
from search.printable import printable


@click.command(short_help="Tell who runs a study, and how far it is.")
@option("--study", metavar="NAME", show_default="all that somebody runs", help="Name of a stored study.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
@place
def status(study: str | None, as_json: bool, home: Path, storage: str | None) -> None:
    """Tell who runs a study, on which host, and how far it is.

    \b
      regsearch status
      regsearch status --study digits --json
    """
    from search.study.roster import all_running, standing
    from search.terminal import standings

    opened = open_place(storage, home)
    told = all_running(opened, home) if study is None else [standing(study, opened, home)]
    if as_json:
        click.echo(json.dumps(standings.as_json(told), indent=2))
    else:
        standings.print_standings(told, stdout())


@click.command(short_help="Ask all who run a study to leave tidily.")
@option("--study", required=True, metavar="NAME", help="Name of a stored study.")
@option("--wait/--no-wait", default=True, help="Wait until all have left, or don't.")
@place
def stop(study: str, wait: bool, home: Path, storage: str | None) -> None:
    """Ask all processes that run a study, on whatever host, to end their epochs and to leave; the same `start` goes on.

    \b
      regsearch stop --study digits
    """
    from search.study import StoredStudy
    from search.study.storage import open_existing
    from search.terminal.standings import tell_of_dismissal

    dismissal = StoredStudy.load(study, open_existing(storage, home)).dismiss(home)
    if not dismissal.runners:
        say(f"Nobody runs study {study}")
    elif not wait:
        command = f"regsearch status --study {shlex.quote(study)}{place_as_given()}"
        say(f"{len(dismissal.runners)} asked to stop; {command} tells who left")
    elif not tell_of_dismissal(dismissal, stdout()):
        sys.exit(1)


@click.command(short_help="Print what `start --detach` has printed.")
@option("--study", required=True, metavar="NAME", help="Name of a study that was started with --detach.")
@option("--follow", is_flag=True, help="Go on with what is added, until the search ends; Ctrl-C leaves it alone.")
@option("--lines", type=click.IntRange(min=1), metavar="N", help="Only the last so many.", show_default="all")
@in_home
def logs(study: str, follow: bool, lines: int | None, home: Path) -> None:
    """Print what the newest `start --detach` of a study in this home has printed.

    \b
      regsearch logs --study digits --lines 20 --follow
    """
    from search.logs import newest_log, read_log

    path = newest_log(home, study)
    say(f"{path}:")
    for line in read_log(path, lines, follow):
        # A line ends with its line end: of what stands before that, none begins another line.
        click.echo(printable(line), nl=False)


@click.command(short_help="Mend a damaged storage.")
@option("--study", metavar="NAME", show_default="all in the storage", help="Name of a stored study.")
@place
def repair(study: str | None, home: Path, storage: str | None) -> None:
    """Mend a damaged storage, keep the damaged file beside it, and tell what was done.

    \b
      regsearch repair
      regsearch repair --storage ~/runs/optuna.journal

    Trials that cannot be read become failed ones, all others keep their numbers; the next `start` makes up for them.
    """
    from search.study.repair import repair as repair_storage

    done = repair_storage(storage, home, study)
    for line in done:
        tell(line)
    tell("It is mended; the same `regsearch start` as before goes on" if done else "Nothing is damaged")
