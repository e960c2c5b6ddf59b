"""What the numbers say, in plain words, and numbers as people write them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from search.confirmation import BASELINE_WINS
from search.intervals import Answer
from search.report.material import Material
from search.report.writing import typed
from search.verdict import Comparison, comparison, warnings

_KINDS = {Answer.HELPS: "good", Answer.HURTS: "bad"}


@dataclass(frozen=True)
class Verdict:
    """The first thing that a reader sees."""

    headline: str
    detail: str
    kind: str
    """`good`, `bad` or `open`: what the page marks it as."""
    command: str = ""
    """What to do about it."""


def verdict(material: Material) -> Verdict:
    """Return whether regularization helps, and how sure that is."""
    summary = material.summary
    if summary.best is None:
        return _nothing(material)
    if summary.confirmed is None:
        told = _unconfirmed(material, command(material, "confirm"))
    else:
        compared = comparison(summary)
        told = _no_baseline() if compared is None else _compared(compared)
        if summary.confirmed.baseline_wins:
            told = replace(told, detail=f"{told.detail} {BASELINE_WINS}")
        told = replace(told, detail=f"{told.detail} {_remark(material)}".rstrip())
    return replace(told, detail=" ".join([*warnings(summary), told.detail]))


def _no_baseline() -> Verdict:
    return Verdict("There is no baseline to compare with.", "No unregularized trial was confirmed.", "open")


def _compared(compared: Comparison) -> Verdict:
    answer = compared.answer
    includes = "it includes zero, so chance alone could explain it" if answer is Answer.UNCLEAR else "it excludes zero"
    detail = f"{_means(compared)} {_interval(compared)}{includes}."
    headline = f"{answer.capitalize()}."
    if answer is Answer.UNKNOWN:
        detail = f"{_means(compared)} That is one seed, which tells nothing of chance: confirm with more (--seeds 5)."
        if compared.metric == "test_accuracy":
            mean = f"{100 * compared.difference.mean:+.2f}"
            headline = f"Test accuracy {mean} points against no regularization, by one seed."
    elif answer is not Answer.UNCLEAR:
        headline = f"{answer.capitalize()}, by {compared.label}."
        if compared.metric == "test_accuracy":
            headline = f"{answer.capitalize()}: {100 * compared.difference.mean:+.2f} points of test accuracy."
    unread = " Test data was not read." if compared.metric == "val_loss" else ""
    return Verdict(headline, detail + unread, _KINDS.get(answer, "open"))


def _means(compared: Comparison) -> str:
    ours, theirs = (each.estimates[compared.metric] for each in (compared.regularized, compared.baseline))
    trial = compared.regularized.trial
    if compared.metric == "test_accuracy":
        return (
            f"With regularization (trial {trial}) the network gets {ours.mean:.2%} of the test data right, without "
            f"{theirs.mean:.2%}."
        )
    label = f"Mean {compared.label} over {count(ours.n, 'seed')}"
    return f"{label}: {ours.mean:.4f} with regularization (trial {trial}), {theirs.mean:.4f} without."


def _interval(compared: Comparison) -> str:
    if compared.metric == "test_accuracy":
        return f"The difference is {compared.amount}, over {compared.difference.n} seeds in pairs: "
    difference = compared.difference
    low, high = f"{difference.low:+.4f}", f"{difference.high:+.4f}"
    return f"In pairs it is {difference.mean:+.4f} higher without, 95 % interval {low} to {high}: "


def _unconfirmed(material: Material, confirm: str) -> Verdict:
    best, baseline = material.summary.best, material.summary.baseline
    way_out = f"{_remark(material)}Confirm it with other seeds:"
    if best is None or best.best is None:
        return _nothing(material)
    if baseline is None or baseline.best is None:
        return Verdict("Not confirmed yet, and there is no baseline to compare with.", way_out, "open", confirm)
    if best.number == baseline.number:
        return Verdict("Not confirmed yet; in the search no regularization did best.", way_out, "open", confirm)
    detail = (
        f"In the search, validation loss {best.best.val_loss:.4f} with regularization (trial {best.number}) against "
        f"{baseline.best.val_loss:.4f} without. That is one run of each, and the best is the luckiest of "
        f"{count(len(material.counted), 'trial')}. {way_out}"
    )
    return Verdict("Not confirmed yet.", detail, "open", confirm)


def _remark(material: Material) -> str:
    noise = material.summary.noise
    return "" if noise is None or noise.remark is None else f"{noise.remark} "


def _nothing(material: Material) -> Verdict:
    if not material.counted:
        return Verdict("No trial has ended yet.", "Begin, or go on, with:", "open", command(material, "start"))
    detail = "There is nothing to compare. How the trials ended is below, and the fault ledger tells of errors."
    return Verdict("No trial is complete.", detail, "open")


def command(material: Material, verb: str) -> str:
    """Return a command on this study as one would type it."""
    return typed(verb, material.summary.study, material.where)


def duration(seconds: float) -> str:
    """Return a time as one says it, to two places at most."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 60:
        return f"{int(minutes)} min {seconds % 60:.0f} s"
    return f"{int(hours)} h {minutes % 60:.0f} min" if hours < 48 else f"{hours / 24:.1f} days"


def count(number: int, one: str, many: str | None = None) -> str:
    """Return `1 trial`, `3 trials`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
