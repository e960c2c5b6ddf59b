"""Facts stand beside the trial that they are of: a former winner's score, weights and marks are not the next one's."""

import math
from contextlib import suppress
from datetime import timedelta

import pytest
from mlflow_runs import Reader
from safetensors.torch import save
from stored_trials import end, opened, page, repeats
from test_report import Page
from test_tracking import ENDED, STARTED, STUDY, a_trial, uri  # noqa: F401  fixture
from torch import ones

from search import tracking
from search.ablation import Ablation
from search.confirm import due_tests
from search.confirmation import Picks, Repeat, Repeats
from search.dashboards.content import annotate
from search.dashboards.notes import verdict_note
from search.findings import Findings
from search.places import write_whole
from search.printing import print_explanation
from search.records import Score
from search.report.material import gather
from search.report.page import render
from search.results import as_json, best_toml, headline_metrics
from search.tracked import closing
from search.tracking import Closing
from search.tracking.messages import Opening
from search.tracking.writer import MlflowWriter
from search.weights import WeightStore

WEIGHTS = [save({"weight": number * ones(2)}) for number in range(2)]


@pytest.fixture
def overtaken(tmp_path):
    """A study whose trials 0 and 2 were scored at the end of a search, and in which trial 4 does better since."""
    study = opened(tmp_path)
    study.record_test("best", Score(2, 0.9123, 0.3456, 0.0789))
    study.record_test("baseline", Score(0, 0.8234, 0.4567, 0.0891))
    assert study.summary().test.keys() == {"best", "baseline"}
    assert end(study, 0.1) == 4
    yield study
    study.close()


def test_the_test_score_of_a_former_best_trial_is_shown_beside_no_other(overtaken, tmp_path):
    summary = overtaken.summary()
    assert (summary.best.number, summary.test) == (4, {"baseline": Score(0, 0.8234, 0.4567, 0.0891)})
    assert due_tests(summary) == {"best": summary.best}
    texts = {
        "terminal": page(summary),
        "best.toml": best_toml(summary),
        "report": Page(render(gather(overtaken))).text,
        "note": verdict_note(gather(overtaken)),
        "mlflow": repr(closing(overtaken, tmp_path).findings),
    }
    assert [name for name, text in texts.items() if "91.23" in text or "0.9123" in text or "0.3456" in text] == []
    assert "82.34%" in texts["terminal"]
    assert as_json(summary)["test"].keys() == {"baseline"}
    assert "best_test_accuracy" not in headline_metrics(summary)
    assert "baseline_test_accuracy" in headline_metrics(summary)


def test_the_score_of_a_former_baseline_is_shown_beside_no_other(tmp_path):
    study = opened(tmp_path)
    study.record_test("baseline", Score(1, 0.9, 0.3))
    assert study.summary().test == {}
    study.close()


def test_a_confirmation_from_before_names_its_trials_and_says_who_is_not_confirmed_yet(overtaken):
    overtaken.keep_repeats(Repeats(Picks([2], None, 0), [*repeats(0, 0.8), *repeats(2, 0.3)]))
    summary = overtaken.summary()
    assert as_json(summary)["winner"]["trial"] == 2
    assert "Best configuration of study rates: trial 2 (by the search alone: 4)" in page(summary)
    assert "Note: Trial 4, the search's best by now, is not confirmed yet." in page(summary)
    assert "trial 4's curve" in page(summary)
    assert "over 3 seeds" in best_toml(summary)
    assert "in the search" not in best_toml(summary)  # trial 4's numbers
    material = gather(overtaken)
    assert (material.winner.number, material.chosen["best"].number) == (2, 2)


def test_what_ingredients_are_worth_names_the_trial_that_they_are_of(overtaken):
    runs = tuple(Repeat(trial, seed, 3, 0.2 + trial, 0.1, 0.9, 0.1) for trial in range(2) for seed in range(2))
    overtaken.keep_ablation(Ablation(2, ("l1",), runs))
    summary = overtaken.summary()
    lines = []
    print_explanation(summary, {}, _Console(lines))
    assert "\n[bold]Without each ingredient[/bold] of trial 2: validation loss" in lines
    assert as_json(summary)["ablation"]["trial"] == 2
    assert "What each ingredient of trial 2 is worth" in Page(render(gather(overtaken))).text


class _Console:
    def __init__(self, lines):
        self._lines = lines

    def print(self, text, **_):
        self._lines.append(text)


def write_best(study, tmp_path, **weights):
    told = []
    store = WeightStore(tmp_path / "artifacts" / "rates", study=study.identity)
    for trial, content in weights.items():
        store.save(int(trial.removeprefix("trial")), content)
    findings = Findings(study, tmp_path, None, None, told.append)
    findings.write_best(study.summary(), store)
    assert told == []
    return findings.artifacts / "best.safetensors"


def test_the_weights_of_a_former_best_trial_do_not_lie_beside_the_next_one_s_configuration(tmp_path):
    study = opened(tmp_path)
    confirmed = tmp_path / "artifacts" / "rates" / "confirmed.json"
    confirmed.parent.mkdir(parents=True)
    confirmed.write_text("of a study that was deleted")
    kept = write_best(study, tmp_path, trial2=WEIGHTS[0])
    assert kept.exists()
    assert not confirmed.exists()
    end(study, 0.1)
    assert not write_best(study, tmp_path).exists()
    assert write_best(study, tmp_path, trial4=WEIGHTS[1]).exists()
    study.close()


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_kill_amid_the_best_configuration_and_its_weights_leaves_no_two_that_do_not_belong_together(
    tmp_path, monkeypatch, writes
):
    study = opened(tmp_path)
    weights = write_best(study, tmp_path, trial2=WEIGHTS[0])
    toml, confirmed = weights.with_name("best.toml"), weights.with_name("confirmed.json")
    confirmed.write_text("of what was confirmed before")
    end(study, 0.1)
    done = []

    def killed(path, content):
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(path)
        write_whole(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("search.findings.write_whole", killed)
        with suppress(KeyboardInterrupt):
            write_best(study, tmp_path, trial4=WEIGHTS[1])
    assert "trial 4" in toml.read_text() or not weights.exists()
    assert not confirmed.exists()
    assert write_best(study, tmp_path).read_bytes() == WeightStore(weights.parent, study=study.identity).load(4)
    assert "trial 4" in toml.read_text()
    study.close()


def test_the_weights_of_a_deleted_study_of_the_same_name_are_not_logged(tmp_path):
    study = opened(tmp_path)
    folder = tmp_path / "artifacts" / "rates"
    WeightStore(folder, study="deleted since").save(2, WEIGHTS[0])
    assert "best.safetensors" not in closing(study, folder).findings.artifacts
    WeightStore(folder, study=study.identity).save(2, WEIGHTS[0])
    assert "best.safetensors" in closing(study, folder).findings.artifacts
    study.close()


def test_pictures_are_named_after_their_trial_alone_since_they_stay_with_it(overtaken, tmp_path):
    annotate(overtaken, gather(overtaken), tmp_path)
    drawn = [path.read_text() for path in (tmp_path / "artifacts" / "optuna").iterdir()]
    assert len(drawn) >= 2
    assert all("<!-- Trial " in picture and "<!-- Best" not in picture for picture in drawn)


def test_a_run_that_mlflow_keeps_has_no_score_and_no_weights_of_a_former_winner(uri, tmp_path):  # noqa: F811
    def write(trial: int, ended=ENDED, **findings) -> None:
        writer = MlflowWriter(Opening(uri, tmp_path / "artifacts", STUDY, STARTED), lambda: None)
        writer.write(a_trial(trial))
        tags = {"regsearch.winner": f"trial {trial}"}
        assert writer.close(Closing(False, ended, tracking.Findings(tags=tags, **findings))) is None

    metrics = {"best_val_loss": 0.5, "best_test_accuracy": 0.97, "wall_seconds": 1.0}
    write(0, metrics=metrics, artifacts={"best.toml": b"", "best.safetensors": b"weights of trial 0"})
    write(0, metrics=metrics, artifacts={"best.toml": b""})  # as by `sync` where the files are not at hand
    assert Reader(uri).artifacts() == {"best.toml", "best.safetensors", "spec.json"}
    write(1, ENDED + timedelta(hours=1), metrics={"best_val_loss": 0.4}, artifacts={"best.toml": b""})
    found = Reader(uri)
    kept = found.studies[0].data.metrics
    assert (kept["best_val_loss"], kept["wall_seconds"]) == (0.4, 1.0)
    assert math.isnan(kept["best_test_accuracy"])
    assert found.artifacts() == {"best.toml", "spec.json"}
