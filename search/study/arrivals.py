"""Which trials a study has got since one looked last: one question to a database, however many they are.

With many runners most of a study's trials are others', and each runner has to know of all of them, often while it keeps
the others waiting.
"""

from dataclasses import dataclass

import sqlalchemy
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState

from search.study.trials import SUCCESSOR_OF, is_attempt_again


@dataclass(frozen=True)
class Arrival:
    """A trial that is there, as far as the queue and the budget are concerned."""

    trial_id: int
    waiting: bool
    is_again: bool
    """See `is_attempt_again`."""


# Ids ascend with the numbers, since trials are made under the study's lock, and have an index, which numbers lack.
_QUERY = sqlalchemy.text(
    "SELECT t.trial_id, t.state, EXISTS"
    " (SELECT 1 FROM trial_user_attributes a WHERE a.trial_id = t.trial_id AND a.key = :successor_of)"
    " FROM trials t WHERE t.study_id = :study_id AND t.trial_id > :last_id ORDER BY t.trial_id"
)


def arrivals(storage: BaseStorage, study_id: int, known: int, last_id: int) -> list[Arrival]:
    """Return the trials behind the first `known` ones, of which the last has the id `last_id`; by number."""
    if not isinstance(storage, RDBStorage):
        return _from_memory(storage, study_id, known)
    values = {"study_id": study_id, "last_id": last_id, "successor_of": SUCCESSOR_OF}
    with storage.scoped_session() as session:
        rows = session.execute(_QUERY, values).all()
    return [Arrival(trial_id, state == TrialState.WAITING.name, bool(again)) for trial_id, state, again in rows]


def _from_memory(storage: BaseStorage, study_id: int, number: int) -> list[Arrival]:
    found: list[Arrival] = []
    while True:
        try:
            trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
        except KeyError:
            return found
        trial = storage.get_trial(trial_id)
        found.append(Arrival(trial_id, trial.state == TrialState.WAITING, is_attempt_again(trial)))
        number += 1
