"""The report's parts, in order: what each says, and the plots and tables that belong to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from search.report import certainty, cost, curves, front, life, pairs, parameters, tables, words
from search.report.figure import Figure
from search.report.material import Material
from search.report.tables import Table
from search.report.theme import LOOKS


@dataclass
class Section:
    """One part of the page; what is not there is left out."""

    name: str
    title: str
    text: Sequence[str] = ()
    """Paragraphs before the figures."""
    figures: Sequence[Figure] = ()
    layout: str = "wide"
    """`wide`: below each other; `grid`: side by side where there is room."""
    figures_after: Sequence[tuple[str, Sequence[Figure]]] = field(default_factory=list)
    """More groups of figures, each with its paragraph, in a grid."""
    tables: Sequence[Table] = ()
    kind: str = ""
    """Of sections that have a shape of their own."""


def sections(material: Material) -> list[Section]:
    """Return the page's parts, in order."""
    makers: tuple[Callable[[Material], Section | None], ...] = (
        _verdict,
        _curves,
        _history,
        _parameters,
        _relations,
        _life,
        _front,
        _sparsity,
        _cost,
        _confirmed,
        _faults,
        _repeat,
    )
    return [section for make in makers if (section := make(material)) is not None]


def figures(material: Material) -> list[Figure]:
    """Return all plots of the page, in its order."""
    return [
        figure
        for section in sections(material)
        for group in (section.figures, *(group for _, group in section.figures_after))
        for figure in group
    ]


def _verdict(material: Material) -> Section:
    figure = certainty.difference_figure(material)
    shown = [table for table in (tables.numbers(material), tables.configurations(material)) if table is not None]
    return Section("verdict", "Verdict", figures=[figure] if figure else [], tables=shown, kind="verdict")


def _curves(material: Material) -> Section:
    text = (
        "Losses are data losses, without penalties and without dropout noise. The shaded band between training and "
        "validation is the gap, the size of the overfitting; the mark is the best epoch, whose weights were kept."
    )
    drawn = curves.curve_figures(material)
    return Section("curves", "Learning curves", [text] if drawn else [_NOTHING], drawn, "grid")


def _history(material: Material) -> Section:
    if not material.counted:
        return Section("history", "The search", [_NOTHING])
    return Section(
        "history", "The search", figures=[curves.history_figure(material)], tables=[tables.best_trials(material)]
    )


def _parameters(material: Material) -> Section:
    if not material.counted:
        return Section("parameters", "Parameters", [_NOTHING])
    drawn = parameters.parameter_figures(material)
    ends = ", ".join(look.words for reason, look in LOOKS.items() if any(r.reason is reason for r in material.counted))
    text = (
        "Each searched parameter against the validation loss, what mattered most first, all on the same loss axis. "
        f"Marks as above ({ends}); the star is the best, the square the baseline. “off” is 0 where that lies outside "
        "the range."
    )
    warnings = [f"{figure.title}: {figure.warning}." for figure in drawn if figure.warning]
    told = "No best value lies at an edge of its range." if material.winner and not warnings else ""
    return Section("parameters", "Parameters", [text, *([told] if told else [])], drawn, "grid")


def _relations(material: Material) -> Section:
    wide = [f for f in (parameters.importance_figure(material), parameters.parallel_figure(material)) if f is not None]
    slices, contours = pairs.slice_figures(material), pairs.contour_figures(material)
    groups = [
        (
            "Slices of the strongest parameters, complete trials only. The stronger the colour, the later the trial: "
            "where late trials gather, the sampler has settled.",
            slices,
        ),
        (
            "Contours of the strongest pairs: the stronger the colour, the lower the loss; dots are complete trials, "
            "and what lies between them is interpolated.",
            contours,
        ),
    ]
    few = "Too few complete trials to tell which parameters mattered."
    text = [] if wide and slices else [few if not wide else "Too few complete trials for slices and contours."]
    return Section("relations", "What mattered", text, wide, figures_after=[g for g in groups if g[1]])


def _life(material: Material) -> Section:
    figure = life.life_figure(material)
    return Section("life", "The population’s life", [] if figure else [_NOTHING], [figure] if figure else [])


def _front(material: Material) -> Section | None:
    if not material.summary.pareto:
        return None
    return Section("front", "Pareto front", [], front.front_figures(material), tables=[front.front_table(material)])


def _sparsity(material: Material) -> Section | None:
    figure = None if "sparsity" in material.summary.objectives else curves.sparsity_figure(material)
    return Section("sparsity", "Sparsity", figures=[figure]) if figure else None


def _cost(material: Material) -> Section:
    spent = cost.Cost.of(material)
    figure = cost.cost_figure(material, spent)
    text = [spent.words]
    if (time := material.summary.time) is not None:
        text.append(
            f"In the last run, {words.count(time.trainers, 'trainer')} spent {words.duration(time.training)} each on "
            f"training, {words.duration(time.evaluation)} on evaluation and {words.duration(time.waiting)} waiting, "
            f"after {words.duration(time.start_up)} of start-up."
        )
    return Section("cost", "Cost", text, [figure] if figure else [])


def _confirmed(material: Material) -> Section:
    ablation = certainty.ablation_figure(material)
    after = [("", [ablation])] if ablation else []
    confirmed = material.summary.confirmed
    if confirmed is None:
        told = f"Not confirmed yet: `{words.command(material, 'confirm')}`"
        return Section("confirmed", "Confirmation", [told], figures_after=after)
    seeds = confirmed.best.estimates["val_loss"].n
    text = [
        f"The best configurations were trained again with {words.count(seeds, 'seed')} each, beside the baseline and "
        "with the same initial weights, batch order and noise. Dots are means, lines their 95 % intervals (Student’s "
        "t). Overlapping intervals can hide a clear difference: the verdict compares in pairs, seed by seed.",
        *confirmed.remarks,
    ]
    drawn = certainty.confirmation_figures(material)
    return Section("confirmed", "Confirmation", text, drawn, "grid", after, [tables.ranking(material)])


def _faults(material: Material) -> Section:
    told = [cost.fault_words(material, cost.Cost.of(material)), cost.left_out_words(material)]
    return Section("faults", "Fault ledger", [text for text in told if text is not None], kind="faults")


def _repeat(material: Material) -> Section:  # noqa: ARG001
    return Section("repeat", "Repeat or resume", kind="repeat")


_NOTHING = "Nothing to show yet: no trial has ended."
