"""What is kept with a study beside its trials, among its user attributes: facts, test scores, how long it was run.

Knows how that is read and written, and the study at a glance that comes of it and of the trials.
"""

from dataclasses import asdict, replace
from math import isfinite
from typing import Any, Literal, TypeVar

import optuna
from optuna.storages import BaseStorage

from search.ablation import Ablation
from search.confirmation import Repeats
from search.records import Majority, ModelNoise, Score, Summary, TimeSpent
from search.spec import StudySpec
from search.study.commits import exclusive
from search.study.foreign import Sieve
from search.study.kept import Kept, keep, keep_in
from search.study.reading import read_as, read_noise
from search.study.trials import check_numbers, summarize

REPEATS = "repeats"
"""Name of the fact that holds what is confirmed."""
ABLATION = "ablation"
"""Name of the fact that tells what each ingredient of a configuration is worth."""
TIME_SPENT = "time"
"""Name of the fact that tells where the last run's time went."""
MACHINE = "machine"
"""Name of the fact that tells what the last run ran on."""
NOISE = "noise"
"""Name of the fact that tells which dropout and other noise a model from Python has."""
MAJORITY = "majority_"
"""Beginning of the names of the facts that tell the most frequent class's share of `validation` and `test` examples."""
REMARKS = "remarks"
"""Name of the fact that tells what results are to be read with, in sentences."""
_WALL_SECONDS = "wall_seconds"
_TEST = "test_"
_FACT = "fact_"

_Fact = TypeVar("_Fact")


def is_result(key: str) -> bool:
    """Return whether an attribute of a study tells results, which can be found again, and not what it is."""
    made_once = {_FACT + name for name in ("identity", "data_fingerprint", "test_fingerprint")}
    return (key.startswith((_FACT, _TEST)) or key == _WALL_SECONDS) and key not in made_once


def set_fact(study: optuna.Study, key: str, value: Any) -> None:
    """Keep a JSON value."""
    keep(study, _FACT + key, value)


def set_fact_within(storage: BaseStorage, study_id: int, key: str, value: Any) -> None:
    """Keep a JSON value within a commit that the caller makes."""
    keep_in(storage, study_id, _FACT + key, value)


def fact(attributes: Kept, key: str, kind: type[_Fact]) -> _Fact | None:
    """Return what `set_fact` kept among a study's attributes, or None. Raises ValueError where it is something else."""
    value = attributes.get(_FACT + key)
    return None if value is None else read_as(kind, value)


def settle(study: optuna.Study, storage: BaseStorage, key: str, value: _Fact) -> _Fact:
    """Keep a JSON value unless there is one, however many do so at once; return what is kept. Raises ValueError."""
    study_id = storage.get_study_id_from_name(study.study_name)
    with exclusive(storage, study_id):
        kept = storage.get_study_user_attrs(study_id).get(_FACT + key)
        if kept is None:
            set_fact_within(storage, study_id, key, value)
    return value if kept is None else read_as(type(value), kept)


def add_wall_seconds(study: optuna.Study, seconds: float) -> None:
    """Add to the time that the study has been run."""
    keep(study, _WALL_SECONDS, _wall_seconds(Kept(study)) + seconds)


def set_test_score(study: optuna.Study, which: Literal["best", "baseline"], score: Score) -> None:
    """Keep a test score."""
    keep(study, _TEST + which, asdict(score))


def summarize_study(study: optuna.Study, spec: StudySpec, sieve: Sieve) -> Summary:
    """Return the study at a glance."""
    attributes = Kept(study)  # once: others may have written any number
    scores = {which: attributes.get(_TEST + which) for which in ("best", "baseline")}
    ablation, time = fact(attributes, ABLATION, Ablation), fact(attributes, TIME_SPENT, TimeSpent)
    noise = read_noise(fact(attributes, NOISE, ModelNoise))
    majorities = {examples: fact(attributes, MAJORITY + examples, Majority) for examples in ("validation", "test")}
    trials = study.get_trials(deepcopy=False)
    check_numbers(trials)
    summary = summarize(
        study.study_name,
        trials,
        spec,
        sieve,
        {which: read_as(Score, score) for which, score in scores.items() if score is not None},
        _wall_seconds(attributes),
        _picked_once(fact(attributes, REPEATS, Repeats)),
    )
    remarks, confirmed = fact(attributes, REMARKS, list[str]) or (), summary.confirmed
    if confirmed is not None:
        confirmed = replace(confirmed, noise=None if noise is None else noise.remark, notes=remarks)
    return replace(
        summary,
        confirmed=confirmed,
        noise=noise,
        ablation=None if ablation is None else _known(ablation, spec),
        time=None if time is None else _finite(time),
        loss=spec.training.loss,
        majorities={examples: majority for examples, majority in majorities.items() if majority is not None},
    )


def _wall_seconds(attributes: Kept) -> float:
    return _seconds(attributes.get(_WALL_SECONDS) or 0.0)


def _finite(time: TimeSpent) -> TimeSpent:
    for seconds in asdict(time).values():
        _seconds(seconds)
    return time


def _seconds(value: Any) -> float:
    seconds = read_as(float, value)
    if not (isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{seconds} seconds")
    return seconds


def _known(ablation: Ablation, spec: StudySpec) -> Ablation:
    """Return an ablation of the spec's own parameters. Raises KeyError for others."""
    known = spec.parameters()
    for name in ablation.names:
        known[name]
    if len(set(ablation.names)) < len(ablation.names):
        raise ValueError("an ingredient is left out twice")
    return ablation


def _picked_once(repeats: Repeats | None) -> Repeats | None:
    """Return repeats that have picked no trial twice. Raises ValueError: each pick is compared with all runs."""
    if repeats is not None and len(set(repeats.picks.top)) < len(repeats.picks.top):
        raise ValueError("a trial is picked twice")
    return repeats
