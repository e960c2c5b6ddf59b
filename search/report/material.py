"""What a report is made from: a study's summary, its trials, what else its storage knows. Plain values, read once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from search.confirmation import Confirmed
from search.records import Params, Summary, TrialRecord
from search.spec import Range, StudySpec
from search.verdict import Winner, winner

if TYPE_CHECKING:
    from search.study import StoredStudy

NAMES = {
    "best": "best",
    "regularized": "best with regularization",
    "one_standard_error": "one-standard-error pick",
    "baseline": "baseline",
}
"""What is compared, by its name in `show --json`."""
STRONGEST = 3
"""So many parameters are looked at in pairs."""


@dataclass(frozen=True)
class Material:
    """One study, as it is now."""

    summary: Summary
    spec: StudySpec
    records: Sequence[TrialRecord]
    """The finished trials, by number."""
    made: datetime
    importances: Mapping[str, float] = field(default_factory=dict)
    """As Optuna has them: by parameter and switch."""
    optuna_plots: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    """What the last search ran on, by what it is."""
    where: Mapping[str, str] = field(default_factory=dict)
    """`home`, and `storage` without its password, where they are not the default."""

    @cached_property
    def counted(self) -> list[TrialRecord]:
        """The trials that count: interrupted ones run again under another number."""
        return [record for record in self.records if not record.reason.is_no_result]

    @cached_property
    def complete(self) -> list[TrialRecord]:
        """The trials that ended by themselves."""
        return [record for record in self.records if record.state == "complete" and loss_of(record) is not None]

    @cached_property
    def searched(self) -> dict[str, Range]:
        """The parameters that were searched, those that are only on or off among them."""
        settings = self.spec.parameters()
        return {name: setting for name, setting in settings.items() if isinstance(setting, Range)}

    @cached_property
    def answer(self) -> Winner | None:
        """The configuration to use."""
        return winner(self.summary)

    @cached_property
    def winner(self) -> TrialRecord | None:
        """The trial of the search that has this configuration, None where none has."""
        best = self.answer
        return None if best is None else next((record for record in self.records if best.is_trial(record)), None)

    @cached_property
    def chosen(self) -> dict[str, TrialRecord]:
        """Winner, one-standard-error pick and baseline, as far as they are there, under the names of `show --json`.

        Where the baseline wins, the best regularized trial is beside it.
        """
        summary, confirmed = self.summary, {} if self.summary.confirmed is None else self.summary.confirmed.chosen
        named = {"best": self.winner}
        if self.answer is not None and self.answer.is_baseline:
            named["regularized"] = self._trial(confirmed.get("regularized"), summary.regularized)
        named |= {
            "one_standard_error": self._trial(confirmed.get("one_standard_error"), summary.one_standard_error),
            "baseline": self._trial(confirmed.get("baseline"), summary.baseline),
        }
        return {name: record for name, record in named.items() if record is not None}

    @cached_property
    def configurations(self) -> dict[str, tuple[str, Params]]:
        """What these are called and trained with: the baseline may be confirmed with another trial's learning rate."""
        told = {which: (str(record.number), record.params) for which, record in self.chosen.items()}
        confirmed = {} if self.summary.confirmed is None else self.summary.confirmed.chosen
        return {
            which: (str(each.trial), each.params) if (each := confirmed.get(which)) is not None else told[which]
            for which in NAMES
            if which in told or which in confirmed
        }

    @property
    def names(self) -> dict[str, str]:
        """What those are called: the best may be another trial than the one with the lowest loss in the search."""
        return NAMES if self.summary.confirmed is None else {**NAMES, "best": "best over seeds"}

    def ranked_params(self) -> list[str]:
        """Return the searched parameters, what matters most first; in the table's order where that is unknown."""
        switches = self.spec.space.switches(self.spec.model.layers)

        def importance(name: str) -> float:
            return self.importances.get(name, 0.0) + self.importances.get(switches.get(name, ""), 0.0)

        return sorted(self.searched, key=lambda name: -importance(name))

    def _trial(self, confirmed: Confirmed | None, otherwise: TrialRecord | None) -> TrialRecord | None:
        if confirmed is None:
            return otherwise
        return next((record for record in self.records if record.number == confirmed.trial), otherwise)


def gather(study: StoredStudy, where: Mapping[str, str] | None = None) -> Material:
    """Read all that a report needs from a study's storage. Raises StorageError."""
    importances = study.importances()
    strongest = sorted(importances, key=lambda name: -importances[name])
    numbers = [name for name in strongest if name in study.spec.choices.ranges()]
    return Material(
        summary=study.summary(),
        spec=study.spec,
        records=study.records(),
        made=datetime.now().astimezone(),
        importances=importances,
        optuna_plots=study.plots(numbers[:STRONGEST]),
        machine=study.machine,
        where=where or {},
    )


def loss_of(record: TrialRecord) -> float | None:
    """Return the lowest validation loss of a trial, None when it has no finite one."""
    best = record.best
    return best.val_loss if best is not None and math.isfinite(best.val_loss) else None


def losses(records: Sequence[TrialRecord]) -> list[tuple[TrialRecord, float]]:
    """Return the trials that have a finite loss, each with its lowest."""
    return [(record, loss) for record in records if (loss := loss_of(record)) is not None]
