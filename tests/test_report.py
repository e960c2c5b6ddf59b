"""The report: the numbers of `show --json`, warnings where they are due, and a page that loads nothing and breaks on
nothing: no trials, one, two thousand, losses that are not finite, names full of HTML, parameters behind switches."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from math import isfinite
from pathlib import Path

import pytest
from conftest import SPEC, regsearch
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from search.ablation import Ablation
from search.confirmation import Picks, Repeat, Repeats, conclude, one_standard_error
from search.errors import ReportError
from search.pareto import pareto_front
from search.records import EpochResult, Reason, Role, Score, Summary, TimeSpent, TrialRecord
from search.report import Material, page_path, where_is, write_page, write_plots
from search.report.cost import Cost, faults
from search.report.figure import LossAxis
from search.report.life import live
from search.report.page import plotly_js, render
from search.report.pairs import contour_figures
from search.report.parameters import edge_words
from search.report.repeating import repeat_steps, spec_toml
from search.report.scale import Scale
from search.report.sections import figures, sections
from search.report.static import find_browser
from search.report.theme import PALETTES, TEMPLATE, resolve
from search.report.words import verdict
from search.results import as_json
from search.spec import Range, StudySpec, load_spec, shipped_studies
from search.study import Study, open_storage
from search.study.plots import optuna_plots

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
NAN, INF = float("nan"), float("inf")
OFF = {"learning_rate": 1e-3, "input_dropout": 0.0, "dropout_0": 0.0, "dropout_1": 0.0, "weight_decay": 0.0, "l1": 0.0}
DRAWN = "html[data-drawn=all]"


@pytest.fixture
def spec(tmp_path: Path) -> StudySpec:
    (tmp_path / "tiny.toml").write_text(SPEC)
    return load_spec(str(tmp_path / "tiny.toml"))


def trial(number: int, losses: list[float], reason: Reason = Reason.COMPLETED, **more) -> TrialRecord:
    params = {**OFF, "patience": 5, **more.pop("params", {})}
    epochs = tuple(EpochResult(i, 0.8 * loss, loss, 0.9, more.get("sparse", 0.0)) for i, loss in enumerate(losses, 1))
    more.pop("sparse", None)
    start = BEGIN + timedelta(seconds=more.pop("start", number))
    end = start + timedelta(seconds=more.pop("seconds", len(losses)))
    return TrialRecord(number, params, reason, epochs, start, end, **more)


def searched_trial(number: int, reason: Reason = Reason.COMPLETED, epochs: int = 4) -> TrialRecord:
    share = (number * 0.618034) % 1
    params = {"dropout_0": 0.6 * share, "weight_decay": 10 ** (-6 + 5 * share), "l1": 10 ** (-7 + 4 * (1 - share))}
    losses = [2.3 / (1 + epoch) + (share - 0.4) ** 2 + 0.05 for epoch in range(epochs)]
    return trial(number, losses, reason, params=params, sparse=share / 2)


def material(spec: StudySpec, records: list[TrialRecord], **more) -> Material:
    """Return what a study of these trials would give."""
    complete = [record for record in records if record.state == "complete" and record.best]
    states = Counter(record.state for record in records)
    summary = Summary(
        study=more.pop("study", spec.name),
        trials={state: states[state] for state in ("complete", "pruned", "failed", "running", "waiting")},
        reasons=dict(Counter(record.reason.value for record in records)),
        best=min(complete, key=lambda record: record.best.val_loss, default=None),
        baseline=next((record for record in complete if record.role is Role.BASELINE), None),
        trial_epochs=sum(len(record.epochs) for record in records),
        wall_seconds=10.0,
        one_standard_error=one_standard_error(records),
        **{key: more.pop(key) for key in ("confirmed", "ablation", "test", "time") if key in more},
    )
    return Material(summary, spec, records, BEGIN, **more)


def some_trials() -> list[TrialRecord]:
    ends = [Reason.COMPLETED, Reason.EARLY_STOPPED, Reason.PRUNED]
    rest = [searched_trial(number, ends[number % 3], 4 if number % 3 == 0 else 2) for number in range(1, 20)]
    wrong = [
        trial(20, [0.5, NAN], Reason.DIVERGED),
        trial(21, [INF], Reason.DIVERGED),
        trial(22, [0.5], Reason.INTERRUPTED, error="the trainer died"),
        trial(23, [], Reason.INTERRUPTED, start=23, seconds=4000),
        trial(24, [], Reason.ERROR, error="</script><script>alert(1)</script>"),
        trial(25, [0.5, 0.4, 0.3, 0.3], start=4100, retry_of=22),
    ]
    return [trial(0, [2.0, 1.0, 0.9, 1.1], role=Role.BASELINE), *rest, *wrong]


def full(spec: StudySpec, helps: float = 0.02, **more) -> Material:
    """Return a study of which everything is known."""
    records = some_trials()
    picks = Picks([3, 6], 9, 0)
    scatter = [0.002 * (-1) ** seed for seed in range(4)]
    runs = [
        Repeat(t, seed, 4, loss + scatter[seed], 0.1, 0.9, 0.1, accuracy + 2 * scatter[seed] * (t != 0), loss, 0.02)
        for t, loss, accuracy in ((3, 0.2, 0.9 + helps), (6, 0.21, 0.9), (9, 0.22, 0.9), (0, 0.9, 0.9))
        for seed in range(4)
    ]
    confirmed = conclude(Repeats(picks, runs), {record.number: record.params for record in records})
    leave_out = [
        Repeat(number, seed, 4, 0.2 + number / 10 + scatter[seed], 0.1, 0.9, 0.0)
        for number in range(3)
        for seed in range(4)
    ]
    return material(
        spec,
        records,
        confirmed=confirmed,
        ablation=Ablation(3, ("dropout_0", "l1"), tuple(leave_out)),
        test={"best": Score(3, 0.95, 0.2), "baseline": Score(0, 0.93, 0.3)},
        time=TimeSpent(2, 1.0, 5.0, 1.0, 0.5, 0.1, 0.1),
        importances={"dropout_0": 0.5, "weight_decay": 0.3, "l1": 0.2},
        machine={"regsearch": "0.1.0", "torch": "2.13"},
        **more,
    )


class Page(HTMLParser):
    """What a page says and loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: Counter[str] = Counter()
        self.cells: list[tuple[str, str]] = []
        self.headings: list[int] = []
        self.summary: dict = {}
        self.text = ""
        self._path: str | None = None
        self._in: str | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags[tag] += 1
        self.links += [given[name] for name in ("src", "href", "srcset", "data", "action") if name in given]
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self._path = given.get("data-json")
        self._in = given.get("id") if tag == "script" else tag

    def handle_endtag(self, tag):
        self._path = None
        self._in = None

    def handle_data(self, data):
        if self._in == "regsearch":
            self.summary = json.loads(data)
        elif self._in not in (None, "style", "settings", "plotly"):
            self.text += data
        if self._path is not None:
            self.cells.append((self._path, data))


def finite(value):
    """Return what JSON has words for."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def assert_shown(cells: list[tuple[str, str]], summary: dict) -> None:
    """Check that each number is the JSON's, as exactly as it is written."""
    assert cells
    for path, text in cells:
        value = summary
        for key in path.split("."):
            value = value[int(key) if isinstance(value, list) else key]
        written = text.split(" ")[0].replace(",", "")
        number = written.rstrip("%")
        digits = len(number.partition(".")[2])
        factor = 100 if written.endswith("%") else 1
        assert float(number) == pytest.approx(factor * value, abs=0.51 * 10**-digits), path


# What it says


def test_with_several_goals_it_shows_the_pareto_front(spec):
    records = some_trials()
    objectives = ("val_loss", "sparsity", "epochs")
    complete = [record for record in records if record.state == "complete" and record.best]
    front = pareto_front(sorted(complete, key=lambda record: record.best.val_loss), objectives)
    study = material(spec, records)
    study = replace(study, summary=replace(study.summary, objectives=objectives, pareto=tuple(front)))
    drawn = {figure.name: figure for figure in figures(study)}
    assert "sparsity" not in drawn
    for objective in ("sparsity", "epochs"):
        rings = next(trace for trace in drawn[f"front-{objective}"].data if trace["name"] == "Pareto front")
        assert rings["customdata"] == [record.number for record in front]
    page = Page(render(study))
    assert_shown([cell for cell in page.cells if cell[0].startswith("pareto.")], as_json(study.summary))
    assert not any(figure.name.startswith("front") for figure in figures(full(spec)))


def test_the_report_has_the_numbers_of_show_json(searched):
    home = str(searched / "runs")
    shown = json.loads(regsearch("show", "--study", "tiny", "--home", home, "--json"))
    told = regsearch("report", "--study", "tiny", "--home", home)
    path = page_path(Path(home), "tiny")
    assert str(path) in told
    page = Page(path.read_text())
    assert page.summary == finite(shown)
    assert {"best.val_loss", "baseline.gap", "confirmed.best.test_accuracy.mean", "trial_epochs"} <= dict(
        page.cells
    ).keys()
    assert_shown(page.cells, page.summary)


def test_a_search_ends_with_its_report(searched):
    assert page_path(searched / "runs", "tiny").exists()
    fact = Study.load("tiny", open_storage(None, searched / "runs")).machine
    assert {"regsearch", "Python", "torch", "optuna", "mlflow", "processor", "devices", "trained with"} <= fact.keys()


def test_a_report_that_cannot_be_written_costs_no_search(searched, tmp_path, monkeypatch):
    shutil.copytree(searched / "runs", tmp_path / "runs")
    page = page_path(tmp_path / "runs", "tiny")
    page.unlink()

    def refuse(*_):
        raise ReportError("no space left")

    monkeypatch.setattr("search.report.write_page", refuse)
    arguments = ["--study", "tiny", "--home", str(tmp_path / "runs"), "--workers=0", "--seeds=2", "--top=2"]
    told = regsearch("confirm", *arguments)
    assert "The report could not be written: no space left" in told
    assert "Read this first" not in told
    assert not page.exists()


def test_the_verdict_comes_first_and_says_how_sure_it_is(spec):
    sure = verdict(full(spec))
    assert sure.kind == "good"
    assert "Regularization helps: +2.00 points" in sure.headline
    assert "95 % interval +" in sure.detail
    unsure = verdict(full(spec, helps=0.0001))
    assert (unsure.kind, "includes zero" in unsure.detail) == ("open", True)
    assert "Not clearly different" in unsure.headline
    assert verdict(full(spec, helps=-0.02)).kind == "bad"
    unconfirmed = verdict(material(spec, some_trials(), where={"home": "/a b"}))
    assert unconfirmed.headline == "Not confirmed yet."
    assert unconfirmed.command == "regsearch confirm --study tiny --home '/a b'"
    assert sections(full(spec))[0].name == "verdict"


def test_all_that_is_known_is_on_the_page(spec):
    page = Page(render(full(spec)))
    for words in ("Learning curves", "Fault ledger", "Sparsity", "What each ingredient", "the trainer died", "2.13"):
        assert words in page.text
    assert page.headings[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(page.headings))
    assert_shown(page.cells, page.summary)


def test_what_interrupted_attempts_cost_is_told(spec):
    cost = Cost.of(full(spec))
    assert (cost.thrown_away, cost.spent) == (1, sum(len(record.epochs) for record in some_trials()))
    assert cost.by_pruning == 2 * sum(record.reason is Reason.PRUNED for record in some_trials())
    ledger = {fault.trial: fault for fault in faults(full(spec))}
    assert (ledger[22].then, ledger[22].lost) == ("ran again as trial 25, completed", "1")
    assert (ledger[23].then, ledger[23].lost) == ("back in the queue", "unknown")
    assert ledger[24].what.startswith("error: ")


# Edges of ranges


@pytest.mark.parametrize(
    ("setting", "value", "edge"),
    [
        (Range(low=0.0, high=0.6), 0.595, "upper"),
        (Range(low=0.0, high=0.6), 0.58, None),
        (Range(low=0.1, high=0.6), 0.105, "lower"),
        (Range(low=1e-6, high=1e-1, log=True), 0.08, "upper"),
        (Range(low=1e-6, high=1e-1, log=True), 0.05, None),
        (Range(low=1e-6, high=1e-1, log=True), 1.1e-6, "lower"),
        (Range(low=1e-6, high=1e-1, log=True), 0.0, None),  # off
        (Range(low=2, high=10, integer=True), 10, "upper"),
        (Range(low=2, high=10, integer=True), 9, None),
        (Range(low=1, high=1, switch=True, integer=True), 1, None),
    ],
)
def test_edges_are_on_the_scale_that_was_searched(setting, value, edge):
    assert Scale("weight_decay", setting).edge(value) == edge


def test_the_best_at_an_edge_is_a_warning_only_where_something_lies_beyond():
    scale = Scale("weight_decay", Range(low=1e-6, high=1e-1, log=True))
    warning, note = edge_words(scale, trial(1, [0.5], params={"weight_decay": 0.1}))
    assert (warning, note) == ("the best lies at the upper edge of its range: widen it", "")
    dropout = Scale("dropout_0", Range(low=0.0, high=0.6))
    warning, note = edge_words(dropout, trial(1, [0.5], params={"dropout_0": 0.0}))
    assert (warning, "may not be needed" in note) == ("", True)
    patience = Scale("patience", Range(low=2, high=5, integer=True))
    assert edge_words(patience, trial(1, [0.5]))[0] == ""
    assert edge_words(patience, trial(1, [0.5], Reason.EARLY_STOPPED))[0].endswith("widen it")


def test_a_warning_is_on_the_page(spec):
    records = [trial(0, [1.0], role=Role.BASELINE), trial(1, [0.5], params={"dropout_0": 0.6})]
    text = render(material(spec, records))
    assert text.count("the best lies at the upper edge of its range: widen it") == 1


# Odd studies


def odd_studies() -> Iterator[tuple[str, list[TrialRecord]]]:
    yield "empty", []
    yield "one", [trial(0, [0.5, 0.4], role=Role.BASELINE)]
    yield "nothing complete", [trial(0, [0.5], Reason.PRUNED), trial(1, [], Reason.ERROR, error="broken")]
    yield "nothing finite", [trial(0, [NAN, NAN], Reason.DIVERGED), trial(1, [INF], Reason.DIVERGED)]
    yield "equal", [trial(number, [0.5, 0.5]) for number in range(6)]
    yield "zero loss", [trial(0, [0.0]), trial(1, [0.5, 0.0])]
    yield "some", some_trials()


@pytest.mark.parametrize(("records"), [pytest.param(records, id=name) for name, records in odd_studies()])
def test_odd_studies_have_reports(spec, records):
    page = Page(render(material(spec, records)))
    assert page.summary["study"] == "tiny"
    assert "nan" not in re.sub(r"[a-z]*nan[a-z]+", "", page.text.lower())
    assert page.tags["h2"] >= 8


@pytest.mark.parametrize("records", [pytest.param(records, id=name) for name, records in odd_studies()])
def test_plots_are_plotly_s(spec, records):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    for figure in figures(material(spec, records)):
        graph_objects.Figure(**resolve(figure.plot, PALETTES["light"]))


def test_all_plots_of_a_full_study_are_plotly_s(spec):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    drawn = figures(full(spec))
    names = {figure.name for figure in drawn}
    wanted = {"difference", "curves-best", "history", "importances", "parallel", "life", "sparsity", "cost", "ablation"}
    assert wanted | {"confirmed-test-accuracy", "parameter-l1"} <= names
    assert len(names) == len(drawn)
    for palette in PALETTES.values():
        graph_objects.layout.Template(resolve(TEMPLATE, palette))
        for figure in drawn:
            plot = resolve(figure.plot, palette)
            assert '"@' not in json.dumps(plot)
            graph_objects.Figure(**plot)


def test_optuna_s_own_plots_are_there(searched):
    regsearch("report", "--study", "tiny", "--home", str(searched / "runs"))
    study = Study.load("tiny", open_storage(None, searched / "runs"))
    plots = study.plots(["dropout_0", "l1"])
    complete = [record for record in study.records() if record.state == "complete" and record.role is not Role.BASELINE]
    assert set(plots) == ({"slice-dropout_0", "slice-l1", "contour-dropout_0-l1"} if len(complete) >= 4 else set())


def test_contours_end_where_the_worst_trials_begin(spec):
    ranges = dict.fromkeys(("dropout_0", "l1"), FloatDistribution(0.0, 1.0))
    trials = [
        create_trial(
            value=0.5 + number / 100,
            params={"dropout_0": number / 80, "l1": (number * 7 % 80) / 80},
            distributions=ranges,
        )
        for number in range(80)
    ]
    [contour] = contour_figures(material(spec, [], optuna_plots=optuna_plots(trials, list(ranges))))
    drawn = contour.data[0]
    losses = [loss for row in drawn["z"] for loss in row if loss is not None]
    assert drawn["zmin"] == min(losses) == 0.5
    assert 0.5 < drawn["zmax"] < max(losses)
    assert len(drawn["z"]) < 80, "a browser fills the gaps of a matrix of all trials too slowly"


def test_names_and_errors_full_of_html_stay_text(spec):
    name = "</title><script>alert('name')</script><img src=http://evil.example onerror=alert(1)>"
    hostile = spec.model_copy(update={"description": "</style><script>alert('description')</script>"})
    text = render(material(hostile, some_trials(), study=name, machine={"</td><script>": "<script>"}))
    page = Page(text)
    assert page.tags["script"] == len(figures(material(spec, some_trials()))) + 4
    assert page.tags["img"] == 0
    assert page.summary["study"] == name
    assert "alert('name')" in page.text


def test_the_page_loads_nothing(spec):
    text = render(full(spec))
    page = Page(text)
    assert all(link.startswith("#") for link in page.links)
    own = text.replace(str(plotly_js()), "")
    assert "http:" not in own
    assert "https:" not in own
    assert "@import" not in own
    assert "url(" not in own
    assert "default-src 'none'" in own
    assert text.count("plotly.js v") == 1


def test_two_thousand_trials_stay_below_8_megabytes(spec):
    ends = [Reason.COMPLETED, Reason.PRUNED, Reason.PRUNED, Reason.EARLY_STOPPED]
    records = [searched_trial(number, ends[number % 4], 4) for number in range(2000)]
    importances = dict.fromkeys(("dropout_0", "l1", "weight_decay"), 1 / 3)
    text = render(material(spec, records, importances=importances))
    assert len(text) < 8e6
    assert len(text) - len(plotly_js()) < 2e6


def test_parameters_behind_switches(tmp_path):
    text = SPEC.replace(
        "[search]",
        "label_smoothing = { low = 0.02, high = 0.2, switch = true }\nbatch_norm = { switch = true }\n[search]",
    )
    (tmp_path / "tiny.toml").write_text(text)
    spec = load_spec(str(tmp_path / "tiny.toml"))
    records = [
        trial(number, [0.5 + number / 10], params={"label_smoothing": 0.1 * (number % 2), "batch_norm": number % 2})
        for number in range(6)
    ]
    records.append(trial(6, [0.9]))  # of an earlier version: it lacks both
    drawn = {figure.name: figure for figure in figures(material(spec, records))}
    assert drawn["parameter-batch_norm"].layout["xaxis"]["ticktext"] == ["off", "on"]
    assert drawn["parameter-label_smoothing"].layout["xaxis"]["ticktext"][0] == "off"
    render(material(spec, records))


# Its parts


def test_lanes_hold_one_trial_at_a_time_and_pauses_are_cut_out(spec):
    life = live(some_trials())
    by_lane: dict[int, list] = {}
    for bar in life.bars:
        by_lane.setdefault(bar.lane, []).append(bar)
    for bars in by_lane.values():
        ordered = sorted(bars, key=lambda bar: bar.start)
        assert all(before.end <= after.start for before, after in pairwise(ordered))
    [pause] = life.pauses.values()
    assert pause == pytest.approx(4100 - 25, abs=3)
    assert max(bar.end for bar in life.bars) < 40
    killed = next(bar for bar in life.bars if bar.record.number == 23)
    assert killed.end - killed.start < 5, "it ended with its process, not when that was found"


def test_axes_are_logarithmic_where_losses_differ_by_much():
    assert LossAxis.of([0.1, 2.0, 3.0]).log
    assert not LossAxis.of([0.5, 0.6, 0.7]).log
    assert not LossAxis.of([0.0, 1.0, 2.0]).log
    assert LossAxis.of([]).low < LossAxis.of([]).high
    assert LossAxis.of([0.5]).low < 0.5 < LossAxis.of([0.5]).high
    axis = LossAxis.of([*(0.1 + i / 1000 for i in range(100)), 1e9])
    assert axis.clip(1e9) == axis.high < 1


@pytest.mark.parametrize("name", shipped_studies())
def test_the_spec_as_a_file_is_the_spec(name, tmp_path):
    spec = load_spec(name)
    odd = spec.model_copy(update={"description": 'quotes " and \\ and \n and ä'})
    for given in (spec, odd):
        (tmp_path / f"{name}.toml").write_text(spec_toml(given), encoding="utf-8")
        assert load_spec(str(tmp_path / f"{name}.toml")) == given


def test_a_study_is_repeated_by_its_name_or_by_its_file(spec):
    [(_, shipped)] = repeat_steps(material(load_spec("digits"), []))
    assert shipped == "regsearch start --study digits --trials 64"
    [(words, own)] = repeat_steps(material(spec, [], study="my study", where={"home": "there"}))
    assert "Save the spec below as tiny.toml" in words
    assert own == "regsearch start --study tiny.toml --home there --name 'my study' --trials 6"


def test_passwords_are_not_passed_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert where_is(tmp_path / "runs", None) == {}
    given = where_is(tmp_path / "other", "postgresql://me:secret@host/db")
    assert given == {"home": "other", "storage": "postgresql://me:***@host/db"}


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours (WCAG 2.2, 1.4.3)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("name", PALETTES)
def test_colours_stand_out(name):
    palette = PALETTES[name]
    for role in ("ink", "muted", "best", "warning"):  # text too
        assert contrast(palette[role], palette["paper"]) >= 4.5, role
    for role in ("stopped", "pick", "baseline", "pruned", "failed", "interrupted"):
        assert contrast(palette[role], palette["paper"]) >= 3, role


def test_a_page_that_cannot_be_written_says_what_to_do(spec, tmp_path):
    with pytest.raises(ReportError, match="name another file: --out"):
        write_page(material(spec, []), tmp_path)
    assert list(tmp_path.glob("*.part")) == []


# In a browser


def test_plots_without_a_browser_are_refused_with_a_way_out(spec, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ReportError, match="apt install chromium"):
        write_plots(material(spec, []), tmp_path / "plots")


@pytest.mark.skipif(find_browser() is None, reason="no Chromium or Chrome is installed")
def test_plots_are_svg_files(spec, tmp_path):
    files = write_plots(full(spec), tmp_path / "plots")
    assert {path.name for path in files} == {f"{figure.name}.svg" for figure in figures(full(spec))}
    assert all(path.read_text().startswith("<svg") for path in files)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_from_disk_without_network_and_shows_its_numbers(browser, searched, tmp_path, scheme):
    home = str(searched / "runs")
    regsearch("report", "--study", "tiny", "--home", home, "--out", str(tmp_path / "page.html"))
    shown = finite(json.loads(regsearch("show", "--study", "tiny", "--home", home, "--json")))
    page = browser.new_page(color_scheme=scheme)
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_selector(DRAWN, state="attached")
    assert [url for url in requests if not url.startswith("blob:")] == [(tmp_path / "page.html").as_uri()]
    assert complaints == []
    assert page.title() == "tiny: regsearch report"
    cells = page.eval_on_selector_all("[data-json]", "cells => cells.map(c => [c.dataset.json, c.innerText])")
    assert_shown([tuple(cell) for cell in cells], shown)
    drawn = page.eval_on_selector_all(".canvas", "all => all.map(c => c.querySelectorAll('svg').length)")
    assert drawn
    assert all(drawn)


def test_it_is_as_wide_as_a_phone(browser, spec, tmp_path):
    write_page(full(spec), tmp_path / "page.html")
    page = browser.new_page(viewport={"width": 360, "height": 740})
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_selector(DRAWN, state="attached")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_passes_axe(browser, spec, tmp_path, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    write_page(full(spec), tmp_path / "page.html")
    page = browser.new_page(color_scheme=scheme, bypass_csp=True)
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_selector(DRAWN, state="attached")
    found = axe.Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found if each["impact"] != "minor"] == []
