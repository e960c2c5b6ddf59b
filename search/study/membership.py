"""This process among those that run a study: who the others are, who of them has died, and who does what is done once.

How signs of life are given and read is the business of `leases.py`, what becomes of the trials of the dead that of
`endings.py`.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from optuna.storages import BaseStorage

from search.study.commits import exclusive
from search.study.leases import Lease, Observer, RunnerRecord, Task, runners_of, tidy_away
from search.study.roster import hears_stop

_FINISHER = "finisher"
"""System attribute: the runner that does what is done once in a study's end."""
_LOOKS_PER_LEASE = 6
_LONGEST_PAUSE = 2.0


class Membership:
    """A place among the runners of a study, from its making until `leave`. All methods raise what the storage does."""

    def __init__(self, storage: BaseStorage, study_id: int, home: Path, lease: float, task: Task) -> None:
        """Join. Raises HomeError when there is no place in the home for what runners need."""
        self._storage, self._study_id, self._home = storage, study_id, home
        self.lease = Lease(storage, study_id, home, lease, task)
        self._observer = Observer(home)
        try:
            self.lease.start()
        except BaseException:
            self.leave()
            raise

    @property
    def runner(self) -> str:
        """This runner's name."""
        return self.lease.runner

    def others(self) -> list[RunnerRecord]:
        """Return the other runners, but for those that are known to be gone."""
        runners = runners_of(self._storage.get_study_system_attrs(self._study_id))
        return [runner for runner in runners if runner.runner != self.runner]

    def dead(self, others: Sequence[RunnerRecord]) -> list[RunnerRecord]:
        """Return those of the others that have died. To be called several times a lease."""
        return self._observer.dead(others)

    def alive(self) -> list[RunnerRecord]:
        """Return the others without those that have died."""
        others = self.others()
        dead = self.dead(others)
        return [runner for runner in others if runner not in dead]

    def tidy_away(self, dead: RunnerRecord) -> None:
        """Remove what another runner that has died has left in this home."""
        tidy_away(dead, self._home)

    def asked_to_stop(self) -> bool:
        """Return whether somebody has asked this runner to leave; whoever it was learns that it was heard."""
        return hears_stop(self._storage, self._study_id, self.runner)

    def elect(self, stop: Callable[[], bool] = lambda: False) -> RunnerRecord | None:
        """Make this runner the one that does what is done once in a study's end; return who else it is, or None.

        Waits for a sign of life from whoever it is, for a lease at most, or until `stop`.
        """
        first: RunnerRecord | None = None
        while (holder := self._elect()) is not None:
            first = first or holder
            if holder.beat != first.beat or stop():
                return holder
            time.sleep(min(_LONGEST_PAUSE, holder.lease / _LOOKS_PER_LEASE))
        return None

    def who_runs_it(self) -> RunnerRecord | None:
        """Return another one who runs trials, or does what is done once in the study's end; None makes it this one."""
        return self.elect() or next((other for other in self.alive() if other.task == "search"), None)

    def leave(self) -> None:
        """Be no runner any more; not to fail, since others find out by themselves."""
        self.lease.release()

    def finisher(self) -> RunnerRecord | None:
        """Return the other runner that was elected to do what is done once in the study's end, if it lives; or None."""
        holder = self._storage.get_study_system_attrs(self._study_id).get(_FINISHER)
        return next((runner for runner in self.alive() if runner.runner == holder), None)

    def _elect(self) -> RunnerRecord | None:
        with exclusive(self._storage, self._study_id):
            other = self.finisher()
            if other is None:
                self._storage.set_study_system_attr(self._study_id, _FINISHER, self.runner)
            return other
