"""Optuna's own pruners, unmodified, on an in-memory mirror of the study.

They read trials from a study's storage, all of them on every decision; databases reload every unfinished trial with
all its values for that. Here the storage they read is a mirror in memory, with the same trial numbers (hyperband
assigns brackets by number and study name), and the real storage is not touched.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, PercentilePruner
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState, create_trial

from search.records import EpochResult, TrialRecord

if TYPE_CHECKING:
    from search.spec import StudySpec


def optuna_pruner(spec: "StudySpec") -> BasePruner:
    """Return Optuna's pruner for the spec; one that never prunes where Optuna has no part in it."""
    pruner = spec.search.pruner
    match pruner.name:
        case "median":
            return MedianPruner(pruner.startup_trials, pruner.min_epochs)
        case "percentile":
            return PercentilePruner(pruner.percentile, pruner.startup_trials, pruner.min_epochs)
        case "hyperband":
            longest = spec.training.max_epochs
            return HyperbandPruner(min(pruner.min_epochs, longest), longest, pruner.reduction_factor)
        case _:
            return NopPruner()


class OptunaPruner:
    """One of Optuna's pruners behind the protocol of `pruning.Pruner`; Optuna's steps are our epochs.

    A trial interrupted while this object lives keeps its place in a hyperband rung (Optuna can't take it back); after
    a resume it has none.
    """

    def __init__(self, pruner: BasePruner, study_name: str) -> None:
        self._pruner = pruner
        self._storage = InMemoryStorage()
        self._study = optuna.create_study(
            study_name=study_name, storage=self._storage, direction="minimize", pruner=pruner
        )
        self._study_id = self._storage.get_study_id_from_name(study_name)
        self._epochs_seen: dict[int, int] = {}
        self._trials = 0

    def epoch_ended(self, curves: Mapping[int, Sequence[EpochResult]]) -> set[int]:
        """Return who is pruned by Optuna's rule, asked for one trial after another in order of number."""
        return {number for number in sorted(curves) if self._follow(number, curves[number])}

    def trial_ended(self, record: TrialRecord) -> None:
        """Finish the mirrored trial; one that was never seen running is first replayed, epoch by epoch."""
        seen = record.number in self._epochs_seen
        if record.reason.is_no_result and not seen:
            return
        self._follow(record.number, record.epochs)
        best = record.best
        if record.state == "complete" and best is not None:
            self._storage.set_trial_state_values(self._trial_id(record.number), TrialState.COMPLETE, [best.val_loss])
        else:
            state = TrialState.PRUNED if record.state == "pruned" else TrialState.FAIL
            self._storage.set_trial_state_values(self._trial_id(record.number), state)

    def _follow(self, number: int, epochs: Sequence[EpochResult]) -> bool:
        """Report the epochs that are new and return what the pruner says after the last of them."""
        trial_id = self._trial_id(number)
        prune = False
        for epoch in range(self._epochs_seen.setdefault(number, 0) + 1, len(epochs) + 1):
            self._storage.set_trial_intermediate_value(trial_id, epoch, epochs[epoch - 1].val_loss)
            prune = self._pruner.prune(self._study, self._storage.get_trial(trial_id))
            self._epochs_seen[number] = epoch
        return prune

    def _trial_id(self, number: int) -> int:
        """Return the mirrored trial's id in the mirror; trials not heard of yet wait there, for their numbers' sake."""
        for _ in range(self._trials, number + 1):
            self._study.add_trial(create_trial(state=TrialState.WAITING))
        self._trials = max(self._trials, number + 1)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        if self._storage.get_trial(trial_id).state == TrialState.WAITING:
            self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        return trial_id


def bracket_aware(study: optuna.Study) -> None:
    """Have hyperband know its brackets, so that the sampler learns from a trial's own bracket.

    Optuna works them out on the first pruning decision, which here is never made on the real study.
    """
    if isinstance(study.pruner, HyperbandPruner):
        study.pruner.prune(study, create_trial(state=TrialState.RUNNING))
