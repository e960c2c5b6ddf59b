"""`regsearch sync`: a study's runs in MLflow, written from its storage, and from its files where they are there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from search.errors import StudyBusyError, TrackingError
from search.places import artifact_folder
from search.tracked import closing, tracked_study
from search.tracking import Tracker, artifact_root, default_tracking_uri

if TYPE_CHECKING:
    from search.study import Study

_PATIENCE = 60.0


def write_study(name: str, storage: str | None, home: Path, tracking_uri: str | None) -> str:
    """Write what MLflow misses of a study, and return what that was, in words.

    Raises UsageError when there is no such study, StudyBusyError when it is being run, StorageError, and TrackingError
    when not all of it could be written.
    """
    from search.study import Study, close_storage, open_existing

    opened = open_existing(storage, home)
    try:
        study = Study.load(name, opened)
        try:
            study.hold(home)
        except StudyBusyError:
            raise StudyBusyError(
                f'study "{name}" is being run right now, which writes MLflow too; once that has ended, sync it'
            ) from None
        try:
            return _write(study, home, tracking_uri or default_tracking_uri(home))
        finally:
            study.close()
    finally:
        close_storage(opened)


def _write(study: Study, home: Path, uri: str) -> str:
    records = study.records()
    tracker = Tracker(uri, artifact_root(uri), tracked_study(study), records)
    try:
        outcome = tracker.finish(closing(study, artifact_folder(home, study.name)), _PATIENCE)
    except BaseException:
        tracker.abandon()
        raise
    if outcome.message is not None:
        raise TrackingError(outcome.message)
    count = "1 trial" if len(records) == 1 else f"{len(records)} trials"
    notices = iter(tracker.notice, None)
    return "\n".join([f"{count}: {outcome.written - tracker.found} written, {tracker.found} were there", *notices])
