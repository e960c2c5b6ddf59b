"""Rows of an SQLite database that Optuna cannot read go, so that it can read all others. Knows Optuna's tables.

What a row was of has another checksum without it, see `checksums.py`.
"""

import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from optuna.distributions import json_to_distribution
from optuna.trial import TrialState

from search.errors import StorageError
from search.regular_files import MEGABYTE
from search.study.reading import MISREAD
from search.study.trials import CONFIG, RETRY_OF, SUCCESSOR_OF


def _of(*names: str) -> Callable[[Any], bool]:
    return lambda value: value.decode() in names


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


def _parsed(parse: Callable[[str], Any]) -> Callable[[Any], bool]:
    return lambda value: parse(value.decode()) is not NotImplemented


_ATTRIBUTE = {"key": _parsed(str), "value_json": _parsed(json.loads)}
_DEPENDENT: dict[str, tuple[str, dict[str, Callable[[Any], bool]]]] = {
    "study_user_attributes": ("study_user_attribute_id", _ATTRIBUTE),
    "study_system_attributes": ("study_system_attribute_id", _ATTRIBUTE),
    "trial_user_attributes": ("trial_user_attribute_id", _ATTRIBUTE),
    "trial_system_attributes": ("trial_system_attribute_id", _ATTRIBUTE),
    "trial_params": (
        "param_id",
        {"param_name": _parsed(str), "param_value": _is(float), "distribution_json": _parsed(json_to_distribution)},
    ),
    "trial_values": ("trial_value_id", {"objective": _is(int), "value_type": _of("FINITE", "INF_POS", "INF_NEG")}),
    "trial_intermediate_values": (
        "trial_intermediate_value_id",
        {"step": _is(int), "intermediate_value_type": _of("FINITE", "INF_POS", "INF_NEG", "NAN")},
    ),
}
"""By table whose rows belong to a trial or a study: its key, and the columns with what Optuna expects there."""
_LONG_TO_CHECK = 256 * MEGABYTE
"""SQLite checks a hundred megabytes in a second."""
_STATES = tuple(state.name for state in TrialState)


def repair_sqlite(path: Path, keep_aside: Callable[[], str]) -> list[str]:
    """Mend a database, and return what was done; `keep_aside` makes a copy before, and returns what it is called.

    Raises StorageError where SQLite itself cannot read it.
    """
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.text_factory = bytes
            if not _is_sound(connection):
                raise StorageError(
                    f"{path}: the database itself is damaged, as SQLite's own check says, and cannot be mended: "
                    "put a copy of it in its place, or begin a new one with --storage"
                )
            connection.execute("BEGIN IMMEDIATE")
            remarks = [*_remove_unreadable(connection), *_mend_trials(connection)]
            if remarks:
                remarks += _restore_told_twice(connection)
            if not remarks:
                return []
            aside = keep_aside()
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise StorageError(f"{path}: the database cannot be mended: {error}") from error
    return [f"The damaged database is kept as {aside}", *(f"  {remark}" for remark in remarks)]


def is_sound(path: Path) -> bool:
    """Return whether SQLite finds no fault with a file, which it is not asked of a large one; True for none."""
    if not path.exists() or path.stat().st_size > _LONG_TO_CHECK:
        return True
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return _finds_no_fault(connection)
    except sqlite3.OperationalError:  # locked, or not to be opened: whoever uses it is told
        return True
    except sqlite3.DatabaseError:
        return False


def _is_sound(connection: sqlite3.Connection) -> bool:
    if not _finds_no_fault(connection):
        connection.execute("REINDEX")
    return _finds_no_fault(connection)


def _finds_no_fault(connection: sqlite3.Connection) -> bool:
    return connection.execute("PRAGMA integrity_check(1)").fetchone()[0] in ("ok", b"ok")


def _remove_unreadable(connection: sqlite3.Connection) -> list[str]:
    remarks = []
    for table, (key, columns) in _DEPENDENT.items():
        rows = connection.execute(f"SELECT {key}, {', '.join(columns)} FROM {table}").fetchall()
        unreadable = [
            row[0]
            for row in rows
            if not all(_accepts(check, value) for check, value in zip(columns.values(), row[1:], strict=True))
        ]
        connection.executemany(f"DELETE FROM {table} WHERE {key} = ?", [(row,) for row in unreadable])
        remarks += [f"{table}: row {row} cannot be read, and is gone" for row in unreadable]
    return remarks


def _mend_trials(connection: sqlite3.Connection) -> list[str]:
    remarks = []
    columns = "trial_id, number, study_id, state, datetime_start, datetime_complete"
    studies = [row[0] for row in connection.execute("SELECT study_id FROM studies")]
    places = dict.fromkeys(studies, 0)
    for row in connection.execute(f"SELECT {columns} FROM trials ORDER BY trial_id").fetchall():
        # Ids ascend with the numbers.
        study = studies[0] if len(studies) == 1 else row[2]
        wanted: dict[str, Any] = {"number": places.get(study, row[1]), "study_id": study}
        if not _accepts(_of(*_STATES), row[3]):
            wanted["state"] = TrialState.FAIL.name
        for name, value in zip(("datetime_start", "datetime_complete"), row[4:], strict=True):
            if value is not None and not _accepts(_parsed(datetime.fromisoformat), value):
                wanted[name] = None
        places[study] = places.get(study, 0) + 1
        if (row[1], row[2]) == (wanted["number"], study) and len(wanted) == 2:
            continue
        changes = ", ".join(f"{name} = ?" for name in wanted)
        connection.execute(f"UPDATE trials SET {changes} WHERE trial_id = ?", (*wanted.values(), row[0]))
        remarks.append(f"trials: row {row[0]} cannot be read, and is that of trial {wanted['number']}")
    return remarks


def _restore_told_twice(connection: sqlite3.Connection) -> list[str]:
    """Put back what other attempts at the same configuration tell of an attempt.

    That is its configuration, without which it has no place in the budget, the first attempt, and the one before it.
    """
    attempts: dict[int, dict[int, dict[str, Any]]] = {}
    ids = {}
    query = "SELECT t.study_id, t.number, t.trial_id, a.key, a.value_json FROM trials AS t LEFT JOIN"
    query += " trial_user_attributes AS a ON a.trial_id = t.trial_id AND a.key IN (?, ?, ?)"
    for study, number, trial_id, key, value in connection.execute(query, (CONFIG, RETRY_OF, SUCCESSOR_OF)).fetchall():
        told = attempts.setdefault(study, {}).setdefault(number, {})
        ids[study, number] = trial_id
        if key is not None and isinstance(parsed := json.loads(value), dict if key.decode() == CONFIG else int):
            told[key.decode()] = parsed
    remarks = []
    for study, by_number in attempts.items():
        for number, told in sorted(by_number.items()):
            for key, value in _told_by_others(number, by_number).items():
                told[key] = value
                row = (ids[study, number], key, json.dumps(value))
                connection.execute(
                    "INSERT OR IGNORE INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)", row
                )
                remarks.append(f"trial {number}: {key} is what another attempt at its configuration tells")
    return remarks


def _told_by_others(number: int, by_number: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a trial lacks and others tell, given the attempts of one study by number."""
    own, found = by_number[number], dict[str, Any]()
    first, before = own.get(RETRY_OF), own.get(SUCCESSOR_OF)
    if first is None and before is not None and before in by_number:
        found[RETRY_OF] = first = by_number[before].get(RETRY_OF, before)
    elif before is None and first in by_number:
        earlier = (n for n, told in by_number.items() if n < number and first in (n, told.get(RETRY_OF)))
        found[SUCCESSOR_OF] = max(earlier, default=first)
    if CONFIG not in own:
        whose = number if first is None else first
        configs = (told[CONFIG] for n, told in by_number.items() if CONFIG in told and _is_of(n, told, whose))
        if (config := next(configs, None)) is not None:
            found[CONFIG] = config
    return found


def _is_of(number: int, told: Mapping[str, Any], first: int) -> bool:
    """Return whether a trial is an attempt at the configuration of the trial `first`."""
    return first in (number, told.get(RETRY_OF), told.get(SUCCESSOR_OF))


def _accepts(check: Callable[[Any], bool], value: Any) -> bool:
    try:
        return check(value)
    except MISREAD:
        return False
