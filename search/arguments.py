"""What the commands' options have in common: their environment variables, and kinds of values that click lacks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def option(name: str, *declarations: str, **settings: Any) -> Callable[[_Command], _Command]:
    """Return a click option with the environment variable of its name: `--home` has REGSEARCH_HOME."""
    variable = name.partition("/")[0].lstrip("-").replace("-", "_").upper()
    settings.setdefault("envvar", f"REGSEARCH_{variable}")
    return click.option(name, *declarations, show_envvar=True, show_default=True, **settings)


def place(command: _Command) -> _Command:
    """Add the options that say where studies are kept."""
    home = option("--home", type=Folder(), default="runs", help="Folder for all that is written.")
    storage = option("--storage", metavar="URL", help="Optuna storage instead of the journal file in the home folder.")
    return home(storage(command))


class Folder(click.ParamType[Path]):
    """A folder, which need not exist; `~` is the user's own, also where no shell has seen to that."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the absolute path; refuse `~name` when there is no such user."""
        try:
            return Path(value).expanduser().absolute()
        except RuntimeError:
            self.fail(f"{value}: there is no such user", param, ctx)


class Duration(click.ParamType[float]):
    """A time such as 90, 90s, 15m or 2h, in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds; refuse what is no time or not above zero."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(value).strip())
        seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
        if seconds <= 0:
            self.fail(f"{value!r} is not a time above zero; write seconds, or 15m, or 2h", param, ctx)
        return seconds


class CountOrAuto(click.ParamType[int | None]):
    """A number, or `auto` (None)."""

    name = "N|auto"

    def __init__(self, fewest: int = 1) -> None:
        self._fewest = fewest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Return the number, or None for `auto`."""
        if value in (None, "auto"):
            return None
        if not re.fullmatch(r"\d{1,6}", str(value)) or int(value) < self._fewest:
            self.fail(f"{value!r} is neither a number from {self._fewest} to 999999 nor auto", param, ctx)
        return int(value)


class SpecChoice(click.ParamType[str]):
    """One of the names that a field of the spec allows. The spec, which checks them, is imported for help alone."""

    name = "name"

    def __init__(self, type_name: str) -> None:
        self._type_name = type_name

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002
        """Return the names for the help text."""
        from search import spec

        return "|".join(get_args(getattr(spec, self._type_name)))


_OF_TRAINERS = (
    option("--population", type=CountOrAuto(), default="auto", help="Trials that train at once in each trainer."),
    option("--workers", type=CountOrAuto(fewest=0), default="auto", help="Trainers, each a process; 0: in this one."),
    option(
        "--engine", type=click.Choice(["auto", "stacked", "looped"]), default="auto", help="How a population steps."
    ),
    option(
        "--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", help="What training computes in."
    ),
    option(
        "--kernels",
        type=click.Choice(["auto", "compiled", "torch"]),
        default="auto",
        help="Who computes a step's details on a CPU.",
    ),
    option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to train."),
    option("--data-dir", envvar="REGSEARCH_DATA", type=Folder(), help="Where data sets are, or go."),
    option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", metavar="URI", help="MLflow server or database."),
)


def of_trainers(command: _Command) -> _Command:
    """Add the options that say how trials are trained, and where runs are written."""
    for decorate in reversed(_OF_TRAINERS):
        command = decorate(command)
    return command
