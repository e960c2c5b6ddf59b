"""The verdict on data of which most are one class: by the loss that was trained, with a word on what accuracy is."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import regsearch
from own_models import SMALL
from safetensors.torch import load
from stored_trials import opened, page, repeats
from test_report import Page
from torch import nn

from search import Confirm, Data, Range, run_search
from search.confirmation import Picks, Repeats
from search.dashboards.notes import verdict_note
from search.errors import StorageError
from search.intervals import Answer
from search.records import Majority
from search.report.material import gather
from search.report.page import render
from search.report.sections import figures
from search.report.words import verdict
from search.results import as_json, best_toml
from search.study.reading import as_written, read_as
from search.tracked import closing
from search.training.data import Split, majority
from search.training.evaluation import score
from search.training.losses import CROSS_ENTROPY, LOSSES
from search.verdict import comparison, headline, warnings

TEST = Majority(0.977, 3355)
"""As mammography has it."""


@pytest.fixture
def negatives(tmp_path):
    """A study whose accuracies are below that of always answering "negative", and less so without regularization."""
    study = opened(tmp_path)
    study.keep_majority("test", TEST)
    runs = [*repeats(0, 0.5, 0.89), *repeats(2, 0.3, 0.87, scatter=0.001)]
    study.keep_repeats(Repeats(Picks([2], None, 0), runs))
    yield study
    study.close()


def test_regularization_does_not_hurt_by_accuracies_that_an_answer_always_the_same_beats(negatives, tmp_path):
    summary = negatives.summary()
    assert summary.confirmed.difference.answer is Answer.HURTS  # by accuracy
    told = comparison(summary)
    assert (told.metric, told.answer) == ("test_loss", Answer.HELPS)
    share = "97.7% of the test examples are of one class"
    texts = {
        "terminal": page(summary),
        "report": Page(render(gather(negatives))).text,
        "note": verdict_note(gather(negatives)),
        "mlflow": closing(negatives, tmp_path).findings.description,
        "best.toml": best_toml(summary),
        "json": " ".join(as_json(summary)["warnings"]),
    }
    assert [name for name, text in texts.items() if share not in text] == []
    assert [name for name, text in texts.items() if "hurts" in text] == []
    assert as_json(summary)["verdict"]["by"] == "test_loss"
    assert "test loss 0.3110, without regularization 0.5100" in texts["terminal"]


def test_the_report_draws_the_loss_that_the_verdict_goes_by(negatives):
    names = {figure.name for figure in figures(gather(negatives))}
    assert "confirmed-test-loss" in names
    assert not names & {"difference", "confirmed-test-accuracy"}
    told = verdict(gather(negatives))
    assert "Mean test loss over 3 seeds: 0.3110 with regularization (trial 2), 0.5100 without." in told.detail


def test_accuracies_that_clearly_beat_an_answer_always_the_same_judge(negatives):
    summary = replace(negatives.summary(), majorities={"test": Majority(0.5, 3355), "validation": Majority(0.5, 100)})
    assert (comparison(summary).metric, warnings(summary)) == ("test_accuracy", [])


def test_a_loss_of_ones_own_judges_even_where_accuracies_are_high(negatives):
    summary = replace(negatives.summary(), majorities={}, loss="own")
    assert comparison(summary).metric == "test_loss"
    assert warnings(summary) == ["The verdict goes by the loss that was trained, which is not cross-entropy."]
    assert "test loss -0.1990" in headline(summary)


def test_validation_accuracies_are_told_with_the_share_too_where_there_is_no_test_data(negatives):
    summary = replace(negatives.summary(), confirmed=None, majorities={"validation": Majority(0.95, 600)})
    assert warnings(summary)[0].startswith("95.0% of the validation examples are of one class")


@pytest.mark.parametrize(
    ("share", "examples", "accuracy", "beaten"),
    [
        (0.977, 3355, 0.87, False),
        (0.977, 3355, 0.977, False),  # a tie
        (0.977, 3355, 0.979, False),  # six examples more
        (0.977, 3355, 0.99, True),
        (1.0, 100, 1.0, False),  # one class alone
        (0.1, 10000, 0.12, True),
    ],
)
def test_an_accuracy_is_clearly_higher_than_the_majority_beyond_its_scatter(share, examples, accuracy, beaten):
    assert Majority(share, examples).is_clearly_beaten_by(accuracy) is beaten


def test_the_majority_is_the_most_frequent_class():
    assert majority(Split(torch.zeros(5, 1), torch.tensor([2, 0, 2, 2, 1]))) == Majority(0.6, 5)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, math.nan])
def test_a_share_that_is_none_is_refused_when_it_is_read(share):
    with pytest.raises(StorageError), as_written("the study"):
        read_as(Majority, {"share": share, "examples": 5})


def focal(logits, y):
    loss = F.cross_entropy(logits, y, reduction="none")
    return (1 - torch.exp(-loss)) ** 2 * loss


WEIGHTED = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 20.0]), reduction="none")
TRAINED = {
    "focal": focal,
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.2, reduction="none"),
    "weighted": WEIGHTED,
    "multi_margin": LOSSES["multi_margin"],
}


@pytest.mark.parametrize("name", TRAINED)
def test_the_test_loss_is_the_one_that_was_trained_and_calibration_is_told_of_probabilities_alone(name):
    model, loss = nn.Linear(3, 2), TRAINED[name]
    split = Split(torch.randn(300, 3), (torch.arange(300) % 20 == 0).long())
    _, told, error = score(model, model.state_dict(), split, loss)
    assert told == pytest.approx(loss(model(split.x), split.y).mean().item(), rel=1e-5)
    assert error is None
    assert score(model, model.state_dict(), split, CROSS_ENTROPY)[2] is not None


@pytest.mark.usefixtures("tables")
def test_a_search_by_a_weighted_loss_on_imbalanced_data_is_judged_by_that_loss(tmp_path):
    generator = torch.Generator().manual_seed(0)
    y = (torch.arange(800) % 20 == 0).long()
    x = torch.randn(800, 4, generator=generator) + 1.5 * y[:, None]

    def make():
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))

    found = run_search(
        make,
        Data(train=(x[:400], y[:400]), test=(x[400:], y[400:])),
        name="mine",
        home=tmp_path / "runs",
        loss=WEIGHTED,
        space={"dropout": Range(low=0.1, high=0.5)},
        **{**SMALL, "confirm": Confirm(top=1, seeds=2), "engine": "stacked", "precision": "fp32"},
    )
    summary = found.summary
    assert (summary.loss, summary.majorities["test"]) == ("own", Majority(0.95, 400))
    assert summary.majorities["validation"] == Majority(0.95, 400)
    assert comparison(summary).metric == "test_loss"
    assert "ece" not in summary.confirmed.best.estimates
    text = " ".join(str(found).split())
    assert "95.0% of the test examples are of one class" in text
    assert "calibration" not in text
    kept = load((tmp_path / "runs" / "artifacts" / "mine" / "trial-00000.safetensors").read_bytes())
    baseline = make()
    baseline.load_state_dict(kept)
    with torch.no_grad():
        measured = WEIGHTED(baseline.eval()(x[400:]), y[400:]).mean().item()
    assert summary.test["baseline"].loss == pytest.approx(measured, rel=1e-3)
    shown = regsearch("show", "--study", "mine", "--home", str(tmp_path / "runs"))
    assert "The verdict goes by the loss that was trained" in " ".join(shown.split())
