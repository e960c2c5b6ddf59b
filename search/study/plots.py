"""Optuna's own plots of a study, as plain values: plotly's `data` and `layout`. How they look is the report's business.

They are drawn from studies in memory, which have few enough trials for a page: a contour is a matrix with a row and a
column for each trial, and a browser fills its gaps step by step. The baseline is left out, since Optuna knows it only
by the lowest values in range.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.records import Role
from search.study.trials import role_of

_MOST_IN_SLICE = 100
_MOST_IN_CONTOUR = 50
_FEWEST_TRIALS = 4
_LOSS = "validation loss"


def optuna_plots(complete: Sequence[FrozenTrial], params: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return `slice-PARAM` for each parameter and `contour-ONE-OTHER` for each pair, where enough trials have them."""
    from optuna import visualization  # imports plotly, and matplotlib where it is installed

    trials = [trial for trial in complete if role_of(trial) is not Role.BASELINE]
    many, few = _thinned(trials, _MOST_IN_SLICE), _thinned(trials, _MOST_IN_CONTOUR)
    in_slices, in_contours = _in_memory(many), _in_memory(few)
    slices = {
        f"slice-{name}": visualization.plot_slice(in_slices, [name], target_name=_LOSS)
        for name in params
        if _values(many, name) >= _FEWEST_TRIALS
    }
    contours = {
        f"contour-{one}-{other}": visualization.plot_contour(in_contours, [one, other], target_name=_LOSS)
        for one, other in combinations(params, 2)
        if _values(few, one, other) >= _FEWEST_TRIALS
    }
    numbers = sorted(trial.number for trial in many)
    plain = {name: _plain(figure.to_plotly_json()) for name, figure in (slices | contours).items()}
    return {name: _numbered(plot, numbers) if name in slices else plot for name, plot in plain.items()}


def _numbered(plot: dict[str, Any], numbers: Sequence[int]) -> dict[str, Any]:
    """Return a plot whose marks are coloured by number, by those that the trials have in their own study."""
    for trace in plot["data"]:
        if isinstance(colours := trace.get("marker", {}).get("color"), list):
            trace["marker"]["color"] = [numbers[number] for number in colours]
    return plot


def _thinned(trials: Sequence[FrozenTrial], most: int) -> list[FrozenTrial]:
    """Return at most so many trials: the better half by value, the others evenly from all the rest."""
    if len(trials) <= most:
        return list(trials)
    ranked = sorted(trials, key=lambda trial: (_loss(trial), trial.number))
    best, rest = ranked[: most // 2], ranked[most // 2 :]
    step = len(rest) / (most - len(best))
    return [*best, *(rest[int(i * step)] for i in range(most - len(best)))]


def _in_memory(trials: Sequence[FrozenTrial]) -> optuna.Study:
    study = optuna.create_study(direction="minimize")
    for trial in sorted(trials, key=lambda trial: trial.number):
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE, value=_loss(trial), params=trial.params, distributions=trial.distributions
            )
        )
    return study


def _loss(trial: FrozenTrial) -> float:
    """Return the first of a trial's values; sparsity and epochs may come after it."""
    assert trial.values is not None, "complete trials have values"
    loss: float = trial.values[0]
    return loss


def _values(trials: Sequence[FrozenTrial], *names: str) -> int:
    """Return how many trials have all of these parameters, if each of these takes several values; else 0."""
    having = [trial for trial in trials if all(name in trial.params for name in names)]
    rows = [tuple(trial.params[name] for name in names) for trial in having]
    return len(rows) if rows and all(len(set(column)) > 1 for column in zip(*rows, strict=True)) else 0


def _plain(value: Any) -> Any:
    """Return lists for arrays, and None for what JSON has no number for."""
    if isinstance(value, Mapping):
        return _plain(_unpacked(value)) if "bdata" in value else {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unpacked(packed: Mapping[str, str]) -> Any:
    """Return an array that plotly 6 and later have packed; of more than one dimension where it has a `shape`."""
    flat = np.frombuffer(base64.b64decode(packed["bdata"]), packed["dtype"])
    return flat.reshape([int(size) for size in packed["shape"].split(",")]) if "shape" in packed else flat
