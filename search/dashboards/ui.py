"""`regsearch ui`: optuna-dashboard and MLflow's UI for one home, on one port, for those who have its token."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.request import Request

from search.dashboards.application import EXPERIMENTS, ServerConfig
from search.dashboards.read_only import readable_store
from search.dashboards.routes import MLFLOW_ROOT
from search.dashboards.servers import Server, listen
from search.errors import UsageError
from search.places import absolute_address
from search.regular_files import open_regular
from search.study import close_storage
from search.study.storage import open_to_read, require_there
from search.tracking import default_tracking_uri, is_server
from search.tracking.messages import without_passwords
from search.tracking.server import SETTINGS

_USUAL_PORT = 8080
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_TOKEN_BYTES = 24
_TOKEN = r"[\w-]{16,256}"


@dataclass(frozen=True)
class Wanted:
    """The user's options."""

    home: Path
    storage: str | None = None
    tracking_uri: str | None = None
    host: str = "127.0.0.1"
    port: int | None = None
    """None for the usual one, or a free one."""
    allow_anyone: bool = False
    allowed_hosts: Sequence[str] = ()
    """Other names of this machine, by which a proxy passes requests on."""
    token_file: Path | None = None
    """File with the token; None for a new token."""


@dataclass(frozen=True)
class Dashboards:
    """The running dashboards."""

    server: Server
    address: str
    """URL without path."""
    token: str
    tracking_server: str | None
    """Address of the MLflow that shows its runs itself, without password; None where ours does."""
    copied: bool = False
    """Whether MLflow's UI shows a copy of its database, which its user may not write to."""

    @property
    def optuna(self) -> str:
        """Address of optuna-dashboard, with the token."""
        return f"{self.address}/dashboard?token={self.token}"

    @property
    def mlflow(self) -> str:
        """Address of MLflow's UI, with the token where the server is ours."""
        return self.tracking_server or f"{self.address}{MLFLOW_ROOT}/?token={self.token}{EXPERIMENTS}"

    def check(self) -> None:
        """Raise DashboardError when the server has ended."""
        self.server.check()


@contextmanager
def dashboards(wanted: Wanted, stop: Callable[[], bool]) -> Iterator[Dashboards]:
    """Start both, wait until they answer or a stop is requested, and end them with the block.

    They end too when this process is killed. Raises UsageError for what is not there or must not be served,
    StorageError when the storage cannot be opened, DashboardError when the server cannot be started.
    """
    _refuse_strangers(wanted)
    require_there(wanted.storage, wanted.home)
    token = secrets.token_urlsafe(_TOKEN_BYTES) if wanted.token_file is None else read_token(wanted.token_file)
    uri = absolute_address(wanted.tracking_uri or default_tracking_uri(wanted.home))  # the server works elsewhere
    with ExitStack() as ends:
        store = uri
        if not is_server(uri):
            folder = ends.enter_context(tempfile.TemporaryDirectory(prefix="regsearch-", ignore_cleanup_errors=True))
            store = readable_store(uri, Path(folder))
        with listen(wanted.host, wanted.port, _USUAL_PORT) as listener:
            port = int(listener.getsockname()[1])
            server = _server(wanted, store, token, listener)
        ends.callback(server.end)
        # Its imports take seconds. In the meantime this process reports what is wrong with the storage.
        close_storage(open_to_read(wanted.storage, wanted.home))
        server.wait_until_ready(stop)
        tracking_server = without_passwords(uri.rstrip("/"), uri) if is_server(uri) else None
        yield Dashboards(server, _address(wanted.host, port), token, tracking_server, store != uri)


def _server(wanted: Wanted, uri: str, token: str, listener: socket.socket) -> Server:
    port = int(listener.getsockname()[1])
    health = Request(f"{_own_address(wanted.host, port)}/api/meta", headers={"Authorization": f"Bearer {token}"})
    storage = None if wanted.storage is None else absolute_address(wanted.storage)
    config = ServerConfig(str(wanted.home), storage, uri, _names(wanted), token, port, listener.fileno())
    return Server(
        "The server of the dashboards",
        health,
        listener,
        {**SETTINGS, **config.environment},
        lambda text: without_passwords(text, uri).replace(token, "***"),
    )


def read_token(path: Path) -> str:
    """Return the token in a file that its owner alone can read. Raises UsageError."""
    try:
        with open_regular(path, 1024) as file:
            mode = os.fstat(file.fileno()).st_mode
            token = file.read().decode("ascii", "replace").strip()
    except OSError as error:
        raise UsageError(f"--token-file {path} cannot be read ({error.strerror})") from error
    if stat.S_IMODE(mode) & 0o077:
        raise UsageError(f"--token-file {path} can be read by others than its owner; chmod 600 it")
    if not re.fullmatch(_TOKEN, token, re.ASCII):
        raise UsageError(f"--token-file {path} must hold 16 to 256 letters, digits, - or _, for instance of `uuidgen`")
    return token


@contextmanager
def openable(*addresses: str) -> Iterator[list[str]]:
    """Give a file for each address that leads a browser there, until the block ends.

    A browser's command line can be read by all users of the machine, so no address with a token is put there.
    """
    with tempfile.TemporaryDirectory(prefix="regsearch-") as folder:  # which its owner alone can enter
        files = [Path(folder, f"{number}.html") for number, _ in enumerate(addresses)]
        for file, address in zip(files, addresses, strict=True):
            file.write_text(f'<!DOCTYPE html><meta http-equiv="refresh" content="0; url={escape(address)}">')
        yield [str(file) for file in files]


def _refuse_strangers(wanted: Wanted) -> None:
    """Raise UsageError unless the address is this machine's own alone, or the user knows what it means."""
    if _is_loopback(wanted.host) or wanted.allow_anyone:
        return
    raise UsageError(
        f"{wanted.host} can be reached from other machines, and nothing is encrypted: those who can read the network "
        "can read the token, and with it all studies. Leave out --host and put a proxy with TLS before it (see "
        "docs/dashboards.md), or say --allow-anyone"
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _is_wildcard(host: str) -> bool:
    return host in ("0.0.0.0", "::", "")


def _names(wanted: Wanted) -> list[str]:
    """Return the names, and addresses without brackets, that requests may call the server by."""
    names = [*_LOOPBACK, *wanted.allowed_hosts]
    names += [socket.gethostname(), socket.getfqdn()] if _is_wildcard(wanted.host) else [wanted.host]
    return list(dict.fromkeys(name.lower() for name in names))


def _address(host: str, port: int) -> str:
    """Return where people find a server."""
    return f"http://{_bracketed(socket.gethostname() if _is_wildcard(host) else host)}:{port}"


def _own_address(host: str, port: int) -> str:
    """Return where this machine finds it."""
    own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{_bracketed(own)}:{port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
