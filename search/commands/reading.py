"""Commands that read what is stored: show, watch, report, studies."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from search.arguments import Duration, Folder, open_place, option, place, place_as_given
from search.commands.output import stdout, tell
from search.errors import NoStudiesError


@click.command(short_help="Show a study's results.")
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
    from search.study import StoredStudy
    from search.terminal.page import print_summary

    summary = StoredStudy.load(study, open_place(storage, home)).summary()
    if as_json:
        click.echo(json.dumps(results.as_json(summary), indent=2, allow_nan=False))
    else:
        print_summary(summary, stdout())
        printing.print_next_steps(summary, place_as_given(), stdout())


@click.command(short_help="Watch a search that runs elsewhere.")
@option("--study", required=True, metavar="NAME", help="Name of a stored study.")
@option("--interval", type=Duration(), default="1s", help="How often to look (0.5, 10s, 1m).")
@place
def watch(study: str, interval: float, home: Path, storage: str | None) -> None:
    """Watch a search that another terminal or machine runs, until it is finished; Ctrl-C leaves it alone.

    \b
      regsearch watch --study digits
      regsearch watch --study mnist --storage postgresql://me@host/db --interval 10s
    """
    from search.study import StoredStudy
    from search.terminal.watching import watch

    console = stdout()
    watch(StoredStudy.load(study, open_place(storage, home)), console, interval)
    tell(f"What was found: regsearch show --study {shlex.quote(study)}{place_as_given()}")


@click.command(short_help="Write a study's report, one page to pass on.")
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
    from search.study import StoredStudy

    material = gather(StoredStudy.load(study, open_place(storage, home)), where_is(home, storage))
    path = out or page_path(home, study)
    write_page(material, path)
    written = [] if plots is None else write_plots(material, plots)
    tell(f"The report is {path}")
    if plots is not None:
        tell(f"Its {len(written)} plots are in {plots}")


@click.command(short_help="List the shipped and the stored studies.")
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

    shipped = {name: load_spec(name).description for name in shipped_studies()}
    try:
        stored = list_studies(open_place(storage, home))
    except NoStudiesError:
        stored = []
    if as_json:
        click.echo(json.dumps({"shipped": shipped, "stored": [results.as_json(s) for s in stored]}, indent=2))
    else:
        printing.print_studies(shipped, stored, stdout())
