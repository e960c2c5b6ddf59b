"""Who chooses the configurations: the spec's sampler and ranges as Optuna's."""

import warnings

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler

from search.spec import Choices, Range, StudySpec

_RECENT_TRIALS = 250
"""What TPE costs grows with the trials it weighs: 2 ms at 100, 17 ms at 2,000. With these and the best it stays at 3.

From 250 on it takes no more of them for good ones, 25, and those are shown however old they are. Of the others, whose
weight falls with age anyway, fewer do as well: on five functions of six parameters (sphere, Rosenbrock, Ackley,
Rastrigin, and a noisy one shaped like a real search), 10 to 24 seeds each, the best of 1,000 trials is as good as with
all trials shown, to within the spread of the seeds.
"""


SWITCH = CategoricalDistribution((False, True))
"""What Optuna knows of a switch."""


def distributions(choices: Choices) -> dict[str, BaseDistribution]:
    """Return all that may be chosen, by name, as Optuna's distributions."""
    strengths = {name: distribution(setting) for name, setting in choices.ranges().items()}
    return dict.fromkeys(choices.switches, SWITCH) | strengths


def distribution(setting: Range) -> BaseDistribution:
    """Return the range as Optuna's distribution."""
    if setting.integer:
        return IntDistribution(int(setting.low), int(setting.high), log=setting.log)
    return FloatDistribution(setting.low, setting.high, log=setting.log)


def make_sampler(spec: StudySpec, trials: int, runner: int = 0) -> BaseSampler:
    """Return the spec's sampler, seeded so that neither a resumed study nor another runner repeats its draws.

    `runner` is 0 for one that runs the study alone.
    """
    seed = int(np.random.SeedSequence([spec.search.seed, trials, *([runner] if runner else [])]).generate_state(1)[0])
    match spec.search.sampler:
        case "random":
            return RandomSampler(seed=seed)
        case "gp":
            return GPSampler(seed=seed, warn_independent_sampling=False)
        case "qmc":
            return _qmc_sampler(spec.search.seed)
        case _:
            return _grouping_sampler(seed) if spec.choices.switches else TPESampler(seed=seed)


def trials_shown(spec: StudySpec) -> int | None:
    """Return how many recent trials the spec's sampler is shown, beside the best; None for all that there are."""
    # A Gaussian process knows only what it is shown, and its cost is what one chooses it for.
    return None if spec.search.sampler == "gp" else _RECENT_TRIALS


def promising_from(spec: StudySpec) -> int | None:
    """Return from which epoch on the spec's sampler is told what a running trial has reached; None for never.

    From the first rung: what has passed it is better than most.
    """
    return spec.search.pruner.min_epochs if spec.search.sampler == "tpe" else None


def _grouping_sampler(seed: int) -> BaseSampler:
    # With switches, not every trial has every parameter: those that stand together are sampled together.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True)


def _qmc_sampler(seed: int) -> BaseSampler:
    # One sequence for the whole study: how far it has come is in the storage, and another seed would begin another.
    seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return QMCSampler(scramble=True, seed=seed, warn_independent_sampling=False)
