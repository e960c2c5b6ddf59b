"""Where commands print: results to standard output, messages to standard error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from search.printable import printable

if TYPE_CHECKING:
    from rich.console import Console


def stdout() -> Console:
    """Return standard output, for text of 80 columns and a terminal's own colours."""
    from rich.console import Console

    from search.terminal.stand_ins import readable

    readable(sys.stdout)
    # A pipe has no width of its own, and 80 columns suffice.
    return Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 80)


def tell(text: str) -> None:
    """Print a line of a result: on any terminal, and into any file, whatever a path or a server has in it."""
    click.echo(printable(text))


def say(text: str) -> None:
    """Tell the user something that is no result."""
    click.echo(printable(text), err=True)
