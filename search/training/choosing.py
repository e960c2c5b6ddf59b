"""How a trainer is to compute, decided by measuring on the real model, data and device: engine, precision, threads."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import torch

from search.records import Assignment
from search.training.population import Population, Way

Choice = tuple[Way, int]
"""A way to compute, and a number of torch threads."""

# By how much a choice must be faster than the plain one to be worth what it brings with it. Threads wait for the
# slowest of them at every operation, so that one core busy with something else makes two of them 35 times slower
# than one alone (measured on 2 cores). bfloat16 is less exact.
_THREADS_HANDICAP = 1.75
_BF16_HANDICAP = 1.25


def choose(
    population: Population,
    probe: Assignment,
    engines: Sequence[str],
    precisions: Sequence[str],
    threads: Sequence[int],
    seconds: float = 0.15,
) -> Choice:
    """Return the best of all combinations, with the population and torch set to it.

    The population must be empty and is empty again afterwards. Costs about `seconds` for each combination; with only
    one there is nothing to measure.
    """
    choices = [(Way(*pair), count) for *pair, count in product(engines, precisions, sorted(threads))]
    costs = _costs(population, probe, choices, seconds) if len(choices) > 1 else {choices[0]: 0.0}
    best = min(choices, key=lambda choice: costs[choice] * _handicap(choice, min(threads)))
    _go(population, best)
    return best


def _handicap(choice: Choice, fewest_threads: int) -> float:
    way, threads = choice
    of_threads = _THREADS_HANDICAP if threads > fewest_threads else 1.0
    return of_threads * (_BF16_HANDICAP if way.precision == "bf16" else 1.0)


def _costs(
    population: Population, probe: Assignment, choices: Sequence[Choice], seconds: float
) -> Mapping[Choice, float]:
    """Return seconds per slot and step of each choice, all slots occupied."""
    probes = [replace(probe, number=-1 - slot) for slot in range(population.slots)]
    for assignment in probes:
        population.admit(assignment)
    costs = {}
    for choice in choices:
        _go(population, choice)
        costs[choice] = population.step_cost(seconds)
    population.free([assignment.number for assignment in probes])
    return costs


def _go(population: Population, choice: Choice) -> None:
    way, threads = choice
    population.go(way)
    torch.set_num_threads(threads)
