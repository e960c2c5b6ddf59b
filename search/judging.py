"""Who goes on after an epoch: whether a trial has reached its end by its own curve, or is left behind by the others."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from search.posts import Running
from search.pruning import Pruner
from search.records import Reason, Role, TrialRecord
from search.spec.parameters import epochs_before_averaging


class Judge:
    """Judges the trials of one study, all of which it has to be told of.

    The baseline stands outside the competition: it is never pruned, since the winner is compared with it, and it prunes
    nobody, since without regularization the first epochs go faster and the last ones worse.
    """

    def __init__(self, pruner: Pruner, max_epochs: int) -> None:
        self._pruner, self._max_epochs = pruner, max_epochs
        self._ended: set[int] = set()
        """What ends elsewhere may be told twice, and its epochs still come while its runner has not heard of it."""

    def pruned(self, running: Mapping[int, Running]) -> set[int]:
        """Return which of these trials, which have just finished an epoch, are to end since others do better."""
        return self._pruner.epoch_ended(
            {
                number: run.epochs
                for number, run in running.items()
                if number not in self._ended
                and run.assignment.role is not Role.BASELINE
                and run.epochs
                and isfinite(run.epochs[-1].val_loss)
            }
        )

    def take_note(self, record: TrialRecord) -> None:
        """Learn of a trial that has ended, here or elsewhere; what is told first counts."""
        if record.number in self._ended:
            return
        self._ended.add(record.number)
        if record.role is not Role.BASELINE:
            self._pruner.trial_ended(record)

    def reason_to_end(self, run: Running, pruned: bool) -> Reason | None:
        """Return why a trial ends with the epoch that it has just finished; None when it goes on."""
        last = run.epochs[-1]
        if not (isfinite(last.val_loss) and isfinite(last.train_loss)):
            return Reason.DIVERGED
        if last.epoch >= self._max_epochs:
            return Reason.COMPLETED
        if self._epochs_in_vain(run) >= run.assignment.params["patience"]:
            return Reason.EARLY_STOPPED
        return Reason.PRUNED if pruned else None

    def _epochs_in_vain(self, run: Running) -> int:
        """Return how many epochs ago the trial last got better, or what it averages had not begun.

        Averages are meant to settle weights that go on wandering: a trial stopped for that would never have any.
        """
        averaging, last = run.assignment.params.get("weight_averaging", 0.0), run.epochs[-1].epoch
        since = epochs_before_averaging(averaging, self._max_epochs) if averaging else 0
        return min(run.epochs_without_improvement(), last - since)
