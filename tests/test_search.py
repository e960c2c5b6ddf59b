"""Whole searches on the digits data that are left alone: what they find, print and leave behind."""

import json
import os
import pty
import re
import shutil
import subprocess
import sysconfig
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from click.testing import CliRunner, Result
from conftest import SPEC
from mlflow_server import free_port
from whole_searches import (
    SLOW,
    TRIAL_LINE,
    Place,
    Running,
    assert_all_in_mlflow,
    assert_exact,
    environment,
)

from search.cli import main
from search.confirmation import METRICS
from search.records import Reason, Role, TrialRecord
from search.spec import StudySpec, load_spec
from search.study import close_storage, open_storage
from search.tracking import TrackingOutcome

ALL_REASONS = """
name = "tiny"
[data]
name = "digits"
[model]
hidden = [16]
[training]
optimizer = "sgd"
max_epochs = 8
[space]
learning_rate = 0.1
weight_decay = { low = 1e-4, high = 1e6, log = true }  # each step multiplies weights by 1 - 0.1 x this
dropout = { low = 0.0, high = 0.8 }
patience = { low = 1, high = 3 }
[search]
trials = 16
sampler = "random"
pruner = { name = "halving", min_epochs = 2 }
"""

SPARSE = (
    SPEC.replace("max_epochs = 4", "max_epochs = 8")
    .replace("l1 = { low = 1e-7, high = 1e-3, log = true }", "l1 = { low = 1e-3, high = 3.0, log = true }")
    .replace("trials = 6", 'trials = 16\nobjectives = ["val_loss", "sparsity"]\npruner = { min_epochs = 2 }')
)
"""A search for networks that are good and sparse."""
ESCAPE = "\x1b"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[tuple[Place, Running]]:
    """A search that has ended by itself, to be looked at and not to be changed."""
    place = Place(tmp_path_factory.mktemp("finished"), database)
    yield place, place.start()
    place.close()


@pytest.fixture
def again(finished: tuple[Place, Running], tmp_path: Path) -> Iterator[Place]:
    """A copy of the finished search, to go on with."""
    shutil.copytree(finished[0].folder, tmp_path / "again")
    place = Place.__new__(Place)
    place.folder, place.home, place._started = tmp_path / "again", tmp_path / "again" / "runs", []
    yield place
    place.close()


# A search that is left alone


def test_a_search_ends_with_its_best_configuration(finished):
    place, search = finished
    assert_exact(place, 6)
    shown, out = place.show(), search.out
    assert shown["study"] == "tiny"
    assert shown["trials"].keys() == {"complete", "pruned", "failed", "running", "waiting"}
    assert sum(shown["trials"].values()) == sum(shown["reasons"].values()) == 6
    for which in ("best", "baseline"):
        keys = {"trial", "params", "val_loss", "val_accuracy", "epochs", "gap", "sparsity"}
        assert keys <= shown[which].keys()
        assert shown["test"][which].keys() == {"accuracy", "loss"}
    assert shown["trial_epochs"] == sum(len(record.epochs) for record in place.records())
    assert shown["wall_seconds"] > 0
    complete = [record for record in place.records() if record.state == "complete"]
    assert shown["best"]["val_loss"] == min(record.best.val_loss for record in complete)
    assert [record.role for record in place.records()][:2] == [Role.BASELINE, Role.TEXTBOOK]

    assert f"Best configuration of study tiny: {shown['winner']['name']}" in out
    assert f"{shown['best']['val_loss']:.4f}" in out
    for words in ("test accuracy", "gap", "sparsity", "report.html", "regsearch ui", "runs", "best.toml"):
        assert words in out


def test_piped_output_is_plain_with_one_line_for_each_trial(finished):
    _, search = finished
    assert len(TRIAL_LINE.findall(search.out)) == 6
    assert re.findall(r"^\[(\d)/6\]", search.out, re.MULTILINE) == list("123456")
    assert ESCAPE not in search.out + search.err
    assert "\r" not in search.out + search.err
    assert max(map(len, search.out.split("\n\n")[0].splitlines())) <= 80
    assert "Study tiny: 6 trials of at most 4 epochs" in search.err


def test_the_best_configuration_and_its_weights_are_files(finished):
    from safetensors.torch import load_file

    from search.training.data import load_test
    from search.training.evaluation import score
    from search.training.models import model_factory

    place, _ = finished
    shown = place.show()
    winner = shown["winner"]
    folder = place.home / "artifacts" / "tiny"
    assert tomllib.loads((folder / "best.toml").read_text())["params"] == winner["params"]
    spec = load_spec(str(place.folder / "tiny.toml"))
    test = load_test(spec.data, place.folder)
    weights = load_file(folder / "best.safetensors")
    accuracy, loss, _ = score(model_factory(spec.model, (8, 8), 10)(), weights, test)
    scored = next((which for which in ("best", "baseline") if shown[which]["trial"] == winner["trial"]), None)
    if scored is None:  # another trial won over seeds: its weights are there, and its test score was not read
        assert accuracy > 0.5
    else:
        assert shown["test"][scored] == {"accuracy": pytest.approx(accuracy), "loss": pytest.approx(loss)}


def test_the_best_is_confirmed_over_seeds_beside_the_baseline(finished):
    place, search = finished
    confirmed = place.show()["confirmed"]
    assert set(confirmed) == {
        "best",
        "regularized",
        "one_standard_error",
        "baseline",
        "difference",
        "loss_difference",
        "test_loss_difference",
        "ranking",
        "remarks",
    }
    for which in ("best", "one_standard_error", "baseline"):
        told = confirmed[which]
        assert set(told) == {"trial", "params", "cocktail", "diverged", "killed", "learning_rate_of", *METRICS}
        assert all(set(told[metric]) == {"mean", "std", "n"} and told[metric]["n"] == 5 for metric in METRICS)
    assert confirmed["baseline"]["trial"] == 0
    assert set(confirmed["difference"]) == {"mean", "low", "high", "n"}
    means = [each["val_loss"]["mean"] for each in confirmed["ranking"]]
    assert means == sorted(means)
    assert json.loads((place.home / "artifacts/tiny/confirmed.json").read_text()) == confirmed
    assert not (place.home / "artifacts/tiny/confirm").exists()
    assert "Confirmed with 5 seeds" in search.out
    (parent,) = place.mlflow().studies
    assert parent.data.metrics["confirmed_best_val_loss"] == pytest.approx(confirmed["best"]["val_loss"]["mean"])


def test_test_data_is_read_for_the_winner_the_pick_and_the_baseline_alone(finished):
    repeats = finished[0].repeats()
    confirmed = finished[0].show()["confirmed"]
    finalists = {confirmed[which]["trial"] for which in ("best", "one_standard_error", "baseline")}
    assert {run.trial for run in repeats.runs if run.test_loss is not None} == finalists
    assert {(run.trial, run.seed) for run in repeats.runs} == {(t, s) for t in repeats.picks.trials for s in range(5)}


def test_a_confirmation_is_extended(again):
    before = again.repeats()
    again.command("confirm", "--study", "tiny", "--top", "2", "--seeds", "6")
    after = again.repeats()
    assert len(after.picks.top) == 2
    assert all(len(after.of(trial)) == 6 for trial in after.picks.trials)
    kept = {(run.trial, run.seed): run for run in after.runs}
    for run in before.runs:
        assert kept[run.trial, run.seed].val_loss == run.val_loss
    assert again.show()["confirmed"]["best"]["test_accuracy"]["n"] == 6
    assert again.summary().trials["complete"] == finished_trials(again)


def finished_trials(place: Place) -> int:
    return sum(record.state == "complete" for record in place.records())


def test_no_confirmation_is_made_unless_wanted(tmp_path, database):
    place = Place(tmp_path, database)
    search = place.start("--no-confirm", "--trials=2")
    assert place.show()["confirmed"] is None
    assert "Confirmed" not in search.out
    place.command("confirm", "--study", "tiny", "--seeds", "2")
    assert place.show()["confirmed"]["baseline"]["ece"]["n"] == 2


def test_a_search_is_in_mlflow_with_curves_and_artifacts(finished):
    place, _ = finished
    assert_all_in_mlflow(place)
    found = place.mlflow()
    assert {"best.toml", "best.safetensors", "spec.json", "report.html"} <= found.artifacts()
    study_metrics = found.studies[0].data.metrics
    shown = place.show()
    assert study_metrics["best_val_loss"] == shown["best"]["val_loss"]
    assert study_metrics["best_test_accuracy"] == shown["test"]["best"]["accuracy"]
    for record, run in zip(place.records(), found.trials, strict=True):
        assert found.curve(record.number, "val_loss") == [(row.epoch, row.val_loss) for row in record.epochs]
        assert {"train_loss", "val_accuracy", "gap"} <= run.data.metrics.keys()
        assert {name: float(value) for name, value in run.data.params.items()} == record.params
        assert run.data.tags["regsearch.reason"] == record.reason


def test_the_same_command_in_another_home_gives_the_same_search(finished, make_place):
    place, other = finished[0], make_place()
    other.start("--name", "tiny", "--home", str(other.home))

    def told(place: Place) -> list[tuple]:
        return [(record.number, record.params, record.reason, record.epochs) for record in place.records()]

    assert told(other) == told(place)
    assert other.summary().test == place.summary().test


def test_a_finished_search_has_nothing_more_to_do(again, without_mlflow, monkeypatch):
    journal = (again.home / "optuna.journal").read_bytes()
    monkeypatch.setattr("search.training.data.load_test", lambda *_: pytest.fail("the test data is read again"))
    result = start_here(again)
    assert result.exit_code == 0, result.output
    assert not TRIAL_LINE.search(result.stdout)
    assert "Best configuration of study tiny" in result.stdout
    after = (again.home / "optuna.journal").read_bytes()
    assert after.startswith(journal)
    assert_exact(again, 6)


def test_more_trials_go_on_to_the_new_total(again):
    before = again.records()
    search = again.start("--trials", "9")
    assert len(TRIAL_LINE.findall(search.out)) == 3
    assert_exact(again, 9)
    assert again.records()[:6] == before
    assert_all_in_mlflow(again)


def test_another_spec_is_refused_and_another_name_is_the_way_out(again, without_mlflow):
    again.write(SPEC.replace("[12, 8]", "[10]"))
    files = {path: path.stat().st_size for path in again.home.rglob("*")}
    refused = start_here(again)
    assert refused.exit_code == 1
    assert "model.hidden: stored [12, 8], given [10]" in refused.stderr
    assert "--name NEW" in refused.stderr
    assert {path: path.stat().st_size for path in again.home.rglob("*")} == files

    assert start_here(again, name="narrow", trials="2").exit_code == 0
    assert_exact(again, 6)
    listed = CliRunner().invoke(main, ["studies", "--home", str(again.home), "--json"]).stdout
    assert [study["study"] for study in json.loads(listed)["stored"]] == ["narrow", "tiny"]


def test_every_reason_to_end_in_one_search(make_place):
    place = make_place(ALL_REASONS)
    search = place.start("--population", "4")
    assert_exact(place, 16)
    reasons = Counter(record.reason for record in place.records())
    assert set(reasons) == {Reason.COMPLETED, Reason.EARLY_STOPPED, Reason.PRUNED, Reason.DIVERGED}
    assert place.show()["reasons"] == {reason.value: count for reason, count in reasons.items()}
    for record in place.records():
        if record.reason is Reason.EARLY_STOPPED:
            assert record.best is not None
            assert len(record.epochs) == record.best.epoch + record.params["patience"] < 8
        elif record.reason is Reason.COMPLETED:
            assert len(record.epochs) == 8
    assert "diverged" in search.out
    assert_all_in_mlflow(place)


# Where things are kept


def test_a_search_in_a_database(here):
    storage = f"sqlite:///{here.folder}/studies.db"
    result = start_here(here, storage=storage, trials="4")
    assert result.exit_code == 0, result.output
    assert f"--storage {storage}" in result.stdout
    assert_exact(here, 4, storage)
    assert start_here(here, storage=storage, trials="5").exit_code == 0
    assert_exact(here, 5, storage)
    assert not (here.home / "optuna.journal").exists()


def test_a_tracking_server_that_is_down_from_the_start(make_place):
    place = make_place()
    uri = f"http://127.0.0.1:{free_port()}"
    search = place.start("--tracking-uri", uri)
    assert f"6 of 6 trials could not be written to MLflow at {uri}" in " ".join(search.out.split())
    again = f"`regsearch sync --study tiny --tracking-uri {uri}` writes what MLflow misses"
    assert again in " ".join(search.out.split())
    assert "Best configuration of study tiny" in search.out
    assert_exact(place, 6)

    place.start()
    assert_all_in_mlflow(place)


def test_a_terminal_shows_live_progress(make_place):
    place = make_place(SLOW)
    screen, terminal = pty.openpty()
    program = Path(sysconfig.get_path("scripts")) / "regsearch"
    arguments = [
        "start",
        "--study",
        "tiny.toml",
        "--engine=stacked",
        "--precision=fp32",
        "--population=2",
        "--trials=4",
        "--home",
        "my [old] runs",
    ]
    settings = environment(TERM="xterm", LINES="24")
    search = subprocess.Popen(
        [program, *arguments], cwd=place.folder, env=settings, stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    try:
        shown = b""
        while chunk := read_screen(screen):
            shown += chunk
        assert search.wait(timeout=60) == 0
    finally:
        search.kill()
        search.wait()
        os.close(screen)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    for words in ("/4 trials", "trials/min", "left", "val_loss", "Best configuration of study tiny"):
        assert words in text
    assert "Everything is in my [old] runs" in text


def read_screen(screen: int) -> bytes:
    try:
        return os.read(screen, 65536)
    except OSError:  # what Linux says when the last process has left the terminal
        return b""


# Without a process: the command in this one, without MLflow


class _NoTracker:
    """Stands in for MLflow, which has tests of its own above."""

    def __init__(self, *_: object) -> None:
        self._given = 0

    def trial(self, record: TrialRecord) -> None:
        self._given += 1

    def catch_up(self, *_: object) -> None:
        pass

    def notice(self) -> None:
        return None

    def finish(self, *_: object, **__: object) -> TrackingOutcome:
        return TrackingOutcome(self._given, 0, None)

    def abandon(self) -> None:
        pass


def start_here(place: Place, **options: str) -> Result:
    """Run `regsearch start` in this process."""
    arguments = {
        "study": str(place.folder / "tiny.toml"),
        "home": str(place.home),
        "engine": "stacked",
        "precision": "fp32",
        "workers": "0",
    } | options
    return CliRunner().invoke(main, ["start", *(f"--{name}={value}" for name, value in arguments.items())])


@pytest.fixture
def without_mlflow(monkeypatch) -> None:
    for name in list(os.environ):
        if name.startswith(("REGSEARCH_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr("search.session.Tracker", _NoTracker)


@pytest.fixture
def here(make_place, without_mlflow) -> Place:
    return make_place()


def test_without_a_compiler_a_search_runs_and_says_what_that_costs(here, monkeypatch):
    monkeypatch.setattr("search.training.kernels.building.find_program", lambda _name: None)
    result = start_here(here, trials="2")
    assert result.exit_code == 0, result.output
    assert "Steps take up to twice as long without compiled kernels: there is no C compiler" in result.stderr
    assert "stacked engine, fp32, 1 thread, torch's kernels" in result.stdout
    refused = start_here(here, trials="2", kernels="compiled")
    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[-1].startswith("Error: there is no C compiler")


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp"])
def test_every_sampler_completes_a_search(here, sampler):
    result = start_here(here, sampler=sampler, trials="14", population="2")
    assert result.exit_code == 0, result.output
    assert_exact(here, 14)
    sampled = [tuple(record.params.values()) for record in here.records()[2:]]
    assert len(set(sampled)) == 12
    spec = StudySpec.model_validate(load_spec(str(here.folder / "tiny.toml")).model_dump())
    for record in here.records()[2:]:
        for name, setting in spec.choices.ranges().items():
            assert setting.low <= record.params[name] <= setting.high


@pytest.mark.parametrize("pruner", ["halving", "median", "percentile", "hyperband", "none"])
def test_every_pruner_completes_a_search(here, pruner):
    here.write(SPEC.replace("max_epochs = 4", "max_epochs = 8"))
    result = start_here(here, pruner=pruner, trials="12", population="3", optimizer="adam")
    assert result.exit_code == 0, result.output
    assert_exact(here, 12)
    pruned = here.summary().trials["pruned"]
    assert pruned == 0 if pruner == "none" else pruned > 0


def test_a_search_with_several_objectives_finds_a_front(here):
    here.write(SPARSE)
    result = start_here(here, population="4")
    assert result.exit_code == 0, result.output
    assert_exact(here, 16)
    assert here.summary().trials["pruned"] > 0
    shown = here.show()
    assert shown["objectives"] == ["val_loss", "sparsity"]
    assert_front(here, shown["pareto"])
    assert shown["pareto"][0] == shown["best"]
    assert shown["pareto"][-1]["sparsity"] > 0.1
    assert "Pareto front of val_loss, sparsity" in result.stdout
    assert "report.html" in result.stdout
    front = {each["trial"] for each in shown["pareto"]}
    # The one-standard-error pick is trained with these, whether it lies on the front or not.
    pick = shown["confirmed"]["one_standard_error"]["trial"]
    assert {each["trial"] for each in shown["confirmed"]["ranking"]} - {pick} <= front

    assert start_here(here, population="4", trials="20").exit_code == 0
    assert_exact(here, 20)
    assert_front(here, here.show()["pareto"])
    here.write(SPARSE.replace('["val_loss", "sparsity"]', '["val_loss", "epochs"]'))
    refused = start_here(here)
    assert refused.exit_code == 1
    assert 'search.objectives: stored ["val_loss", "sparsity"], given ["val_loss", "epochs"]' in refused.stderr


def assert_front(place: Place, told: list[dict]) -> None:
    """Check a front of two objectives: the sparsest of the trials with so low a loss, from the lowest loss on."""
    complete = [record for record in place.records() if record.state == "complete"]
    ranked = sorted(complete, key=lambda record: (record.best.val_loss, -record.best.sparsity))
    sparsest, front = -1.0, []
    for record in ranked:
        if record.best.sparsity > sparsest:
            sparsest = record.best.sparsity
            front.append(record.number)
    assert [each["trial"] for each in told] == front
    storage = open_storage(None, place.home)
    stored = optuna.load_study(study_name="tiny", storage=storage)
    close_storage(storage)
    assert [direction.name for direction in stored.directions] == ["MINIMIZE", "MAXIMIZE"]
    assert {trial.number for trial in stored.best_trials} == set(front)


@pytest.mark.parametrize("engine", ["looped", "auto"])
def test_the_engines_find_the_same(here, engine, finished):
    result = start_here(here, engine=engine, population="2")
    assert result.exit_code == 0, result.output
    expected = finished[0].records()
    assert [record.params for record in here.records()][:4] == [record.params for record in expected][:4]
    for record, other in zip(here.records()[:2], expected[:2], strict=True):
        assert record.best is not None
        assert other.best is not None
        assert record.best.val_loss == pytest.approx(other.best.val_loss, rel=1e-3)


def test_where_the_learning_rate_is_searched_the_baseline_gets_the_winners_too(here):
    here.write(
        SPEC.replace("[training]", '[training]\noptimizer = "sgd"').replace(
            "[space]", "[space]\nlearning_rate = { low = 0.01, high = 0.3, log = true }"
        )
    )
    result = start_here(here)
    assert result.exit_code == 0, result.output
    confirmed = here.show()["confirmed"]
    rate = confirmed["regularized"]["params"]["learning_rate"]
    assert f"Confirming the baseline with trial {confirmed['regularized']['trial']}'s learning rate" in result.stdout
    # With 0.01, the nearest to what it has by default, four epochs are too few.
    assert confirmed["baseline"]["params"]["learning_rate"] == rate > 0.01
    assert confirmed["baseline"]["cocktail"] == []
    assert confirmed["baseline"]["test_accuracy"]["n"] == 5
    # It may be the winner itself: then the rate is told as that trial's.
    assert any(f"learning rate, {rate:.3g}: it does better" in told for told in confirmed["remarks"])


def test_a_population_is_never_larger_than_the_study(here):
    result = start_here(here, population="999999", trials="3")
    assert result.exit_code == 0, result.output
    assert "1 trainer of 3 slots" in result.stderr
    assert_exact(here, 3)


def test_a_trainer_that_cannot_be_started_is_told_without_a_traceback(here, monkeypatch):
    def no_memory(*_: object) -> None:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr("search.trainers.local.make_population", no_memory)
    result = start_here(here)
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1
    assert "without finishing an epoch: RuntimeError: can't allocate memory" in result.stderr
    assert here.show()["trials"]["running"] == 0


def test_a_trainer_lost_between_two_epochs_does_not_end_the_search(here, monkeypatch):
    from search.trainers import LocalTrainer, TrainerLost

    begin, calls = LocalTrainer.begin, []

    def lost_once(self, *orders: object) -> None:
        calls.append(orders)
        if len(calls) == 3:
            raise TrainerLost("a trainer process died (exit code -9)")
        begin(self, *orders)

    monkeypatch.setattr(LocalTrainer, "begin", lost_once)
    result = start_here(here, population="2")
    assert result.exit_code == 0, result.output
    assert "A trainer failed and is replaced" in result.stdout
    assert_exact(here, 6)
    assert here.show()["reasons"]["interrupted"] == 2
