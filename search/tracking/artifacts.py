"""Files of a run: stored one by one, so that one that fails holds up no other."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from search.printable import first_line
from search.tracking.database import opened
from search.tracking.location import check_artifact_address
from search.tracking.messages import Opening, without_passwords


class Artifacts:
    """Files of the runs in one MLflow. `alive` is called after each. No method raises for a file that fails."""

    def __init__(self, client: MlflowClient, opening: Opening, alive: Callable[[], None]) -> None:
        self._client = client
        self._uri = opening.uri
        self._root = opening.artifact_root
        self._alive = alive

    def store(self, run_id: str, artifacts: Mapping[str, bytes | Path]) -> str | None:
        """Store contents or files by name, and return what is wrong with the last one that failed."""
        problem = None
        with opened(self._uri, self._root):  # another process may use the same home under another path
            pass
        for name, content in artifacts.items():
            try:
                self._store(run_id, name, content)
            except Exception as error:  # each store has errors of its own; the other artifacts may well fit
                problem = without_passwords(f"{name} could not be stored ({first_line(error)})", self._uri)
            self._alive()
        return problem

    def delete(self, run_id: str, name: str) -> str | None:
        """Delete a file, if it is there. Return what is wrong with that."""
        try:
            if any(file.path == name for file in self._client.list_artifacts(run_id)):
                self._repository(run_id).delete_artifacts(name)  # type: ignore[no-untyped-call]
        except Exception as error:  # each store has errors of its own
            told = f"{name} of another trial could not be deleted ({first_line(error)})"
            return without_passwords(told, self._uri)
        return None

    def _store(self, run_id: str, name: str, content: bytes | Path) -> None:
        folder = PurePosixPath(name).parent
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / PurePosixPath(name).name
            if isinstance(content, bytes):
                file.write_bytes(content)
            else:
                shutil.copyfile(content, file)
            self._repository(run_id).log_artifact(str(file), None if folder.name == "" else str(folder))  # type: ignore[no-untyped-call]

    def _repository(self, run_id: str) -> ArtifactRepository:
        """Return where the run's files go. By one answer of the server: the next one may be another."""
        address = self._client.get_run(run_id).info.artifact_uri
        return get_artifact_repository(check_artifact_address(address, self._uri), tracking_uri=self._uri)
