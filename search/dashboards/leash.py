"""The process of the dashboards: it ends with the process that started it, and takes its own processes along.

It leads a process group. Its standard input is a pipe of which `regsearch ui` holds the other end and writes nothing:
when that is closed, by the kernel if need be, the group is ended. What may be secret comes in the environment, never
as an argument, which all users of a machine can read.
"""

import os
import signal
import threading
import time

_GRACE_SECONDS = 3.0


def main() -> None:
    """Serve the dashboards until the pipe is closed."""
    threading.Thread(target=_end_with_the_pipe, daemon=True).start()
    from search.dashboards.application import serve

    serve()


def _end_with_the_pipe() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)
