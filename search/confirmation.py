"""What confirmation found: configurations trained again with several seeds, and what that says. Plain values only.

A search's best trial is the luckiest of many, so its score flatters. Here stands what its configuration reaches with
seeds that no search has chosen by: means, their scatter, and the difference to no regularization, paired by seed. How
it is done is in `confirm`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import attrgetter
from statistics import fmean
from typing import Any

from search.errors import UsageError
from search.intervals import Difference, Estimate, estimate, paired_difference
from search.pareto import pareto_front
from search.records import Params, Role, TrialRecord

MOST_SEEDS = 1000
METRICS = ("val_loss", "test_accuracy", "test_loss", "ece", "gap", "sparsity", "epochs")
"""What is told of a configuration, in this order."""
BASELINE_WINS = "The baseline has the lowest validation loss, so the best is no regularization."


@dataclass(frozen=True)
class Confirm:
    """Size of a confirmation."""

    top: int = 5
    """Number of the best configurations to train again."""
    seeds: int = 5
    """Number of seeds for each, at most 1000."""

    def __post_init__(self) -> None:
        if self.top < 1 or not 1 <= self.seeds <= MOST_SEEDS:
            raise UsageError(f"confirm: at least 1 configuration, and 1 to {MOST_SEEDS} seeds; given {self}")


@dataclass(frozen=True)
class Repeat:
    """One configuration trained once more."""

    trial: int
    """Whose configuration it is."""
    seed: int
    """0 for the first; configurations with the same number share initial weights, batch order and noise."""
    epochs: int
    """Epochs until its best one, whose weights were kept."""
    val_loss: float
    train_loss: float
    val_accuracy: float
    sparsity: float
    test_accuracy: float | None = None
    test_loss: float | None = None
    """Mean of the loss that was trained: negative log-likelihood in nats, unless the study names another."""
    ece: float | None = None
    """Expected calibration error on the test data (Guo et al. 2017), where outputs are trained to be probabilities."""
    plain: bool = False
    """Whether without that configuration's regularization, and with its learning rate alone: see `Picks.plain`."""

    @property
    def gap(self) -> float:
        """Validation loss minus training loss."""
        return self.val_loss - self.train_loss


@dataclass(frozen=True)
class Confirmed:
    """A configuration with what it reaches."""

    trial: int
    params: Params
    estimates: Mapping[str, Estimate]
    """By name as in `METRICS`; test metrics only where test data was read."""
    diverged: int = 0
    """With how many seeds more it had no result, since a loss was not finite."""
    killed: int = 0
    """With how many more it had none, since no trainer survived it."""
    val_losses: Sequence[float] = ()
    """Of the trial in the search, epoch by epoch."""
    rate_of: int | None = None
    """The trial whose learning rate it was trained with instead of its own, see `Picks.plain`: then it is no trial of
    the search, although it has the baseline's number."""


@dataclass(frozen=True)
class Confirmation:
    """All that was confirmed."""

    ranking: Sequence[Confirmed]
    """The search's best configurations and the one-standard-error pick, by mean validation loss; the baseline is not
    among them."""
    one_standard_error: Confirmed | None
    """The most regularized one that the search could not tell from its best."""
    baseline: Confirmed | None
    difference: Difference | None
    """The test accuracy of the best regularized configuration minus the baseline's."""
    loss_difference: Difference | None = None
    """The baseline's validation loss minus that of the best regularized one, so that more is better here, too; None
    without a baseline.

    That one was chosen by these losses, and the interval allows for that; test data have chosen nobody.
    """
    usual_rate: float | None = None
    """The learning rate that the baseline did worse with, where it has another one's; see `Picks.plain`."""
    test_loss_difference: Difference | None = None
    """The baseline's test loss minus that of the best regularized one."""
    noise: str | None = None
    """A remark on noise that the baseline has, too: see `ModelNoise`."""
    notes: Sequence[str] = ()
    """What model and data have about them that all of it is to be read with, in sentences."""

    @property
    def regularized(self) -> Confirmed:
        """The best regularized configuration: the lowest mean validation loss of those that never diverged."""
        return self.ranking[0]

    @property
    def best(self) -> Confirmed:
        """The winner: the best regularized configuration, or the baseline where that does better by the same rule."""
        return self.by_rank[0]

    @property
    def baseline_wins(self) -> bool:
        """Whether the winner is the baseline, so that the answer is to do without regularization."""
        return self.best is self.baseline

    @property
    def by_rank(self) -> list[Confirmed]:
        """All of them, the baseline among them, the best first; of equals the regularized one."""
        return sorted([*self.ranking, *([] if self.baseline is None else [self.baseline])], key=_rank)

    @property
    def remarks(self) -> list[str]:
        """What one has to know of these numbers, in sentences."""
        told = [*([] if self.noise is None else [self.noise]), *self.notes]
        if self.baseline_wins:
            told.append(BASELINE_WINS)
        if self.usual_rate is not None and self.baseline is not None:
            rate, whose = self.baseline.params["learning_rate"], "the winner's"
            if self.baseline_wins:
                whose = f"trial {self.regularized.trial}'s"
            told.append(
                f"The baseline has {whose} learning rate, {rate:.3g}: it does better with it than with "
                f"{self.usual_rate:.3g}."
            )
        if self.difference is None and self.loss_difference is not None and len(self.ranking) > 1:
            whose = f"Trial {self.regularized.trial}" if self.baseline_wins else "The winner"
            told.append(
                f"{whose} is chosen among {len(self.ranking)} by the losses that it is compared by: the interval is "
                "wide enough for all of them."
            )
        for each in self.by_rank:
            seeds = each.diverged + each.killed + each.estimates["val_loss"].n
            if each.diverged:
                told.append(f"Trial {each.trial} diverged with {each.diverged} of {seeds} seeds.")
            if each.killed:
                told.append(f"No trainer survived trial {each.trial} with {each.killed} of {seeds} seeds.")
        return told

    @property
    def chosen(self) -> dict[str, Confirmed]:
        """What there is of winner, pick and baseline, by name; where that is the winner, of the best regularized one.

        Test data is read for these.
        """
        named = {
            "best": self.best,
            "regularized": self.regularized if self.baseline_wins else None,
            "one_standard_error": self.one_standard_error,
            "baseline": self.baseline,
        }
        return {name: confirmed for name, confirmed in named.items() if confirmed is not None}


@dataclass(frozen=True)
class Picks:
    """Which trials are confirmed, and as what."""

    top: Sequence[int]
    one_standard_error: int | None
    baseline: int | None
    plain: int | None = None
    """The best regularized one, where its learning rate is not the baseline's: with that rate and without
    regularization it is a second baseline, and the better of the two counts. Else regularization would be credited with
    what the rate does."""

    @property
    def trials(self) -> list[int]:
        """Return all of them, each once."""
        return list(
            dict.fromkeys(trial for trial in (*self.top, self.one_standard_error, self.baseline) if trial is not None)
        )


NO_PICKS = Picks([], None, None)


@dataclass(frozen=True)
class Diverged:
    """A configuration trained once more, to no result: a loss was not finite, or no trainer survived it."""

    trial: int
    seed: int
    plain: bool = False
    killed: bool = False
    """Whether it was trainers that ended: those that come may survive it, so it is tried again."""


@dataclass(frozen=True)
class Repeats:
    """What is stored with a study: which trials were picked, and every repeat that has been trained."""

    picks: Picks
    """Of the last confirmation that was finished: from half of one nothing is concluded."""
    runs: Sequence[Repeat] = field(default=())
    diverged: Sequence[Diverged] = field(default=())
    """Trained with the same seed again they would diverge again."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        runs, diverged = ([asdict(each) for each in those] for those in (self.runs, self.diverged))
        return {"picks": asdict(self.picks), "runs": runs, "diverged": diverged}

    def of(self, trial: int, plain: bool = False) -> list[Repeat]:
        """Return a configuration's repeats by seed."""
        return sorted((r for r in self.runs if (r.trial, r.plain) == (trial, plain)), key=lambda run: run.seed)

    def of_equal_seeds(self) -> Repeats:
        """Return the repeats of picks with those seeds that all picks have, to a result or to none.

        More seeds may be on their way, and whoever has the first of them must not win by that.
        """
        tried = {(run.trial, run.seed) for run in self.runs if not run.plain}
        tried |= {(each.trial, each.seed) for each in self.diverged if not each.plain}
        trials = self.picks.trials
        seeds = {seed for _, seed in tried if all((trial, seed) in tried for trial in trials)}
        runs = [run for run in self.runs if run.seed in seeds]
        return Repeats(self.picks, runs, [each for each in self.diverged if each.seed in seeds])

    def of_baseline(self, regularized: int) -> list[Repeat]:
        """Return the repeats of the baseline to compare with: the better of two, where there are two.

        The second one counts once it has a result with every seed that the first one has.
        """
        usual = [] if self.picks.baseline is None else self.of(self.picks.baseline)
        plain = self.of(regularized, plain=True) if self.picks.plain == regularized else []
        if not usual or not {run.seed for run in usual} <= {run.seed for run in plain}:
            return usual
        return min(usual, plain, key=lambda runs: (len(self.without_result(runs)), fmean(r.val_loss for r in runs)))

    def without_result(self, runs: Sequence[Repeat]) -> list[Diverged]:
        """Return the repeats of the same configurations that came to no result."""
        which = {(run.trial, run.plain) for run in runs}
        return [each for each in self.diverged if (each.trial, each.plain) in which]


def pick(records: Sequence[TrialRecord], top: int, objectives: Sequence[str]) -> Picks:
    """Return which of a study's trials to confirm: the `top` best, the one-standard-error pick, the baseline.

    With several objectives, the best are those of the Pareto front, the lowest loss first.
    """
    baseline = next((r.number for r in records if r.role is Role.BASELINE and r.state == "complete"), None)
    ranked = ranked_by_loss(records)
    candidates = pareto_front(ranked, objectives) if len(objectives) > 1 else ranked
    best = [record.number for record in candidates if record.number != baseline][:top]
    simplest = one_standard_error(records)
    return Picks(best, None if simplest is None else simplest.number, baseline)


def ranked_by_loss(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the complete trials, the lowest validation loss first."""
    complete = [record for record in records if record.state == "complete" and record.best is not None]
    return sorted(complete, key=lambda record: (record.best.val_loss, record.number) if record.best else (math.inf, 0))


def one_standard_error(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the most regularized trial whose validation loss is within one standard error of the best's.

    As glmnet's ``lambda.1se`` (Hastie, Tibshirani and Friedman 2009, section 7.10): what lies within the error is as
    good as the best, and of that one prefers the simplest. Here that is the smallest gap between validation and
    training loss, which is what regularization is to close; of equals the one that trained the fewest epochs. The
    baseline does not take part. None as long as no trial is complete.
    """
    ranked = [record for record in ranked_by_loss(records) if record.role is not Role.BASELINE]
    if not ranked:
        return None
    best = ranked[0].best
    assert best is not None
    error = 0.0 if math.isnan(best.val_loss_error) else best.val_loss_error
    return min((r for r in ranked if r.best and r.best.val_loss <= best.val_loss + error), key=_gap)


def _gap(record: TrialRecord) -> tuple[float, int, int]:
    assert record.best is not None
    return (record.best.gap, record.best.epoch, record.number)


def without_regularization(baseline: Params, winner: Params) -> Params:
    """Return the baseline's configuration at the winner's learning rate."""
    return {**baseline, "learning_rate": winner["learning_rate"]}


def conclude(
    repeats: Repeats, params: Mapping[int, Params], val_losses: Mapping[int, Sequence[float]] | None = None
) -> Confirmation | None:
    """Return what the repeats say; None as long as none of the best has any.

    `params` by trial, and of the search its validation losses.
    """
    picks, repeats = repeats.picks, repeats.of_equal_seeds()
    told = {
        trial: replace(confirmed, val_losses=(val_losses or {}).get(trial, ()))
        for trial in picks.trials
        if (confirmed := _confirmed(trial, params[trial], repeats, repeats.of(trial)))
    }
    ranking = sorted((each for trial, each in told.items() if trial != picks.baseline), key=_rank)
    if not ranking:
        return None
    pick = None if picks.one_standard_error is None else told.get(picks.one_standard_error)
    if picks.baseline is None or picks.baseline not in told:
        return Confirmation(ranking, pick, None, None)
    regularized, usual_rate = ranking[0].trial, None
    baseline, ours, theirs = told[picks.baseline], repeats.of(regularized), repeats.of_baseline(regularized)
    if theirs[0].plain:
        usual_rate = params[picks.baseline]["learning_rate"]
        at_its_rate = without_regularization(params[picks.baseline], params[regularized])
        plain = _confirmed(picks.baseline, at_its_rate, repeats, theirs) or baseline
        baseline = replace(plain, val_losses=baseline.val_losses, rate_of=regularized)
    by_val_loss = _difference(theirs, ours, attrgetter("val_loss"), among=len(ranking))
    confirmation = Confirmation(ranking, pick, baseline, None, by_val_loss, usual_rate)
    if "test_loss" not in baseline.estimates or "test_loss" not in ranking[0].estimates:
        return confirmation
    return replace(
        confirmation,
        difference=_difference(ours, theirs, attrgetter("test_accuracy")),
        test_loss_difference=_difference(theirs, ours, attrgetter("test_loss")),
    )


def _rank(confirmed: Confirmed) -> tuple[int, float]:
    """Order by mean validation loss. Who diverges comes last: seeds that were lucky enough flatter."""
    return confirmed.diverged + confirmed.killed, confirmed.estimates["val_loss"].mean


def _confirmed(trial: int, params: Params, repeats: Repeats, runs: Sequence[Repeat]) -> Confirmed | None:
    if not runs:
        return None
    columns = {name: [getattr(run, name) for run in runs] for name in METRICS}
    # Test scores of some seeds alone, others being trained since, are no mean of these seeds.
    known = {name: [value for value in column if value is not None] for name, column in columns.items()}
    estimates = {name: estimate(column) for name, column in known.items() if len(column) == len(runs)}
    none = repeats.without_result(runs)
    killed = sum(each.killed for each in none)
    return Confirmed(trial, params, estimates, len(none) - killed, killed)


def _difference(
    one: Sequence[Repeat], other: Sequence[Repeat], metric: Callable[[Repeat], float | None], among: int = 1
) -> Difference | None:
    """Return the difference of a metric, one minus other, over the seeds that both have.

    `among` is of how many differences this one was chosen, since it looked best.
    """
    theirs = {run.seed: metric(run) for run in other}
    pairs = [
        (value, other_value)
        for run in one
        if (value := metric(run)) is not None and (other_value := theirs.get(run.seed)) is not None
    ]
    return paired_difference(pairs, among) if pairs else None
