"""What there is to train on: CUDA devices, or the processor's cores, and kernels for these."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from search.errors import DeviceError, KernelError
from search.training.kernels.building import kernel_library

_GPU_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")


def pick_devices(name: str) -> list[str]:
    """Turn `auto`, `cpu` or `cuda` into the devices that are there: `["cpu"]` or `["cuda:0", ...]`.

    Raises DeviceError. Imports torch, which takes a second, only where there may be a GPU.
    """
    if name == "cpu" or (name == "auto" and not _may_have_gpu()):
        return ["cpu"]
    import torch

    if torch.cuda.is_available():
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if name == "cuda":
        raise DeviceError(
            "--device cuda: torch finds no CUDA device here; use --device cpu, or auto to take what is there"
        )
    return ["cpu"]


def find_kernels(wish: str, device: str) -> tuple[Path | None, str | None]:
    """Return the library of compiled kernels, None to do without, and what the user should know of that.

    `wish` is `compiled`, `torch`, or `auto` for whatever there is. Raises KernelError.
    """
    if wish == "torch" or device != "cpu":
        return None, None
    try:
        return kernel_library(), None
    except KernelError as error:
        if wish == "compiled":
            raise
        return None, f"Steps take up to twice as long without compiled kernels: {error}"


def cores() -> int:
    """Return how many processor cores this process may use: hardware threads of one core count once."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    distinct = len({_siblings(cpu) for cpu in usable})
    return max(1, min(distinct, _quota(Path("/sys/fs/cgroup/cpu.max"))))


def _may_have_gpu() -> bool:
    """Return False where it is certain without asking a driver."""
    return sys.platform != "linux" or any(os.path.exists(path) for path in _GPU_FILES)


def _siblings(cpu: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota(path: Path) -> int:
    """Return a container's share of the processors, rounded up: `max` or microseconds used per microseconds passed."""
    try:
        quota, period = path.read_text().split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):
        return sys.maxsize
