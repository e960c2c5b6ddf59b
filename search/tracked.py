"""What MLflow shows of a study, from the study's storage alone: the same during a search and for `regsearch sync`.

`begin` and `end` keep what no trial tells: when searches ran, where, and whether the last one got to its end.
"""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.confirmation import Confirmation
from search.confirmation import Confirmed as OverSeeds
from search.intervals import Answer
from search.markdown import code, without_links
from search.printable import one_line
from search.records import Summary, TrialRecord
from search.results import best_toml, confirmation_json, confirmed_means, headline_metrics
from search.spec import OWN, StudySpec
from search.tracking import Closing, Confirmed, Findings, TrackedData, TrackedStudy
from search.verdict import headline, hurts, warnings, winner
from search.weights import WeightStore

if TYPE_CHECKING:
    from search.study import StoredStudy, Study

_COURSE = "course"
"""Name of the fact that is a `_Course`."""
_ORIGINS = {
    "digits": "UCI handwritten digits, with scikit-learn",
    "mnist": "MNIST, by torchvision",
    "fashion-mnist": "Fashion-MNIST, by torchvision",
    "cifar10": "CIFAR-10, by torchvision",
    "wide": "scikit-learn's make_classification",
    "newsgroups": "20 newsgroups, by scikit-learn",
    OWN: "given in Python",
}


@dataclass(frozen=True)
class _Course:
    """When the first search began and the last one ended, and whether all was done then."""

    began: datetime
    ended: datetime | None
    finished: bool

    def to_json(self) -> dict[str, Any]:
        ended = None if self.ended is None else self.ended.isoformat()
        return {"began": self.began.isoformat(), "ended": ended, "finished": self.finished}


def begin(study: Study) -> None:
    """Take down that a search begins, or goes on, here and now."""
    course = study.fact(_COURSE, _Course)
    begun = _Course(_first(study.records()) if course is None else course.began, None, finished=False)
    # A start that is late may find another one at the study's end: it leaves all to that, the course included, which
    # may have been taken down as finished already.
    study.set_fact_unless_finishing(_COURSE, begun.to_json())
    study.set_fact("host", platform.node())


def end(study: Study, finished: bool) -> None:
    """Take down that the search has ended, and whether all was done."""
    course, now = study.fact(_COURSE, _Course), datetime.now(UTC)
    study.set_fact(_COURSE, _Course(now if course is None else course.began, now, finished).to_json())


def tracked_study(study: StoredStudy) -> TrackedStudy:
    """Return what the study's run shows from its first moment on."""
    spec, fingerprint, course = study.spec, study.fact("data_fingerprint", str), study.fact(_COURSE, _Course)
    return TrackedStudy(
        name=study.name,
        spec_json=spec.to_json(),
        description=_subject(spec),
        tags=_machine(study),
        params=_params(spec),
        identity=study.identity,
        started=None if course is None else course.began,
        data=None if fingerprint is None else TrackedData(spec.data.name, fingerprint, _ORIGINS[spec.data.name]),
    )


def closing(study: StoredStudy, folder: Path) -> Closing:
    """Return what completes the study's run. Its files are taken from `folder`, as far as they are there."""
    summary = study.summary()
    course = study.fact(_COURSE, _Course)
    ended = None if course is None else course.ended
    return Closing(
        interrupted=not (_is_done(study.spec, summary) if course is None else course.finished),
        ended=ended or _last(study.records()),
        findings=Findings(
            headline=_headline(summary),
            description="\n\n".join([*_verdict(summary), _subject(study.spec), *_told(study.name, summary)]),
            tags=_machine(study) | _best(summary),
            metrics=headline_metrics(summary),
            artifacts=_artifacts(summary, folder, study.identity),
            compared=_compared(summary),
            confirmed={} if summary.confirmed is None else _confirmed(summary.confirmed),
        ),
    )


def _first(records: list[TrialRecord]) -> datetime:
    return min((record.started.astimezone(UTC) for record in records), default=datetime.now(UTC))


def _last(records: list[TrialRecord]) -> datetime:
    return max((record.ended.astimezone(UTC) for record in records), default=datetime.now(UTC))


def _is_done(spec: StudySpec, summary: Summary) -> bool:
    """Return what `end` would have taken down, for studies of earlier versions."""
    ended = sum(summary.trials[state] for state in ("complete", "pruned", "failed"))
    return ended >= spec.search.trials and summary.trials["running"] + summary.trials["waiting"] == 0


def _machine(study: StoredStudy) -> dict[str, str]:
    """Return what the last search ran on; it is known when that has ended."""
    host = study.fact("host", str)
    told = {f"regsearch.machine.{name.replace(' ', '_')}": value for name, value in study.machine.items()}
    return told if host is None else {**told, "regsearch.host": one_line(host)}


def _params(spec: StudySpec) -> dict[str, str]:
    """Return what holds for all trials and cannot change on resuming, as MLflow's params cannot."""
    given: dict[str, Any] = {
        "data": spec.data.name,
        "model": spec.model.name,
        "optimizer": spec.training.optimizer,
        "batch_size": spec.training.batch_size,
        "max_epochs": spec.training.max_epochs,
        "sampler": spec.search.sampler,
        "pruner": spec.search.pruner.name,
        "seed": spec.search.seed,
    }
    return {name: str(value) for name, value in given.items()}


def _best(summary: Summary) -> dict[str, str]:
    """Return which trial is the winner, by number and in words."""
    best = winner(summary)
    return {} if best is None else {"regsearch.best_trial": str(best.trial), "regsearch.winner": best.name}


def _compared(summary: Summary) -> list[int]:
    """Return winner, one-standard-error pick and baseline, each once: as confirmed, else as the search has them."""
    if summary.confirmed is not None:
        numbers = [confirmed.trial for confirmed in summary.confirmed.chosen.values()]
    else:
        found = (summary.best, summary.one_standard_error, summary.baseline)
        numbers = [record.number for record in found if record is not None]
    return list(dict.fromkeys(numbers))


def _confirmed(confirmation: Confirmation) -> dict[int, Confirmed]:
    """Return the confirmed trials; one may be several things at once.

    The baseline at another trial's learning rate is none of the search's trials, whose runs say nothing of it.
    """
    trials = {role: confirmed for role, confirmed in confirmation.chosen.items() if confirmed.rate_of is None}
    roles: dict[int, list[str]] = {}
    for role, confirmed in trials.items():
        roles.setdefault(confirmed.trial, []).append(role)
    means = {confirmed.trial: confirmed_means(confirmed) for confirmed in trials.values()}
    return {trial: Confirmed(", ".join(names), means[trial]) for trial, names in roles.items()}


def _artifacts(summary: Summary, folder: Path, identity: str) -> dict[str, bytes | Path]:
    """Return the files that go with a study. Two are told by its storage, the others were written by a search."""
    told: dict[str, bytes | Path] = {}
    kept = {"report.html": folder / "report.html"}
    if (best := winner(summary)) is not None:
        told["best.toml"] = best_toml(summary).encode()
        weights = WeightStore(folder, study=identity)
        if weights.load(best.trial, best.rate_of) is not None:  # and not those of a study that was deleted
            kept["best.safetensors"] = weights.path(best.trial, best.rate_of)
    if summary.confirmed is not None:
        told["confirmed.json"] = json.dumps(confirmation_json(summary.confirmed), indent=2).encode()
    return told | {name: path for name, path in kept.items() if path.exists()}


def _subject(spec: StudySpec) -> str:
    training, search = spec.training, spec.search
    searched = (
        f"Regularization of a model `{spec.model.name}` on `{spec.data.name}`, trained with {training.optimizer} "
        f"for at most {training.max_epochs} epochs; sampler {search.sampler}, pruner {search.pruner.name}."
    )
    return f"{without_links(spec.description)}\n\n{searched}".strip()


def _headline(summary: Summary) -> str:
    """Return how good it is, for the first column of MLflow's table; what speaks against it first."""
    if summary.confirmed is not None:
        against = f"{Answer.HURTS}, " if hurts(summary) else ""
        without = " without regularization" if summary.confirmed.baseline_wins else ""
        return f"{against}confirmed {summary.confirmed.best.estimates['val_loss'].mean:.4f}{without}"
    best = summary.best.best if summary.best is not None else None
    return "" if best is None else f"best {best.val_loss:.4f}"


def _told(study: str, summary: Summary) -> Iterator[str]:
    """Give what was found in words, paragraph by paragraph."""
    yield f"How trials ended: {', '.join(f'{n} {reason}' for reason, n in summary.reasons.items()) or 'none did'}."
    if summary.best is None or summary.best.best is None:
        yield "No trial is complete, so there is no best one."
    else:
        baseline = summary.baseline.best if summary.baseline is not None else None
        beside = "" if baseline is None else f"; without regularization {baseline.val_loss:.4f}"
        yield f"**Best in the search**: trial {summary.best.number}, loss {summary.best.best.val_loss:.4f}{beside}."
        if summary.confirmed is None:
            yield "Not confirmed over seeds."
            if summary.noise is not None and summary.noise.remark is not None:
                yield summary.noise.remark
    command = code(f"regsearch show --study {shlex.quote(study)}")
    yield f"{command} prints it all; the command that began the search goes on with it."


def _verdict(summary: Summary) -> Iterator[str]:
    """Give what was confirmed, and what to beware of."""
    confirmation = summary.confirmed
    if confirmation is not None:
        verdict = headline(summary)
        said = "" if verdict is None else f"**{verdict[0].upper()}{verdict[1:]}.** "
        best, best_confirmed, baseline = winner(summary), confirmation.best, confirmation.baseline
        assert best is not None, "something is confirmed"
        beside = "" if baseline is None else f"; without regularization {_scores(baseline)}"
        if confirmation.baseline_wins:
            regularized = confirmation.regularized
            beside = f"; with regularization, trial {regularized.trial}, {_scores(regularized)}"
        seeds = best_confirmed.estimates["val_loss"].n
        told = f"{said}**Confirmed** over {seeds} seeds: {best.name}, {_scores(best_confirmed)}{beside}."
        yield " ".join([told, *confirmation.remarks])
    if told_warnings := warnings(summary):
        yield " ".join(told_warnings)


def _scores(confirmed: OverSeeds) -> str:
    accuracy = confirmed.estimates.get("test_accuracy")
    told = "" if accuracy is None else f", test accuracy {accuracy.mean:.2%}"
    return f"loss {confirmed.estimates['val_loss'].mean:.4f}{told}"
