"""Where commands print: results to standard output, messages to standard error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console


def stdout() -> Console:
    """Return standard output, for text of 80 columns and a terminal's own colours."""
    from rich.console import Console

    from search.terminal.stand_ins import readable

    readable(sys.stdout)
    # A pipe has no width of its own, and 80 columns suffice.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 80)


def say(text: str) -> None:
    """Tell the user something that is no result."""
    click.echo(text, err=True)
