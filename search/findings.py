"""What is left for people when a search has ended: the best configuration, the report, the notes, the run in MLflow.

Nothing that goes wrong with any of them may cost the search, whose truth is in the storage: it is told, with the
command that tries again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from search.places import artifact_folder, write_whole
from search.printable import first_line
from search.records import Summary
from search.regular_files import read_regular
from search.results import best_toml, confirmation_json
from search.tracked import closing
from search.tracking import Closing
from search.tracking.messages import without_passwords
from search.verdict import winner

if TYPE_CHECKING:
    from search.study import StoredStudy
    from search.weights import WeightStore


class Findings:
    """The findings of one study."""

    def __init__(
        self,
        study: StoredStudy,
        home: Path,
        storage: str | None,
        tracking_uri: str | None,
        tell: Callable[[str], None],
    ) -> None:
        """`tracking_uri` is where MLflow's runs go, if not where they go by default.

        `tell` is called with what the user should know.
        """
        self._study, self._home, self._storage, self._say = study, home, storage, tell
        self._tracking_uri = tracking_uri
        self.artifacts = artifact_folder(home, study.name)
        """Folder of the study's own files."""

    def write_best(self, summary: Summary, weights: WeightStore) -> None:
        """Write the best configuration and its weights under names that stay."""
        if (notice := weights.take_notice()) is not None:
            self._say(notice)
        best = winner(summary)
        if best is None:
            return
        try:
            # Of a former winner nothing lies beside the configuration of this one, whenever the program dies.
            confirmed = summary.confirmed
            text = None if confirmed is None else json.dumps(confirmation_json(confirmed), indent=2).encode()
            beside = {
                self.artifacts / "best.safetensors": weights.load(best.trial, best.rate_of),
                self.artifacts / "confirmed.json": text,
            }
            for path, content in beside.items():
                if path.exists() and not _holds(path, content):
                    path.unlink()
            write_whole(self.artifacts / "best.toml", best_toml(summary).encode())
            for path, content in beside.items():
                if content is not None:
                    write_whole(path, content)
        except OSError as error:
            self._say(
                f"What was found could not be written to {self.artifacts} ({error.strerror or error}); "
                "the same command tries again"
            )

    def write_report(self) -> Path | None:
        """Write the report, and what optuna-dashboard shows; return where the report is, None if it is not there."""
        from search.dashboards.content import annotate
        from search.report import gather, page_path, where_is, write_page

        path = page_path(self._home, self._study.name)
        try:
            material = gather(self._study, where_is(self._home, self._storage))
        except Exception as error:
            self._tell_of("The report could not be written", error, again="report")
            return None
        try:
            annotate(self._study, material, self._home)
        except Exception as error:
            self._tell_of("The notes for optuna-dashboard could not be written", error)
        try:
            write_page(material, path)
        except Exception as error:
            self._tell_of("The report could not be written", error, again="report")
            return None
        return path

    def closing(self) -> Closing:
        """Return what completes the study's run in MLflow."""
        try:
            return closing(self._study, self.artifacts)
        except Exception as error:
            self._tell_of("MLflow is not told what was found", error, again="sync")
            return Closing(interrupted=True, ended=datetime.now(UTC))

    def pass_on(self, notices: Iterable[str]) -> None:
        """Print lines for the user that came too late for the display of the search."""
        for notice in notices:
            self._say(notice)

    def command(self, verb: str) -> str:
        """Return a command on this study as one would type it; no passwords."""
        from search.report import typed, where_is

        where = where_is(self._home, self._storage)
        if verb == "sync" and self._tracking_uri is not None:
            where["tracking-uri"] = without_passwords(self._tracking_uri, self._tracking_uri)
        return typed(verb, self._study.name, where)

    def _tell_of(self, what: str, error: Exception, again: str | None = None) -> None:
        self._say(f"{what}: {first_line(error)}" + (f"; `{self.command(again)}` tries again" if again else ""))


def _holds(path: Path, content: bytes | None) -> bool:
    try:
        return content is not None and read_regular(path, len(content)) == content
    except OSError:
        return False
