"""A study's results for programs: the same `Summary` as JSON, as TOML, and as MLflow's headline metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from math import isfinite
from typing import Any

from search.ablation import Ablation
from search.confirmation import Confirmation, Confirmed
from search.records import Params, Summary, TrialRecord
from search.spec import parameter_of
from search.verdict import Winner, comparison, headline, hurts, test_score, warnings, winner


def as_json(summary: Summary) -> dict[str, Any]:
    """Return what `show --json` prints; its keys never change meaning. Losses in nats, accuracies and shares 0 to 1.

    JSON has no word for nan and infinity, as the ends of an interval from a single seed are: they are None.
    """
    told = {
        "study": summary.study,
        "trials": dict(summary.trials),
        "reasons": dict(summary.reasons),
        "best": _record_json(summary.best),
        "winner": _winner_json(summary),
        "verdict": _verdict_json(summary),
        "warnings": warnings(summary),
        "regularized": _record_json(summary.regularized),
        "baseline": _record_json(summary.baseline),
        "test": {which: {"accuracy": score.accuracy, "loss": score.loss} for which, score in summary.test.items()},
        "trial_epochs": summary.trial_epochs,
        "wall_seconds": round(summary.wall_seconds, 3),
        "time": None if summary.time is None else asdict(summary.time),
        "one_standard_error": _record_json(summary.one_standard_error),
        "ablation": None if summary.ablation is None else ablation_json(summary.ablation),
        "confirmed": None if summary.confirmed is None else confirmation_json(summary.confirmed),
        "objectives": list(summary.objectives),
        "pareto": [_record_json(record) for record in summary.pareto],
        "noise": None if summary.noise is None else asdict(summary.noise),
        "left_out": [{"trial": each.number, "why": each.why} for each in summary.left_out],
        "beyond_budget": summary.beyond_budget,
    }
    return {key: finite(value) for key, value in told.items()}


def finite(value: Any, digits: int | None = None) -> Any:
    """Return plain values with None for numbers that are not finite; floats rounded to so many digits if wanted."""
    if isinstance(value, Mapping):
        return {key: finite(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item, digits) for item in value]
    if not isinstance(value, float):
        return value
    if not isfinite(value):
        return None
    return value if digits is None else float(f"{value:.{digits}g}")


def cocktail(params: Params) -> list[str]:
    """Return the regularizers that a configuration has: all layers' dropout is one, L1 with decay an elastic net."""
    on = [name for name, value in params.items() if parameter_of(name).regularizer and value != 0]
    names = ["dropout" if name.startswith("dropout_") else name for name in on]
    if {"weight_decay", "l1"} <= {*names}:
        names = ["elastic_net" if name == "weight_decay" else name for name in names if name != "l1"]
    return list(dict.fromkeys(names))


def _record_json(record: TrialRecord | None) -> dict[str, Any] | None:
    if record is None or record.best is None:
        return None
    return {
        "trial": record.number,
        "params": dict(record.params),
        "cocktail": cocktail(record.params),
        "val_loss": record.best.val_loss,
        "val_accuracy": record.best.val_accuracy,
        "epochs": len(record.epochs),
        "best_epoch": record.best.epoch,
        "gap": record.best.gap,
        "sparsity": record.best.sparsity,
    }


def _winner_json(summary: Summary) -> dict[str, Any] | None:
    best = winner(summary)
    if best is None:
        return None
    params = dict(best.params)
    told = {"trial": best.trial, "name": best.name, "params": params, "cocktail": cocktail(params)}
    return {
        **told,
        "epochs": best.epochs,
        "is_baseline": best.is_baseline,
        "learning_rate_of": best.rate_of,
        "confirmed": best.confirmed is not None,
    }


def _verdict_json(summary: Summary) -> dict[str, Any] | None:
    told = comparison(summary)
    if told is None:
        return None
    return {"answer": str(told.answer), "by": told.metric, "difference": asdict(told.difference)}


def confirmation_json(confirmation: Confirmation) -> dict[str, Any]:
    """Return what was confirmed: configurations with mean, standard deviation and number of seeds of each metric."""
    test_loss = confirmation.test_loss_difference
    return {
        **dict.fromkeys(("one_standard_error", "baseline")),
        **{which: _confirmed_json(confirmed) for which, confirmed in confirmation.chosen.items()},
        "regularized": _confirmed_json(confirmation.regularized),
        "difference": None if confirmation.difference is None else asdict(confirmation.difference),
        "loss_difference": None if confirmation.loss_difference is None else asdict(confirmation.loss_difference),
        "test_loss_difference": None if test_loss is None else asdict(test_loss),
        "remarks": confirmation.remarks,
        "ranking": [_confirmed_json(confirmed) for confirmed in confirmation.by_rank],
    }


def ablation_json(ablation: Ablation) -> dict[str, Any]:
    """Return by how much the validation loss of a trial's configuration rises without each of its ingredients."""
    effects = {name: asdict(effect) for name, effect in ablation.effects().items()}
    return {"trial": ablation.trial, "effects": effects, "remarks": ablation.remarks}


def _confirmed_json(confirmed: Confirmed) -> dict[str, Any]:
    metrics = {name: asdict(estimate) for name, estimate in confirmed.estimates.items()}
    params = dict(confirmed.params)
    told = {"trial": confirmed.trial, "params": params, "cocktail": cocktail(params)}
    told |= {"learning_rate_of": confirmed.rate_of}
    return {**told, **metrics, "diverged": confirmed.diverged, "killed": confirmed.killed}


def best_toml(summary: Summary) -> str:
    """Return the winner's configuration as TOML, with what it reached in comments. Needs a complete trial."""
    best = winner(summary)
    assert best is not None
    told = [f"Best configuration of study {summary.study!r}: {best.name}", *_reached(summary, best)]
    if (verdict := headline(summary)) is not None:
        told.insert(0 if hurts(summary) else 1, f"{verdict[0].upper()}{verdict[1:]}")
    lines = [f"# {line}" for line in (*told, *warnings(summary))]
    return "\n".join([*lines, "", "[params]", *(f"{name} = {value!r}" for name, value in best.params.items()), ""])


def _reached(summary: Summary, best: Winner) -> Iterator[str]:
    """Give what the winner reached, and no other trial."""
    if best.confirmed is not None:
        told = {
            "validation loss": ("val_loss", ".5f"),
            "test loss": ("test_loss", ".5f"),
            "accuracy": ("test_accuracy", ".4f"),
        }
        known = {name: (best.confirmed.estimates.get(metric), style) for name, (metric, style) in told.items()}
        means = ", ".join(f"{name} {value.mean:{style}}" for name, (value, style) in known.items() if value is not None)
        yield f"over {best.confirmed.estimates['val_loss'].n} seeds: {means}"
    record = next((each for each in (summary.best, summary.baseline) if best.is_trial(each)), None)
    if record is None or record.best is None:
        return
    row, score = record.best, test_score(summary, record)
    yield (
        f"in the search: validation loss {row.val_loss:.5f}, accuracy {row.val_accuracy:.4f}, "
        f"best epoch {row.epoch} of {len(record.epochs)}"
    )
    if score is not None:
        yield f"in the search: test loss {score.loss:.5f}, accuracy {score.accuracy:.4f}"


def headline_metrics(summary: Summary) -> dict[str, float]:
    """Return the few numbers that MLflow's parent run carries, under the names that its child runs have for theirs."""
    metrics = {f"trials_{state}": float(summary.trials.get(state, 0)) for state in ("complete", "pruned", "failed")}
    for which, record in (("best", summary.best), ("baseline", summary.baseline)):
        if record is not None and record.best is not None:
            row = record.best
            values = {"val_loss": row.val_loss, "val_accuracy": row.val_accuracy, "gap": row.gap}
            metrics |= {f"{which}_{key}": value for key, value in values.items()} | {f"{which}_sparsity": row.sparsity}
        if which in summary.test:
            metrics[f"{which}_test_accuracy"] = summary.test[which].accuracy
            metrics[f"{which}_test_loss"] = summary.test[which].loss
    if summary.confirmed is not None:
        metrics |= _confirmed_metrics(summary.confirmed)
    return metrics | {"trial_epochs": float(summary.trial_epochs), "wall_seconds": summary.wall_seconds}


def confirmed_means(confirmed: Confirmed) -> dict[str, float]:
    """Return the means over seeds that configurations are compared by."""
    names = ("val_loss", "test_accuracy", "test_loss", "ece")
    return {name: confirmed.estimates[name].mean for name in names if name in confirmed.estimates}


def _confirmed_metrics(confirmation: Confirmation) -> dict[str, float]:
    metrics = {
        f"confirmed_{which}_{name}": mean
        for which, confirmed in confirmation.chosen.items()
        for name, mean in confirmed_means(confirmed).items()
        if name in ("val_loss", "test_accuracy")  # the rest stands in their own runs
    }
    if confirmation.difference is not None:
        metrics["confirmed_difference"] = confirmation.difference.mean
    if confirmation.test_loss_difference is not None:
        metrics["confirmed_test_loss_difference"] = confirmation.test_loss_difference.mean
    return metrics
