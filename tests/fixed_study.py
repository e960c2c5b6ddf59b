"""A small study as several test files open it, and epochs that trials might have had."""

from pathlib import Path

from search.records import EpochResult
from search.spec import StudySpec
from search.study import Study

SPEC = {
    "name": "fixed",
    "data": {"name": "digits"},
    "model": {"hidden": [8]},
    "training": {"max_epochs": 9},
    "space": {
        "dropout": {"low": 0.0, "high": 0.5},
        "l1": {"low": 1e-6, "high": 1e-2, "log": True},
        "patience": {"low": 2, "high": 8},
        "weight_decay": 1e-4,
    },
    "search": {"trials": 16, "seed": 7},
}


def make_spec(**search) -> StudySpec:
    return StudySpec.model_validate(SPEC | {"search": SPEC["search"] | search})


def curve(*losses: float) -> list[EpochResult]:
    return [EpochResult(i, loss / 3, loss, 0.1 + 0.2 * i, 1 / 7) for i, loss in enumerate(losses, 1)]


SEVERAL = ("val_loss", "sparsity", "epochs")


def sparse_curve(*rows: tuple[float, float]) -> list[EpochResult]:
    """Return epochs, each of a loss and a sparsity."""
    return [EpochResult(i, loss / 3, loss, 0.5, sparsity) for i, (loss, sparsity) in enumerate(rows, 1)]


def reopen(study: Study, tmp_path: Path, spec: StudySpec | None = None) -> Study:
    """What the next process does after this one was killed: the lock is free, the memory gone."""
    study.close()
    return Study.open(study.name, spec or study.spec, study._storage, tmp_path)


def states(study: Study) -> list[str]:
    return [trial.state.name for trial in study._study.trials]


class Killed(BaseException):
    """The process was: caught by nothing in the program."""


def die_after(monkeypatch, study, method: str, calls: int):
    """Let the process die right after the storage's nth write of that kind."""
    kind = type(study._storage)
    original, left = getattr(kind, method), [calls]

    def dying(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return result

    monkeypatch.setattr(kind, method, dying)
