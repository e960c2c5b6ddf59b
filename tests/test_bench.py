"""`scripts/bench` measures what it says: both sides run, every figure of its tables is there. No times are asserted."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from conftest import make_data

from scripts.benchmarks import bench
from scripts.benchmarks.cases import SIZES, Case, derive_spec, write_spec
from scripts.benchmarks.comparing import Spread, measures, paired, ratio, spread, time_to
from scripts.benchmarks.plain import MODELS, TensorFeed
from scripts.benchmarks.processes import process_tree, run_command
from scripts.benchmarks.rates import Rate, Work, trial_epoch_work
from scripts.benchmarks.sides import Run, best_so_far
from scripts.benchmarks.tables import case_table
from search.records import EpochResult, Reason, TrialRecord
from search.spec import load_spec
from search.training.engines import ENGINES, PRECISIONS
from search.training.models import model_factory

REPO = Path(__file__).parent.parent
MEASURES = 18
"""Lines of a comparison with both feeds."""


def environment(**more: str) -> dict[str, str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("REGSEARCH_", "MLFLOW_"))}
    return {**outside, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO), **more}


def a_run(side: str = "regsearch", **changes) -> Run:
    values = {
        "side": side,
        "study": "digits",
        "seed": 0,
        "command_s": 6.0,
        "search_s": 4.0,
        "search_began_s": 1.0,
        "start_up_s": 1.5,
        "training_s": 2.0,
        "evaluation_s": 1.0,
        "waiting_s": 1.0,
        "trials": {"complete": 2},
        "trial_epochs": 8,
        "best_val_loss": 0.5,
        "best_so_far": [(2.0, 0.7), (4.0, 0.5)],
        "peak_mib": 700.0,
        "chosen": "stacked engine, fp32, 1 thread",
    }
    return Run(**{**values, **changes})


# The whole command


def test_a_tiny_comparison(tmp_path):
    arguments = (
        "--study digits --mode equal --repeats 1 --trials 3 --epochs 2 --device cpu --out runs.jsonl --markdown a.md"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-m", "scripts.benchmarks.bench", *arguments.split()],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    runs = {line["side"]: line for line in lines if line["kind"] == "run"}
    assert set(runs) == {"plain loader", "plain tensor", "regsearch"}
    for run in runs.values():
        assert run["trial_epochs"] == 6
        assert run["trials"] == {"complete": 3}
        assert [best for _, best in run["best_so_far"]][-1] == run["best_val_loss"]
        for name in ("command_s", "search_s", "search_began_s", "best_val_loss", "flops_per_trial_epoch"):
            assert math.isfinite(run[name]), name
            assert run[name] > 0, name
        assert run["search_began_s"] + run["search_s"] <= run["command_s"]
    assert all(line["gflops"] > 0 for line in lines if line["kind"] == "rate")
    for line in measures({side: [a_run(side)] for side in runs}, Work(1, 1, 1), 1.0):
        assert line.label in result.stdout
        assert line.label in (tmp_path / "a.md").read_text()


@pytest.fixture
def stub(monkeypatch):
    """Have the command make up its runs; return what they were asked for."""
    asked = []

    def run_side(side, spec, setup, options):
        asked.append((side, spec, {name: value for name, value in options.items() if value is not None}))
        return a_run(side, seed=spec.search.seed)

    monkeypatch.setattr(bench, "run_side", run_side)
    monkeypatch.setattr(bench, "matmul_rates", lambda device: [Rate("cpu", "fp32", 512, 1, 100.0)])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return asked


def bench_command(*arguments: str) -> str:
    result = CliRunner().invoke(bench.main, ["--device=cpu", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_sides_alternate_and_repeats_have_seeds(stub):
    bench_command("--study=digits", "--mode=equal", "--repeats=2", "--trials=5", "--epochs=3", "--workers=2")
    assert [(side, spec.search.seed) for side, spec, _ in stub] == [
        *((side, 0) for side in ("plain loader", "plain tensor", "regsearch")),
        *((side, 1) for side in ("plain tensor", "regsearch", "plain loader")),
    ]
    for _, spec, options in stub:
        assert (spec.search.trials, spec.training.max_epochs, options) == (5, 3, {"workers": 2})


def test_choices_run_every_engine_and_precision(stub):
    shown = bench_command("--choices", "--study=digits", "--repeats=1")
    assert [(options["engine"], options["precision"]) for _, _, options in stub] == [
        ("auto", "auto"),
        *product(ENGINES, PRECISIONS),
    ]
    assert "stacked, bf16" in shown


def test_trainers_share_the_same_number_of_slots(stub, monkeypatch):
    monkeypatch.setattr(bench, "cores", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    shown = bench_command("--trainers", "--study=digits", "--trials=32", "--repeats=1")
    assert [options for _, _, options in stub] == [
        {"workers": 1, "population": 8},
        {"workers": 2, "population": 4},
        {"workers": 4, "population": 2},
    ]
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert "trial-epochs a second" in shown


def test_regsearch_can_run_alone(stub):
    shown = bench_command("--study=digits", "--mode=users", "--repeats=1", "--feed=none")
    assert [side for side, *_ in stub] == ["regsearch"]
    assert "plain" not in shown


def test_a_mistake_is_told_before_anything_is_measured(stub):
    result = CliRunner().invoke(bench.main, ["--study=digts"])
    assert result.exit_code == 1
    assert 'did you mean "digits"?' in result.stderr
    assert not stub


# What is measured


@pytest.mark.parametrize("case", [case for cases in SIZES.values() for case in cases], ids=lambda case: case.title)
def test_a_derived_study_file_reads_as_the_spec(case, tmp_path):
    spec = derive_spec(case, seed=3)
    write_spec(spec, tmp_path / "study.toml")
    assert load_spec(str(tmp_path / "study.toml")) == spec
    assert spec.search.seed == 3


def test_equal_work_prunes_nothing_and_stops_nothing_early():
    spec = derive_spec(Case(study="digits", mode="equal", repeats=1, trials=7, epochs=9), seed=0)
    assert (spec.search.pruner.name, spec.search.trials, spec.training.max_epochs) == ("none", 7, 9)
    assert spec.parameters()["patience"] == 9


def test_users_have_the_study_as_it_is_shipped():
    assert derive_spec(Case(study="digits", mode="users", repeats=1), seed=0) == load_spec("digits")


@pytest.mark.parametrize("study", ["digits", "mnist", "mnist-cnn"])
def test_plain_models_have_as_many_parameters_as_the_population_trains(study):
    spec = load_spec(study)
    shape = (8, 8) if spec.data.name == "digits" else (28, 28)
    plain = MODELS[spec.model.name](spec.model, shape, 10, spec.textbook())
    ours = model_factory(spec.model, torch.Size(shape), 10)()
    assert [p.shape for p in plain.parameters()] == [p.shape for p in ours.parameters()]


def test_work_counts_two_operations_a_multiply_add():
    spec, data = load_spec("digits"), make_data(examples=70, inputs=6, classes=3)
    work = trial_epoch_work(spec, data)
    first, others = 6 * 128, 128 * 64 + 64 * 3
    # 64 examples fill two batches of 32. The first layer's inputs need no gradient.
    assert work == Work(64 * 2 * (2 * first + 3 * others), 35 * 2 * (first + others), 35 * 2 * (first + others))
    assert work.of("regsearch") - work.of("plain loader") == work.train_sample


def test_the_tensor_feed_shows_every_example_once_but_for_the_last_incomplete_batch():
    rows = torch.arange(10)
    shown = torch.cat([x for x, y in TensorFeed(rows, rows, 3)])
    assert len(shown) == len(set(shown.tolist())) == 9


# Time to target


def a_record(seconds: float, loss: float, reason: Reason) -> TrialRecord:
    began = datetime(2026, 1, 1).astimezone()
    epochs = (EpochResult(1, loss, loss, 0.5, 0.0),)
    return TrialRecord(0, {}, reason, epochs, began, began + timedelta(seconds=seconds))


def test_the_best_so_far_is_of_complete_trials_in_the_order_of_their_ends():
    records = [
        a_record(9, 0.3, Reason.EARLY_STOPPED),
        a_record(1, 0.1, Reason.PRUNED),
        a_record(2, 0.5, Reason.COMPLETED),
        a_record(5, 0.7, Reason.COMPLETED),
    ]
    began = datetime(2026, 1, 1).astimezone().timestamp()
    assert best_so_far(records, began) == [(1, None), (2, 0.5), (5, 0.5), (9, 0.3)]


@pytest.mark.parametrize(("target", "seconds"), [(0.6, 2), (0.5, 2), (0.4, 9), (0.3, 9), (0.2, math.inf)])
def test_a_target_is_reached_at_the_end_of_the_first_trial_that_is_as_good(target, seconds):
    assert time_to([(1, None), (2, 0.5), (5, 0.5), (9, 0.3)], target) == seconds


def test_each_repeat_has_the_target_of_its_own_plain_run():
    plain = [a_run("plain loader"), a_run("plain loader", best_val_loss=0.7)]
    ours = [a_run(best_so_far=[(0.2, 0.6), (0.4, 0.45)]), a_run(best_so_far=[(0.5, 0.7)], search_began_s=2.0)]
    lines = {line.label: line.values for line in measures({"plain loader": plain, "regsearch": ours}, Work(1, 1, 1), 1)}
    assert lines["to plain loader's best"] == {"plain loader": [4.0, 2.0], "regsearch": [0.4, 0.5]}
    assert lines["... from the command on"]["regsearch"] == [1.4, 2.5]


# Ratios


def test_ratios_are_paired_within_a_repeat():
    assert paired([10.0, 40.0, 90.0], [1.0, 2.0, 3.0]) == Spread(20, 10, 30)


def test_what_was_never_reached_is_the_worst_ratio():
    assert ratio(5.0, math.inf) == 0
    assert paired([10.0, 40.0, 90.0], [1.0, math.inf, 3.0]) == Spread(10, 0, 30)


def test_what_a_repeat_lacks_has_no_spread():
    assert spread([1.0, None]) is None
    assert paired([1.0, 2.0], [None, 2.0]) is None
    assert spread([]) is None


def test_a_table_has_all_lines_and_says_never():
    runs = {side: [a_run(side)] for side in ("plain loader", "plain tensor")}
    runs["regsearch"] = [a_run(best_so_far=[(1.0, 0.9)], best_val_loss=0.9, training_s=None)]
    table = case_table("digits", 1, measures(runs, Work(1, 1, 1), 1))
    rows = {row[0]: row[1:] for row in table.rows}
    assert len(table.rows) == MEASURES
    assert rows["search, s"] == ["4.0", "4.0", "4.0", "1", "1"]
    assert rows["to plain loader's best, s"] == ["4.0", "-", "never", "never", ""]
    assert rows["time in training, %"][2] == "-"


# Commands


def test_memory_of_a_command_is_sampled_and_its_words_are_kept(tmp_path):
    finished = run_command([sys.executable, "-c", "import time; print('out'); time.sleep(0.8)"], tmp_path)
    assert finished.stdout == "out\n"
    assert finished.peak_mib is None or finished.peak_mib > 1


def test_a_failed_command_is_shown_with_the_end_of_its_words(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit('this is why')"]
    with pytest.raises(click.ClickException) as failed:
        run_command(command, tmp_path)
    assert failed.value.exit_code == 1
    assert "this is why" in failed.value.message
    assert "exit code 1" in failed.value.message


INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from pathlib import Path
from scripts.benchmarks.processes import run_command

child = '''
import subprocess, time
process = subprocess.Popen(["sleep", "60"], start_new_session=True)
open("pid", "w").write(str(process.pid))
time.sleep(60)
'''
run_command([sys.executable, "-c", child], Path("."))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only /proc tells what descends from a process")
def test_an_interruption_ends_all_that_was_started(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL
    )
    pid = tmp_path / "pid"
    wait_until(lambda: pid.exists() and pid.read_text())
    assert int(pid.read_text()) in process_tree(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    wait_until(lambda: not alive(int(pid.read_text())))


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for yet has ended, too."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
