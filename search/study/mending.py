"""A damaged journal's lines become those of a sound one, in which every trial that can be read keeps its number.

A journal has no numbers: a trial's is the count of the lines that create one, a study's likewise. In the place of such
a line that cannot be read comes one for a failed trial, or for the study. All else that cannot be read goes: a trial
that lacks a part does not have its checksum any more, and is run again. Files are the business of `repair.py`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from optuna.storages.journal._storage import JournalOperation, JournalStorageReplayResult
from optuna.trial import TrialState

from search.records import Reason
from search.spec import StudySpec
from search.study.bit_errors import corrected, separated
from search.study.facts import is_result
from search.study.journal_format import OWN_WORKER, entry_of, line_of
from search.study.opening import SPEC, directions_of
from search.study.reading import MISREAD
from search.study.trials import CONFIG, DAMAGED, REASON, RETRY_OF, ROLE, SUCCESSOR_OF

_WORKER = f"{OWN_WORKER}repair"
_OF_TRIALS = frozenset(range(JournalOperation.SET_TRIAL_PARAM, JournalOperation.SET_TRIAL_SYSTEM_ATTR + 1))
_MOST_MISSING = 2_000
_STUDY_ID = re.compile(rb'"study_id":(\d{1,6})\b')
_STUDY_NAME = re.compile(rb'"study_name":"([\w .+-]{1,100})"')
_ATTRIBUTE = re.compile(rb'"(?:user|system)_attr":\{"([^"]{1,200})":')


@dataclass
class Mended:
    """A sound journal, and what was done for it."""

    lines: list[bytes]
    remarks: list[str]


@dataclass
class _Study:
    name: str
    trials: int = 0
    written: dict[str, int] = field(default_factory=dict)
    """By attribute, the place of the last line that sets it."""
    known_until: int = -1
    """Place of the last line that creates a trial and tells its right number: before it, none is missing."""


def mend(lines: Sequence[bytes]) -> Mended:
    """Return a sound journal of a damaged one's lines; the same lines, and no remarks, where none is damaged."""
    mender = _Mender(lines)
    return Mended(mender.result(), mender.remarks)


class _Mender:
    """The lines by their place, those that could be read again among them, and what comes in place of the others."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._lines: list[bytes] = []
        self._numbers: list[int] = []
        """By place, the line's number in the file."""
        self._remarks: list[str] = []
        for number, line in enumerate(lines, 1):
            for piece in separated(line) if entry_of(line) is None else [line]:
                mended = piece if entry_of(piece) is not None else corrected(piece)
                if mended is not None and mended != line:
                    self._remarks.append(f"line {number}: one bit or a line end was wrong, and is right again")
                self._lines.append(piece if mended is None else mended)
                self._numbers.append(number)
        self._entries = _replayable(map(entry_of, self._lines))
        self._replay()

    @property
    def remarks(self) -> list[str]:
        return [*self._remarks, *self._told]

    def result(self) -> list[bytes]:
        lines: list[bytes] = []
        for place, line in enumerate(self._lines):
            lines += map(line_of, self._inserted.get(place, ()))
            lines += [] if self._entries[place] is None else [line]
        return lines + [line_of(entry) for entry in self._forgotten()]

    def _replay(self) -> None:
        """Go through all entries, and find where some must be missing, since a later one has another number."""
        self._studies: dict[int, _Study] = {}
        self._next_study = self._trials = 0
        self._pending: list[int] = []
        """Places of lines that could not be read, of which the last ones may have created what comes to be missing."""
        self._inserted: dict[int, list[dict[str, Any]]] = {}
        self._told: list[str] = []
        self._lost = [place for place, entry in enumerate(self._entries) if entry is None]
        for place, entry in enumerate(self._entries):
            if entry is None:
                self._pending.append(place)
                continue
            self._find_missing(place, entry)
            self._apply(place, entry)
        explained = set(self._inserted)
        self._told += [
            f"line {self._numbers[place]}: it cannot be read, and is gone"
            for place in self._lost
            if place not in explained
        ]

    def _apply(self, place: int, entry: dict[str, Any]) -> None:
        study = self._studies.get(entry.get("study_id", -1))
        match entry["op_code"]:
            case JournalOperation.CREATE_STUDY:
                if self._id_of(entry["study_name"]) is None:
                    self._studies[self._next_study] = _Study(entry["study_name"])
                    self._next_study += 1
            case JournalOperation.DELETE_STUDY:
                self._studies.pop(entry["study_id"], None)
            case JournalOperation.CREATE_TRIAL if study is not None:
                study.trials += 1
                self._trials += 1
            case JournalOperation.SET_STUDY_USER_ATTR if study is not None:
                study.written |= dict.fromkeys(entry["user_attr"], place)

    def _find_missing(self, place: int, entry: dict[str, Any]) -> None:
        """Put something in the place of lines that must have been before this entry."""
        op, study_id = entry["op_code"], entry.get("study_id", -1)
        if op == JournalOperation.CREATE_STUDY:
            self._find_deletion(place, entry)
        if not isinstance(study_id, int):
            return
        for _ in range(_few(study_id + 1 - self._next_study)):
            self._insert_study(place)
        study = self._studies.get(study_id)
        if op == JournalOperation.CREATE_TRIAL and study is not None:
            for _ in range(_few(_number(entry) - study.trials)):
                self._insert_trial(study_id, place)
            if _number(entry) == study.trials:
                study.known_until = place
        elif op in _OF_TRIALS and isinstance(trial_id := entry["trial_id"], int):
            for _ in range(_few(trial_id + 1 - self._trials)):
                if (guess := self._guess_study(place)) is not None:
                    self._insert_trial(guess, place)

    def _stand_in(self, place: int, known_until: int = -1) -> int | None:
        """Return the place of the last line that could not be read, behind that until which nothing is missing.

        Where there is none, a line is gone without a trace, which only an entry of ours tells: its own place.
        """
        if self._pending and self._pending[-1] > known_until:
            return self._pending[-1]
        return place if "checksum" in (self._entries[place] or {}) else None

    def _find_deletion(self, place: int, entry: dict[str, Any]) -> None:
        """Delete a study anew whose name is given to another one, if its deletion may be what could not be read."""
        old = self._id_of(entry["study_name"])
        if self._pending and old is not None and self._is_used(self._next_study, place):
            told = f"the study {entry['study_name']} was deleted there"
            self._insert(self._pending[-1], {"op_code": JournalOperation.DELETE_STUDY, "study_id": old}, told)

    def _insert(self, at: int, entry: dict[str, Any], told: str) -> None:
        entry = {"op_code": entry["op_code"], "worker_id": _WORKER, **entry}
        self._inserted.setdefault(at, []).append(entry)
        self._apply(at, entry)
        self._told.append(f"line {self._numbers[at]}: {told}")

    def _insert_study(self, place: int) -> None:
        if (at := self._stand_in(place)) is None:
            return
        study_id = self._next_study
        spec = next(self._specs_of(study_id, place), None)
        found = _STUDY_NAME.search(self._lines[at]) if self._entries[at] is None else None
        name = found[1].decode(errors="replace") if found else f"damaged-{study_id}" if spec is None else spec.name
        directions = [1] if spec is None else [int(direction) for direction in directions_of(spec)]
        entry = {"op_code": JournalOperation.CREATE_STUDY, "study_name": name, "directions": directions}
        self._insert(at, entry, f"a study could not be read, and is called {name} now")

    def _specs_of(self, study_id: int, place: int) -> Iterator[StudySpec]:
        for entry in self._entries[place:]:
            if entry is not None and entry.get("study_id") == study_id and SPEC in entry.get("user_attr", {}):
                yield StudySpec.from_json(entry["user_attr"][SPEC])

    def _insert_trial(self, study_id: int, place: int) -> None:
        study = self._studies[study_id]
        number, at = study.trials, self._stand_in(place, study.known_until)
        if at is None:
            return
        known = self._told_by_successors(study_id, number, place)
        entry = {
            "op_code": JournalOperation.CREATE_TRIAL,
            "study_id": study_id,
            "datetime_start": None,
            "datetime_complete": datetime.now(UTC).isoformat(timespec="microseconds"),
            "state": TrialState.FAIL,
            "value": None,
            "values": None,
            "distributions": {},
            "params": {},
            "user_attrs": known | {DAMAGED: f"line {self._numbers[at]}"},
            "system_attrs": {},
            "intermediate_values": {},
            "number": number,
        }
        again = "its configuration was run again already" if known else "another one is run in its place"
        self._insert(
            at, entry, f"trial {number} of study {study.name} cannot be read: it is a failed one now, and {again}"
        )

    def _told_by_successors(self, study_id: int, number: int, place: int) -> dict[str, Any]:
        """Return the attributes of a trial that an attempt after it tells of, if there is one."""
        for entry in self._entries[place:]:
            told = {} if entry is None or entry.get("study_id") != study_id else entry.get("user_attrs", {})
            if CONFIG in told and number in (told.get(RETRY_OF), told.get(SUCCESSOR_OF)):
                known = {key: told[key] for key in (CONFIG, ROLE) if key in told} | {REASON: Reason.LOST.value}
                first = int(told.get(RETRY_OF, number))
                before = self._last_attempt(study_id, first, place)
                return known if first == number else known | {RETRY_OF: first, SUCCESSOR_OF: before}
        return {}

    def _last_attempt(self, study_id: int, first: int, place: int) -> int:
        """Return the number of the last attempt at a configuration before a place, given that of the first one."""
        attempts = [
            _number(entry)
            for entry in self._entries[:place]
            if entry is not None
            and entry.get("study_id") == study_id
            and entry.get("user_attrs", {}).get(RETRY_OF) == first
        ]
        return max(attempts, default=first)

    def _guess_study(self, place: int) -> int | None:
        """Return the id of the study whose trial could not be read: by the line, by numbers, or the last one."""
        found = _STUDY_ID.search(self._lines[self._pending[-1]]) if self._pending else None
        if found and int(found[1]) in self._studies:
            return int(found[1])
        for entry in self._entries[place:]:
            study = None if entry is None else self._studies.get(entry.get("study_id", -1))
            if entry is not None and study is not None and _number(entry) > study.trials:
                return int(entry["study_id"])
        return max(self._studies, default=None)

    def _id_of(self, name: str) -> int | None:
        return next((study_id for study_id, study in self._studies.items() if study.name == name), None)

    def _is_used(self, study_id: int, place: int) -> bool:
        """Return whether entries behind a place are about a study of this id, before another one is created."""
        for entry in self._entries[place + 1 :]:
            if entry is not None and entry["op_code"] == JournalOperation.CREATE_STUDY:
                return False
            if entry is not None and entry.get("study_id") == study_id:
                return True
        return False

    def _forgotten(self) -> list[dict[str, Any]]:
        """Return entries that unset results of which the last value may be among what could not be read."""
        unset: dict[tuple[int, str], dict[str, Any]] = {}
        for place in self._lost:
            text, found = self._lines[place], _ATTRIBUTE.search(self._lines[place])
            if b'"trial_id":' in text or place in self._inserted:
                continue
            for study_id, study in self._studies.items():
                for key, last in study.written.items():
                    if last < place and is_result(key) and (found is None or found[1].decode(errors="replace") == key):
                        unset[study_id, key] = _unset(study_id, key)
        for study_id, study in self._studies.items():
            if SPEC not in study.written and any(map(is_result, study.written)):
                unset[study_id, SPEC] = _unset(study_id, SPEC)
        for study_id, key in unset:
            told = (
                "cannot be read: `start` needs its file"
                if key == SPEC
                else "may have lost its last value, and is made anew"
            )
            self._remarks.append(f"study {self._studies[study_id].name}: {key} {told}")
        return list(unset.values())


def _replayable(entries: Iterable[dict[str, Any] | None]) -> list[dict[str, Any] | None]:
    """Return entries, with None for those of which Optuna can make nothing, though they are whole."""
    replay, found = JournalStorageReplayResult(""), []
    for entry in entries:
        try:
            replay.apply_logs([] if entry is None else [entry])
            found.append(entry)
        except MISREAD:
            found.append(None)
    return found


def _few(count: int) -> int:
    """Return how many entries to make up: a checksum can be forged, and no file shall grow without end."""
    return min(count, _MOST_MISSING)


def _unset(study_id: int, key: str) -> dict[str, Any]:
    op = JournalOperation.SET_STUDY_USER_ATTR
    return {"op_code": op, "worker_id": _WORKER, "study_id": study_id, "user_attr": {key: None}}


def _number(entry: dict[str, Any]) -> int:
    number = entry.get("number")
    return number if isinstance(number, int) else -1
