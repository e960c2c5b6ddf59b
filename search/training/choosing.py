"""How a trainer is to compute, decided by measuring on the real model, data and device: engine, precision, threads."""

import time
from collections.abc import Iterable, Sequence
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

# What a first glance puts this many times behind the best is not looked at again.
_HOPELESS = 2.0


def choose(
    population: Population,
    probe: Assignment,
    engines: Sequence[str],
    precisions: Sequence[str],
    threads: Sequence[int],
    seconds: float = 0.1,
) -> Choice:
    """Return the best of all combinations, with the population and torch set to it.

    The population must be empty and is empty again afterwards. A glance at each costs a few steps; then the promising
    ones are compared in turns, for `seconds` in all. With only one there is nothing to measure.
    """
    choices = [(Way(*pair), count) for *pair, count in product(engines, precisions, sorted(threads))]
    best = choices[0]
    if len(choices) > 1:
        probes = [replace(probe, number=-1 - slot) for slot in range(population.slots)]
        for assignment in probes:
            population.admit(assignment)
        best = _fastest(population, choices, seconds)
        population.free([assignment.number for assignment in probes])
    population.settle(best[0])
    torch.set_num_threads(best[1])
    return best


def _fastest(population: Population, choices: Sequence[Choice], seconds: float) -> Choice:
    costs = dict.fromkeys(choices, float("inf"))
    _measure(population, choices, costs, warm_up=True)
    best = min(choices, key=costs.__getitem__)
    promising = [choice for choice in choices if costs[choice] <= _HOPELESS * costs[best]]
    end = time.perf_counter() + seconds
    # In turns, and the least of each counts: other programs slow one down as much as the other.
    while len(promising) > 1 and time.perf_counter() < end:
        _measure(population, promising, costs)
    return min(promising, key=costs.__getitem__)


def _measure(
    population: Population, choices: Iterable[Choice], costs: dict[Choice, float], warm_up: bool = False
) -> None:
    """Lower the costs of these choices to what some steps take now, with their handicaps."""
    fewest = min(threads for _, threads in costs)
    for choice in choices:
        _go(population, choice)
        cost = population.step_cost(warm_up=2 if warm_up else 1, steps=3)
        costs[choice] = min(costs[choice], cost * _handicap(choice, fewest))


def _handicap(choice: Choice, fewest_threads: int) -> float:
    way, threads = choice
    of_threads = _THREADS_HANDICAP if threads > fewest_threads else 1.0
    return of_threads * (_BF16_HANDICAP if way.precision == "bf16" else 1.0)


def _go(population: Population, choice: Choice) -> None:
    way, threads = choice
    population.go(way)
    torch.set_num_threads(threads)
