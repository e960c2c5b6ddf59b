"""Memory that containers and services may use, read from control groups; and processes that died for want of it."""

import signal
import sys

import pytest

from search import memory
from search.children import describe_exit
from search.memory import describe_limit, is_out_of_memory, memory_kills, memory_left, memory_limit

MEGABYTE = 2**20


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Folders in the place of the kernel's; return what makes a group."""
    monkeypatch.setattr(memory, "_CONTROLLERS", tmp_path)
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "_KERNEL_COUNTS", tmp_path / "vmstat")

    def make(folder, limit, used, reclaimable=0, kills=0, first=False):
        place = tmp_path / folder
        place.mkdir(parents=True, exist_ok=True)
        version = memory._FIRST if first else memory._SECOND
        (place / version.limit).write_text(f"{limit}\n")
        (place / version.usage).write_text(f"{used}\n")
        (place / "memory.stat").write_text(f"anon 1\n{version.reclaimable} {reclaimable}\n")
        (place / version.kills).write_text(f"oom 0\noom_kill {kills}\n")

    make.own = (tmp_path / "own").write_text
    make.kernel = (tmp_path / "vmstat").write_text
    return make


def test_the_limit_of_a_container_and_what_is_left_of_it_are_known(groups):
    groups(".", 500 * MEGABYTE, 400 * MEGABYTE, reclaimable=100 * MEGABYTE, kills=2)
    groups.own("0::/\n")
    assert (memory_limit(), memory_left(), memory_kills()) == (500 * MEGABYTE, 200 * MEGABYTE, 2)
    assert "the 500 MB that it may use" in describe_limit()


def test_the_narrowest_limit_of_the_groups_around_a_service_counts(groups):
    groups("system.slice", 300 * MEGABYTE, 290 * MEGABYTE, kills=9)
    groups("system.slice/search.service", "max", 100 * MEGABYTE, kills=1)
    groups.own("0::/system.slice/search.service\n")
    assert (memory_limit(), memory_left(), memory_kills()) == (300 * MEGABYTE, 10 * MEGABYTE, 1)


@pytest.mark.parametrize("name", ["/docker/0123", "/"])
def test_the_first_version_of_control_groups_is_read_too_also_where_only_the_containers_own_is_seen(groups, name):
    groups("memory", 500 * MEGABYTE, 100 * MEGABYTE, reclaimable=50 * MEGABYTE, kills=3, first=True)
    groups.own(f"9:name=systemd:{name}\n4:cpu,memory:{name}\n0::/\n")
    assert (memory_limit(), memory_left(), memory_kills()) == (500 * MEGABYTE, 450 * MEGABYTE, 3)


def test_without_a_limit_there_is_none(groups):
    groups("memory", 2**63 - 4096, 100 * MEGABYTE, first=True)
    groups.own("4:memory:/\n")
    assert (memory_limit(), memory_left()) == (None, sys.maxsize)
    assert describe_limit() == "the machine has no memory left"


def test_where_there_are_no_control_groups_the_kernels_own_count_is_read(groups):
    assert (memory_limit(), memory_left(), memory_kills()) == (None, sys.maxsize, 0)
    groups.kernel("pgfault 12\noom_kill 5\n")
    assert memory_kills() == 5


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object: Cannot allocate memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Task was killed due to the node running low on memory."),
    ],
    ids=repr,
)
def test_errors_that_tell_of_full_memory_are_known(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (3, "exit code 3"),
        (-signal.SIGKILL, "SIGKILL, from somebody or from the kernel, which sends it when memory is full"),
        (-signal.SIGSEGV, "SIGSEGV: Segmentation fault"),
        (-(signal.SIGRTMIN + 1), f"signal {signal.SIGRTMIN + 1}"),
        (None, "no exit code"),
    ],
)
def test_the_end_of_a_process_is_told_with_its_likely_cause(code, text):
    assert describe_exit(code) == text
