"""Damage to the file of a finished study: a line of its journal, or a bit of that or of an SQLite database.

What is shown then is what was shown before, or it is refused, or a trial is named as left out. The command that a
refusal advises is typed as printed, and the search goes on to an exact budget.
"""

import random
import re
import shlex
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner

from scripts.faults.pretend import EPOCHS, NAME, make_spec, result
from scripts.faults.tally import Tally
from search.cli import main
from search.confirmation import Picks, Repeat, Repeats
from search.errors import RegsearchError
from search.records import Assignment, Reason, Score, TrialRecord
from search.results import as_json
from search.study import StoredStudy, Study, close_storage, open_storage
from search.study.storage import open_to_read

BUDGET = 10
KINDS = ("bytes deleted", "garbage", "garbage inside", "cut", "NULs", "NULs inside", "line deleted")
Seen = tuple[dict[int, TrialRecord], dict]
"""The records by number, and what `show --json` prints."""


def finish_search(home: Path, url: str | None = None) -> None:
    """Run a study to its end in this process, with losses that depend on nothing but the configuration."""
    storage = open_storage(url, home)
    study = Study.open(NAME, make_spec(BUDGET), storage, home)
    try:
        if not study.records():
            _end(study, Reason.INTERRUPTED, 2)
        while _end(study, Reason.COMPLETED, EPOCHS):
            if study.waiting() == 0 and len(study.records()) % 4 == 3:
                _end(study, Reason.PRUNED, 3)
        if study.repeats() is None:
            runs = [Repeat(0, seed, 3, 0.2, 0.1, 0.9, 0.1, 0.9, 0.3, 0.02) for seed in range(2)]
            study.keep_repeats(Repeats(Picks([0], None, 0), runs))
        study.record_test("best", Score(1, 0.9, 0.3, 0.02))
        study.add_wall_seconds(2.0)
        study.set_fact("machine", {"torch": "2"})
    finally:
        study.close()
        close_storage(storage)


def _end(study: Study, reason: Reason, epochs: int) -> bool:
    asked = study.ask()
    if asked is None:
        return False
    rows = [result(asked, epoch) for epoch in range(1, epochs + 1)]
    for row in rows:
        study.report({asked.number: row})
    study.finish(asked.number, reason, rows, worker="0")
    return True


def seen(home: Path, url: str | None = None) -> Seen:
    """Return what readers are shown. Raises RegsearchError."""
    storage = open_to_read(url, home)
    try:
        study = StoredStudy.load(NAME, storage)
        return {record.number: record for record in study.records()}, as_json(study.summary())
    finally:
        close_storage(storage)


def complaint(home: Path, url: str | None, before: Seen) -> str | None:
    """Return what is wrong with what becomes of a damaged study; None where it is as promised."""
    try:
        records, shown = seen(home, url)
    except RegsearchError:
        pass
    else:
        if changed := [number for number, record in records.items() if record != before[0].get(number)]:
            return f"trials {changed} are shown with other records"
        if not shown["left_out"] and shown != before[1]:
            return f"shown: {shown} instead of {before[1]}"
    for _ in range(2):  # what can be read may yet turn out to be damaged where it is written to
        try:
            seen(home, url)
            finish_search(home, url)
            return _wrong_pair(seen(home, url)[0])
        except RegsearchError as error:
            refusal = str(error)
        command = _advised(refusal, home, url)
        if command is None and "`regsearch start --study FILE" in refusal:
            finish_search(home, url)
            return _wrong_pair(seen(home, url)[0])
        if command is None:
            break
        typed = CliRunner().invoke(main, command)
        if typed.exit_code:
            return None if "cannot be mended" in typed.output else f"{command}: {typed.output}"
    return refusal if url is None else None


def _advised(refusal: str, home: Path, url: str | None) -> list[str] | None:
    """Return the arguments of the command that a message advises, if it does."""
    found = re.search(r"`regsearch (repair [^`]*)`(, with the same --home and --storage)?", refusal)
    if found is None:
        return None
    place = ["--home", str(home), *([] if url is None else ["--storage", url])]
    return [*shlex.split(found[1]), *(place if found[2] else [])]


def _is_refused(home: Path, url: str | None) -> bool:
    try:
        seen(home, url)
    except RegsearchError:
        return True
    return False


def _wrong_pair(records: dict[int, TrialRecord]) -> str | None:
    """Return which trial has a curve that is not its configuration's."""
    for number, record in records.items():
        asked = Assignment(number, number, record.params)
        if record.epochs != tuple(result(asked, epoch) for epoch in range(1, len(record.epochs) + 1)):
            return f"trial {number} has the losses of another configuration"
    return None


def damage_line(dice: random.Random, content: bytes, kind: str, number: int | None = None) -> bytes:
    """Return a journal in which a line, by its place, has been damaged."""
    lines = content.splitlines(keepends=True)
    number = dice.randrange(len(lines)) if number is None else number
    line = lines[number]
    start = dice.randrange(1, len(line) - 1)
    lines[number] = {
        "bytes deleted": lambda: line[:start] + line[start + dice.randint(1, 9) :],
        "garbage": lambda: dice.randbytes(len(line)),
        "garbage inside": lambda: line[:start] + dice.randbytes(8) + line[start + 8 :],
        "cut": lambda: line[:start],
        "NULs": lambda: bytes(len(line)),
        "NULs inside": lambda: line[:start] + bytes(len(line[start : start + 20])) + line[start + 20 :],
        "line deleted": lambda: b"",
    }[kind]()
    return b"".join(lines)


def flip_bit(dice: random.Random, content: bytes) -> bytes:
    """Return a file in which one bit is another."""
    place, bit = dice.randrange(len(content)), dice.randrange(8)
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def damaged_file(database: str | None, damage: Callable[[random.Random, bytes], bytes]) -> Callable:
    """Return a fault: a finished study's file is damaged."""

    def inject(dice: random.Random, home: Path, tally: Tally) -> None:
        home.mkdir(parents=True)
        url = None if database is None else f"sqlite:///{home}/study.db"
        finish_search(home, url)
        before, path = seen(home, url), home / ("study.db" if database else "optuna.journal")
        good = path.read_bytes()
        path.write_bytes(damage(dice, good))
        if (wrong := complaint(home, url, before)) is not None:
            tally.complaints.append(wrong)
        if _is_refused(home, url):  # what SQLite itself cannot read any more, a copy has to replace
            path.write_bytes(good)
        tally.count(home, url, BUDGET)

    return inject


def any_line(dice: random.Random, content: bytes) -> bytes:
    """Damage a line of a journal in some way; one that vanishes as a whole is no damage that a line could show."""
    return damage_line(dice, content, dice.choice(KINDS[:-1]))
