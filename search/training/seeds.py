"""Seeds that depend on the study's seed and the trial alone, never on slots, neighbours or the time of day."""

import hashlib

import torch


def derive_seed(study_seed: int, trial_seed: int, *purpose: str | int) -> int:
    """Return an integer in [0, 2**63), the same on every machine for the same arguments.

    Hashing (BLAKE2b) instead of adding keeps streams of neighbouring trials, epochs and purposes unrelated.
    """
    key = "/".join(str(part) for part in (study_seed, trial_seed, *purpose))
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def batch_order(study_seed: int, trial_seed: int, epoch: int, examples: int) -> torch.Tensor:
    """Return the order in which a trial sees its training examples in one epoch, int64 [examples], on the CPU.

    Made anew for each epoch from its seed, so that an epoch can be repeated without the ones before it.
    """
    generator = torch.Generator().manual_seed(derive_seed(study_seed, trial_seed, "order", epoch))
    return torch.randperm(examples, generator=generator)
