"""How far from the limit: the device's own rate at matrix products, and the arithmetic in one trial-epoch.

Counted is what matrix products and convolutions need, two operations a multiply-add, forward and backward; what is
element by element (dropout, the optimizer) costs time but is no work here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from scripts.benchmarks.plain import MODELS
from search.spec import StudySpec
from search.training.data import Dataset

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
_SIZES = (512, 2048)
_SECONDS = 0.2
_TRIES = 3
_GPU_QUEUE = 100  # products between two waits for the GPU, so that waiting costs next to nothing
_PROBE = 16


@dataclass(frozen=True)
class Rate:
    """The best rate seen at products of square matrices."""

    device: str
    precision: str
    size: int
    threads: int
    gflops: float


def matmul_rates(device: str) -> list[Rate]:
    """Measure the processor with one thread and with all, and the GPU if that is the device."""
    kinds = [("cpu", threads) for threads in sorted({1, torch.get_num_threads()})]
    kinds += [("cuda", 1)] if device == "cuda" else []
    return [
        Rate(where, precision, size, threads, _gflops(where, _PRECISIONS[precision], size, threads))
        for (where, threads), precision, size in product(kinds, _PRECISIONS, _SIZES)
    ]


def _gflops(device: str, dtype: torch.dtype, size: int, threads: int) -> float:
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    with _threads(threads):
        _product_seconds(left, right)  # picks kernels
        seconds = min(_product_seconds(left, right) for _ in range(_TRIES))
    return 2 * size**3 / seconds / 1e9


def _product_seconds(left: Tensor, right: Tensor) -> float:
    """Return the seconds of one product, from as many as fill a while."""
    at_once = _GPU_QUEUE if left.is_cuda else 1
    done, passed, start = 0, 0.0, time.perf_counter()
    while passed < _SECONDS:
        for _ in range(at_once):
            left @ right
        if left.is_cuda:
            torch.cuda.synchronize()
        done, passed = done + at_once, time.perf_counter() - start
    return passed / done


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Work:
    """Operations in one epoch of one trial."""

    training: int
    validation: int
    train_sample: int
    """Only regsearch evaluates a sample of the training data too, to know the gap."""

    def of(self, side: str) -> int:
        """Return what a side computes."""
        return self.training + self.validation + (0 if side.startswith("plain") else self.train_sample)


def trial_epoch_work(spec: StudySpec, data: Dataset) -> Work:
    """Count on the plain model, example by example: all operations are proportional to the number of examples."""
    model = MODELS[spec.model.name](spec.model, data.train.x.shape[1:], data.classes, spec.textbook())
    x, y = data.train.x[:_PROBE], data.train.y[:_PROBE]
    with FlopCounterMode(display=False) as both:
        F.cross_entropy(model(x), y).backward()
    with FlopCounterMode(display=False) as forward:
        model(x)
    trained = len(data.train) - len(data.train) % min(spec.training.batch_size, len(data.train))
    return Work(
        both.get_total_flops() * trained // len(x),
        forward.get_total_flops() * len(data.val) // len(x),
        forward.get_total_flops() * len(data.train_sample) // len(x),
    )
