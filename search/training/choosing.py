"""How a trainer is to compute, decided by measuring on the real model, data and device: engine, precision, threads."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import torch

from search.memory import is_out_of_memory
from search.records import Assignment
from search.training.population import Population, Way

Choice = tuple[Way, int]
"""A way to compute, and a number of torch threads."""


@dataclass(frozen=True)
class Chosen:
    """What was chosen, and which engines could not be, with the reason."""

    way: Way
    threads: int
    refusals: Mapping[str, str] = field(default_factory=dict)


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
) -> Chosen:
    """Return the best of all combinations, with the population and torch set to it.

    The population must be empty and is empty again afterwards. A glance at each costs a few steps; then the promising
    ones are compared in turns, for `seconds` in all. With only one there is nothing to measure. A model of the user's
    own may be beyond an engine or a precision: what fails is left out, and raises only when nothing is left.
    """
    choices = [(Way(*pair), count) for *pair, count in product(engines, precisions, sorted(threads))]
    best, failures = choices[0], dict[Choice, Exception]()
    if len(choices) > 1:
        probes = [_on_a_fold(replace(probe, number=-1 - slot), population.folds) for slot in range(population.slots)]
        for assignment in probes:
            population.admit(assignment)
        costs, failures = _glance(population, choices)
        best = _fastest(population, costs, seconds)
        population.free([assignment.number for assignment in probes])
    population.settle(best[0])
    torch.set_num_threads(best[1])
    working = {way.engine for way, _ in set(choices) - set(failures)}
    refusals = {way.engine: _brief(error) for (way, _), error in failures.items() if way.engine not in working}
    return Chosen(*best, refusals)


def _on_a_fold(probe: Assignment, folds: int | None) -> Assignment:
    return probe if folds is None else replace(probe, fold=-probe.number % folds)


def _glance(population: Population, choices: Sequence[Choice]) -> tuple[dict[Choice, float], dict[Choice, Exception]]:
    """Return the costs of the choices as far as a few steps tell, and what those that do not work failed with.

    Raises the first failure when nothing works.
    """
    costs: dict[Choice, float] = {}
    failures: dict[Choice, Exception] = {}
    for choice in choices:
        try:
            costs[choice] = _cost(population, choice, choices, warm_up=2)
        except Exception as error:
            if is_out_of_memory(error):  # with fewer slots it may work
                raise
            failures[choice] = error
    if not costs:
        raise next(iter(failures.values()))
    return costs, failures


def _fastest(population: Population, costs: dict[Choice, float], seconds: float) -> Choice:
    """Return the cheapest choice, after comparing those that a glance has left in the race."""
    least = min(costs.values())
    promising = [choice for choice in costs if costs[choice] <= _HOPELESS * least]
    end = time.perf_counter() + seconds
    # In turns, and the least of each counts: other programs slow one down as much as the other.
    while len(promising) > 1 and time.perf_counter() < end:
        for choice in promising:
            costs[choice] = min(costs[choice], _cost(population, choice, costs, warm_up=1))
    return min(promising, key=costs.__getitem__)


def _cost(population: Population, choice: Choice, choices: Iterable[Choice], warm_up: int) -> float:
    """Return what some steps take now, with the choice's handicap among all choices."""
    way, threads = choice
    population.go(way)
    torch.set_num_threads(threads)
    of_threads = _THREADS_HANDICAP if threads > min(each for _, each in choices) else 1.0
    of_precision = _BF16_HANDICAP if way.precision == "bf16" else 1.0
    return population.step_cost(warm_up, steps=3) * of_threads * of_precision


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])
