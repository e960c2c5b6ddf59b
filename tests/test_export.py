"""The exported program is the model, runs where there is no regsearch, and is worth what its card says."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import SPEC, regsearch
from mlflow_server import free_port
from safetensors.torch import load_file

from search.confirmation import MOST_SEEDS
from search.spec import ModelSpec, StudySpec
from search.study import Study
from search.study.storage import open_existing
from search.trainers import LocalTrainer
from search.training.data import load_data, load_test
from search.training.exporting import write_program
from search.training.models import model_factory
from search.training.regularizers import configure
from search.training.sources import WIDE_INFORMATIVE

MODELS = [
    ModelSpec(name="mlp", hidden=[8, 5]),
    ModelSpec(name="mlp", hidden=[]),
    ModelSpec(name="cnn", channels=[3, 4], hidden=[5]),
    ModelSpec(name="transformer", patch=[4, 4], width=8, heads=2, hidden=[6]),
]
USE = """
import sys
sys.modules["search"] = None  # whoever imports regsearch fails
import torch
model = torch.export.load("program.pt2").module()
x, y = torch.load("test.pt", weights_only=True)
print((model(x).argmax(1) == y).double().mean().item())
"""


@pytest.mark.parametrize("spec", MODELS, ids=lambda spec: f"{spec.name}-{len(spec.hidden)}")
@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_program_is_the_model(tmp_path, spec, batch_norm):
    if batch_norm and spec.name == "transformer":
        pytest.skip("it has normalization of its own")
    model = model_factory(spec, (8, 8), 3, batch_norm)()
    configure(model, {"batch_norm": 1, "dropout_0": 0.5, "input_dropout": 0.5}, 0, 0)
    model(torch.randn(16, 8, 8))  # running statistics that are not those of the start
    example = torch.randn(4, 8, 8)
    write_program(model.eval(), example, tmp_path / "program.pt2")
    program = torch.export.load(tmp_path / "program.pt2").module()
    for count in (1, 7):
        x = torch.randn(count, 8, 8)
        torch.testing.assert_close(program(x), model(x))


def test_the_winner_is_exported_with_what_it_takes_to_use_it(searched):
    out = searched / "model"
    home = ["--study", "tiny", "--home", str(searched / "runs")]
    told = regsearch("export", *home, "--out", str(out), "--no-register")
    assert {path.name for path in out.iterdir()} == {"README.md", "model.safetensors", "program.pt2", "spec.json"}
    confirmed = json.loads(regsearch("show", *home, "--json"))["confirmed"]
    content = json.loads((out / "spec.json").read_text())
    assert content["params"] == confirmed["best"]["params"]
    assert content["epochs"] == round(confirmed["best"]["epochs"]["mean"])
    spec = StudySpec.from_json(json.dumps(content["study"]))
    test = load_test(spec.data, searched)
    torch.save((test.x, test.y), out / "test.pt")
    used = subprocess.run([sys.executable, "-c", USE], cwd=out, capture_output=True, text=True, check=True)
    accuracy = float(used.stdout)
    assert f"test accuracy {accuracy:.2%}" in told
    card = (out / "README.md").read_text()
    assert f"this very model has accuracy {accuracy:.2%}" in card
    assert "Inputs: The pixels' values, 0 to 16, divided by 16; the program" in card


def test_an_export_that_was_killed_can_be_repeated_into_the_same_folder(searched):
    out, unfinished = searched / "again", f".again.{'0' * 16}.part"
    (out / unfinished).mkdir(parents=True)
    (searched / unfinished).mkdir()
    for path in (out / unfinished / "program.pt2", out / "model.safetensors", searched / unfinished / "spec.json"):
        path.write_bytes(b"half")
    home = ["--study", "tiny", "--home", str(searched / "runs")]
    regsearch("export", *home, "--out", str(out), "--no-register")
    assert {path.name for path in out.iterdir()} == {"README.md", "model.safetensors", "program.pt2", "spec.json"}
    load_file(out / "model.safetensors")
    assert not (searched / unfinished).exists()


def test_the_pick_can_be_exported_instead(searched):
    home = ["--study", "tiny", "--home", str(searched / "runs")]
    regsearch("export", *home, "--out", str(searched / "pick"), "--pick", "one-standard-error", "--no-register")
    pick = json.loads(regsearch("show", *home, "--json"))["confirmed"]["one_standard_error"]
    assert json.loads((searched / "pick" / "spec.json").read_text())["params"] == pick["params"]


@pytest.mark.usefixtures("tables")
def test_l1_selects_the_features_that_tell_something(tmp_path):
    """The shipped study of wide data, as a user runs it; the pick is what one selects features by."""
    home = ["--study", "wide", "--home", str(tmp_path / "runs")]
    regsearch("start", *home, "--workers=0", "--engine=stacked", "--precision=fp32")
    regsearch("export", *home, "--out", str(tmp_path / "model"), "--pick", "one-standard-error", "--no-register")
    weights = load_file(tmp_path / "model" / "model.safetensors")["output.weight"]
    used = (weights != 0).any(0)
    assert used[:WIDE_INFORMATIVE].double().mean() >= 0.8
    assert used[WIDE_INFORMATIVE:].double().mean() <= 0.2
    confirmed = json.loads(regsearch("show", *home, "--json"))["confirmed"]
    pick, baseline = (confirmed[which]["test_accuracy"] for which in ("one_standard_error", "baseline"))
    assert pick["mean"] - baseline["mean"] > 2 * ((pick["std"] ** 2 + baseline["std"] ** 2) / 5) ** 0.5
    assert confirmed["difference"]["low"] > 0


LOAD = """
import sys
sys.modules["search"] = None
import mlflow, torch
mlflow.set_tracking_uri("sqlite:///runs/mlflow.db")
program = torch.export.load("registered/program.pt2").module()
x = torch.rand(5, 8, 8)
torch.testing.assert_close(mlflow.pytorch.load_model("models:/tiny/1")(x), program(x))
"""


def test_the_model_is_in_mlflows_registry_and_loads_by_its_own_api(searched):
    home = ["--study", "tiny", "--home", str(searched / "runs")]
    told = regsearch("export", *home, "--out", str(searched / "registered"))
    assert 'mlflow.pytorch.load_model("models:/tiny/1")' in told
    environment = os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    loaded = subprocess.run([sys.executable, "-c", LOAD], cwd=searched, env=environment, capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
    assert "MLFLOW_TRACKING_URI" not in os.environ  # whoever searches next in this process has its own


def test_a_registry_that_is_not_there_is_told_and_the_files_are_written(searched):
    home = ["--study", "tiny", "--home", str(searched / "runs")]
    uri = f"http://127.0.0.1:{free_port()}"
    told = regsearch("export", *home, "--out", str(searched / "unregistered"), "--tracking-uri", uri)
    assert "It is not in MLflow's model registry" in told
    assert (searched / "unregistered" / "program.pt2").exists()


def test_a_folder_that_holds_something_is_left_alone(searched):
    (searched / "mine").mkdir()
    (searched / "mine" / "thesis.tex").write_text("")
    told = regsearch(
        "export", "--study", "tiny", "--home", str(searched / "runs"), "--out", str(searched / "mine"), code=1
    )
    assert "is not empty; name a new folder with --out" in told
    told = regsearch(
        "export", "--study", "tiny", "--home", str(searched / "runs"), "--out", str(searched / "tiny.toml"), code=1
    )
    assert "is a file" in told


def test_every_refit_is_told_the_losses_of_the_search(tmp_path, monkeypatch):
    told, refit = [], LocalTrainer.refit

    def noted(trainer, assignment, epochs):
        told.append(assignment)
        return refit(trainer, assignment, epochs)

    monkeypatch.setattr(LocalTrainer, "refit", noted)
    spec = SPEC.replace('name = "digits"', 'name = "digits"\nfolds = 2').replace("trials = 6", "trials = 3")
    (tmp_path / "tiny.toml").write_text(spec.replace("[training]", '[training]\nschedule = "plateau"'))
    start = ["--study", str(tmp_path / "tiny.toml"), "--home", str(tmp_path / "runs"), "--workers=0"]
    home = ["--study", "tiny", "--home", str(tmp_path / "runs")]
    regsearch("start", *start, "--engine=stacked", "--precision=fp32", "--no-confirm")
    searched = len(told)
    regsearch("confirm", *home, "--workers=0", "--seeds=1", "--top=1")
    confirmed = len(told)
    regsearch("export", *home, "--out", str(tmp_path / "model"), "--no-register")
    assert 0 < searched < confirmed < len(told)
    records = Study.load("tiny", open_existing(None, tmp_path / "runs")).records()
    losses = {record.number: record.val_losses for record in records}
    for index, assignment in enumerate(told):
        trial = assignment.number // (2 * MOST_SEEDS) if searched <= index < confirmed else assignment.number
        assert len(assignment.val_losses) > 1
        assert tuple(assignment.val_losses) == losses[trial]


def test_the_refit_sees_training_and_validation_data_and_no_other(tmp_path):
    data = load_data(StudySpec.model_validate(_tiny()).data, tmp_path, 0)
    merged = data.merged
    assert len(merged.train) == len(data.train) + len(data.val)
    assert torch.equal(merged.train.x[len(data.train) :], data.val.x)


def _tiny() -> dict:
    import tomllib

    return {"name": "tiny"} | tomllib.loads(SPEC)
