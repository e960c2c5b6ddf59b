"""Which trials a study has got since one looked last: one question to a database, however many they are.

With many runners most of a study's trials are others', and each runner has to know of all of them, often while it keeps
the others waiting.
"""

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from search.study.trials import CONFIG, FIXED, RUNNER, SUCCESSOR_OF, is_attempt_again


@dataclass(frozen=True)
class Arrival:
    """A trial that is there, as far as the queue and the budget are concerned."""

    trial_id: int
    waiting: bool
    is_again: bool
    """See `is_attempt_again`."""
    counts: bool
    """Whether it has a place in the budget, see `Sieve.counts`."""


# Ids ascend with the numbers, since trials are made under the study's lock, and have an index, which numbers lack.
_QUERY = sqlalchemy.text(
    "SELECT t.trial_id, t.state, EXISTS"
    " (SELECT 1 FROM trial_user_attributes a WHERE a.trial_id = t.trial_id AND a.key = :successor_of), EXISTS"
    " (SELECT 1 FROM trial_system_attributes a WHERE a.trial_id = t.trial_id AND a.key = :fixed), EXISTS"
    " (SELECT 1 FROM trial_system_attributes a WHERE a.trial_id = t.trial_id AND a.key = :runner), EXISTS"
    " (SELECT 1 FROM trial_user_attributes a WHERE a.trial_id = t.trial_id AND a.key = :config)"
    " FROM trials t WHERE t.study_id = :study_id AND t.trial_id > :last_id ORDER BY t.trial_id"
)


def arrivals(
    storage: BaseStorage, study_id: int, known: int, last_id: int, counts: Callable[[FrozenTrial], bool]
) -> list[Arrival]:
    """Return the trials behind the first `known` ones, of which the last has the id `last_id`; by number."""
    if not isinstance(storage, RDBStorage):
        return _from_memory(storage, study_id, known, counts)
    keys = {"successor_of": SUCCESSOR_OF, "fixed": FIXED, "runner": RUNNER, "config": CONFIG}
    with storage.scoped_session() as session:
        rows = session.execute(_QUERY, keys | {"study_id": study_id, "last_id": last_id}).all()
    found = []
    for trial_id, state, has_predecessor, is_queued_elsewhere, has_runner, has_config in rows:
        waiting = state == TrialState.WAITING.name
        is_run = state == TrialState.RUNNING.name and has_runner and has_config
        # Few others come, and only from other programs: they are worth a look each.
        there = waiting or is_run or counts(storage.get_trial(trial_id))
        found.append(Arrival(trial_id, waiting, bool(has_predecessor and not is_queued_elsewhere), there))
    return found


def arrival(trial: FrozenTrial, counts: Callable[[FrozenTrial], bool]) -> Arrival:
    """Return what the queue and the budget have to know of a trial."""
    waiting = trial.state == TrialState.WAITING
    return Arrival(trial._trial_id, waiting, is_attempt_again(trial), counts(trial))


def _from_memory(
    storage: BaseStorage, study_id: int, number: int, counts: Callable[[FrozenTrial], bool]
) -> list[Arrival]:
    found: list[Arrival] = []
    while True:
        try:
            trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
        except KeyError:
            return found
        found.append(arrival(storage.get_trial(trial_id), counts))
        number += 1
