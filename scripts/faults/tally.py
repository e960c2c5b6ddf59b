"""What became of a study after a fault: counted from its storage, as anybody would who opens it."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from scripts.faults.invariants import violations
from scripts.faults.pretend import NAME
from scripts.faults.replay import replayed
from search.study import StoredStudy, close_storage, open_storage


@dataclass
class Tally:
    """Sums over the times that a fault was tried."""

    tried: int = 0
    lost: int = 0
    """Configurations without a result."""
    twice: int = 0
    """Configurations with more than one."""
    budget_error: int = 0
    """Results too many or too few, and trials left unfinished."""
    unreadable: int = 0
    mlflow_differs: int | None = None
    """Trials that MLflow has otherwise than Optuna after `sync`; None where MLflow took no part."""
    thrown_away: int = 0
    """Trial-epochs of attempts that were cut short."""
    trained: int = 0
    took_over: list[float] = field(default_factory=list)
    """Seconds from a death until the configurations of its trials were back in the queue."""
    complaints: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        wrong = (self.lost, self.twice, self.budget_error, self.unreadable, self.mlflow_differs or 0)
        return not any(wrong) and not self.complaints

    def count(self, home: Path, storage: str | None, budget: int, name: str = NAME) -> None:
        """Count one study that has been run to its end."""
        self.tried += 1
        try:
            opened = open_storage(storage, home)
            study = StoredStudy.load(name, opened)
            trials, records = study._study.trials, study.records()
            self.budget_error += study.unfinished()
            is_trained = study.fact("data_fingerprint", str) is not None  # pretended trainers have no data
            close_storage(opened)
        except Exception as error:
            self.unreadable += 1
            self.complaints.append(str(error))
            return
        ended = [record for record in records if not record.reason.is_no_result]
        results = Counter(record.number if record.retry_of is None else record.retry_of for record in ended)
        self.lost += max(0, budget - len(results))
        self.twice += sum(count - 1 for count in results.values())
        self.budget_error += abs(budget - len(ended))
        epochs = {trial.number: len(trial.intermediate_values) for trial in trials}
        self.trained += sum(epochs.values())
        self.thrown_away += sum(epochs[record.number] for record in records if record.reason.is_no_result)
        self.complaints += violations(trials, records)
        if is_trained:
            self.complaints += replayed(study.spec, ended)
