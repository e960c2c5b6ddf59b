"""The command line `regsearch`. Its commands are in `commands`; nothing heavy is imported before one needs it."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import click

from search import __version__
from search.children import drop_accidental_folder, safe_children
from search.commands.reading import report, show, studies, watch
from search.commands.running import logs, repair, status, stop
from search.commands.searching import GIVEN, confirm, explain, start
from search.commands.sharing import export, sync, ui
from search.detached import take_over
from search.errors import OutputError, RegsearchError
from search.places import closed_to_others
from search.streams import steady_streams


class _Group(click.Group):
    """Tells what a user can mend in one line, without a traceback."""

    def main(self, *arguments: Any, **settings: Any) -> Any:
        with steady_streams():
            try:
                return super().main(*arguments, **settings)
            except OutputError as error:  # of `--help`; a command's own are met by `invoke`
                _print(error)
                sys.exit(error.exit_code)

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **settings: Any) -> click.Context:
        given = list(args)
        context = super().make_context(info_name, args, *more, **settings)
        context.meta[GIVEN] = given
        return context

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RegsearchError as error:
            if os.environ.get("REGSEARCH_DEBUG"):
                traceback.print_exc()
            _print(error)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            ctx.exit(130)


def _print(error: RegsearchError) -> None:
    if not (isinstance(error, OutputError) and error.broken_pipe):
        click.echo(f"Error: {error}", err=True)


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
    drop_accidental_folder()
    context = click.get_current_context()
    context.with_resource(closed_to_others())
    context.with_resource(safe_children())


for _command in (start, status, stop, logs, confirm, explain, show, watch, report, studies, export, sync, repair, ui):
    main.add_command(_command)


def detached() -> None:
    """Run what another process has handed over, see `detached.launch`."""
    order = take_over()
    main(order.arguments, prog_name="regsearch", obj=order)
