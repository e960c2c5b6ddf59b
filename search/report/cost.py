"""What the search cost, what pruning and early stopping saved, and what went wrong on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search.records import Reason, TrialRecord
from search.report.figure import Figure, Trace
from search.report.life import was_killed
from search.report.material import Material
from search.report.theme import filled
from search.report.words import count, duration


@dataclass(frozen=True)
class Cost:
    """A search's work, in trial-epochs: one trial trained for one epoch."""

    spent: int
    """As `show --json` has it: all that was trained, interrupted attempts among it."""
    thrown_away: int
    """Of that, by interrupted attempts."""
    full: int
    """What every trial that counts, run to its last epoch, would have cost."""
    by_pruning: int
    """What pruned trials did not cost."""
    by_early_stopping: int
    by_failing: int
    wall_seconds: float

    @staticmethod
    def of(material: Material) -> Cost:
        """Return the cost of a study so far."""
        longest = material.spec.training.max_epochs

        def saved(*reasons: Reason) -> int:
            return sum(longest - len(record.epochs) for record in material.counted if record.reason in reasons)

        useful = sum(len(record.epochs) for record in material.counted)
        return Cost(
            spent=material.summary.trial_epochs,
            # What a killed process had trained is in the total alone.
            thrown_away=max(0, material.summary.trial_epochs - useful),
            full=longest * len(material.counted),
            by_pruning=saved(Reason.PRUNED),
            by_early_stopping=saved(Reason.EARLY_STOPPED),
            by_failing=saved(Reason.DIVERGED, Reason.ERROR),
            wall_seconds=material.summary.wall_seconds,
        )

    def seconds(self, trial_epochs: int) -> float:
        """Return how long so much work takes, at the pace of this search."""
        return self.wall_seconds * trial_epochs / self.spent if self.spent else 0.0

    @property
    def words(self) -> str:
        """All of it in a sentence or two."""
        if not self.full:
            return "Nothing has been trained yet."
        told = f"{count(self.spent, 'trial-epoch')} in {duration(self.wall_seconds)}"
        saved = self.by_pruning + self.by_early_stopping
        if saved <= 0:
            return f"{told}. Every trial ran to its end."
        pruning, stopping = (duration(self.seconds(part)) for part in (self.by_pruning, self.by_early_stopping))
        return (
            f"{told}. Run to their ends, all trials would have cost {self.full:,}: pruning saved "
            f"{count(self.by_pruning, 'trial-epoch')} (about {pruning} at this search's pace), early stopping "
            f"{self.by_early_stopping:,} (about {stopping}), {saved / self.full:.0%} together."
        )


def cost_figure(material: Material, cost: Cost) -> Figure | None:
    """Return where the trial-epochs went and which were saved, None as long as there are none."""
    if not cost.full:
        return None
    spent = {reason: sum(len(r.epochs) for r in material.counted if r.reason is reason) for reason in Reason}
    parts = [
        ("ran to the last epoch", spent[Reason.COMPLETED], "@best", ""),
        ("early stopped", spent[Reason.EARLY_STOPPED], "@stopped", "/"),
        ("pruned", spent[Reason.PRUNED], "@pruned", "."),
        ("failed", spent[Reason.DIVERGED] + spent[Reason.ERROR], "@failed", "x"),
        ("thrown away", cost.thrown_away, "@interrupted", "\\"),
    ]
    saved = [
        ("saved by pruning", cost.by_pruning, "@pruned/35", "."),
        ("saved by early stopping", cost.by_early_stopping, "@stopped/35", "/"),
        ("not run by failed trials", cost.by_failing, "@failed/35", "x"),
    ]
    data = [_part(row, *part) for row, group in (("spent", parts), ("saved", saved)) for part in group if part[1] > 0]
    return Figure(
        name="cost",
        title="What it cost",
        caption="In trial-epochs: one trial trained for one epoch.",
        alt=", ".join(f"{name} {epochs}" for name, epochs, *_ in (*parts, *saved) if epochs),
        data=data,
        layout={
            "barmode": "stack",
            "bargap": 0.35,
            "xaxis": {"title": {"text": "trial-epochs"}, "showgrid": True},
            "yaxis": {"categoryarray": ["saved", "spent"], "categoryorder": "array", "showgrid": False, "ticks": ""},
            "showlegend": True,
        },
        height=230,
    )


def _part(row: str, name: str, epochs: int, colour: str, pattern: str) -> Trace:
    return {
        "type": "bar",
        "orientation": "h",
        "y": [row],
        "x": [epochs],
        "name": name,
        "marker": filled(colour, pattern),
        "hovertemplate": f"{name}: %{{x}} trial-epochs<extra></extra>",
    }


@dataclass(frozen=True)
class Fault:
    """One line of the ledger."""

    trial: int
    when: str
    what: str
    then: str
    lost: str
    """In trial-epochs; unknown for what a killed process had trained."""


_MOST_FAULTS = 100


def faults(material: Material) -> list[Fault]:
    """Return what went wrong, the latest last; not more than a page can bear."""
    again: dict[int, list[TrialRecord]] = {}
    for record in material.records:
        again.setdefault(record.number if record.retry_of is None else record.retry_of, []).append(record)
    wrong = [r for r in material.records if r.state == "failed"]
    return [_fault(record, again[record.number if record.retry_of is None else record.retry_of]) for record in wrong][
        -_MOST_FAULTS:
    ]


def _fault(record: TrialRecord, attempts: Sequence[TrialRecord]) -> Fault:
    later = [attempt for attempt in attempts if attempt.number > record.number]
    then = f"ran again as trial {later[0].number}, {later[0].reason.replace('_', ' ')}" if later else "nothing"
    what = {
        Reason.DIVERGED: "a loss was not finite",
        Reason.ERROR: f"error: {record.error or 'unknown'}",
        Reason.INTERRUPTED: f"interrupted: {record.error}" if record.error else "interrupted",
        Reason.LOST: "its process died, or was away for longer than its lease",
    }[record.reason]
    if was_killed(record) and record.reason is not Reason.LOST:
        what = "killed, or interrupted before its first epoch ended"
    if record.reason.is_no_result:
        then = then if later else "back in the queue"
        lost = "unknown" if was_killed(record) else str(len(record.epochs))
    else:
        lost = "-"
    return Fault(record.number, record.ended.strftime("%Y-%m-%d %H:%M:%S"), what, then, lost)


def fault_words(material: Material, cost: Cost) -> str:
    """Return the ledger in a sentence."""
    reasons = material.summary.reasons
    counts = {
        reason: reasons.get(reason, 0) for reason in (Reason.INTERRUPTED, Reason.LOST, Reason.ERROR, Reason.DIVERGED)
    }
    if not any(counts.values()):
        return "Nothing went wrong: no attempt was interrupted, no trial failed, no work was thrown away."
    told = [
        f"{count(counts[Reason.INTERRUPTED], 'attempt')} interrupted, their configurations put back in the queue",
        f"{count(counts[Reason.LOST], 'attempt')} lost with the process that ran it, run again by another",
        f"{count(counts[Reason.ERROR], 'trial')} ended by an error",
        f"{count(counts[Reason.DIVERGED], 'trial')} diverged",
    ]
    said = "; ".join(text for text, number in zip(told, counts.values(), strict=True) if number)
    return (
        f"{said}. Work thrown away: {count(cost.thrown_away, 'trial-epoch')}, {_share(cost)} of all that was trained."
    )


def left_out_words(material: Material) -> str | None:
    """Return which trials in the storage do not count, and why; None where all do."""
    left_out = material.summary.left_out
    if not left_out:
        return None
    told = "; ".join(f"trial {each.number}: {each.why}" for each in left_out[:_MOST_FAULTS])
    more = f"; and {len(left_out) - _MOST_FAULTS} more" if len(left_out) > _MOST_FAULTS else ""
    return f"Left out of this report, since other programs have written or changed them: {told}{more}."


def _share(cost: Cost) -> str:
    return f"{cost.thrown_away / cost.spent:.1%}" if cost.spent else "none"
