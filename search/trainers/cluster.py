"""A Ray cluster as the home of trainers: found or started, connected to, left. Ray itself is imported when used.

Ray places the trainers (`actor`); how many there are is the crew's to decide. Whoever reaches a cluster's ports can run
code on its machines: Ray's token authentication is on in clusters started here, and missed aloud in others.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from search.children import safe_children
from search.errors import DeviceError, TrainerError, UsageError
from search.places import working_directory
from search.printable import mask_password
from search.trainers.actor import Conditions, RayTrainer, secrets
from search.trainers.discovery import cluster_of_this_machine, ray_folder
from search.trainers.machine import cores

_ANSWER_SECONDS = 5.0
_CLIENT_PORT = 10001  # Ray's own default
_OBJECT_STORE = 256 * 2**20  # bytes; only data of the user's own go through it, and what is larger goes to the disk

_FORGET = "`ray stop` forgets one that has ended; --ray local starts one of its own"

_RAY_SETTINGS = {
    "RAY_NUM_REDIS_GET_RETRIES": "1",  # else it tries for a quarter of an hour to reach a cluster that is gone
    "RAY_ENABLE_AUTO_CONNECT": "0",  # else a question after the end starts another cluster
    "RAY_DEDUP_LOGS_SKIP_REGEX": "(?s).*",  # else it prints of its machines' lives amid the results
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Read by Ray when it is imported, unless the user has set them."""


@dataclass(frozen=True)
class RayWishes:
    """What the user says of the cluster."""

    address: str
    """`auto` for the one that runs, or else one of its own; `local` for one of its own; `host:port`, `ray://host:port`."""
    gpus_per_worker: float | None = None
    """None for one, where the cluster has any."""
    own_folders: bool = False
    """Whether each machine's own data folder holds."""


class RayCluster:
    """A connection to a cluster, which was started for it if need be, and ends with it then."""

    def __init__(self, wishes: RayWishes, device: str, kernels: str, workers: int | None) -> None:
        """Connect. Raises UsageError, DeviceError and TrainerError."""
        self._ray = _import_ray()
        self._mine = not self._ray.is_initialized()
        self._sent: tuple[object, Any] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        try:
            if self._mine:
                _refuse_passwords()
                self._connect(wishes.address, workers)
            machines = [machine["Resources"] for machine in self._ray.nodes() if machine["Alive"]]
            gpus = gpus_of_each(wishes.gpus_per_worker, device, machines)
        except BaseException:
            self.close()
            raise
        self.conditions = Conditions(device, kernels, wishes.own_folders, gpus)
        self.places = sum(places_on(machine, gpus) for machine in machines)
        """Trainers that it has room for while nobody else uses it."""

    @property
    def devices(self) -> list[str]:
        """What a trainer is to run on, as `pick_devices` calls it."""
        return ["cuda:0" if self.conditions.gpus else "cpu"]

    @property
    def needs(self) -> str:
        """What a trainer needs room for, in words."""
        gpus, total = self.conditions.gpus, self._ray.cluster_resources()
        in_all = f"{total.get('CPU', 0):g} CPU and {total.get('GPU', 0):g} GPU"
        return (
            "1 CPU" + (f" and {gpus:g} GPU" if gpus else "") + f" on one machine of the Ray cluster, which has {in_all}"
        )

    @property
    def notice(self) -> str | None:
        """What the user should know of the cluster."""
        if os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
            return None
        return (
            "This Ray cluster is used without a token: whoever reaches its ports can run code on it. Ray makes one by "
            "itself for local clusters only; docs/cluster.md tells how it is done (RAY_AUTH_MODE)"
        )

    def start_trainer(self, should_stop: Callable[[], bool]) -> RayTrainer:
        """Return a trainer that Ray is to find a place for."""
        return RayTrainer(self, should_stop)

    def sent(self, own: object) -> Any:
        """Return where in the cluster something of the user's own lies, pickled, after sending it there but once.

        Raises UsageError when it cannot be pickled.
        """
        if self._sent is None or self._sent[0] != own:
            try:
                pickled = self._ray.cloudpickle.dumps(own)
            except Exception as error:  # whatever a user's objects raise
                raise UsageError(
                    f"the model, the data or the loss cannot be sent to a Ray cluster ({error})"
                ) from error
            self._sent = own, self._ray.put(pickled)
        return self._sent[1]

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self._sent = None
        if self._mine:
            self._mine = False
            self._ray.shutdown()
        if self._folder is not None:
            self._folder.cleanup()

    def _connect(self, address: str, workers: int | None) -> None:
        named, found = address, False
        if address == "auto":
            named = os.environ.get("RAY_ADDRESS") or ""
            found = not named
            named = named or cluster_of_this_machine() or "local"
        if named != "local":
            _check_answer(named, _FORGET if found else "is it running, and can this machine reach it?")
        try:
            with _quiet_start(), safe_children():
                started_here = self._begun_here(workers) if named == "local" else {}
                self._ray.init(
                    named,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    job_config=self._module_path(),
                    **started_here,
                )
        except Exception as error:  # Ray's, gRPC's and the system's
            raise TrainerError(_told(named, error, found)) from error

    def _begun_here(self, workers: int | None) -> dict[str, Any]:
        """Return the settings of a cluster that is started for the search."""
        # Ray lets everybody write to its folder, and to those in it; into this one others cannot get.
        self._folder = tempfile.TemporaryDirectory(prefix="ray", dir=ray_folder(), ignore_cleanup_errors=True)
        return {
            "num_cpus": max(cores(), workers or 0),
            "object_store_memory": _OBJECT_STORE,
            "include_dashboard": False,
            "_temp_dir": self._folder.name,
        }

    def _module_path(self) -> Any:
        """Return where trainers look for modules beside their machine's own path: where this process does.

        Ray adds the working directory, except for the jobs of its clients.
        """
        here = working_directory()
        path = [] if here is None or str(here) not in map(os.path.abspath, sys.path) else [str(here)]
        return self._ray.job_config.JobConfig(_client_job=True, _py_driver_sys_path=path)


def _import_ray() -> Any:
    for name, value in _RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise UsageError(f"--ray needs Ray, which is not installed ({error}): pip install 'regsearch[ray]'") from error
    return ray


def _refuse_passwords() -> None:
    """Ray shows the command line of whoever connects to everybody who can see the cluster."""
    if any(mask_password(argument) != argument for argument in sys.orig_argv):
        raise UsageError(
            "a Ray cluster shows this command line, with the password in it, to all its users: give a storage's "
            "password by PGPASSWORD or ~/.pgpass, or the whole address by REGSEARCH_STORAGE or MLFLOW_TRACKING_URI"
        )


def _check_answer(address: str, way_out: str) -> None:
    """Find out soon whether anybody is there: Ray itself takes its time. Raises UsageError and TrainerError."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port or (_CLIENT_PORT if parts.scheme == "ray" else None)
    except ValueError:
        host = port = None
    if not host or port is None or parts.scheme not in ("", "ray"):
        raise UsageError(f"--ray {address}: neither auto, local, host:port nor ray://host:port")
    try:
        socket.create_connection((host, port), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        raise TrainerError(f"no Ray cluster answers at {host}, port {port} ({error}): {way_out}") from error


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Start what Ray starts without the runner's secrets, and leave this process as it was.

    The daemons of a cluster inherit the environment, and so do its trainers. Ray would write the cluster's token for
    everybody on the machine to read, and take the handler of SIGTERM.
    """
    kept = {name: os.environ.pop(name) for name in secrets()}
    mask = os.umask(0o077)
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if in_main_thread else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.umask(mask)
        os.environ.update(kept)
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)


def _told(named: str, error: Exception, found: bool) -> str:
    """Return what went wrong with a cluster; `found` says that nobody has named it."""
    where = "on this machine" if named == "local" else f"at {named}"
    reason = " ".join(str(error).split())[:300]
    hints = [] if named == "local" else ["a cluster with a token is joined with RAY_AUTH_MODE=token and that token"]
    if found and named != "local":
        hints.append(_FORGET)
    elif named != "local" and "://" not in named:
        hints.append("host:port serves a cluster's own machines, ray://host:port all others")
    return "; ".join([f"the Ray cluster {where} cannot be used ({reason})", *hints])


def gpus_of_each(wanted: float | None, device: str, machines: Sequence[Mapping[str, float]]) -> float:
    """Return how much of a GPU each trainer gets. Raises DeviceError when it needs one and gets none."""
    most = max((machine.get("GPU", 0.0) for machine in machines), default=0.0)
    if device == "cpu":
        return 0.0
    if wanted is None and device == "auto" and not most:
        return 0.0
    gpus = 1.0 if wanted is None else wanted
    if device == "cuda" and not (gpus and most):
        way_out = "use --device cpu" if gpus else "give each trainer a share: --gpus-per-worker"
        raise DeviceError(f"--device cuda: the trainers would have no GPU in the Ray cluster; {way_out}")
    return gpus


def places_on(machine: Mapping[str, float], gpus: float) -> int:
    """Return how many trainers a machine has room for, each with a core and a share of one of its GPUs."""
    cpus = int(machine.get("CPU", 0))
    if not gpus:
        return cpus
    return min(cpus, int(machine.get("GPU", 0)) * int(1 / gpus))
