"""Where things are on this machine: the home folder for all that is written, data sets, and the program's modules."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from search.errors import HomeError, RegsearchError

_ATTEMPTS = 5


def default_data_dir() -> Path:
    """Return where data sets are kept unless told otherwise: `data` in the user's cache folder."""
    from platformdirs import user_cache_path

    return user_cache_path("regsearch") / "data"


def machine_data_dir() -> Path:
    """Return where this machine keeps data sets, by its own environment."""
    named = os.environ.get("REGSEARCH_DATA")
    return Path(named).expanduser().absolute() if named else default_data_dir()


def artifact_folder(home: Path, owner: str) -> Path:
    """Return where files are that go with a study, by its name; or with the runs in `mlflow`, or trials in `optuna`."""
    return home / "artifacts" / owner


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, and the folder for it, so that it is whole or as it was before. Raises OSError."""
    half = path.with_name(f"{path.name}.part")
    for attempt in range(_ATTEMPTS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            half.write_bytes(content)
            os.replace(half, path)
            return
        except FileNotFoundError:  # another process has removed the folder meanwhile, since it was empty
            if attempt == _ATTEMPTS - 1:
                raise
        except OSError:
            with suppress(OSError):
                half.unlink()
            raise


def module_path() -> str:
    """Return where a process of the program's own finds modules: where this one does, wherever that was started."""
    package_root = str(Path(__file__).resolve().parent.parent)
    here = working_directory()
    entries = (os.path.abspath(entry) for entry in [*sys.path, package_root] if here or os.path.isabs(entry))
    return os.pathsep.join(entries)


def working_directory() -> Path | None:
    """Return the working directory; None when it has been deleted, as may happen while a search runs."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def short_path(path: Path) -> str:
    """Return a path as seen from the working directory, when it lies in it."""
    here = working_directory()
    return str(path.relative_to(here)) if here is not None and path.is_relative_to(here) else str(path)


@contextmanager
def in_an_existing_folder() -> Iterator[None]:
    """Go to the root folder within the block if the working directory has been deleted: no Python starts in such a one.

    Relative paths lead nowhere then in any case.
    """
    if working_directory() is not None:
        yield
        return
    deleted = os.open(".", os.O_RDONLY)
    os.chdir("/")
    try:
        yield
    finally:
        os.fchdir(deleted)
        os.close(deleted)


@contextmanager
def made_home(home: Path) -> Iterator[None]:
    """Make the home folder; if what is begun in it fails before anything is there, a new one goes away again."""
    is_new = not os.path.exists(home)
    make_home(home)
    try:
        yield
    except RegsearchError:
        if is_new:
            with suppress(OSError):  # it is not empty
                home.rmdir()
        raise


def make_home(home: Path) -> None:
    """Make the folder for all that is written, and be sure that it can be written to. Raises HomeError."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except (OSError, ValueError) as error:  # no folder has a NUL in its name
        reason = getattr(error, "strerror", None) or error
        raise HomeError(
            f"the home folder {home} cannot be written to ({reason}); name another: --home or REGSEARCH_HOME"
        ) from error
