"""A throw-away Ray cluster of two small machines, for the tests and the faults that want a real one.

`python ray_cluster.py` is the cluster; `Machines` starts it and talks to it. Both machines have a core, and the second
one says that it has a GPU. It ends with its standard input, or when it is killed: the kernel then ends what it has
started. Ray is imported in that process only.
"""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

LOSE, FREE = "lose", "free"


def settings(folder: str) -> dict[str, str]:
    """Return the environment of a cluster and of who uses it: a token, and a folder of short path for its sockets."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # A cluster's machines have regsearch.
    return {"RAY_TMPDIR": folder, "PYTHONPATH": str(Path(__file__).parent.parent), **token}


def processes(folder: str) -> dict[int, str]:
    """Return the command lines of the living processes that were started for the Ray of this folder, by their ids."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            environment, line = (Path(f"/proc/{pid}/{name}").read_bytes() for name in ("environ", "cmdline"))
        except OSError:  # it has ended, or is somebody else's
            continue
        if int(pid) != os.getpid() and f"RAY_TMPDIR={folder}".encode() in environment.split(b"\0"):
            found[int(pid)] = line.replace(b"\0", b" ").decode()
    return found


class Machines:
    """A cluster, at `address`; to be closed."""

    def __init__(self, environment: dict[str, str]) -> None:
        """`environment` is that of `settings`."""
        self._folder = environment["RAY_TMPDIR"]
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.address = self._process.stdout.readline().strip()
        assert self.address, "the cluster did not start"

    def lose_the_second(self) -> None:
        """Kill all that runs on the second machine."""
        self._say(LOSE)

    def free(self) -> dict[str, float]:
        """Return what nobody has reserved."""
        self._say(FREE)
        return json.loads(self._process.stdout.readline())

    def trainers(self) -> list[int]:
        """Return the process ids of the trainers."""
        return [pid for pid, line in processes(self._folder).items() if line.startswith("ray::TrainerActor")]

    def close(self) -> None:
        self._process.communicate(timeout=60)

    def _say(self, word: str) -> None:
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()


def main() -> None:
    import ray
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    second = cluster.add_node(**small, num_gpus=1)
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == LOSE:
            cluster.remove_node(second, allow_graceful=False)
        elif line.strip() == FREE:
            ray.init(cluster.address, log_to_driver=False)
            print(json.dumps(ray.available_resources()), flush=True)
            ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
