"""Faults of PostgreSQL servers that answer all the same: full, read-only, crowded, replaced, or set up otherwise."""

import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy

from scripts.faults.processes import Process, pretend
from scripts.faults.proxy import Proxy
from scripts.faults.tally import Tally
from tests.postgresql import identity_of_servers, postgresql_server

_TRIALS = 40
_DATABASE = "regsearch"


def _socket(url: str) -> str:
    return f"{url.partition('host=')[2]}/.s.PGSQL.5432"


def _execute(url: str, *statements: str, writable: bool = False) -> list[Any]:
    """Run statements one by one and return the rows of the last."""
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            if writable:
                connection.exec_driver_sql("SET default_transaction_read_only = off")
            for statement in statements:
                result = connection.exec_driver_sql(statement)
            return list(result) if result.returns_rows else []
    finally:
        engine.dispose()


def _finish(runners: list[Process], home: Path, storage: str, tally: Tally, trials: int = _TRIALS) -> None:
    """Wait for runners that have to end well, and count."""
    for runner in runners:
        if code := runner.end():
            tally.complaints.append(f"a runner ended with {code}: {runner.output[-1500:]}")
    twice = _execute(storage, "SELECT number FROM trials GROUP BY number HAVING count(*) > 1")
    if twice:
        tally.complaints.append(f"{len(twice)} numbers were given twice")
    tally.count(home, storage, trials)


def _two(home: Path, storage: str, **options: object) -> list[Process]:
    """Start two runners that are at work."""
    runners = [pretend(home, storage, trials=_TRIALS, slots=2, seconds=0.1, lease=10, **options) for _ in range(2)]
    for runner in runners:
        runner.wait_for("training")
    return runners


def isolation(level: str) -> Callable:
    def inject(dice: random.Random, home: Path, tally: Tally) -> None:  # noqa: ARG001
        with postgresql_server(f"default_transaction_isolation={level}") as storage:
            runners = [pretend(home, storage, trials=_TRIALS, slots=3) for _ in range(3)]
            _finish(runners, home, storage, tally)

    return inject


@contextmanager
def pgbouncer(storage: str, mode: str) -> Iterator[str]:
    """Yield the URL of a database through PgBouncer, on a free port of 127.0.0.1."""
    folder = Path(tempfile.mkdtemp(prefix="regsearch-bouncer-"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file, identity = folder / "pgbouncer.ini", identity_of_servers()  # it refuses root, too
    file.write_text(
        f"[databases]\n* = host={storage.partition('host=')[2].replace('%2F', '/')} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = {mode}\ndefault_pool_size = 4\nlogfile = {folder}/log\n"
    )
    if identity:
        shutil.chown(folder, "postgres")
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(["pgbouncer", str(file)], stdout=quiet, stderr=quiet, start_new_session=True, **identity)
    try:
        for _ in range(100):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/{sqlalchemy.make_url(storage).database}"
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def through_pgbouncer(mode: str) -> Callable:
    def inject(dice: random.Random, home: Path, tally: Tally) -> None:  # noqa: ARG001
        with postgresql_server() as storage, pgbouncer(storage, mode) as through:
            runners = [pretend(home, through, trials=_TRIALS, slots=3) for _ in range(2)]
            _finish(runners, home, storage, tally)

    return inject


def read_only_server(dice: random.Random, home: Path, tally: Tally) -> None:
    """Have the server refuse writes, as managed ones do when they are nearly full."""
    with postgresql_server() as storage:
        runners = _two(home, storage)
        time.sleep(dice.uniform(0, 0.5))
        reload = "SELECT pg_reload_conf()"
        _execute(storage, "ALTER SYSTEM SET default_transaction_read_only = on", reload)
        time.sleep(8)
        _execute(storage, "ALTER SYSTEM RESET default_transaction_read_only", reload, writable=True)
        _finish(runners, home, storage, tally)


def full_server(dice: random.Random, home: Path, tally: Tally) -> None:
    """Fill the disk of the server, a small file system, for 4 s."""
    disk = home.with_name("disk")
    disk.mkdir(parents=True)
    for folder in (home.parent, disk):
        folder.chmod(0o755)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=95m,mode=777", "regsearch", disk], check=True)
    try:
        with postgresql_server("max_wal_size=32MB", "min_wal_size=32MB", folder=disk) as storage:
            runners = _two(home, storage)
            time.sleep(dice.uniform(0, 0.5))
            with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
                while True:
                    ballast.write(bytes(4096))
            time.sleep(4)
            (disk / "ballast").unlink()
            _finish(runners, home, storage, tally)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def emptied(dice: random.Random, home: Path, tally: Tally) -> None:
    """Lead to an empty database for 15 s, as a restored or failed-over server may be at first."""
    with postgresql_server() as storage, postgresql_server() as empty:
        proxy = Proxy(_socket(storage))
        runners = _two(home, f"postgresql+psycopg://postgres@127.0.0.1:{proxy.port}/postgres")
        time.sleep(dice.uniform(0, 0.5))
        proxy.redirect(_socket(empty))
        time.sleep(15)
        if made := _execute(empty, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")[0][0]:
            tally.complaints.append(f"{made} tables were made in the other database")
        proxy.redirect(_socket(storage))
        _finish(runners, home, storage, tally)
        proxy.close()


def replaced(dice: random.Random, home: Path, tally: Tally) -> None:
    """Lead to another server, on which the same study was begun anew: nothing may be written there."""
    with postgresql_server() as storage, postgresql_server() as another:
        fresh = pretend(home.with_name("another"), another, trials=_TRIALS, slots=2, seconds=0.3, lease=10)
        fresh.wait_for("training")
        proxy = Proxy(_socket(storage))
        runners = _two(home, f"postgresql+psycopg://postgres@127.0.0.1:{proxy.port}/postgres")
        time.sleep(dice.uniform(0, 0.5))
        proxy.redirect(_socket(another))
        for runner in runners:
            if runner.end() != 1 or "has been deleted while it was in use" not in runner.output:
                tally.complaints.append(f"a runner went on in another database: {runner.output[-1500:]}")
        proxy.close()
        _finish([fresh], home.with_name("another"), another, tally)


def crowded_start(dice: random.Random, home: Path, tally: Tally) -> None:
    """Take all connections that a server has before a runner starts, and give them back after some seconds."""
    with postgresql_server("max_connections=4", "superuser_reserved_connections=0") as storage:
        engine = sqlalchemy.create_engine(storage, pool_size=4)
        taken = [engine.connect() for _ in range(4)]
        runner = pretend(home, storage, trials=_TRIALS)
        # Not before it has met that: the import of the packages takes it a second.
        leave = threading.Timer(dice.uniform(4, 8), lambda: [connection.close() for connection in taken])
        leave.start()
        leave.join()
        engine.dispose()
        _finish([runner], home, storage, tally)


ROWS: tuple[tuple[str, str, Callable, int, int, tuple[str, ...]], ...] = (
    *(
        ("default isolation", f"{level}, 3 runners on PostgreSQL", isolation(level), 20, few, ())
        for level, few in (("read committed", 0), ("repeatable read", 1), ("serializable", 0))
    ),
    *(
        ("PgBouncer", f"in {mode} mode, 2 runners", through_pgbouncer(mode), 20, few, ("pgbouncer",))
        for mode, few in (("session", 0), ("transaction", 1))
    ),
    ("PostgreSQL read-only", "for 8 s, 2 runners", read_only_server, 20, 0, ()),
    ("PostgreSQL's disk full", "a tmpfs, full for 4 s, 2 runners", full_server, 20, 0, ("root", "mount")),
    ("PostgreSQL replaced", "by an empty database for 15 s, 2 runners", emptied, 20, 0, ()),
    ("PostgreSQL replaced", "by one that has the study anew, 2 runners", replaced, 20, 0, ()),
    ("PostgreSQL crowded", "no connection free at a start, for 4 to 8 s", crowded_start, 20, 0, ()),
)
"""Rows of the table, as arguments of `Fault`."""
