"""`regsearch ui`: optuna-dashboard and MLflow's UI for one home, open to this machine alone unless told otherwise."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from search.dashboards.optuna_app import Door
from search.dashboards.servers import Server, choose_port
from search.errors import UsageError
from search.places import artifact_folder
from search.printable import mask_password
from search.study import close_storage
from search.study.storage import open_existing, require_there
from search.tracking import default_tracking_uri
from search.tracking.messages import without_passwords

_USUAL_PORT, _USUAL_MLFLOW_PORT = 8080, 5000
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_MLFLOW = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # for language models; it would be one more process
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",  # a model that is a pickle runs whatever it says
    # Host names, origins and headers are checked, whatever the user's other servers do without.
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
    "MLFLOW_SERVER_X_FRAME_OPTIONS": "SAMEORIGIN",
}


@dataclass(frozen=True)
class Wanted:
    """What the user asked for."""

    home: Path
    storage: str | None = None
    tracking_uri: str | None = None
    host: str = "127.0.0.1"
    port: int | None = None
    """Of optuna-dashboard; None for a free one."""
    mlflow_port: int | None = None
    allow_anyone: bool = False
    allowed_hosts: Sequence[str] = ()
    """Other names of this machine, by which a proxy passes requests on."""


@dataclass(frozen=True)
class Dashboards:
    """What is running."""

    servers: Sequence[Server]
    optuna: str
    mlflow: str
    """Where people find them."""

    def check(self) -> None:
        """Raise DashboardError when one of them has ended."""
        for server in self.servers:
            server.check()


@contextmanager
def dashboards(wanted: Wanted, stop: Callable[[], bool]) -> Iterator[Dashboards]:
    """Start both, wait until they answer or a stop is requested, and end them with the block.

    They end too when this process is killed. Raises UsageError for what is not there or must not be served,
    StorageError when the storage cannot be opened, DashboardError when a server cannot be started.
    """
    _refuse_strangers(wanted)
    require_there(wanted.storage, wanted.home)
    uri = wanted.tracking_uri or default_tracking_uri(wanted.home)
    port, mlflow_port = _ports(wanted)
    servers: list[Server] = []
    with ExitStack() as ends:

        def start(server: Server) -> None:
            ends.callback(server.end)
            servers.append(server)

        mlflow = uri.rstrip("/")
        if not is_server(uri):
            mlflow = _address(wanted.host, mlflow_port)
            start(_mlflow(wanted, uri, mlflow_port))
        start(_optuna_dashboard(wanted, port, mlflow))
        # While they import what they need, which takes seconds: what is wrong with the storage is best told from here.
        close_storage(open_existing(wanted.storage, wanted.home))
        for server in servers:
            server.wait_until_ready(stop)
        yield Dashboards(servers, f"{_address(wanted.host, port)}/dashboard", without_passwords(mlflow, mlflow))


def _ports(wanted: Wanted) -> tuple[int, int]:
    """Return optuna-dashboard's port and MLflow's: those that are wanted, others where nothing is."""
    if wanted.port is not None and wanted.port == wanted.mlflow_port:
        raise UsageError(f"--port and --mlflow-port are both {wanted.port}; each server needs one of its own")
    taken = [port for port in (wanted.port, wanted.mlflow_port) if port is not None]
    port = choose_port(wanted.host, wanted.port, _USUAL_PORT, taken)
    return port, choose_port(wanted.host, wanted.mlflow_port, _USUAL_MLFLOW_PORT, [*taken, port])


def is_server(tracking_uri: str) -> bool:
    """Return whether MLflow is at work there already, and shows its runs itself."""
    return tracking_uri.startswith(("http://", "https://"))


def _mlflow(wanted: Wanted, uri: str, port: int) -> Server:
    names = [pattern for name in _names(wanted) for pattern in _with_ports(name, port)]
    arguments = {
        "--host": wanted.host,
        "--port": str(port),
        "--workers": "1",
        "--uvicorn-opts": "--no-access-log",
        "--artifacts-destination": artifact_folder(wanted.home, "mlflow").absolute().as_uri(),
        "--allowed-hosts": ",".join(names),
        "--cors-allowed-origins": ",".join(f"{scheme}://{name}" for name in names for scheme in ("http", "https")),
    }
    return Server(
        "MLflow's UI",
        f"{_own_address(wanted.host, port)}/health",
        ["mlflow", "server", *(word for option in arguments.items() for word in option)],
        {**_MLFLOW, "MLFLOW_BACKEND_STORE_URI": uri},
        lambda text: without_passwords(text, uri),
    )


def _optuna_dashboard(wanted: Wanted, port: int, mlflow: str) -> Server:
    door = Door(str(wanted.home), wanted.storage, wanted.host, port, _names(wanted), mlflow)
    return Server(
        "optuna-dashboard", f"{_own_address(wanted.host, port)}/api/meta", ["optuna"], door.environment, mask_password
    )


def _refuse_strangers(wanted: Wanted) -> None:
    """Raise UsageError unless the address is this machine's own alone, or the user knows what it means."""
    if _is_loopback(wanted.host) or wanted.allow_anyone:
        return
    raise UsageError(
        f"{wanted.host} can be reached from other machines, and whoever reaches it may read, change and delete "
        "studies: optuna-dashboard has no login. Leave out --host and put a proxy with a login before it (see the "
        "README), or say --allow-anyone"
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _is_wildcard(host: str) -> bool:
    return host in ("0.0.0.0", "::", "")


def _names(wanted: Wanted) -> list[str]:
    """Return the names, and addresses without brackets, that requests may call the servers by."""
    names = [*_LOOPBACK, *wanted.allowed_hosts]
    names += [socket.gethostname(), socket.getfqdn()] if _is_wildcard(wanted.host) else [wanted.host]
    return list(dict.fromkeys(name.lower() for name in names))


def _with_ports(name: str, port: int) -> list[str]:
    """Return how MLflow is told of a name: as it is, and with ports. A proxy may have another than ours."""
    return [f"[{name}]", f"[{name}]:{port}"] if ":" in name else [name, f"{name}:*"]


def _address(host: str, port: int) -> str:
    """Return where people find a server."""
    return f"http://{_bracketed(socket.gethostname() if _is_wildcard(host) else host)}:{port}"


def _own_address(host: str, port: int) -> str:
    """Return where this machine finds it."""
    own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{_bracketed(own)}:{port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
