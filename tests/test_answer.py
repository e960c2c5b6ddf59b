"""One answer in every output: where no regularization does best, all of them say so and hand over the baseline."""

import json
import re
import shutil
import tomllib

import pytest
from conftest import regsearch
from mlflow_runs import Reader
from safetensors.torch import load, load_file
from scripted import ScriptedTrainer
from stored_trials import opened, page, repeats
from test_report import Page

from search import Confirm, Range, run_search
from search.confirm import winner_weights
from search.confirmation import Diverged, Picks, Repeat, Repeats, conclude
from search.dashboards.notes import verdict_note
from search.export import choose
from search.report.material import gather
from search.report.page import render
from search.results import as_json, best_toml
from search.study.storage import open_existing
from search.tracked import closing
from search.tracking import default_tracking_uri
from search.verdict import winner
from search.weights import WeightStore

HARMFUL = {"dropout": Range(low=0.7, high=0.8), "l1": Range(low=0.05, high=0.5, log=True), "weight_decay": 0.0}


def search(home, **options):
    given = {"training": {"max_epochs": 8}, "search": {"trials": 3}, "engine": "stacked", "precision": "fp32"}
    model = {"name": "mlp", "hidden": [16]}
    return run_search(model, "digits", name="loser", home=home, space=HARMFUL, quiet=True, **given, **options)


def answers(found, home, out) -> dict[str, tuple[int, dict]]:
    """Return which trial and configuration each output of a study names as its best; `out` is to export to, or None."""
    folder, place = home / "artifacts" / "loser", ["--study", "loser", "--home", str(home)]
    shown = json.loads(regsearch("show", *place, "--json"))
    told = {"json": (shown["winner"]["trial"], shown["winner"]["params"])}
    if shown["confirmed"] is not None:
        kept = json.loads((folder / "confirmed.json").read_text())
        told |= {"confirmed": _of(shown["confirmed"]["best"]), "confirmed.json": _of(kept["best"])}
    told["terminal"] = named(str(found)), found.params
    toml = (folder / "best.toml").read_text()
    told["best.toml"] = named(toml), tomllib.loads(toml)["params"]
    regsearch("report", *place)
    told["report"] = _of(Page((folder / "report.html").read_text()).summary["winner"])
    assert (folder / "best.safetensors").read_bytes() == (folder / "trial-00000.safetensors").read_bytes()
    if out is not None:
        exported = regsearch("export", *place, "--out", str(out), "--no-register")
        told["export"] = named(exported), json.loads((out / "spec.json").read_text())["params"]
        assert named((out / "README.md").read_text()) == named(exported)
        handed, refitted = found.model().state_dict(), load_file(out / "model.safetensors")
        assert all(handed[name].equal(refitted[name]) for name in refitted)
    study = Reader(default_tracking_uri(home), "loser")
    tags = study.studies[0].data.tags
    told["mlflow"] = int(tags["regsearch.best_trial"]), found.params
    assert tags["regsearch.winner"] == f"no regularization (the baseline, trial {told['mlflow'][0]})"
    logged = home / "logged"
    logged.mkdir(exist_ok=True)
    for name in ("best.toml", "best.safetensors"):
        path = study.client.download_artifacts(study.studies[0].info.run_id, name, str(logged))
        with open(path, "rb") as file:
            assert file.read() == (folder / name).read_bytes()
    told["note"] = named(note(home)), found.params
    return told


def _of(entry: dict) -> tuple[int, dict]:
    return entry["trial"], entry["params"]


def named(text: str) -> int:
    """Return the trial that a text names as the baseline that is the best."""
    found = re.search(r"[Nn]o regularization \(the baseline, trial (\d+)\)", " ".join(text.split()))
    assert found is not None, text
    return int(found[1])


def note(home) -> str:
    storage = open_existing(None, home)
    attributes = storage.get_study_system_attrs(storage.get_study_id_from_name("loser"))
    pieces = (attributes.get(f"dashboard:note_str:{i}", "") for i in range(9))
    return "".join(pieces)


def test_where_no_regularization_does_best_every_output_hands_over_the_baseline(tmp_path, database):
    home = tmp_path / "runs"
    home.mkdir()
    shutil.copy(database, home)
    found = search(home, confirm=None)
    searched = answers(found, home, None)
    found = search(home, confirm=Confirm(top=1, seeds=5))
    confirmed = answers(found, home, tmp_path / "confirmed")
    assert found.params["dropout_0"] == found.params["l1"] == 0
    for told in (searched, confirmed):
        assert {trial for trial, _ in told.values()} == {0}
        assert all(params == found.params for _, params in told.values())
    run = Reader(default_tracking_uri(home), "loser").trials[0]
    assert run.data.tags["regsearch.confirmed"] == "best, baseline"
    # What speaks against regularization is said first.
    assert str(found).splitlines()[0] == "loser: regularization hurts"
    first = (home / "artifacts" / "loser" / "best.toml").read_text().splitlines()[0]
    assert first.startswith("# Regularization hurts: test accuracy -")
    card = (tmp_path / "confirmed" / "README.md").read_text()
    assert card.index("**Regularization hurts: ") < card.index("No regularization (the baseline")
    assert note(home).startswith("**Regularization hurts: -")
    study = Reader(default_tracking_uri(home), "loser").studies[0]
    assert study.data.tags["mlflow.note.content"].startswith("**Regularization hurts: test accuracy -")
    assert study.info.run_name.startswith("loser: regularization hurts, confirmed ")
    told = found.explain(seeds=1)  # of what the baseline won against: it has no ingredients itself
    assert f"Without each ingredient of trial {found.summary.confirmed.regularized.trial}" in " ".join(told.split())


# The baseline at the learning rate of another trial


@pytest.fixture
def plain_wins(tmp_path):
    """A study whose best is the baseline at trial 2's learning rate."""
    study = opened(tmp_path)
    runs = [*repeats(0, 0.8), *repeats(2, 0.3, 0.91), *repeats(2, 0.2, 0.95, plain=True)]
    study.keep_repeats(Repeats(Picks([2], None, 0, 2), runs))
    yield study
    study.close()


def test_the_baseline_at_another_trials_learning_rate_can_be_the_answer_of_every_output(plain_wins, tmp_path):
    summary, records = plain_wins.summary(), {record.number: record for record in plain_wins.records()}
    params = {**records[0].params, "learning_rate": records[2].params["learning_rate"]}
    name = "no regularization (the baseline, trial 0, with trial 2's learning rate)"
    assert (winner(summary).name, winner(summary).params) == (name, params)
    assert choose(summary).params == params
    assert tomllib.loads(best_toml(summary))["params"] == params
    assert "in the search" not in best_toml(summary)  # no trial of it has this configuration
    told = as_json(summary)
    assert (told["winner"]["params"], told["winner"]["learning_rate_of"]) == (params, 2)
    assert told["confirmed"]["best"]["params"] == told["confirmed"]["baseline"]["params"] == params
    assert f"Best configuration of study rates: {name}" in page(summary)
    material = gather(plain_wins)
    assert material.winner is None
    assert next(iter(material.configurations.values()))[1] == params
    assert Page(render(material)).summary["winner"]["params"] == params
    assert name in verdict_note(material)
    findings = closing(plain_wins, tmp_path).findings
    assert findings.tags["regsearch.winner"] == name
    assert set(findings.confirmed) == {2}  # trial 0 was trained with another learning rate
    assert tomllib.loads(findings.artifacts["best.toml"].decode())["params"] == params


def test_the_weights_of_that_baseline_are_trained_and_kept_by_themselves(plain_wins, tmp_path):
    summary, asked = plain_wins.summary(), []
    trainer = ScriptedTrainer(lambda _: None)
    trainer.retrain = lambda assignment, epochs: asked.append((assignment.params, epochs)) or WEIGHTS
    weights, best = WeightStore(tmp_path / "weights"), winner(summary)
    weights.save(0, WEIGHTS)
    record = plain_wins.records()[0]
    assert winner_weights(trainer, best, record, weights) == WEIGHTS
    assert asked == [(best.params, 3)]
    assert winner_weights(trainer, best, record, weights) == WEIGHTS
    assert len(asked) == 1
    weights.tidy(summary)
    assert {path.name for path in (tmp_path / "weights").iterdir()} == {
        "trial-00000.safetensors",
        "trial-00000-rate-of-00002.safetensors",
    }


def _some_weights() -> bytes:
    from safetensors.torch import save
    from torch import ones

    return save({"weight": ones(2)})


WEIGHTS = _some_weights()
assert load(WEIGHTS)


# Who is the winner


PARAMS = {number: {"learning_rate": 0.001, "l1": number / 10} for number in range(4)}


def concluded(*runs: list[Repeat], diverged: tuple[Diverged, ...] = ()):
    return conclude(Repeats(Picks([1, 2], None, 0), [run for each in runs for run in each], diverged), PARAMS)


def test_the_baseline_wins_by_its_mean_validation_loss_and_by_nothing_else():
    told = concluded(repeats(0, 0.2, 0.5), repeats(1, 0.3, 0.9), repeats(2, 0.4, None))
    assert (told.best.trial, told.regularized.trial, told.baseline_wins) == (0, 1, True)
    assert told.difference.mean == pytest.approx(0.4)  # test data choose nothing
    assert [each.trial for each in told.by_rank] == [0, 1, 2]
    other = concluded(repeats(0, 0.35, 0.9), repeats(1, 0.3, 0.5), repeats(2, 0.4, None))
    assert (other.best.trial, other.baseline_wins) == (1, False)


def test_the_baseline_wins_against_configurations_that_diverge():
    told = concluded(
        repeats(0, 0.5), repeats(1, 0.3)[:2], repeats(2, 0.4)[:2], diverged=(Diverged(1, 2), Diverged(2, 2))
    )
    assert (told.best.trial, told.regularized.trial) == (0, 1)


def test_of_equals_the_regularized_one_wins_and_is_named_as_before():
    told = concluded(repeats(0, 0.3), repeats(1, 0.3), repeats(2, 0.3))
    assert told.best.trial == 1


def test_a_baseline_that_diverges_is_not_the_better_one():
    usual = repeats(0, 0.1)[:2]
    plain = [*repeats(1, 0.2, plain=True)]
    runs = [*usual, *plain, *repeats(1, 0.3)]
    told = conclude(Repeats(Picks([1], None, 0, 1), runs, [Diverged(0, 2)]), PARAMS)
    assert (told.baseline.rate_of, told.baseline_wins) == (1, True)


def test_test_scores_of_some_seeds_alone_stand_beside_no_mean_of_all():
    scored = repeats(1, 0.3, 0.9)
    told = concluded(repeats(0, 0.5), [scored[0], *repeats(1, 0.3, None)[1:]], repeats(2, 0.4))
    assert "test_accuracy" not in told.regularized.estimates
    assert (told.difference, told.test_loss_difference) == (None, None)
    assert told.regularized.estimates["val_loss"].n == 3
