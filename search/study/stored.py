"""A study as it lies in the storage: read back, followed, annotated, and with what is kept beside its trials.

To run it is the business of `study.py`. Where it is kept is that of `storage.py`, how it is opened of `opening.py`,
what is written about trials of `trials.py` and beside them of `facts.py`, who tells what is new of `following.py`, and
how those that run it are asked to stop of `roster.py`. All calls of one study come from one thread.
"""

import functools
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar

import optuna
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from search.ablation import Ablation
from search.confirmation import Repeats
from search.records import Majority, ModelNoise, Score, Summary, TrialRecord
from search.spec import StudySpec
from search.study import facts
from search.study.annotations import Annotations
from search.study.following import Following
from search.study.foreign import Sieve
from search.study.gone import Existence
from search.study.kept import Kept
from search.study.opening import load, our_studies, stored_spec
from search.study.patience import Patience
from search.study.reading import as_written, legible, read_texts
from search.study.roster import Dismissal
from search.study.storage import describe_failure, mending_advice, storage_errors
from search.study.trials import check_numbers, spent_trials, unfinished_trials

_FEWEST_TO_COMPARE = 4
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Fact = TypeVar("_Fact")
_Stored = TypeVar("_Stored", bound="StoredStudy")


@contextmanager
def understood(storage: BaseStorage, name: str) -> Iterator[None]:
    """Raise StorageError, without passwords, where the storage fails or holds something else than we write."""
    with storage_errors(storage), as_written(f'study "{name}"', mending_advice(storage)):
        yield


def guarded(
    method: Callable[Concatenate[_Stored, _Arguments], _Result],
) -> Callable[Concatenate[_Stored, _Arguments], _Result]:
    """Try a method again while its storage is away; then raise StorageError, see `understood` and `Existence`."""

    @functools.wraps(method)
    def call(self: _Stored, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        def work() -> _Result:
            with self._existence.used():
                self._existence.check()
                return method(self, *args, **kwargs)

        with understood(self._storage, self.name), self._existence.required():
            return self._patience.call(work)

    return call


class StoredStudy:
    """One study, to be read."""

    def __init__(self, study: optuna.Study, spec: StudySpec, storage: BaseStorage, patience: float = 0.0) -> None:
        """For `load`, and for `open` of those that run it."""
        self.name = study.study_name
        self.spec = spec
        self._study, self._storage = study, storage
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._sieve, self._existence = Sieve(spec), Existence(storage, self._study_id, self.name)
        self._patience = Patience(patience, lambda error: describe_failure(error, storage))

    @classmethod
    def load(cls, name: str, storage: BaseStorage) -> Self:
        """Return a study to read. Raises UsageError when there is none of that name, StorageError when not ours."""
        with understood(storage, name):
            return cls(*load(name, storage), storage)

    @guarded
    def records(self) -> list[TrialRecord]:
        """Return the finished trials by number, from storage alone, without those that are left out."""
        return self._sieve.records(self._sifted())

    @guarded
    def unfinished(self) -> int:
        """Return how many trials of the budget have not ended, whoever runs them; and those that are still to begin."""
        return unfinished_trials(self._counted(self._trials()), self.spec.search.trials)

    @guarded
    def spent(self) -> int:
        """Return how many trials use up the budget: running ones and finished ones, but not interrupted ones."""
        return spent_trials(self._sifted())

    @guarded
    def waiting(self) -> int:
        """Return how many configurations are in the queue."""
        return len(self._sifted((TrialState.WAITING,)))

    @guarded
    def summary(self) -> Summary:
        """Return the study at a glance, from storage alone."""
        return facts.summarize_study(self._study, self.spec, self._sieve)

    def follow(self) -> Following:
        """Return who tells what is new in the study, while another process runs it."""
        return Following(self._study, self._storage)

    def dismiss(self, home: Path) -> Dismissal:
        """Ask all that run the study to stop; return who tells what becomes of that. Raises StorageError.

        Which of those that ran it in this home on this machine have died is known at once.
        """
        return Dismissal(self._storage, self._study_id, home)

    @guarded
    def add_wall_seconds(self, seconds: float) -> None:
        """Add to the time that the study has been run."""
        facts.add_wall_seconds(self._study, seconds)

    @guarded
    def record_test(self, which: Literal["best", "baseline"], score: Score) -> None:
        """Keep a test score; read once, after the search."""
        facts.set_test_score(self._study, which, score)

    def keep_majority(self, examples: str, majority: Majority) -> None:
        """Keep the share of the most frequent class of `validation` or `test` examples."""
        self.set_fact(facts.MAJORITY + examples, asdict(majority))

    def keep_repeats(self, repeats: Repeats) -> None:
        """Keep what is confirmed, and all that was trained for it."""
        self.set_fact(facts.REPEATS, repeats.to_json())

    def repeats(self) -> Repeats | None:
        """Return what `keep_repeats` was given last, or None."""
        return self.fact(facts.REPEATS, Repeats)

    def keep_ablation(self, ablation: Ablation) -> None:
        """Keep what was trained to tell what each ingredient of a configuration is worth."""
        self.set_fact(facts.ABLATION, ablation.to_json())

    def keep_noise(self, noise: ModelNoise) -> None:
        """Keep which dropout and other noise a model from Python has."""
        self.set_fact(facts.NOISE, asdict(noise))

    @guarded
    def importances(self) -> dict[str, float]:
        """Return how much of the difference between good trials and others each parameter explains, shares of 1.

        By Watanabe et al. 2023 (PED-ANOVA). With several objectives the good ones are those on the first Pareto fronts.
        Empty where there are too few complete trials to tell.
        """
        complete = [trial for trial in self._sifted((TrialState.COMPLETE,)) if trial.params]
        if len(complete) < _FEWEST_TO_COMPARE:
            return {}
        choices = self.spec.choices
        ours = {*choices.switches, *choices.ranges()}
        with warnings.catch_warnings():
            # That a switch was on in one trial alone, which says little: shares are of what there is to compare.
            warnings.filterwarnings("ignore", "Some regimes for parameter")
            # Not of the study as it is: other programs' trials may be among its own.
            own = optuna.create_study(storage=InMemoryStorage(), directions=self._study.directions)
            own.add_trials(complete)
            told = optuna.importance.get_param_importances(own)
        return {name: share for name, share in told.items() if name in ours}

    @guarded
    def plots(self, params: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return Optuna's own plots of these parameters, by name; see `plots.optuna_plots`."""
        from search.study.plots import optuna_plots  # imports plotly and matplotlib, half a second

        return optuna_plots(self._sifted((TrialState.COMPLETE,)), params)

    @property
    @guarded
    def annotations(self) -> Annotations:
        """What optuna-dashboard shows beside the trials."""
        return Annotations(self._storage, self._storage.get_study_id_from_name(self.name))

    @guarded
    def set_fact(self, key: str, value: Any) -> None:
        """Keep a JSON value about the study or its runs."""
        facts.set_fact(self._study, key, value)

    @guarded
    def settle(self, key: str, value: _Fact) -> _Fact:
        """Keep a JSON value, unless there is one; return what is kept, which is the same for all that run the study."""
        return facts.settle(self._study, self._storage, key, value)

    @guarded
    def fact(self, key: str, kind: type[_Fact]) -> _Fact | None:
        """Return what `set_fact` kept, as a type that pydantic knows, or None."""
        return facts.fact(Kept(self._study), key, kind)

    @property
    def identity(self) -> str:
        """What tells the study from others that have, or had, its name; made when it is first asked for."""
        return self.settle("identity", uuid.uuid4().hex)

    @property
    def machine(self) -> Mapping[str, str]:
        """What the last search ran on, by what it is."""
        return read_texts(self.fact(facts.MACHINE, dict[str, str]))

    def _sifted(self, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        """Return the trials that are not left out, see `foreign.py`."""
        return self._sieve.sift(self._trials(states))

    def _trials(self, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=False, states=states)
        if states is None:
            check_numbers(trials)
        return trials

    def _counted(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return those that have a place in the budget."""
        return [trial for trial in trials if self._sieve.counts(trial)]


def list_studies(storage: BaseStorage) -> list[Summary]:
    """Return the studies in the storage that regsearch made, by name; what cannot be read is left out, and said."""
    with storage_errors(storage), as_written("the storage"):
        ours = our_studies(storage)
        return list(legible(ours, lambda name: _summarize(name, stored_spec(ours[name]), storage)))


def _summarize(name: str, spec: StudySpec, storage: BaseStorage) -> Summary:
    return facts.summarize_study(optuna.load_study(study_name=name, storage=storage), spec, Sieve(spec))
