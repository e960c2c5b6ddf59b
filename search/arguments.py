"""What the commands' options have in common: their environment variables, and kinds of values that click lacks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
from click.core import ParameterSource

from search.stopping import seconds_of
from search.wishes import CHOICES, Wishes

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from search.trainers import RayWishes

_Command = TypeVar("_Command", bound=Callable[..., Any])


def option(name: str, *declarations: str, **settings: Any) -> Callable[[_Command], _Command]:
    """Return a click option with the environment variable of its name: `--home` has REGSEARCH_HOME."""
    variable = name.partition("/")[0].lstrip("-").replace("-", "_").upper()
    defaults: dict[str, Any] = {"envvar": f"REGSEARCH_{variable}", "show_envvar": True, "show_default": True}
    return click.option(name, *declarations, **defaults | settings)


def port(name: str, **settings: Any) -> Callable[[_Command], _Command]:
    """Return an option for a port."""
    return option(name, type=click.IntRange(1, 65535), metavar="N", **settings)


def in_home(command: _Command) -> _Command:
    """Add the option that says where all is written."""
    return option("--home", type=Folder(), default="runs", help="Folder for all that is written.")(command)


def place(command: _Command) -> _Command:
    """Add the options that say where studies are kept."""
    storage = option(
        "--storage",
        metavar="URL",
        show_default="optuna.journal in the home",
        help="Optuna's storage: `sqlite:///file.db`, `postgresql://user@host/db`, or a journal's path.",
    )
    return in_home(storage(command))


def open_place(storage: str | None, home: Path) -> BaseStorage:
    """Return the storage that `place` names, to read from until the command has ended."""
    from search.study.storage import close_storage, open_to_read

    opened = open_to_read(storage, home)
    click.get_current_context().call_on_close(lambda: close_storage(opened))
    return opened


def place_as_given(*names: str) -> str:
    """Return these options, or those named, as the command line had them, for the commands that may come next."""
    context = click.get_current_context()
    told = ""
    for name in names or ("home", "storage"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            told += f" --{name} {shlex.quote(_shown(context.params[name]))}"
    return told


def _shown(value: Path | str) -> str:
    """Return a folder as seen from the working directory when it lies in it, and a URL without its password."""
    if isinstance(value, str):
        from search.printable import mask_password

        return mask_password(value)
    from search.places import short_path

    return short_path(value)


class Folder(click.ParamType[Path]):
    """A folder, which need not exist; `~` is the user's own, also where no shell has seen to that."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the absolute path; refuse `~name` when there is no such user, and what is relative to nothing."""
        try:
            return Path(value).expanduser().absolute()
        except RuntimeError:
            self.fail(f"{value}: there is no such user", param, ctx)
        except FileNotFoundError:
            self.fail(
                f"{value}: the working directory has been deleted; go to another one, or give an absolute path",
                param,
                ctx,
            )


class Duration(click.ParamType[float]):
    """A time such as 90, 90s, 15m or 2h, in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds; refuse what is no time or not above zero."""
        try:
            return seconds_of(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class CountOrAuto(click.ParamType[int | None]):
    """A number, or `auto` (None)."""

    name = "N|auto"

    def __init__(self, fewest: int = 1) -> None:
        self._fewest = fewest

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002
        """Return what the help shows, with `auto` as it is to be written."""
        return self.name

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


def _spec_option(name: str, **settings: Any) -> Callable[[Any], Any]:
    return option(name, show_default="the study's", **settings)


_OF_SPEC = (
    _spec_option(
        "--trials", type=click.IntRange(min=1), metavar="N", help="Trials of the study in all, not further ones."
    ),
    _spec_option(
        "--seed",
        type=click.IntRange(0, 2**63 - 1),
        metavar="N",
        help="Seed of split, sampler, weights, batch order and noise.",
    ),
    _spec_option("--sampler", type=SpecChoice("SamplerName"), help="Optuna's sampler."),
    _spec_option(
        "--pruner", type=SpecChoice("PrunerName"), help="When to give up on a trial that does worse than others."
    ),
    _spec_option("--optimizer", type=SpecChoice("OptimizerName"), help="How the models are trained."),
)
for_tracking = option(
    "--tracking-uri",
    envvar="MLFLOW_TRACKING_URI",
    metavar="URI",
    show_default="mlflow.db in the home",
    help="MLflow's server or database: `http://host:5000`, `sqlite:///file.db`.",
)
_WHERE_TO_TRAIN = (
    option(
        "--device",
        type=click.Choice(CHOICES["device"]),
        default="auto",
        help="Where to train; auto: GPUs if any.",
    ),
    option(
        "--data-dir",
        envvar="REGSEARCH_DATA",
        type=Folder(),
        show_default="data in your cache folder",
        help="Where data sets are, or go.",
    ),
    for_tracking,
)
_OF_TRAINERS = (
    option(
        "--population",
        type=CountOrAuto(),
        default="auto",
        help="Trials that train at once in each trainer; auto: so many that together they are a quarter of the "
        "study's trials, at most 32 on a CPU and 128 on GPUs.",
    ),
    option(
        "--workers",
        type=CountOrAuto(fewest=0),
        default="auto",
        help="Trainers, each a process with a thread or a GPU of its own; auto: one for each core or GPU of this "
        "machine or the Ray cluster; 0: one, in the program's own process.",
    ),
    option(
        "--ray",
        metavar="auto|local|ADDRESS",
        help="Train on a Ray cluster: `host:port`, `ray://host:port`; auto: the one of this machine, or else one "
        "that is started here for the search, as local does in any case.",
    ),
    option(
        "--gpus-per-worker",
        type=click.FloatRange(0, 1),
        metavar="F",
        show_default="1 where the Ray cluster has GPUs",
        help="Share of a GPU that Ray reserves for each trainer, such as 0.25; 0: a processor core alone.",
    ),
    option(
        "--engine",
        type=click.Choice(CHOICES["engine"]),
        default="auto",
        help="How a population steps: stacked (one batched model), looped (trial by trial), auto (as measured).",
    ),
    option(
        "--precision",
        type=click.Choice(CHOICES["precision"]),
        default="auto",
        help="What training computes in; parameters, optimizer and evaluation stay in fp32. auto: bf16 where it is "
        "measured to be a quarter faster.",
    ),
    option(
        "--kernels",
        type=click.Choice(CHOICES["kernels"]),
        default="auto",
        help="Who computes dropout, optimizer and L1 on a CPU: kernels compiled here once, up to twice as fast, or "
        "torch, the same to rounding; auto: compiled where there is a C compiler.",
    ),
)


def of_spec(command: _Command) -> _Command:
    """Add the options that say something else than the study file does."""
    return _with(_OF_SPEC, command)


def where_to_train(command: _Command) -> _Command:
    """Add the options that say on what to train, with which data, and where runs are written."""
    return _with(_WHERE_TO_TRAIN, command)


def of_trainers(command: _Command) -> _Command:
    """Add the options that say how and where trials are trained, and where runs are written."""
    return _with(_OF_TRAINERS, where_to_train(command))


def _with(options: Sequence[Callable[[Any], Any]], command: _Command) -> _Command:
    for decorate in reversed(options):
        command = decorate(command)
    return command


def wishes_of(given: dict[str, Any]) -> Wishes:
    """Take out of the options what `of_trainers` has added to them, but for the tracking URI."""
    from search.places import default_data_dir

    of_trainers = {key: given.pop(key) for key in ("device", "engine", "precision", "kernels", "population", "workers")}
    ray = _ray_wishes(given.pop("ray"), given.pop("gpus_per_worker"))
    return Wishes(given.pop("data_dir") or default_data_dir(), **of_trainers, ray=ray)


def _ray_wishes(address: str | None, gpus_per_worker: float | None) -> RayWishes | None:
    from search.errors import UsageError
    from search.trainers import RayWishes

    if address is None:
        if gpus_per_worker is not None:
            raise UsageError("--gpus-per-worker says what Ray reserves for a trainer: it needs --ray")
        return None
    # A folder that the environment names is this machine's; only one given for the search is meant for all machines.
    source = click.get_current_context().get_parameter_source("data_dir")
    return RayWishes(address, gpus_per_worker, own_folders=source is not ParameterSource.COMMANDLINE)
