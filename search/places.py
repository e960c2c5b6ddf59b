"""Where things are on this machine: the home folder for all that is written, data sets, and the program's modules."""

import os
import re
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from search.errors import HomeError, RegsearchError

_ATTEMPTS = 50


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
    for attempt in range(_ATTEMPTS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, content)
            return
        # Another process has removed the folder meanwhile, since it was empty. Python says so in two ways.
        except (FileExistsError, FileNotFoundError):
            if attempt == _ATTEMPTS - 1:
                raise


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in a folder that is there, so that it is whole or as it was before. Raises OSError.

    The file that is written first has a random name and is new: a link that somebody has put there is not followed,
    and two writers do not share it. A link at `path` itself is replaced, and its target stays as it was.
    """
    half = path.with_name(f"{path.name[:_SHORTENED]}.{secrets.token_hex(8)}.part")
    # Not within the try: what is there already is not ours to remove.
    descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o664)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(half, path)
    except OSError:
        with suppress(OSError):
            half.unlink()
        raise


_SHORTENED = 40
"""Characters of a file's name that its unfinished copy begins with: the whole could be too long with more behind it."""


@contextmanager
def closed_to_others() -> Iterator[None]:
    """Let no file that the process makes in the block be writable for everybody, whatever umask it was started with.

    Whoever may write to results changes them, and to what is loaded as code, runs it. Libraries and children heed it.
    """
    before = close_to_others()
    try:
        yield
    finally:
        os.umask(before)


def close_to_others() -> int:
    """Let no file that the process makes from now on be writable for everybody; return the umask before."""
    before = os.umask(0o077)  # the only way to read it is to set it
    os.umask(before | 0o002)
    return before


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


def absolute_address(address: str) -> str:
    """Return a storage's or a tracking server's address as it is understood in every working directory."""
    here = working_directory()
    if here is None:
        return address
    scheme, separator, rest = address.partition("://")
    if not separator:
        if address.startswith("file:"):
            return Path(address.removeprefix("file:")).absolute().as_uri()
        return address if address in _NO_PATHS else os.path.abspath(os.path.expanduser(address))
    if scheme.partition("+")[0] != "sqlite" or not rest.startswith("/") or re.match(r"/(/|:memory:|\?|$)", rest):
        return address
    return f"{scheme}:///{in_url(here.as_posix())}{rest}"


_NO_PATHS = ("databricks", "databricks-uc", "uc")
"""What MLflow understands beside addresses and paths."""


def in_url(path: str) -> str:
    """Return a path as it is written in a database's URL, where three characters mean something else."""
    return re.sub(r"[%?#]", lambda match: quote(match[0]), path)


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
