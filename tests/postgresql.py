"""A throw-away PostgreSQL server, for the tests and benchmarks that want a real one.

It listens on a socket in a temporary folder of its own and nowhere else, so that any number run side by side, and it
ends with the process that started it, however that ends. Knows nothing of what is tested.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_USER = "postgres"
_START_SECONDS = 60
_SERVE = """
until [ -e "$0/stop" ]; do "$@" >>"$0/log" 2>&1; sleep 0.05; done &
read -r _  # until whoever has the other end of the pipe closes it, or is killed
touch "$0/stop"
kill -INT "$(head -n 1 "$0/data/postmaster.pid")"  # ends open connections, unlike TERM
wait
rm -r "$0"
"""


class NoPostgreSQL(Exception):
    """There is no server to be had here; says what is missing."""


@contextmanager
def postgresql_server(*settings: str, durable: bool = False, folder: Path | None = None) -> Iterator[str]:
    """Yield the URL of a new, empty database on a server that runs until the block is left.

    `settings` are the server's (`name=value`). `durable` waits for the disk at every commit, as servers do by default.
    Its files lie in `folder` if one is given. Raises NoPostgreSQL.
    """
    programs = _programs()
    _check_driver()
    identity = identity_of_servers()
    # Not below pytest's folders, which belong to one user; and a socket's path is short.
    folder = Path(tempfile.mkdtemp(prefix="regsearch-pg-", dir=folder))
    if identity:
        shutil.chown(folder, _USER)
    _run([programs / "initdb", "-D", folder / "data", "-U", _USER, "-A", "trust", "--no-sync"], identity)
    command = [programs / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses="]
    for setting in (*settings, *([] if durable else ["fsync=off"])):
        command += ["-c", setting]
    # In a session of its own it does not hear Ctrl-C. Leaving the block closes the pipe.
    serve = ["sh", "-c", _SERVE, folder, *command]
    with subprocess.Popen(serve, stdin=subprocess.PIPE, start_new_session=True, **identity):
        _wait_until_ready(programs, folder)
        yield f"postgresql+psycopg://{_USER}@/postgres?host={folder}"


def crash(url: str) -> None:
    """End a server at once, in the middle of whatever it does; it is started again by itself, and recovers."""
    folder = Path(url.partition("host=")[2])
    os.kill(int((folder / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)


def _programs() -> Path:
    """Return the folder of the server's programs, which distributions keep out of the search path."""
    if config := shutil.which("pg_config"):
        found = Path(subprocess.run([config, "--bindir"], capture_output=True, text=True, check=True).stdout.strip())
        if (found / "initdb").exists() and (found / "postgres").exists():
            return found
    raise NoPostgreSQL("PostgreSQL's server is not installed (`pg_config --bindir` has no initdb and postgres)")


def _check_driver() -> None:
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise NoPostgreSQL("PostgreSQL's driver is not installed: pip install 'psycopg[binary]'") from error


def identity_of_servers() -> dict[str, Any]:
    """Return whom to run the server as, as arguments of `Popen`: it refuses root."""
    if os.geteuid() != 0:
        return {}
    try:
        user = pwd.getpwnam(_USER)
    except KeyError:
        raise NoPostgreSQL(f"PostgreSQL's server refuses to run as root, and there is no user {_USER} here") from None
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"}


def _run(command: list[Path | str], identity: dict[str, Any]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **identity)
    if done.returncode:
        raise NoPostgreSQL(f"{command[0]} failed: {done.stderr.strip()}")


def _wait_until_ready(programs: Path, folder: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while subprocess.run([programs / "pg_isready", "-q", "-h", folder], check=False).returncode:
        if time.monotonic() > deadline:
            raise NoPostgreSQL(f"the server did not start: {(folder / 'log').read_text()[-2000:]}")
        time.sleep(0.05)
