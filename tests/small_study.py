"""A study of which everything is known, at the cost of writing it down: nothing is trained."""

from dataclasses import asdict
from pathlib import Path

from search.ablation import Ablation
from search.confirmation import Picks, Repeat, Repeats
from search.records import EpochResult, Majority, Reason, Score, TimeSpent
from search.spec import StudySpec
from search.study import Study, open_storage
from search.tracked import begin, end, tracked_study


def as_if_searched(home: Path, url: str | None = None) -> Study:
    """Return the study `tiny`, closed, as if it had been searched, confirmed and explained."""
    spec = StudySpec.model_validate(
        {
            "name": "tiny",
            "data": {"name": "digits"},
            "model": {"hidden": [8]},
            "training": {"max_epochs": 3},
            "space": {"dropout": {"low": 0.0, "high": 0.5}, "l1": {"low": 1e-6, "high": 1e-2, "log": True}},
            "search": {"trials": 8},
        }
    )
    study = Study.open("tiny", spec, open_storage(url, home), home)
    ends = [*[Reason.COMPLETED] * 6, Reason.PRUNED, Reason.ERROR]
    for reason in ends:
        asked = study.ask()
        rows = [EpochResult(i, 0.5 / i, 0.6 / i + asked.number / 50, 0.9, 0.1, 0.01) for i in range(1, 4)]
        for row in rows:
            study.report({asked.number: row})
        study.finish(asked.number, reason, rows, "boom" if reason is Reason.ERROR else None, "0")
    study.ask()
    study.keep_repeats(
        Repeats(
            Picks([1, 2], 3, 0),
            [Repeat(t, s, 3, 0.2, 0.1, 0.9, 0.1, 0.9, 0.3, 0.02) for t in range(4) for s in range(2)],
        )
    )
    study.keep_ablation(
        Ablation(1, ("l1",), tuple(Repeat(t, s, 3, 0.2 + t, 0.1, 0.9, 0.1) for t in range(2) for s in range(2)))
    )
    study.record_test("best", Score(1, 0.9, 0.3, 0.02))
    study.keep_majority("test", Majority(0.5, 100))
    study.add_wall_seconds(2.0)
    begin(study)
    end(study, finished=True)
    tracked_study(study)
    for name, value in {
        "machine": {"torch": "2"},
        "time": asdict(TimeSpent(2, 1.0, 5.0, 1.0, 0.5, 0.1, 0.1)),
        "data_fingerprint": "0",
    }.items():
        study.set_fact(name, value)
    study.close()
    return study
