"""Results on their way to the storage, in files: whoever is killed before it has them loses none that is finished.

One small file a trial, written as the trial ends and removed once its result is recorded. What a process leaves behind
is recorded by the next one that runs the study from the same home, unless somebody has taken the trial over meanwhile.
"""

import json
from collections.abc import Container, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from search.places import write_whole
from search.records import Reason, TrialRecord
from search.regular_files import MEGABYTE, read_regular
from search.study.leases import is_runner_name
from search.study.reading import MISREAD, read_as, read_line, read_text
from search.study.trials import epochs_from_json, epochs_to_json

_FORMAT = 2
_MOST_BYTES = 64 * MEGABYTE
"""A result of the most epochs that a trial may have takes 12 million."""


class Spool:
    """Folder `undelivered/STUDY` in the home."""

    def __init__(self, home: Path, study: str, identity: str) -> None:
        """`identity` tells the study from others of its name, which are kept in other storages."""
        self._home, self._folder, self._identity = home, home / "undelivered" / study, identity

    def keep(self, runner: str, draft: TrialRecord) -> None:
        """Write a result down, unless there is none or no room for it: then only the storage will tell of it."""
        if draft.reason.is_no_result or not self._home.exists():  # a home that was deleted does not come back
            return
        told = {
            "format": _FORMAT,
            "study": self._identity,
            "runner": runner,
            "number": draft.number,
            "reason": draft.reason.value,
            "epochs": epochs_to_json(draft.epochs),
            "error": draft.error,
            "worker": draft.worker,
            "ended": draft.ended.isoformat(),
        }
        with suppress(OSError):
            write_whole(self._path(runner, draft.number), json.dumps(told).encode())

    def drop(self, runner: str, number: int) -> None:
        """Forget a result: it is recorded, or not wanted any more."""
        with suppress(OSError):
            self._path(runner, number).unlink(missing_ok=True)
            self._folder.rmdir()  # when it was the last one
            self._folder.parent.rmdir()

    def left_by_others(self, alive: Container[str]) -> Iterator[tuple[str, TrialRecord]]:
        """Give the results of runners that are no longer alive, each with its runner's name."""
        for path in sorted(self._folder.glob("*.json")):
            read = _read(path, self._identity)
            if read is not None and path == self._path(read[0], read[1].number) and read[0] not in alive:
                yield read

    def _path(self, runner: str, number: int) -> Path:
        return self._folder / f"{runner}-{number:05d}.json"


def _read(path: Path, study: str) -> tuple[str, TrialRecord] | None:
    """Return a runner's name and its result; None where the file is not whole, not as `keep` writes it, or of another
    study.
    """
    try:
        told = json.loads(read_regular(path, _MOST_BYTES))
        ended = datetime.fromisoformat(told["ended"])
        number, error, worker = read_as(int, told["number"]), read_text(told["error"]), read_line(told["worker"])
        epochs, reason = epochs_from_json(told["epochs"]), Reason(told["reason"])
        draft = TrialRecord(number, {}, reason, epochs, ended, ended, error=error, worker=worker)
        is_ours = (
            told["format"] == _FORMAT
            and told["study"] == study
            and is_runner_name(told["runner"])
            and not reason.is_no_result
        )
        return (told["runner"], draft) if is_ours and (draft.best or draft.state != "complete") else None
    except (OSError, *MISREAD):
        return None
