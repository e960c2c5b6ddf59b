"""Attributes of a study, each with a checksum in a database; the lines of a journal have theirs already.

What they mean is the business of those who keep them.
"""

import shlex
from typing import Any

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.study._frozen import FrozenStudy

from search.errors import DamagedError
from search.study.checksums import CHECKSUM, checksum_of
from search.study.commits import one_commit

_PREFIX = f"{CHECKSUM}:"


def keep(study: optuna.Study, key: str, value: Any) -> None:
    """Set an attribute to a JSON value."""
    storage = storage_of(study)
    with one_commit(storage):
        keep_in(storage, study._study_id, key, value)


def keep_in(storage: BaseStorage, study_id: int, key: str, value: Any) -> None:
    """Set an attribute within a commit that the caller makes."""
    storage.set_study_user_attr(study_id, key, value)
    if isinstance(storage, RDBStorage):
        storage.set_study_system_attr(study_id, _PREFIX + key, checksum_of(key, value))


def storage_of(study: optuna.Study) -> BaseStorage:
    """Return the storage that a study was loaded from, without what Optuna puts around databases."""
    storage: BaseStorage = getattr(study._storage, "_backend", study._storage)
    return storage if isinstance(storage, BaseStorage) else study._storage


class Kept:
    """The attributes of a study, as they are in the storage now, or as they were read."""

    def __init__(self, study: optuna.Study | FrozenStudy) -> None:
        self._study, self._values = study.study_name, study.user_attrs
        if isinstance(study, FrozenStudy):
            told = study.system_attrs
        else:
            told = study._storage.get_study_system_attrs(study._study_id)
        checksums = {key.removeprefix(_PREFIX): value for key, value in told.items() if key.startswith(_PREFIX)}
        # One whose name was changed is missing, and its checksum is there.
        self.damaged = [key for key, told in checksums.items() if told != checksum_of(key, self._values.get(key))]
        """Those that are not as they were kept."""

    def get(self, key: str) -> Any:
        """Return an attribute; None where there is none. Raises DamagedError where it is not as it was kept."""
        if key in self.damaged:
            raise DamagedError(
                f'study "{self._study}": the stored {key} is damaged: it has another checksum; '
                f"`regsearch repair --study {shlex.quote(self._study)}`, with the same --home and --storage, mends it"
            )
        return self._values.get(key)
