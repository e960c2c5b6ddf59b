"""What a person or a script reads of results: the page, JSON, best.toml, and the lists that pages have of them."""

import io
import json
import math
import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from search import printing, results
from search.confirmation import Confirmation, Confirmed
from search.intervals import Difference, Estimate
from search.records import EpochResult, Reason, Role, Score, Summary, TrialRecord
from search.spec import PARAMETERS, PrunerSpec, SearchSpec, TrainingSpec
from search.terminal.page import print_summary

REPO = Path(__file__).parent.parent
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def record(
    number: int, losses: list[float], reason: Reason = Reason.COMPLETED, role: Role | None = None
) -> TrialRecord:
    epochs = tuple(EpochResult(i + 1, loss / 2, loss, 0.9 + i / 100, 0.25) for i, loss in enumerate(losses))
    return TrialRecord(number, {"dropout_0": 0.125, "patience": 5}, reason, epochs, NOW, NOW, role)


@pytest.fixture
def summary() -> Summary:
    return Summary(
        study="tiny",
        trials={"complete": 2, "pruned": 1, "failed": 2, "running": 0, "waiting": 1},
        reasons={"completed": 2, "pruned": 1, "diverged": 1, "interrupted": 1},
        best=record(3, [0.5, 0.25, 0.375]),
        baseline=record(0, [0.5], role=Role.BASELINE),
        test={"best": Score(3, 0.97, 0.1)},
        trial_epochs=9,
        wall_seconds=75.0,
    )


def printed(draw) -> str:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    draw(console)
    return console.file.getvalue()


def test_json_has_none_for_what_is_no_number(summary):
    confirmed = Confirmed(3, {}, {"val_loss": Estimate(0.5, 0.0, 1), "gap": Estimate(math.nan, 0.0, 1)})
    one_seed = Confirmation([confirmed], None, None, Difference(0.01, -math.inf, math.inf, 1))
    told = results.as_json(replace(summary, confirmed=one_seed))["confirmed"]
    assert told["difference"] == {"mean": 0.01, "low": None, "high": None, "n": 1}
    assert told["best"]["gap"]["mean"] is None
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({"learning_rate": 1e-3, "dropout_0": 0.1, "dropout_1": 0.2, "patience": 3}, ["dropout"]),
        ({"dropout_0": 0.0, "weight_decay": 1e-4, "l1": 0.0}, ["weight_decay"]),
        ({"dropout_1": 0.1, "weight_decay": 1e-4, "l1": 1e-5, "mixup": 0.2}, ["dropout", "elastic_net", "mixup"]),
        ({"dropout_0": 0.0, "patience": 3}, []),
    ],
)
def test_a_cocktail_is_told_by_its_ingredients(params, names):
    assert results.cocktail(params) == names


def test_json_has_the_promised_keys(summary):
    given = results.as_json(summary)
    assert set(given) == {
        "study", "trials", "reasons", "best", "baseline", "test", "trial_epochs", "wall_seconds", "time",
        "winner", "verdict", "warnings", "regularized", "one_standard_error", "confirmed",
        "ablation", "objectives", "pareto", "noise", "left_out", "beyond_budget",
    }  # fmt: skip
    assert set(given["best"]) == {
        "trial", "params", "cocktail", "val_loss", "val_accuracy", "epochs", "best_epoch", "gap", "sparsity"
    }  # fmt: skip
    assert (given["best"]["val_loss"], given["best"]["gap"], given["best"]["epochs"]) == (0.25, 0.125, 3)
    assert given["test"] == {"best": {"accuracy": 0.97, "loss": 0.1}}
    assert (given["objectives"], given["pareto"]) == (["val_loss"], [])


@pytest.fixture
def summary_of_several(summary) -> Summary:
    front = [record(3, [0.5, 0.25, 0.375]), record(12, [0.5])]
    return replace(summary, objectives=("val_loss", "sparsity", "epochs"), pareto=front)


def test_json_has_the_front_of_several_objectives(summary_of_several):
    given = results.as_json(summary_of_several)
    assert given["objectives"] == ["val_loss", "sparsity", "epochs"]
    assert given["pareto"][0] == given["best"]
    assert [(each["trial"], each["best_epoch"]) for each in given["pareto"]] == [(3, 2), (12, 1)]


def test_the_front_of_several_objectives_is_printed_a_line_a_trial(summary, summary_of_several):
    text = printed(lambda console: print_summary(summary_of_several, console))
    lines = text[text.index("Pareto front") :].splitlines()
    assert lines[0] == "Pareto front of val_loss, sparsity, epochs"
    assert lines[1].split() == ["trial", "validation", "loss", "sparsity", "best", "epoch"]
    assert [line.split() for line in lines[2:4]] == [
        ["3", "0.2500", "25.0%", "2", "of", "3"],
        ["12", "0.5000", "25.0%", "1", "of", "1"],
    ]
    assert all(len(line) <= 80 for line in lines)
    assert "Pareto front" not in printed(lambda console: print_summary(summary, console))


def test_importances_tell_for_what(summary, summary_of_several):
    def told(of: Summary) -> str:
        return printed(lambda console: printing.print_explanation(of, {"l1": 1.0}, console)).splitlines()[0]

    assert told(summary) == "Importance of each parameter for the loss, in all trials"
    assert told(summary_of_several) == "Importance of each parameter for the Pareto front, in all trials"


def test_json_of_an_empty_study():
    given = results.as_json(Summary("tiny", {}, {}, None, None))
    assert (given["best"], given["baseline"], given["test"]) == (None, None, {})


def test_best_toml_is_toml_with_the_parameters(summary):
    assert tomllib.loads(results.best_toml(summary)) == {"params": {"dropout_0": 0.125, "patience": 5}}


def test_summary_fits_80_columns_and_tells_retries_from_failures(summary):
    text = printed(lambda console: print_summary(summary, console))
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "2 completed, 1 pruned, 1 diverged" in text
    assert "1 attempts, their configurations put back in the queue" in text
    assert "97.00%" in text
    assert "1 min 15 s" in text


def test_nothing_is_cut_off_where_everything_is_confirmed_and_gaps_are_negative(summary):
    known = {
        name: Estimate(-0.0475 if name == "gap" else 0.9999, 0.0444, 5)
        for name in ("val_loss", "test_accuracy", "test_loss", "ece", "gap", "sparsity", "epochs")
    }
    three = [Confirmed(number, summary.best.params, known) for number in (107, 108, 100)]
    confirmed = Confirmation([three[0]], three[1], three[2], Difference(0.01, 0.001, 0.02, 5))
    text = printed(lambda console: print_summary(replace(summary, confirmed=confirmed), console))
    assert "…" not in text
    assert text.count("-0.0475±0.0444") == 3
    assert all(len(line) <= 80 for line in text.splitlines())


def test_summary_without_a_best_trial():
    empty = Summary("tiny", dict.fromkeys(("complete", "pruned", "failed", "running", "waiting"), 0), {}, None, None)
    assert "no best configuration" in printed(lambda console: print_summary(empty, console))


def test_the_page_on_study_files_names_every_parameter_and_setting():
    of_training = [name for name in TrainingSpec.model_fields if name != "loss_digest"]  # Python writes it
    fields = [*PARAMETERS, *of_training, *SearchSpec.model_fields, *PrunerSpec.model_fields]
    page = (REPO / "docs" / "studies.md").read_text()
    assert [name for name in fields if name not in page] == []


def test_the_page_on_results_names_every_reason():
    page = (REPO / "docs" / "reading.md").read_text()
    assert [reason for reason in Reason if f"`{reason}`" not in page] == []
