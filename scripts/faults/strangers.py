"""Faults by other programs on the same storage: trials thrown into a search, and what is deleted under it."""

import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import optuna
from optuna.distributions import FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState, create_trial

from scripts.faults.pretend import NAME
from scripts.faults.processes import pretend, regsearch
from scripts.faults.tally import Tally
from scripts.faults.whole import start
from search.study import close_storage, open_storage

_TRIALS, _THROWN = 40, 25
_AT_ONCE = 30.0
"""Seconds within which everybody has to end; MLflow has 5 of them, and the machine may be busy."""


def thrown_in(dice: random.Random, home: Path, tally: Tally, storage: str | None = None) -> None:
    """Other programs queue, add, take and end trials at random, possible ones and impossible ones."""
    runner = pretend(home, storage, trials=_TRIALS, seconds=0.05)
    runner.wait_for("training")
    opened = open_storage(storage, home)
    study = optuna.load_study(study_name=NAME, storage=opened)
    for _ in range(_THROWN):
        # It may have ended just now; and what Optuna itself refuses does no harm.
        with suppress(UpdateFinishedTrialError, ValueError):
            _throw(dice, study)
        time.sleep(dice.uniform(0.0, 0.1))
    close_storage(opened)
    if code := runner.end():
        tally.complaints.append(f"the runner ended with {code}: {runner.output[-2000:]}")
    tally.count(home, storage, _TRIALS)


def _throw(dice: random.Random, study: optuna.Study) -> None:
    running = [trial.number for trial in study.get_trials(False, (TrialState.RUNNING,))]
    match dice.randrange(6):
        case 0:
            study.enqueue_trial({"dropout_0": dice.uniform(-1, 2), "l1": dice.choice([1e-3, 0, "x", None])})
        case 1:
            study.enqueue_trial({"dropout_0": dice.uniform(0, 0.5)})
        case 2:
            params, kinds = {"dropout_0": 3.0, "colour": 1.0}, {"colour": FloatDistribution(0, 5)}
            kinds["dropout_0"] = FloatDistribution(0, 5)
            study.add_trial(create_trial(value=dice.random(), params=params, distributions=kinds))
        case 3:
            taken = study.ask()
            if dice.random() < 0.5:
                study.tell(taken, dice.random())
        case _ if running:
            state = dice.choice([TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED])
            study.tell(dice.choice(running), dice.random() if state == TrialState.COMPLETE else None, state)


def deleted(what: str) -> Callable[[random.Random, Path, Tally], None]:
    """Return what deletes the `study`, or the `home` with all that is in it, while one searches and one watches."""

    def inject(dice: random.Random, home: Path, tally: Tally) -> None:
        search = start(home, 400)
        search.wait_for("Measured and chosen")
        watching = regsearch("watch", "--study", NAME, "--home", home, "--interval", "0.2")
        watching.wait_for("trials have ended")
        time.sleep(dice.uniform(0.0, 1.0))
        since = time.monotonic()
        if what == "study":
            optuna.delete_study(study_name=NAME, storage=open_storage(None, home))
        else:
            shutil.rmtree(home, ignore_errors=True)  # it is being written to
        tally.tried += 1
        for name, process in (("start", search), ("watch", watching)):
            code, said = process.end(), process.output
            if code != 1 or "has been deleted while it was in use" not in said or "Traceback" in said:
                tally.complaints.append(f"{name} ended with {code}: {said[-1500:]}")
        if (took := time.monotonic() - since) > _AT_ONCE:
            tally.complaints.append(f"that took {took:.0f} s")

    return inject
