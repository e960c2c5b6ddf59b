"""docs/cli.md, from the click commands themselves: a new command or option is in it as soon as it is in the program."""

from collections.abc import Iterable, Iterator
from inspect import cleandoc
from textwrap import dedent, indent

import click
from click.types import OptionHelpExtra

from search.cli import main

_INTRODUCTION = """\
# The command line

Every command with its options, from the program's own help; `regsearch --help` and `regsearch COMMAND --help` print
the same.

A flag beats its environment variable, which beats the study file, which beats the default. Settings that hold for all
of your searches, `REGSEARCH_HOME` or `REGSEARCH_DATA`, can stand in your shell's profile.

## Output

Results go to standard output, messages and errors to standard error; `--json`, where a command has it, prints for
scripts. A terminal shows the search at work. Into a pipe or a file goes one plain line for each trial that ends,
without colours, for 80 columns. With the environment variable `NO_COLOR` set, a terminal has no colours either.

Progress that cannot be written (a full disk, a closed pipe, a terminal that is gone) does not stop a search. `start`,
`confirm` and `explain` go on when their terminal is closed; `regsearch stop` ends them. An answer that cannot be
printed at the end is an error, and `show` prints it again.

`show`, `studies`, `status`, `watch`, `logs`, `report --out`, `export` and `ui` need no right to write: they work on a
read-only mount, in a colleague's folder, and as a PostgreSQL user who may only select. `explain` then trains nothing.

## Exit codes

| code | what it means |
| --- | --- |
| 0 | done |
| 1 | something failed; the message says what, and the way out |
| 2 | wrong usage: an unknown command, option or study, or an option's value that is not allowed |
| 130 | interrupted by Ctrl-C, or 143 by SIGTERM; the same command goes on where it was cut off |
| 141 | the reader of standard output, such as `head`, closed it before the answer was printed |

With `REGSEARCH_DEBUG=1` an error comes with its traceback, for a bug report.

## Completion in your shell

Commands and options are completed by the Tab key, once your shell's profile has the line for it:

| shell | profile | line |
| --- | --- | --- |
| Bash 4.4 or later | `~/.bashrc` | `eval "$(_REGSEARCH_COMPLETE=bash_source regsearch)"` |
| Zsh | `~/.zshrc` | `eval "$(_REGSEARCH_COMPLETE=zsh_source regsearch)"` |
| Fish | `~/.config/fish/config.fish` | `_REGSEARCH_COMPLETE=fish_source regsearch \\| source` |
"""


def commands() -> str:
    """Return the page."""
    program = click.Context(main, info_name="regsearch", **main.context_settings)
    contexts = [program, *_commands_of(program)]
    overview = _table(("command", "what it does"), ([_link(context), _summary(context)] for context in contexts[1:]))
    parts = [_INTRODUCTION, "## Commands\n", overview, *(_section(context) for context in contexts)]
    return "\n".join(parts)


def _commands_of(program: click.Context) -> Iterator[click.Context]:
    for name in main.list_commands(program):
        command = main.get_command(program, name)
        if command is not None and not command.hidden:
            yield click.Context(command, info_name=name, parent=program)


def _link(context: click.Context) -> str:
    path = context.command_path
    return f"[`{path}`](#{path.replace(' ', '-')})"


def _summary(context: click.Context) -> str:
    return next(iter(_help_texts(context.command)), "")


def _section(context: click.Context) -> str:
    options = [each for each in context.command.params if isinstance(each, click.Option) and not each.hidden]
    table = _table(("option", "variable", "default", "what it does"), (_row(each, context) for each in options))
    return "\n".join([f"## `{context.command_path}`\n", *(f"{text}\n" for text in _help_texts(context.command)), table])


def _help_texts(command: click.Command) -> list[str]:
    """Return the help's paragraphs, each on a line of its own; of those that click is not to wrap, code blocks."""
    paragraphs = cleandoc(command.help or "").split("\n\n")
    return [_code(text) if text.startswith("\b") else " ".join(text.split()) for text in paragraphs]


def _code(text: str) -> str:
    return indent(dedent(text.partition("\n")[2]), "    ")


def _row(option: click.Option, context: click.Context) -> list[str]:
    told = option.get_help_extra(context)
    allowed = f" (`{told['range']}`)" if "range" in told else ""
    variables = ", ".join(f"`{name}`" for name in told.get("envvars", ()))
    return [f"`{_spelled(option, context)}`", variables, _default(told), f"{option.help}{allowed}"]


def _default(told: OptionHelpExtra) -> str:
    """Return the default as code, or as the words that click has in parentheses."""
    default = told.get("default", "")
    if default.startswith("("):
        return default[1:-1]
    return f"`{default}`" if default else told.get("required", "")


def _spelled(option: click.Option, context: click.Context) -> str:
    """Return how an option is written: `-h, --help`, `--confirm/--no-confirm`, `--home PATH`."""
    names = "/".join(", ".join(part) for part in (option.opts, option.secondary_opts) if part)
    return names if option.is_flag else f"{names} {option.make_metavar(context)}"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table; upright strokes are escaped in code too, as GitHub wants it."""
    columns = list(header)
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [columns, ["---"] * len(columns), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
