"""What the numbers say, in plain words, and numbers as people write them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from search.confirmation import Confirmation
from search.intervals import Answer, Difference
from search.report.material import Material
from search.report.writing import typed

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
        return _unconfirmed(material, command(material, "confirm"))
    difference = summary.confirmed.difference
    told = _without_test(summary.confirmed) if difference is None else _confirmed(summary.confirmed, difference)
    return replace(told, detail=f"{told.detail} {_remark(material)}".rstrip())


def _confirmed(confirmation: Confirmation, difference: Difference) -> Verdict:
    mean, answer = f"{100 * difference.mean:+.2f}", difference.answer
    scores, interval = (
        _accuracies(confirmation),
        f"The difference is {difference.points}, over {difference.n} seeds in pairs",
    )
    match answer:
        case Answer.UNKNOWN:
            detail = f"{scores} That is one seed, which tells nothing of chance: confirm with more (--seeds 5)."
            return Verdict(f"Test accuracy {mean} points against no regularization, by one seed.", detail, "open")
        case Answer.UNCLEAR:
            detail = f"{scores} {interval}: it includes zero, so chance alone could explain it."
            return Verdict(f"{answer.capitalize()}.", detail, "open")
        case _:
            headline = f"{answer.capitalize()}: {mean} points of test accuracy."
            return Verdict(
                headline, f"{scores} {interval}: it excludes zero.", "good" if difference.mean > 0 else "bad"
            )


def _accuracies(confirmation: Confirmation) -> str:
    best = confirmation.best.estimates.get("test_accuracy")
    baseline = None if confirmation.baseline is None else confirmation.baseline.estimates.get("test_accuracy")
    if best is None or baseline is None:
        return ""
    return (
        f"With regularization (trial {confirmation.best.trial}) the network gets {best.mean:.2%} of the test data "
        f"right, without {baseline.mean:.2%}."
    )


def _losses(confirmation: Confirmation) -> str:
    difference = confirmation.loss_difference
    assert difference is not None, "there is a baseline"
    if not math.isfinite(difference.low):
        return ""
    low, high = f"{difference.low:+.4f}", f"{difference.high:+.4f}"
    return f". In pairs it is {difference.mean:+.4f} higher without, 95 % interval {low} to {high}"


def _without_test(confirmation: Confirmation) -> Verdict:
    best, baseline, answer = confirmation.best, confirmation.baseline, confirmation.answer_by_loss
    if baseline is None or answer is None:
        return Verdict("There is no baseline to compare with.", "No unregularized trial was confirmed.", "open")
    one, other = best.estimates["val_loss"], baseline.estimates["val_loss"]
    losses = (
        f"Mean validation loss over {count(one.n, 'seed')}: {one.mean:.4f} with regularization (trial {best.trial}), "
        f"{other.mean:.4f} without{_losses(confirmation)}"
    )
    match answer:
        case Answer.UNKNOWN:
            return Verdict(f"{answer.capitalize()}.", f"{losses}. Test data was not read.", "open")
        case Answer.UNCLEAR:
            detail = f"{losses}: it includes zero. Test data was not read."
            return Verdict(f"{answer.capitalize()}.", detail, "open")
        case _:
            detail = f"{losses}: it excludes zero. Test data was not read."
            return Verdict(f"{answer.capitalize()}, by validation loss.", detail, _KINDS[answer])


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
