"""Checksums of what is kept about a trial and about a study, so that a database's flipped bit becomes no number.

A trial's is over all that a runner records of it, written in the same commit as its end. A study's attributes, which
change, have one each in databases, whose commits are whole; a journal has one in each of its lines instead.
Knows names and values, not what they mean.
"""

import json
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState

CHECKSUM = "checksum"
"""Name of the system attribute that holds a trial's checksum, and begins that of a study attribute's."""


def checksum_of(*values: Any) -> str:
    """Return the CRC-32 of JSON values, in which the order of names does not count."""
    return f"{zlib.crc32(json.dumps(values, sort_keys=True).encode()):08x}"


def seal(trial: FrozenTrial, names: Mapping[str, bool]) -> dict[str, str]:
    """Return the checksum of a trial that ends now, with the moment; `names` are those of the attributes that count.

    Those of the user's attributes are True there, the system's False.
    """
    ended = datetime.now(UTC).isoformat()
    return {"sum": _sum(trial, names, ended), "ended": ended}


def is_intact(trial: FrozenTrial, names: Mapping[str, bool]) -> bool:
    """Return whether a trial is as it was when `seal` was called."""
    told = trial.system_attrs.get(CHECKSUM)
    return isinstance(told, dict) and told.get("sum") == _sum(trial, names, told.get("ended"))


def sealed_end(trial: FrozenTrial) -> datetime | None:
    """Return when a trial ended by its seal, which has a checksum; None where it has no seal."""
    told = trial.system_attrs.get(CHECKSUM)
    return None if told is None else datetime.fromisoformat(told["ended"]).astimezone()


def _sum(trial: FrozenTrial, names: Mapping[str, bool], ended: str | None) -> str:
    # Of one that is lost, its runner may report while others end it.
    reports = {} if trial.state == TrialState.FAIL else trial.intermediate_values
    attributes = {
        name: value
        for name, of_user in names.items()
        if (value := (trial.user_attrs if of_user else trial.system_attrs).get(name)) is not None
    }
    return checksum_of(
        trial.number,
        trial.state.name,
        trial.values,
        None if trial.datetime_start is None else trial.datetime_start.isoformat(),
        ended,
        trial.params,
        sorted(reports.items()),
        attributes,
    )
