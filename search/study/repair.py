"""Mend a damaged storage, for `regsearch repair`, and tell what was done. The damaged file is kept beside it.

How the lines of a journal are mended is the business of `mending.py`, how the rows of SQLite are that of
`sqlite_repair.py`. A trial that lacks a part of its record is left as it is: it has another checksum, counts no more,
and whoever runs the study next runs its configuration again.
"""

import os
import shutil
from datetime import datetime
from pathlib import Path

from optuna.storages import BaseStorage
from optuna.study._frozen import FrozenStudy

from search.errors import DamagedError, StorageError
from search.places import replace_file
from search.study.commits import one_commit
from search.study.foreign import Sieve
from search.study.journal import JournalLock
from search.study.journal_format import lines_of, open_journal_file
from search.study.kept import Kept, keep_in
from search.study.mending import mend
from search.study.opening import SPEC, load, our_studies
from search.study.read_only import sqlite_file
from search.study.reading import as_written
from search.study.sqlite_repair import repair_sqlite
from search.study.storage import close_storage, journal_file, open_existing, require_there, storage_errors
from search.study.trials import why_damaged


def repair(url: str | None, home: Path, study: str | None = None) -> list[str]:
    """Mend a storage, and return what was done, in sentences; nothing where nothing is damaged.

    Given a study, only what is of it is looked at beyond the file. Raises StorageError for what cannot be mended.
    """
    require_there(url, home)
    done: list[str] = []
    if (journal := journal_file(url, home)) is not None:
        done += _repair_journal(journal)
    elif url is not None and (database := sqlite_file(url)) is not None:
        done += repair_sqlite(database, lambda: _kept_aside(database).name)
    storage = open_existing(url, home)
    try:
        with storage_errors(storage), as_written("the storage"):
            for each in storage.get_all_studies():
                done += _unset_damaged(storage, each)
            for name in our_studies(storage) if study is None else [study]:
                done += _tell_damaged(storage, name)
    finally:
        close_storage(storage)
    return done


def _repair_journal(path: Path) -> list[str]:
    try:
        with JournalLock(path.with_name(path.name + ".flock")):
            with open_journal_file(path) as file:
                lines = lines_of(file.read())
            with as_written(str(path)):
                mended = mend(lines)
            if mended.lines == lines:
                return []
            aside = _kept_aside(path)
            # Whoever has the damaged file open finds out that another one has its name.
            replace_file(path, b"".join(mended.lines))
            _flush(path)
    except OSError as error:
        raise StorageError(f"{path}: the journal cannot be mended: {error.strerror or error}") from error
    return [f"The damaged journal is kept as {aside.name}", *(f"  {remark}" for remark in mended.remarks)]


def _unset_damaged(storage: BaseStorage, study: FrozenStudy) -> list[str]:
    """Unset what is kept of a study and has another checksum."""
    damaged = Kept(study).damaged
    with one_commit(storage):
        for key in damaged:
            keep_in(storage, study._study_id, key, None)
    name, lost_head = study.study_name, "`start` needs its file"
    return [f"Study {name}: {key} was damaged, and {lost_head if key == SPEC else 'is made anew'}" for key in damaged]


def _tell_damaged(storage: BaseStorage, name: str) -> list[str]:
    try:
        study, spec = load(name, storage)
    except DamagedError as error:  # its head is lost
        return [str(error)]
    sieve = Sieve(spec)
    damaged = [trial.number for trial in study.trials if sieve.why_left_out(trial) and why_damaged(trial)]
    if not damaged:
        return []
    which = f"trial{'s' if len(damaged) > 1 else ''} {', '.join(map(str, damaged))}"
    return [
        f"Study {name}: the record of {which} is damaged and does not count; the next `regsearch start` trains again"
    ]


def _kept_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.corrupt-{datetime.now():%Y%m%dT%H%M%S.%f}")
    with open(path, "rb") as damaged, open(aside, "xb") as copy:
        shutil.copyfileobj(damaged, copy)
    shutil.copystat(path, aside)
    _flush(aside)
    return aside


def _flush(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
