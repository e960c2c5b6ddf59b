"""Journals as somebody writes them who knows how: every checksum fits, whatever has been changed."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from search.errors import RegsearchError
from search.study import open_storage
from search.study.checksums import CHECKSUM, _sum
from search.study.journal_format import OWN_WORKER, line_of
from search.study.reading import MISREAD
from search.study.trials import _SEALED


def lines_of(entries: Iterable[Any]) -> bytes:
    """Return entries as lines; ours get their checksum anew."""
    return b"".join(map(_line_of, entries))


def _line_of(entry: Any) -> bytes:
    if not isinstance(entry, dict):
        return json.dumps(entry).encode() + b"\n"
    rest = {key: value for key, value in entry.items() if key != "checksum"}
    is_own = str(rest.get("worker_id")).startswith(OWN_WORKER)
    return line_of(rest) if is_own else json.dumps(rest).encode() + b"\n"


def write_sealed(home: Path, entries: Iterable[Any]) -> None:
    """Write a home's journal, with the checksums of its trials as they are by now, where Optuna can read it."""
    entries, path = list(entries), home / "optuna.journal"
    path.write_bytes(lines_of(entries))
    with suppress(RegsearchError, *MISREAD):
        storage = open_storage(None, home, to_read=True)
        for number, entry in enumerate(entries):
            told = entry.get("system_attr", {}).get(CHECKSUM)
            if told is not None:
                seal = told | {"sum": _sum(storage.get_trial(entry["trial_id"]), _SEALED, told["ended"])}
                entries[number] = entry | {"system_attr": {CHECKSUM: seal}}
        path.write_bytes(lines_of(entries))
