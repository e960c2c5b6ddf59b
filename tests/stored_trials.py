"""A study of a few trials with losses as wanted, written down without any training, and what is said of it."""

import io

from rich.console import Console

from search.confirmation import Repeat
from search.records import EpochResult, Reason, Summary
from search.spec import StudySpec
from search.study import Study, open_storage
from search.terminal.page import print_summary

SPEC = {
    "name": "rates",
    "data": {"name": "digits"},
    "model": {"hidden": [8]},
    "training": {"max_epochs": 3},
    "space": {"learning_rate": {"low": 1e-4, "high": 0.3, "log": True}, "l1": {"low": 1e-6, "high": 1e-2, "log": True}},
    "search": {"trials": 5},
}


def opened(home) -> Study:
    """Return a study of four trials, of which trial 2 has the lowest loss."""
    study = Study.open("rates", StudySpec.model_validate(SPEC), open_storage(None, home), home)
    for loss in (0.5, 0.6, 0.3, 0.4):
        end(study, loss)
    return study


def end(study: Study, loss: float) -> int:
    number = study.ask().number
    rows = [EpochResult(i, loss / 2, loss + 1 - i / 3, 0.9, 0.0, 0.01) for i in range(1, 4)]
    study.report({number: rows[-1]})
    study.finish(number, Reason.COMPLETED, rows)
    return number


def repeats(
    trial: int, loss: float, accuracy: float | None = 0.9, plain: bool = False, scatter: float = 0.0
) -> list[Repeat]:
    """Return a configuration's repeats with three seeds; `scatter` is what a seed adds that it adds to no other's."""
    return [
        Repeat(
            *(trial, seed, 3, loss + seed / 100 + seed * scatter, 0.1, 0.9, 0.0),
            plain=plain,
            test_accuracy=None if accuracy is None else accuracy + seed * scatter,
            test_loss=None if accuracy is None else loss + seed / 100 + seed * scatter,
            ece=None if accuracy is None else 0.02,
        )
        for seed in range(3)
    ]


def page(summary: Summary) -> str:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    print_summary(summary, console)
    return " ".join(console.file.getvalue().split())
