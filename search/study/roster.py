"""Who runs a study, seen by one who does not: signs of life, what each trains, and asking them all to stop.

A request to stop is an attribute of the study that names one runner: whoever joins later is not meant, and it reaches
every host that reaches the storage. The runner answers that it has heard, ends its epochs, and leaves.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.records import Reason
from search.study.foreign import Sieve
from search.study.gone import Existence
from search.study.leases import Life, Observer, RunnerRecord, runners_of, seconds_awake_or_not, sign_of_life
from search.study.opening import load, our_studies, stored_spec
from search.study.reading import as_written, legible, read_text
from search.study.storage import storage_errors
from search.study.trials import reason_of, runner_of, spent_trials

_STOP = "stop:"
_ASKED, _HEARD = "asked", "heard"
_LEASES_TO_ANSWER = 2

Answer = Literal["asked", "finishing", "gone", "dead", "silent"]
"""What has become of a request: not answered yet; heard, and the last epochs are under way; the runner has left; it
had died before; or it gives no sign of life, or has not answered, for so long that nobody waits for it any more."""


@dataclass(frozen=True)
class Presence:
    """A runner of a study."""

    record: RunnerRecord
    life: Life
    """Whether it lives, as far as this machine can tell."""
    stopping: bool
    """Whether it has been asked to stop."""
    trials: Mapping[int, int]
    """The trials that it runs, by number, with how many epochs each has had."""


@dataclass(frozen=True)
class Standing:
    """A study being run."""

    study: str
    budget: int
    ended: int
    """Trials of the budget that have ended."""
    waiting: int
    failures: Mapping[str, int]
    """Of the trials that have ended, those without a result, by reason."""
    last_error: str | None
    runners: tuple[Presence, ...]

    @property
    def is_run(self) -> bool:
        """Whether somebody runs it who is not known to be dead."""
        return any(presence.life != "dead" for presence in self.runners)


def standing(name: str, storage: BaseStorage, home: Path) -> Standing:
    """Return who runs a study, and how far it is. Raises UsageError when there is none of that name, StorageError.

    Of those that run it in this home on this machine it is known whether they live.
    """
    with storage_errors(storage), as_written(f'study "{name}"'):
        study, _ = load(name, storage)
        return _standing(study, storage, home)


def all_running(storage: BaseStorage, home: Path) -> list[Standing]:
    """Return the studies that somebody runs, by name; what is not legible is left out. Raises StorageError."""
    with storage_errors(storage), as_written("the storage"):
        names = [name for name, study in our_studies(storage).items() if _is_run(study.system_attrs, home)]
        return list(
            legible(names, lambda name: _standing(optuna.load_study(study_name=name, storage=storage), storage, home))
        )


def hears_stop(storage: BaseStorage, study_id: int, runner: str) -> bool:
    """Return whether this runner has been asked to stop, and note that it has heard."""
    request = storage.get_study_system_attrs(study_id).get(_STOP + runner)
    if request == _ASKED:
        storage.set_study_system_attr(study_id, _STOP + runner, _HEARD)
    return request is not None


class Dismissal:
    """All who run a study now, asked to stop; to be looked at several times a second."""

    def __init__(
        self, storage: BaseStorage, study_id: int, home: Path, clock: Callable[[], float] = seconds_awake_or_not
    ) -> None:
        """Ask them. Raises StorageError."""
        self._storage, self._study_id, self._home, self._clock = storage, study_id, home, clock
        self._observer, self._asked_at = Observer(home, clock), clock()
        with storage_errors(storage), as_written("the storage"):
            self._existence = Existence(storage, study_id, storage.get_study_name_from_id(study_id))
            attributes = storage.get_study_system_attrs(study_id)
            self.runners = runners_of(attributes)
            """Those that have been asked, and those found dead."""
            for runner in self.runners:
                if _STOP + runner.runner not in attributes and sign_of_life(runner, home) != "dead":
                    storage.set_study_system_attr(study_id, _STOP + runner.runner, _ASKED)

    def answers(self) -> dict[str, Answer]:
        """Return what has become of the request, by runner. Raises StorageError."""
        with (
            storage_errors(self._storage),
            as_written("the storage"),
            self._existence.required(),
        ):
            attributes = self._storage.get_study_system_attrs(self._study_id)
        there = {runner.runner: runner for runner in runners_of(attributes)}
        asked = [there[runner.runner] for runner in self.runners if runner.runner in there]
        silent = {runner.runner for runner in self._observer.dead(asked)}
        return {
            name: self._answer(there[name], attributes, silent) if name in there else "gone"
            for name in (runner.runner for runner in self.runners)
        }

    def pause(self) -> None:
        """Wait until it is time to look again."""
        time.sleep(min(0.5, *(runner.lease / 6 for runner in self.runners)))

    def _answer(self, runner: RunnerRecord, attributes: Mapping[str, Any], silent: set[str]) -> Answer:
        if sign_of_life(runner, self._home) == "dead":
            return "dead"
        if runner.runner in silent:
            return "silent"
        if attributes.get(_STOP + runner.runner) == _HEARD:
            return "finishing"
        waited = self._clock() - self._asked_at
        return "asked" if waited <= _LEASES_TO_ANSWER * runner.lease else "silent"


def _is_run(attributes: Mapping[str, Any], home: Path) -> bool:
    return any(sign_of_life(runner, home) != "dead" for runner in runners_of(attributes))


def _standing(study: optuna.Study, storage: BaseStorage, home: Path) -> Standing:
    attributes = storage.get_study_system_attrs(storage.get_study_id_from_name(study.study_name))
    spec = stored_spec(study)
    sieve = Sieve(spec)
    trials = sieve.sift(study.get_trials(deepcopy=False))
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    failed = [trial for trial in trials if trial.state == TrialState.FAIL and not reason_of(trial).is_no_result]
    errors = [read_text(trial.user_attrs.get("error")) for trial in failed if reason_of(trial) is Reason.ERROR]
    return Standing(
        study.study_name,
        spec.search.trials,
        spent_trials(trials) - len(running),
        sum(trial.state == TrialState.WAITING for trial in trials),
        dict(Counter(reason_of(trial).value for trial in failed)),
        (errors[-1] if errors else None) or None,
        tuple(_presence(runner, attributes, running, sieve, home) for runner in runners_of(attributes)),
    )


def _presence(
    runner: RunnerRecord, attributes: Mapping[str, Any], running: list[FrozenTrial], sieve: Sieve, home: Path
) -> Presence:
    own = (trial for trial in running if runner_of(trial) == runner.runner)
    epochs = {trial.number: len(sieve.steps(trial)) for trial in own}
    return Presence(runner, sign_of_life(runner, home), _STOP + runner.runner in attributes, epochs)
