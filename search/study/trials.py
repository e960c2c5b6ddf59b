"""How a trial is kept in Optuna: user attributes in, `TrialRecord` out, exactly and on every storage.

Single numbers are user attributes of their own, for optuna-dashboard. The curves are one attribute, since each is a
write of its own, and the system's: in the dashboard their one line would make a trial's page several screens wide.
Losses may be nan or infinite, for which JSON has no word: nan is stored as null and infinities as text. Knows trials,
not studies.
"""

import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from search.confirmation import Confirmation, Repeats, conclude, one_standard_error, ranked_by_loss
from search.pareto import pareto_front
from search.records import EpochResult, Params, Reason, Role, Score, Summary, TrialRecord
from search.spec import StudySpec
from search.study.checksums import CHECKSUM, is_intact, seal, sealed_end
from search.study.reading import read_line, read_params, read_text

if TYPE_CHECKING:
    from search.study.foreign import Sieve

CONFIG = "config"
"""The complete configuration that is trained; nothing of it is written later, so a trial without was not handed out."""
REASON = "reason"
ROLE = "role"
RETRY_OF = "retry_of"
"""Number of the first attempt at the configuration."""
SUCCESSOR_OF = "successor_of"
"""Number of the attempt just before: an interrupted trial that none points to is still owed one."""
RUNNER = "runner"
"""System attribute: the name of the runner that runs, or ran, the trial; see `leases.py`."""
REFUSED = "refused"
"""Why a queued trial was not trained."""
FIXED = "fixed_params"
"""System attribute: what Optuna's `enqueue_trial` was given, which regsearch itself never calls."""
_TRAINER_DEATHS = "trainer_deaths"
ORIGIN = (CONFIG, ROLE, RETRY_OF, SUCCESSOR_OF, _TRAINER_DEATHS)
"""Attributes that a trial has from its beginning, and in the end."""
OPTIONAL = (ROLE, RETRY_OF, "error", "worker")
"""Attributes that a trial need not have; None is as if it had none, since Optuna cannot remove any."""
_CURVES = "curves"
_OF_BEST = ("val_accuracy", "train_loss", "gap", "sparsity")
_SEALED = {
    **dict.fromkeys((*ORIGIN, "epochs", "best_epoch", *_OF_BEST, "error", "worker", REASON), True),
    _CURVES: False,
}
"""Attributes that a trial's checksum is of; see `checksums.seal`."""
DAMAGED = "damaged"
"""What `regsearch repair` says of a trial that it has put in the place of one that could not be read."""
_CURVE_NAMES = ("train_loss", "val_loss", "val_accuracy", "sparsity", "val_loss_error")
_STATE_NAMES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def end_attributes(record: TrialRecord) -> dict[str, Any]:
    """Return the user attributes to write when a trial ends; `reason` comes last, when all others are there."""
    attributes: dict[str, Any] = {"epochs": len(record.epochs)}
    if record.best is not None:
        attributes["best_epoch"] = record.best.epoch
        for name in _OF_BEST:
            attributes[name] = _to_json(getattr(record.best, name))
    if record.error is not None:
        attributes["error"] = record.error
    if record.worker is not None:
        attributes["worker"] = record.worker
    return attributes | {REASON: record.reason.value}


def curves(record: TrialRecord) -> dict[str, Any]:
    """Return the system attributes to write when a trial ends."""
    return {_CURVES: epochs_to_json(record.epochs)}


def seal_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return the system attributes to write for a trial as it is in its end, see `checksums.seal`."""
    return {CHECKSUM: seal(trial, _SEALED)}


def why_damaged(trial: FrozenTrial) -> str | None:
    """Return why the record of a trial that a runner has ended is not to be believed; None where it is."""
    if DAMAGED in trial.user_attrs:
        return "it could not be read, and another one was put in its place by `regsearch repair`"
    is_ended_here = REASON in trial.user_attrs or CHECKSUM in trial.system_attrs
    return "its record is damaged: it has another checksum" if is_ended_here and not is_intact(trial, _SEALED) else None


def epochs_to_json(epochs: Sequence[EpochResult]) -> dict[str, list[float | str | None]]:
    """Return curves as JSON, by name."""
    return {name: [_to_json(getattr(row, name)) for row in epochs] for name in _CURVE_NAMES}


def retry_attributes(trial: FrozenTrial, error: str | None = None) -> dict[str, Any]:
    """Return the user attributes of the trial that shall run this one's configuration again.

    `error` is what its trainer died of, if it did.
    """
    attributes = {
        CONFIG: trial.user_attrs[CONFIG],
        RETRY_OF: first_attempt(trial),
        SUCCESSOR_OF: trial.number,
    }
    deaths = trainer_deaths(trial) + (error is not None)
    role = _legible_role(trial)
    kept = {} if role is None else {ROLE: role.value}
    return attributes | kept | ({_TRAINER_DEATHS: deaths} if deaths else {})


def is_queued_elsewhere(trial: FrozenTrial) -> bool:
    """Return whether another program has queued a trial. Our attributes there are copies of another trial's."""
    return FIXED in trial.system_attrs


def wanted_params(trial: FrozenTrial) -> Any:
    """Return what the program that queued a trial has set of its parameters, whatever that is."""
    return trial.system_attrs.get(FIXED, {})


def trainer_deaths(trial: FrozenTrial) -> int:
    """Return how many trainers have died of earlier attempts at this trial's configuration."""
    return _own_number(trial, _TRAINER_DEATHS) or 0


def is_attempt_again(trial: FrozenTrial) -> bool:
    """Return whether a trial repeats an earlier one that was cut short, and so uses up no budget of its own."""
    return SUCCESSOR_OF in trial.user_attrs and not is_queued_elsewhere(trial)


def first_attempt(trial: FrozenTrial) -> int:
    """Return the number of the first attempt at this trial's configuration: often its own."""
    first = _own_number(trial, RETRY_OF)
    return trial.number if first is None else first


def predecessor(trial: FrozenTrial) -> int | None:
    """Return the number of the attempt just before, if there is one."""
    return _own_number(trial, SUCCESSOR_OF)


def _own_number(trial: FrozenTrial, key: str) -> int | None:
    """Return a count or a trial's number among the attributes that regsearch itself has written."""
    value = None if is_queued_elsewhere(trial) else trial.user_attrs.get(key)
    return value if type(value) is int and value >= 0 else None


def unsettled(trials: Sequence[FrozenTrial], alive: Container[str], sieve: "Sieve") -> list[FrozenTrial]:
    """Return the trials whose configurations are to go back to the queue, given the names of the runners alive.

    Those that ended without a result and that no other follows come first, then those that run, but are run by nobody.
    A trial that another program has ended has no result, since its curve is unknown.
    """
    answered = {predecessor(trial) for trial in trials}
    ours = [trial for trial in trials if sieve.has_config(trial)]
    ended = (trial for trial in ours if trial.state.is_finished() and trial.number not in answered)
    running = (trial for trial in ours if trial.state == TrialState.RUNNING)
    return [
        *(trial for trial in ended if reason_of(trial).is_no_result or sieve.why_left_out(trial)),
        *(trial for trial in running if runner_of(trial) not in alive),
    ]


def runner_of(trial: FrozenTrial) -> str | None:
    """Return the name of the runner that runs, or ran, a trial; None where no runner has taken it."""
    name = trial.system_attrs.get(RUNNER)
    return name if isinstance(name, str) else None


def has_curves(trial: FrozenTrial) -> bool:
    """Return whether a runner has recorded how a trial ended: its curves are written in the same commit."""
    # Earlier versions had them among the user's attributes.
    return REASON in trial.user_attrs and (_CURVES in trial.system_attrs or _CURVES in trial.user_attrs)


def reason_of(trial: FrozenTrial) -> Reason:
    """Return why a finished trial ended. The state is the truth where the two differ, as after a crash between them."""
    given = trial.user_attrs.get(REASON)
    if trial.state == TrialState.PRUNED:
        return Reason.PRUNED
    if trial.state == TrialState.COMPLETE:
        return Reason.EARLY_STOPPED if given == Reason.EARLY_STOPPED else Reason.COMPLETED
    failed = [Reason.LOST, *((Reason.DIVERGED, Reason.ERROR) if has_curves(trial) else ())]
    return next((reason for reason in failed if reason == given), Reason.INTERRUPTED)


def to_record(trial: FrozenTrial) -> TrialRecord:
    """Rebuild the record of a finished trial. What is not as it was written raises what `as_written` knows."""
    attributes = trial.user_attrs
    record = TrialRecord(
        number=trial.number,
        params=config_of(trial),
        reason=reason_of(trial),
        # Earlier versions had them among the user's attributes.
        epochs=epochs_from_json(trial.system_attrs.get(_CURVES) or attributes.get(_CURVES, {})),
        started=_aware(trial.datetime_start or trial.datetime_complete),  # no start if failed while waiting
        ended=sealed_end(trial) or _aware(trial.datetime_complete),
        role=role_of(trial),
        retry_of=_retry_of(trial),
        error=read_text(attributes.get("error")),
        worker=read_line(attributes.get("worker")),
    )
    if record.state == "complete" and record.best is None:
        raise ValueError(f"trial {trial.number} is complete without a loss")
    return record


def config_of(trial: FrozenTrial) -> Params:
    """Return the configuration that a trial was, or is to be, trained with."""
    return read_params(trial.user_attrs[CONFIG])


def role_of(trial: FrozenTrial) -> Role | None:
    """Return the trial's role, if it has one. Raises ValueError for one that there is not."""
    role = None if is_queued_elsewhere(trial) else trial.user_attrs.get(ROLE)
    return None if role is None else Role(role)


def _legible_role(trial: FrozenTrial) -> Role | None:
    try:
        return role_of(trial)
    except ValueError:
        return None


def roles_of(trials: Iterable[FrozenTrial]) -> set[Role | None]:
    """Return the roles that trials have."""
    return {_legible_role(trial) for trial in trials}


def _retry_of(trial: FrozenTrial) -> int | None:
    if trial.user_attrs.get(RETRY_OF) is None or is_queued_elsewhere(trial):
        return None
    number = _own_number(trial, RETRY_OF)
    if number is None:
        raise ValueError(f"{RETRY_OF} is no trial's number")
    return number


def check_values(trials: Iterable[FrozenTrial], objectives: int) -> None:
    """Raise ValueError where a trial has not one value for each objective, which Optuna does not see to."""
    for trial in trials:
        if trial.values is not None and len(trial.values) != objectives:
            raise ValueError(f"trial {trial.number} has {len(trial.values)} values instead of {objectives}")


def check_numbers(trials: Sequence[FrozenTrial]) -> None:
    """Raise ValueError where all trials of a study do not have the numbers from 0 on, each once."""
    if sorted(trial.number for trial in trials) != list(range(len(trials))):
        raise ValueError("numbers of trials are missing or there twice")


def spent_trials(trials: Sequence[FrozenTrial]) -> int:
    """Count the trials that use up the budget: running ones, and finished ones that need not be run again.

    To be given the trials that are not left out.
    """
    running = sum(trial.state == TrialState.RUNNING for trial in trials)
    finished = (trial for trial in trials if trial.state.is_finished())
    return running + sum(not reason_of(trial).is_no_result for trial in finished)


def unfinished_trials(trials: Sequence[FrozenTrial], budget: int) -> int:
    """Count the trials of the budget that have not ended, those that are still to begin among them.

    To be given the trials that have a place in the budget.
    """
    begun, unfinished = 0, 0
    for trial in trials:
        # What another program queued beyond the budget stays there.
        counts = is_attempt_again(trial) or begun < budget
        unfinished += counts and not trial.state.is_finished()
        begun += not is_attempt_again(trial)
    return unfinished + max(0, budget - begun)


def beyond_budget(trials: Sequence[FrozenTrial], budget: int) -> tuple[int, int]:
    """Return how many trials wait beyond the budget, and the least budget that has room for all.

    To be given the trials that have a place in the budget.
    """
    places = [trial for trial in trials if not is_attempt_again(trial)]
    return sum(trial.state == TrialState.WAITING for trial in places[budget:]), len(places)


def summarize(
    study: str,
    trials: Sequence[FrozenTrial],
    spec: StudySpec,
    sieve: "Sieve",
    test: Mapping[str, Score],
    wall_seconds: float,
    repeats: Repeats | None = None,
) -> Summary:
    """Count and choose: the study at a glance, from all its trials."""
    shown, records, objectives = sieve.sift(trials), sieve.records(trials), spec.search.objectives
    complete = [record for record in records if record.state == "complete"]
    regularized = [record for record in complete if record.role is not Role.BASELINE]
    best, baseline = (
        min(complete, key=_best_loss, default=None),
        next((r for r in complete if r.role is Role.BASELINE), None),
    )
    states = Counter(_STATE_NAMES[trial.state] for trial in shown)
    beyond, enough = beyond_budget([trial for trial in trials if sieve.counts(trial)], spec.search.trials)
    return Summary(
        study=study,
        trials={name: states[name] for name in _STATE_NAMES.values()},
        reasons=dict(Counter(record.reason.value for record in records)),
        best=best,
        baseline=baseline,
        test=_of_these(test, {"best": best, "baseline": baseline}),
        trial_epochs=sum(_epochs_run(trial, sieve) for trial in shown if trial.state.is_finished()),
        wall_seconds=wall_seconds,
        regularized=min(regularized, key=_best_loss, default=None),
        one_standard_error=one_standard_error(records),
        confirmed=None if repeats is None else _conclude(repeats, records),
        objectives=tuple(objectives),
        pareto=pareto_front(ranked_by_loss(records), objectives) if len(objectives) > 1 else (),
        left_out=tuple(sieve.left_out(trials)),
        beyond_budget=beyond,
        enough_trials=enough,
    )


def _of_these(test: Mapping[str, Score], records: Mapping[str, TrialRecord | None]) -> dict[str, Score]:
    """Return the test scores that are of these trials: one that was read before a better trial ended is not its."""
    numbers = {which: record.number for which, record in records.items() if record is not None}
    return {which: score for which, score in test.items() if numbers.get(which) == score.trial}


def _conclude(repeats: Repeats, records: Sequence[TrialRecord]) -> Confirmation | None:
    params = {record.number: record.params for record in records}
    if not params.keys() >= {*repeats.picks.trials}:
        return None  # one of them is left out by now, since somebody has changed it in the storage
    return conclude(repeats, params, {record.number: record.val_losses for record in records})


def _best_loss(record: TrialRecord) -> float:
    return record.best.val_loss if record.best else math.inf


def _epochs_run(trial: FrozenTrial, sieve: "Sieve") -> int:
    # A killed process leaves only what was reported; a failing one may have curves longer than its reports.
    return max(len(sieve.steps(trial)), _own_number(trial, "epochs") or 0)


def epochs_from_json(rows_by_name: Mapping[str, Sequence[Any]]) -> tuple[EpochResult, ...]:
    """Return the epochs that `epochs_to_json` was given."""
    # Studies of earlier versions lack the last ones.
    rows = zip(*(rows_by_name[name] for name in _CURVE_NAMES if name in rows_by_name), strict=True)
    return tuple(EpochResult(epoch, *map(_from_json, row)) for epoch, row in enumerate(rows, 1))


def _to_json(value: float) -> float | str | None:
    value = float(value)  # NumPy's numbers are not JSON's
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


def _from_json(value: float | str | None) -> float:
    return math.nan if value is None else float(value)


def _aware(moment: datetime | None) -> datetime:
    """Return Optuna's naive local time with its zone."""
    assert moment is not None, "a finished trial has an end"
    return moment.astimezone()
