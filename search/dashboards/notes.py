"""What optuna-dashboard says of a study and of the trials worth opening, in Markdown. Plain text from plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from search.confirmation import Confirmed
from search.dashboards.routes import COMPARE_LINK, REPORT_LINK, RUNS_LINK
from search.diagnosis import diagnose
from search.markdown import code
from search.records import Params, TrialRecord
from search.report import Material, words
from search.results import cocktail
from search.spec import Range, StudySpec
from search.verdict import searched_winner


def study_note(study: str, spec: StudySpec, best: TrialRecord | None, done: int) -> str:
    """Return what is searched and the best so far, for a study that is being searched."""
    found = (
        f"Best so far: {searched_winner(best).name}, validation loss {best.best.val_loss:.4f}"
        if best is not None and best.best is not None
        else "No trial is complete yet"
    )
    told = f"{found}, after {done} of {spec.search.trials} trials."
    return _paragraphs(told, _searched(spec, None if best is None else best.params), _links(study))


def verdict_note(material: Material, pictures: Sequence[str] = ()) -> str:
    """Return the verdict and what was searched, for a study that has been; `pictures` are paths in the dashboard."""
    verdict, summary = words.verdict(material), material.summary
    told = f"**{verdict.headline}** {verdict.detail}" + (f" {code(verdict.command)}" if verdict.command else "")
    best = "" if material.answer is None else f"Best configuration: {material.answer.name}."
    ended = f"{words.count(len(material.counted), 'trial')}, {words.count(summary.trial_epochs, 'trial-epoch')} in "
    return _paragraphs(
        told,
        best,
        *(f"![learning curves]({picture})" for picture in pictures),
        _searched(material.spec, None if material.answer is None else material.answer.params),
        ended + f"{words.duration(summary.wall_seconds)}. {code(words.command(material, 'show'))} prints all of it.",
        _links(summary.study),
    )


def trial_note(record: TrialRecord, names: Sequence[str], material: Material, picture: str) -> str:
    """Return why a trial is worth opening: what it is called, what it reached, what its curves say."""
    title = " and ".join(material.names[which] for which in names)
    found = [confirmed for which in names if (confirmed := _confirmed(material, which)) is not None]
    return _paragraphs(
        f"**{title[0].upper()}{title[1:]}.** {_reached(record)}",
        *(_over_seeds(confirmed) for confirmed in found[:1]),
        f"Cocktail: {', '.join(cocktail(record.params)).replace('_', ' ') or 'no regularization'}.",
        f"![learning curves]({picture})",
        _said(record, material),
    )


def _confirmed(material: Material, which: str) -> Confirmed | None:
    confirmed = material.summary.confirmed
    found = None if confirmed is None else confirmed.chosen.get(which)
    return None if found is None or found.rate_of is not None else found


def _reached(record: TrialRecord) -> str:
    best = record.best
    if best is None:
        return "No epoch was finished."
    return (
        f"Validation loss {best.val_loss:.4f}, accuracy {best.val_accuracy:.2%}, at epoch {best.epoch} of "
        f"{len(record.epochs)}; gap {best.gap:+.4f}, sparsity {best.sparsity:.1%}."
    )


def _over_seeds(confirmed: Confirmed) -> str:
    loss, accuracy = confirmed.estimates["val_loss"], confirmed.estimates.get("test_accuracy")
    test = "" if accuracy is None else f", test accuracy {accuracy.mean:.2%} ± {accuracy.std:.2%}"
    return f"Over {loss.n} seeds: validation loss {loss.mean:.4f} ± {loss.std:.4f}{test} (mean ± deviation)."


def _said(record: TrialRecord, material: Material) -> str:
    diagnosis = diagnose(record, (material.summary.best, material.summary.baseline))
    return "" if diagnosis is None else f"Its curves say **{diagnosis}**: {diagnosis.advice}."


def _searched(spec: StudySpec, best: Params | None) -> str:
    """Return what is searched on what, as a table with the best values."""
    model = " ".join([spec.model.name, "-".join(map(str, spec.model.hidden))]).strip()
    on = f"Searched on `{spec.data.name}` with `{model}`, {spec.training.optimizer}"
    how = f"at most {spec.training.max_epochs} epochs, sampler {spec.search.sampler}, pruner {spec.search.pruner.name}"
    ranges = {name: setting for name, setting in spec.parameters().items() if isinstance(setting, Range)}
    rows = [f"| {name} | {_range(setting)} | {_value(best, name)} |" for name, setting in ranges.items()]
    return "\n".join([f"{on}, {how}:", "", "| parameter | range | best |", "|---|---|---|", *rows])


def _range(setting: Range) -> str:
    told = f"{setting.low:g} to {setting.high:g}" + (", logarithmic" if setting.log else "")
    if not setting.has_strengths:
        told = f"{setting.high:g}"
    return f"{told}, or off" if setting.switch else told


def _value(params: Mapping[str, float] | None, name: str) -> str:
    return "" if params is None or name not in params else f"{params[name]:.4g}"


def _links(study: str) -> str:
    query = f"?study={quote(study, safe='')}"
    links = {
        "The report": REPORT_LINK,
        "Its runs in MLflow": RUNS_LINK,
        "Best, pick and baseline compared": COMPARE_LINK,
    }
    return " · ".join(f"[{text}]({path}{query})" for text, path in links.items()) + " (as `regsearch ui` has them)"


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"
