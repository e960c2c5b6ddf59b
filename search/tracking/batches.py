"""Metrics, params and tags of one run, in as few requests as the server takes, without those that it refuses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from search.printable import first_line
from search.tracking.retry import TooLargeError, raised_by

Entry = Metric | Param | RunTag

_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
_MOST_REFUSALS = 256
"""So many requests about one run may be refused for what they hold; then what is in question is left out as a whole."""


def log(client: MlflowClient, run_id: str, entries: Iterable[Entry]) -> list[str]:
    """Write all entries that the server takes. Return the others in words, each with the server's reason.

    Raises what MLflow raises for all other errors, and where everything is refused.
    """
    # Stable: metrics stay in order of their steps. A name that is refused at every step comes out as one part.
    ordered = sorted(entries, key=lambda entry: (type(entry).__name__, str(entry.key)))
    return _Batch(client, run_id).log(ordered)


class _Batch:
    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._refusals = 0
        self._taken = 0
        self._dropped: list[str] = []

    def log(self, entries: Sequence[Entry]) -> list[str]:
        try:
            self._log(entries)
        except MlflowException as error:
            if not _is_refusal(error):
                raise
            # A run that is not there, or was deleted, refuses everything, and for another reason.
            if self._client.get_run(self._run_id).info.lifecycle_stage != "active":
                raise
            self._halve(entries, error)
            if not self._taken:
                raise
        return self._dropped

    def _log(self, entries: Sequence[Entry]) -> None:
        self._client.log_batch(
            self._run_id,
            metrics=[entry for entry in entries if isinstance(entry, Metric)],
            params=[entry for entry in entries if isinstance(entry, Param)],
            tags=[entry for entry in entries if isinstance(entry, RunTag)],
            synchronous=True,
        )
        self._taken += len(entries)

    def _halve(self, entries: Sequence[Entry], error: MlflowException) -> None:
        self._refusals += raised_by(error, TooLargeError) is None
        if len(entries) == 1 or self._refusals > _MOST_REFUSALS:
            self._dropped += [f"{_kind(entry)} {entry.key} ({first_line(error)})" for entry in entries]
            return
        middle = len(entries) // 2
        for half in (entries[:middle], entries[middle:]):
            try:
                self._log(half)
            except MlflowException as refusal:
                if not _is_refusal(refusal):
                    raise
                self._halve(half, refusal)


def _kind(entry: Entry) -> str:
    return {Metric: "metric", Param: "param", RunTag: "tag"}[type(entry)]


def _is_refusal(error: MlflowException) -> bool:
    return error.error_code in _REFUSALS or raised_by(error, TooLargeError) is not None
