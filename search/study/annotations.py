"""What optuna-dashboard shows beside a study's trials: notes, plots and pictures, written into the study's storage.

Its formats are written here without its help, whose import takes longer than many a search: they are a few system
attributes, in pieces that fit its oldest database column. `tests/test_dashboards.py` reads them back through
optuna-dashboard itself. What is said and drawn is the caller's business.
"""

import hashlib
import json
import mimetypes
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import BaseStorage

from search.places import replace_file
from search.study.commits import one_commit
from search.study.storage import storage_errors

_LONGEST_PIECE = 2045  # characters, as optuna-dashboard has it
_NOTE = "dashboard:"
_PLOT = "dashboard:plot_data:"
_STUDY_ARTIFACT = "artifacts:"
_TRIAL_ARTIFACT = "dashboard:artifacts:"  # in the study's attributes, since those of a finished trial stay as they are
_WRITTEN = "regsearch:note:"


def artifact_store(folder: Path) -> FileSystemArtifactStore:
    """Return the store in which the dashboard finds pictures; makes the folder, where that may be written to."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return FileSystemArtifactStore(folder)


class Annotations:
    """The notes, plots and artifacts of one study. What is there already is not written again. Raises StorageError."""

    def __init__(self, storage: BaseStorage, study_id: int) -> None:
        self._storage, self._study_id = storage, study_id

    def note(self, text: str, trial: int | None = None) -> None:
        """Write the study's note, or a trial's, in Markdown; one that a person wrote or changed is left as it is."""
        self._note(text, "" if trial is None else f"{self._trial_id(trial)}:")

    def drop_notes(self, kept: Iterable[int]) -> None:
        """Empty our notes of all trials but these."""
        owners = {f"{self._trial_id(number)}:" for number in kept}
        for key in list(self._attributes()):
            owner = key.removeprefix(_WRITTEN)
            if key.startswith(_WRITTEN) and owner and owner not in owners:
                self._note("", owner)

    def _note(self, text: str, owner: str) -> None:
        version, pieces, digest = f"{_NOTE}{owner}note_ver", f"{_NOTE}{owner}note_str:", f"{_WRITTEN}{owner}"
        attributes = self._attributes()
        there = _joined(attributes, pieces)
        # Before we have written any, one that is not empty is a person's; after that, one that is not as we left it.
        is_ours = attributes[digest] == _digest(there) if digest in attributes else not there
        if is_ours and there != text:
            self._write(
                {
                    **_cut(text, pieces, attributes),
                    digest: _digest(text),
                    version: int(attributes.get(version, 0)) + 1,
                }
            )

    def plots(self) -> set[str]:
        """Return the names of the plots that are there, a person's among them."""
        return {key.removeprefix(_PLOT).rpartition(":")[0] for key in self._attributes() if key.startswith(_PLOT)}

    def plot(self, name: str, plot: Mapping[str, Any]) -> None:
        """Keep a plot in plotly's words, instead of the one of the same name; the name has letters, digits and `-`."""
        text = json.dumps(plot, separators=(",", ":"), allow_nan=False)
        attributes = self._attributes()
        if _joined(attributes, f"{_PLOT}{name}:") != text:
            self._write(_cut(text, f"{_PLOT}{name}:", attributes))

    def artifact(self, folder: Path, name: str, content: bytes, trial: int | None = None) -> str:
        """Keep a file for the study, or for a trial, instead of the one of the same name.

        Returns its path in the dashboard. Raises OSError.
        """
        of_trial = None if trial is None else self._trial_id(trial)
        identifier = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self._study_id}/{of_trial}/{name}"))
        _put(folder, identifier, content)
        prefix = _STUDY_ARTIFACT if of_trial is None else f"{_TRIAL_ARTIFACT}{of_trial}:"
        told = {
            "artifact_id": identifier,
            "filename": name,
            "mimetype": mimetypes.guess_type(name)[0] or "application/octet-stream",
            "encoding": None,
        }
        if (text := json.dumps(told)) != self._attributes().get(prefix + identifier):
            self._write({prefix + identifier: text})
        return "/".join(("/artifacts", str(self._study_id), *([] if of_trial is None else [str(of_trial)]), identifier))

    def _attributes(self) -> Mapping[str, Any]:
        with storage_errors(self._storage):
            return self._storage.get_study_system_attrs(self._study_id)

    def _trial_id(self, number: int) -> int:
        with storage_errors(self._storage):
            return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _write(self, attributes: Mapping[str, Any]) -> None:
        with storage_errors(self._storage), one_commit(self._storage):
            for key, value in attributes.items():
                self._storage.set_study_system_attr(self._study_id, key, value)


def _put(folder: Path, identifier: str, content: bytes) -> None:
    """Write a file of the store whole or not at all, under the name that the store looks for."""
    artifact_store(folder)
    replace_file(folder / identifier, content)


def _cut(text: str, prefix: str, attributes: Mapping[str, Any]) -> dict[str, str]:
    """Return text in pieces by attribute; pieces that were there before and are needed no longer become empty."""
    starts = range(0, len(text), _LONGEST_PIECE)
    pieces = {f"{prefix}{i}": text[start : start + _LONGEST_PIECE] for i, start in enumerate(starts)}
    return {**dict.fromkeys(_keys(attributes, prefix), ""), **pieces}


def _joined(attributes: Mapping[str, Any], prefix: str) -> str:
    return "".join(str(attributes[key]) for key in _keys(attributes, prefix))


def _keys(attributes: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Give the attributes that hold the pieces of one text, in order."""
    i = 0
    while (key := f"{prefix}{i}") in attributes:
        yield key
        i += 1


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
