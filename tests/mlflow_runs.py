"""What MLflow has of a study, read with its own client."""

from typing import Any


class Reader:
    """What is in MLflow."""

    def __init__(self, uri: str, study: str = "digits") -> None:
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(uri)
        experiment = self.client.get_experiment_by_name(study)
        assert experiment is not None
        self.experiment = experiment
        runs = self.client.search_runs([experiment.experiment_id], max_results=5000)
        self.studies = [run for run in runs if run.data.tags["regsearch.kind"] == "study"]
        self.trials = sorted((r for r in runs if r.data.tags["regsearch.kind"] == "trial"), key=number_of)

    @property
    def numbers(self) -> list[int]:
        return [number_of(run) for run in self.trials]

    def curve(self, number: int, name: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.history(number, name)]

    def history(self, number: int, name: str) -> list[Any]:
        run = next(run for run in self.trials if number_of(run) == number)
        return sorted(self.client.get_metric_history(run.info.run_id, name), key=lambda point: point.step)

    def artifacts(self, folder: str | None = None) -> set[str]:
        return {found.path for found in self.client.list_artifacts(self.studies[0].info.run_id, folder)}


def number_of(run: Any) -> int:
    return int(run.data.tags["regsearch.trial"])
