"""Seeds that depend on the study's seed and the trial alone, never on slots, neighbours or the time of day."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(study_seed: int, trial_seed: int, *purpose: str | int) -> int:
    """Return an integer in [0, 2**63), the same on every machine for the same arguments.

    Hashing (BLAKE2b) instead of adding keeps streams of neighbouring trials, epochs and purposes unrelated.
    """
    key = "/".join(str(part) for part in (study_seed, trial_seed, *purpose))
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Have the generators that a model on a device may draw from begin at a seed; then put them back.

    A few microseconds: `torch.random.fork_rng` and `torch.manual_seed` take a hundred, and seed all devices.
    """
    before = [(generator, generator.get_state()) for generator in own_generators(device)]
    try:
        for generator, _ in before:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in before:
            generator.set_state(state)


def own_generators(device: torch.device) -> list[torch.Generator]:
    """Return torch's own generators that a model on a device may draw from: those of the CPU and of the device."""
    if device.type != "cuda":
        return [torch.default_generator]
    torch.cuda.init()  # type: ignore[no-untyped-call]  # before that it has none
    index = torch.cuda.current_device() if device.index is None else device.index
    return [torch.default_generator, torch.cuda.default_generators[index]]


@contextmanager
def generators_left_alone() -> Iterator[None]:
    """Put all of torch's own generators back in the end, whoever has drawn from them or seeded them."""
    before = [generator.get_state() for generator in _all_generators()]
    try:
        yield
    finally:
        known, new = _all_generators()[: len(before)], _all_generators()[len(before) :]
        for generator, state in zip(known, before, strict=True):
            generator.set_state(state)
        for generator in new:  # those of a device that was first used meanwhile: as they would begin
            generator.manual_seed(generator.initial_seed())


def _all_generators() -> list[torch.Generator]:
    return [torch.default_generator, *torch.cuda.default_generators]  # before CUDA is first used it has none


def batch_order(study_seed: int, trial_seed: int, epoch: int, examples: int) -> torch.Tensor:
    """Return the order in which a trial sees its training examples in one epoch, int64 [examples], on the CPU.

    Made anew for each epoch from its seed, so that an epoch can be repeated without the ones before it.
    """
    generator = torch.Generator().manual_seed(derive_seed(study_seed, trial_seed, "order", epoch))
    return torch.randperm(examples, generator=generator)
