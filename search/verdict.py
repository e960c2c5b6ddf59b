"""A study's answer: which configuration to use, whether regularization helps, and what to beware of. Plain values only.

All outputs read it from here, so that they name the same trial: the terminal, JSON, files, the report, MLflow's runs,
the dashboard's notes, and what Python and `export` hand over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from search.confirmation import Confirmed
from search.intervals import Answer, Difference
from search.records import Majority, Params, Role, Score, Summary, TrialRecord

Metric = Literal["test_accuracy", "test_loss", "val_loss"]
LABELS: dict[Metric, str] = {
    "test_accuracy": "test accuracy",
    "test_loss": "test loss",
    "val_loss": "validation loss",
}
CROSS_ENTROPY = "cross_entropy"
"""The loss whose outputs are probabilities of classes, for which accuracy and calibration are fair measures."""


@dataclass(frozen=True)
class Winner:
    """The configuration to use: the best over seeds, or as long as nothing is confirmed the search's best."""

    trial: int
    params: Params
    epochs: int
    """For how long to train it: the mean of its confirmed numbers, or that of the search."""
    val_losses: Sequence[float]
    """Of the trial in the search, epoch by epoch."""
    is_baseline: bool
    """Whether the answer is no regularization."""
    confirmed: Confirmed | None = None
    rate_of: int | None = None
    """As `Confirmed.rate_of`: then no trial of the search has this configuration."""

    @property
    def name(self) -> str:
        """The trial in words, as `trial 5` or `no regularization (the baseline, trial 0)`."""
        if not self.is_baseline:
            return f"trial {self.trial}"
        rate = "" if self.rate_of is None else f", with trial {self.rate_of}'s learning rate"
        return f"no regularization (the baseline, trial {self.trial}{rate})"

    def is_trial(self, record: TrialRecord | None) -> bool:
        """Return whether a trial of the search is the winner: then its curve, weights and scores are the winner's."""
        return record is not None and self.rate_of is None and record.number == self.trial


def winner(summary: Summary) -> Winner | None:
    """Return a study's winner, None as long as no trial is complete."""
    if summary.confirmed is not None:
        return confirmed_winner(summary.confirmed.best, summary.confirmed.baseline_wins)
    return None if summary.best is None else searched_winner(summary.best)


def confirmed_winner(confirmed: Confirmed, is_baseline: bool = False) -> Winner:
    """Return what was confirmed as what to use."""
    epochs = max(1, round(confirmed.estimates["epochs"].mean)) if "epochs" in confirmed.estimates else 1
    params, losses = confirmed.params, confirmed.val_losses
    return Winner(confirmed.trial, params, epochs, losses, is_baseline, confirmed, confirmed.rate_of)


def searched_winner(record: TrialRecord) -> Winner:
    """Return a complete trial of the search as what to use."""
    assert record.best is not None, "a complete trial has a best epoch"
    return Winner(record.number, record.params, record.best.epoch, record.val_losses, record.role is Role.BASELINE)


def test_score(summary: Summary, trial: TrialRecord) -> Score | None:
    """Return the test score of a trial of the search, None where it was not read."""
    return next((score for score in summary.test.values() if score.trial == trial.number), None)


@dataclass(frozen=True)
class Comparison:
    """The best regularized configuration beside the baseline, over seeds, by one metric."""

    metric: Metric
    regularized: Confirmed
    baseline: Confirmed
    difference: Difference
    """More is better: of accuracy with regularization minus without, of losses the other way round."""

    @property
    def answer(self) -> Answer:
        """Whether regularization helps."""
        return self.difference.answer

    @property
    def label(self) -> str:
        """The metric in words."""
        return LABELS[self.metric]

    @property
    def scores(self) -> str:
        """Both means: `test accuracy 97.53%, without regularization 96.52%`."""
        style = ".2%" if self.metric == "test_accuracy" else ".4f"
        ours, theirs = (each.estimates[self.metric].mean for each in (self.regularized, self.baseline))
        return f"{self.label} {ours:{style}}, without regularization {theirs:{style}}"

    @property
    def amount(self) -> str:
        """With regularization minus without: `+0.52 points, 95 % interval +0.04 to +1.00`."""
        return self.difference.points if self.metric == "test_accuracy" else self.difference.losses

    @property
    def headline(self) -> str:
        """The verdict in a line."""
        return f"{self.answer}: {self.label} {self.amount}"


def comparison(summary: Summary) -> Comparison | None:
    """Return what says whether regularization helps; None where nothing is confirmed, or there is no baseline.

    That is test accuracy, where it is what was trained for and tells more than an answer that is always the same; else
    the loss that was trained, on test data; and where those were not read, on validation data.
    """
    confirmation = summary.confirmed
    if confirmation is None or confirmation.baseline is None or confirmation.loss_difference is None:
        return None
    compared: tuple[Metric, Difference] = ("val_loss", confirmation.loss_difference)
    if confirmation.test_loss_difference is not None and _goes_by_loss(summary):
        compared = ("test_loss", confirmation.test_loss_difference)
    elif confirmation.difference is not None:
        compared = ("test_accuracy", confirmation.difference)
    return Comparison(compared[0], confirmation.regularized, confirmation.baseline, compared[1])


def _goes_by_loss(summary: Summary) -> bool:
    majority, confirmation = summary.majorities.get("test"), summary.confirmed
    if summary.loss != CROSS_ENTROPY or majority is None or confirmation is None:
        return summary.loss != CROSS_ENTROPY
    both = (confirmation.regularized, confirmation.baseline)
    told = [each.estimates["test_accuracy"].mean for each in both if each and "test_accuracy" in each.estimates]
    return not any(map(majority.is_clearly_beaten_by, told))


def headline(summary: Summary) -> str | None:
    """Return the verdict in a line, None where there is none."""
    compared = comparison(summary)
    return None if compared is None else compared.headline


def hurts(summary: Summary) -> bool:
    """Return whether the verdict is against the regularized configuration."""
    compared = comparison(summary)
    return compared is not None and compared.answer is Answer.HURTS


def warnings(summary: Summary) -> list[str]:
    """Return what to beware of, in sentences: accuracies that say little, and what is not confirmed yet."""
    told = []
    for examples, accuracies in {"test": _test_accuracies(summary), "validation": _val_accuracies(summary)}.items():
        majority, known = summary.majorities.get(examples), list(accuracies)
        if majority is not None and not all(map(majority.is_clearly_beaten_by, known)):
            told.append(_of_majority(majority, examples))
            break  # the same is the case with the others
    compared = comparison(summary)
    if compared is not None and compared.metric == "test_loss":
        reason = "which is not cross-entropy" if summary.loss != CROSS_ENTROPY else "since accuracy says little"
        told.append(f"The verdict goes by the loss that was trained, {reason}.")
    if summary.confirmed is not None and summary.best is not None:
        confirmed = {each.trial for each in summary.confirmed.by_rank}
        if summary.best.number not in confirmed:
            told.append(f"Trial {summary.best.number}, the search's best by now, is not confirmed yet.")
    return told


def _of_majority(majority: Majority, examples: str) -> str:
    return (
        f"{majority.share:.1%} of the {examples} examples are of one class: always answering that has this accuracy, "
        "so accuracies that are not clearly higher say little."
    )


def _test_accuracies(summary: Summary) -> Iterator[float]:
    yield from (score.accuracy for score in summary.test.values())
    if summary.confirmed is not None:
        known = (each.estimates.get("test_accuracy") for each in summary.confirmed.chosen.values())
        yield from (accuracy.mean for accuracy in known if accuracy is not None)


def _val_accuracies(summary: Summary) -> Iterator[float]:
    for record in (summary.best, summary.regularized, summary.one_standard_error, summary.baseline):
        if record is not None and record.best is not None:
            yield record.best.val_accuracy
