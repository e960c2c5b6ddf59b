"""The report's tables: what best, pick and baseline reached and are, the best trials, what was confirmed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from search.confirmation import Confirmed
from search.intervals import Estimate
from search.records import Params, Score, TrialRecord
from search.report import words
from search.report.figure import shown
from search.report.material import NAMES, Material

_MOST_ROWS = 20


@dataclass(frozen=True)
class Cell:
    """A number as it is shown, and where in the JSON it stands."""

    text: str
    path: str = ""


Row = tuple[str, Sequence[Cell]]


@dataclass(frozen=True)
class Table:
    """Rows with a name each, in groups that may have one too."""

    caption: str
    columns: Sequence[str]
    groups: Sequence[tuple[str, Sequence[Row]]]


def numbers(material: Material) -> Table | None:
    """Return what best, pick and baseline reached: over seeds where that is known, and in the search."""
    if material.summary.best is None:
        return None
    confirmed, columns = material.summary.confirmed, _columns(material)
    groups: list[tuple[str, list[Row]]] = []
    if confirmed is not None:
        seeds = words.count(confirmed.best.estimates["val_loss"].n, "seed")
        rows: list[Row] = [
            (label, [_estimate(confirmed.chosen.get(which), which, metric, style) for which in columns])
            for metric, (label, style) in _told(confirmed.chosen.values()).items()
        ]
        groups.append((f"Confirmed, mean ± deviation over {seeds}", rows))
    groups.append(("In the search, one run of each", _in_the_search(material, columns)))
    return Table("Best, pick and baseline", [_title(which) for which in columns], groups)


def _columns(material: Material) -> list[str]:
    """Return what stands side by side: the best regularized one is the best, unless the baseline is."""
    answer = material.answer
    return [which for which in NAMES if which != "regularized" or (answer is not None and answer.is_baseline)]


def _in_the_search(material: Material, columns: Sequence[str]) -> list[Row]:
    summary = material.summary
    rows: list[Row] = [
        (label, [_searched(getattr(summary, which), which, key, style) for which in columns])
        for key, (label, style) in _SEARCHED.items()
    ]
    tested = _TESTED.items() if summary.test else ()
    return rows + [(t, [_test(summary.test.get(which), which, key, s) for which in columns]) for key, (t, s) in tested]


def _told(confirmed: Iterable[Confirmed]) -> dict[str, tuple[str, str]]:
    """Return which metrics are worth a row, with label and style: those that are known, and not nothing for all."""
    confirmed = list(confirmed)
    return {
        metric: told
        for metric, told in _CONFIRMED.items()
        if metric == _TRIAL or any(_says_something(c, metric, told[1]) for c in confirmed)
    }


_TRIAL = "trial"
_CONFIRMED = {
    _TRIAL: ("trial", "d"),
    "test_accuracy": ("test accuracy", ".2%"),
    "val_loss": ("validation loss", ".4f"),
    "test_loss": ("test loss", ".4f"),
    "ece": ("calibration error", ".2%"),
    "gap": ("gap", ".4f"),
    "sparsity": ("sparsity", ".1%"),
    "epochs": ("epochs", ".1f"),
}
_SEARCHED = {
    _TRIAL: ("trial", "d"),
    "val_loss": ("validation loss", ".4f"),
    "val_accuracy": ("validation accuracy", ".2%"),
    "gap": ("gap", "+.4f"),
    "sparsity": ("sparsity", ".1%"),
    "best_epoch": ("best epoch", "d"),
}
_TESTED = {"accuracy": ("test accuracy", ".2%"), "loss": ("test loss", ".4f")}


def _title(which: str) -> str:
    name = NAMES[which]
    return f"{name[0].upper()}{name[1:]}"


def _estimate(confirmed: Confirmed | None, which: str, metric: str, style: str) -> Cell:
    if confirmed is None:
        return Cell("-")
    if metric == _TRIAL:
        return Cell(str(confirmed.trial), f"confirmed.{which}.trial")
    value = confirmed.estimates.get(metric)
    return Cell(_estimate_words(value, style), f"confirmed.{which}.{metric}.mean" if value is not None else "")


def _searched(record: TrialRecord | None, which: str, key: str, style: str) -> Cell:
    if record is None or record.best is None:
        return Cell("-")
    best = record.best
    value = record.number if key == _TRIAL else best.epoch if key == "best_epoch" else getattr(best, key)
    return Cell(f"{value:{style}}", f"{which}.{key}")


def _test(score: Score | None, which: str, key: str, style: str) -> Cell:
    return Cell("-") if score is None else Cell(f"{getattr(score, key):{style}}", f"test.{which}.{key}")


def _says_something(confirmed: Confirmed, metric: str, style: str) -> bool:
    value = confirmed.estimates.get(metric)
    return value is not None and any(digit in "123456789" for digit in f"{value.mean:{style}}")


def configurations(material: Material) -> Table | None:
    """Return the parameters of best, pick and baseline, None as long as there are none."""
    told = material.configurations
    if not told:
        return None
    names = list(dict.fromkeys(name for _, params in told.values() for name in params))
    noise = material.summary.noise
    layers = {} if noise is None else noise.layers
    labels = {name: f"{name} = {layers[name]}" if name in layers else name for name in names}
    rows = [(labels[name], [Cell(_param(params, name)) for _, params in told.values()]) for name in names]
    trials = ("trial", [Cell(trial) for trial, _ in told.values()])
    return Table("Configurations", [_title(which) for which in told], [("", [trials, *rows])])


def _param(params: Params, name: str) -> str:
    return shown([params[name]])[0] if name in params else "-"


def best_trials(material: Material) -> Table:
    """Return the complete trials with the lowest losses."""
    ranked = sorted(
        material.complete, key=lambda record: (record.best.val_loss, record.number) if record.best else (0, 0)
    )
    names = material.ranked_params()
    rows = [
        (
            f"trial {record.number}",
            [
                Cell(f"{record.best.val_loss:.4f}" if record.best else "-"),
                Cell(f"{record.best.gap:+.4f}" if record.best else "-"),
                Cell(str(len(record.epochs))),
                *(Cell(_param(record.params, name)) for name in names),
            ],
        )
        for record in ranked[:_MOST_ROWS]
    ]
    return Table(f"The best {len(rows)} complete trials", ["validation loss", "gap", "epochs", *names], [("", rows)])


def ranking(material: Material) -> Table:
    """Return all that was confirmed, the winner first. Needs a confirmation."""
    confirmed = material.summary.confirmed
    assert confirmed is not None
    there = {configuration.trial: configuration for configuration in confirmed.by_rank}
    metrics = _told(there.values())
    del metrics[_TRIAL]
    rows = [
        (
            f"trial {trial}" + "".join(f", {NAMES[w]}" for w, c in confirmed.chosen.items() if c.trial == trial),
            [Cell(_estimate_words(configuration.estimates.get(m), style)) for m, (_, style) in metrics.items()],
        )
        for trial, configuration in there.items()
    ]
    return Table("Confirmed, mean ± deviation of one seed", [label for label, _ in metrics.values()], [("", rows)])


def _estimate_words(value: Estimate | None, style: str) -> str:
    return "-" if value is None else f"{value.mean:{style}} ± {value.std:{style}}"
