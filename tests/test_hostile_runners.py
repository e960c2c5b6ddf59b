"""What others may leave where runners look: records of runners, queued trials, spooled results, checkpoints, logs.

It is passed over, or is an error that says so. What is kept for those who only read is in test_hostile_storage.py.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from conftest import make_assignment, regsearch
from fixed_study import curve, make_spec
from safetensors.torch import save_file
from test_checkpoints import population
from test_leases import record

from search.records import EpochResult, Reason, Summary
from search.study import Study, open_storage
from search.study.leases import tidy_away
from search.study.roster import all_running, standing
from search.trainers.keeping import Keeper
from search.training.checkpoints import Checkpoint, CheckpointFolder, _checksum

RUNNER = "0123456789ab"
EVIL = "\x1b]0;owned\x07"


def runner(**other) -> dict:
    """Return what a runner of another machine tells of itself."""
    return asdict(record(runner=RUNNER, boot="another", since="2026-07-01T12:00:00+00:00", **other))


@pytest.fixture
def study(tmp_path):
    opened = Study.open("fixed", make_spec(), open_storage(None, tmp_path), tmp_path)
    yield opened
    opened.close()


def set_runner(study: Study, value: object, name: str = RUNNER) -> None:
    study._storage.set_study_system_attr(study._study_id, f"runner:{name}", value)


@pytest.mark.parametrize(
    "told",
    [
        *(None, 3, "x", [], {}, [RUNNER], {"runner": RUNNER}),
        {**runner(), "more": 1},
        *({**runner(), "runner": name} for name in ("../../../x", "x", "", 7, "0123456789AB", RUNNER + "\n")),
        *({**runner(), "lease": seconds} for seconds in (0, -1, 1e300, float("nan"), float("inf"), "x", None)),
        *({**runner(), "since": since} for since in ("", "now", EVIL, "0001-01-01T00:00:00+23:59", 7)),
        *({**runner(), field: [{}]} for field in runner()),
    ],
    ids=lambda told: repr(told)[-60:],
)
def test_what_no_runner_tells_of_itself_is_passed_over(study, tmp_path, told):
    before = study.news()
    set_runner(study, told)
    assert study.others == []
    assert study.news().ended == before.ended
    assert [presence.record.pid for presence in standing("fixed", study._storage, tmp_path).runners] == [os.getpid()]
    assert study.elect() is None
    assert [each.runner for each in study.dismiss(tmp_path).runners] == [study._membership.lease.runner]


def test_a_runner_goes_by_its_own_name(study):
    set_runner(study, runner(), "f" * 12)
    assert study.others == []
    set_runner(study, runner())
    assert [other.runner for other in study.others] == [RUNNER]


def test_no_file_outside_the_home_is_opened_or_removed_for_a_runner_that_the_storage_names(study, tmp_path):
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    other = tmp_path / "another program" / "locks" / f"{RUNNER}.lock"
    other.parent.mkdir(parents=True)
    other.write_text("not regsearch's")
    told = runner() | {"boot": boot}
    set_runner(study, told)
    set_runner(study, {**told, "runner": "f" * 12, "lock": str(other)}, "f" * 12)  # as earlier versions had it
    (foreign,) = study.others
    assert foreign.runner == RUNNER
    assert {presence.life for presence in standing("fixed", study._storage, tmp_path).runners} == {"alive", "unknown"}
    tidy_away(foreign, tmp_path)
    assert other.exists()
    own = tmp_path / "locks" / other.name
    own.symlink_to(other)
    tidy_away(foreign, tmp_path)
    assert (other.exists(), own.is_symlink()) == (True, True)
    own.unlink()
    own.touch()  # a runner of this home that has died
    tidy_away(foreign, tmp_path)
    assert (other.exists(), own.exists()) == (True, False)


def test_names_of_hosts_command_no_terminal(study, tmp_path):
    set_runner(study, runner(host=EVIL))
    asked = study.ask()
    study.finish(asked.number, Reason.ERROR, [], EVIL)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "fixed-20260701-120000-7.log").write_text(f"a\tb {EVIL}\n")
    home = ["--study", "fixed", "--home", str(tmp_path)]
    told = regsearch("status", *home) + regsearch("status", *home, "--json") + regsearch("logs", *home)
    assert "\\x1b]0;owned\\x07" in told
    assert "a\tb \\x1b]0;owned\\x07\n" in told
    assert "\x1b" not in told + study.others[0].host


def test_a_log_that_is_none_is_not_read(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    os.mkfifo(logs / "x-20260701-120000-1.log")
    (logs / "x-20260701-120000-2.log").symlink_to("nowhere")
    (logs / "x-20260701-120000-3.log").mkdir()
    for name in ("x", "../x", "x\0", "*", ".*", "/etc/passwd"):
        assert "holds no log" in regsearch("logs", "--study", name, "--home", str(tmp_path), code=2)


def test_a_study_that_cannot_be_read_hides_no_other(study, tmp_path, caplog):
    bad = Study.open("bad", make_spec(), study._storage, tmp_path)
    bad._study.set_user_attr("spec", "{")
    assert [told.study for told in all_running(study._storage, tmp_path)] == ["fixed"]
    assert 'study "bad" is left out' in caplog.text
    assert "stored spec" in regsearch("status", "--study", "bad", "--home", str(tmp_path), code=1)
    bad.close()


@pytest.mark.parametrize(
    "config", [{}, None, [], "x", {"l1": 1e-3}, {"__class__": 1}, {"dropout_0": float("nan")}, {"l1": [1]}], ids=repr
)
def test_a_queued_configuration_that_is_none_of_the_study_s_is_refused(study, config):
    from optuna.trial import TrialState, create_trial

    study._study.add_trial(create_trial(state=TrialState.WAITING, user_attrs={"config": config}))
    assert [study.ask().number for _ in range(3)] == [0, 1, 3]  # what every study begins with, and a new one
    (left_out,) = study.summary().left_out
    assert left_out.number == 2
    assert left_out.why.startswith("refused: its configuration is none of this study's")


@pytest.mark.parametrize(
    ("key", "value"),
    [("successor_of", [1]), ("retry_of", {}), ("trainer_deaths", "x"), ("role", 3), ("config", 3)],
)
def test_trials_that_make_no_sense_are_left_out_by_those_that_run_the_study(study, tmp_path, key, value):
    study._study.enqueue_trial({}, user_attrs={key: value})
    study._study.add_trial(finished(**{"config": {"dropout_0": 0.1}, key: value}))
    told = _run_again(study, tmp_path)
    assert told.reasons["completed"] == 16
    assert [each.number for each in told.left_out] == [3]


def finished(**attributes):
    from optuna.trial import TrialState, create_trial

    return create_trial(state=TrialState.FAIL, user_attrs=attributes)


def _run_again(study: Study, tmp_path: Path) -> Summary:
    """Do what a runner does, from its start."""
    with_home = {"name": "fixed", "spec": study.spec, "storage": study._storage, "home": tmp_path}
    later = Study.open(**with_home)
    try:
        while (asked := later.ask()) is not None:
            later.report({asked.number: curve(0.5)[0]})
            later.finish(asked.number, Reason.COMPLETED, curve(0.5))
            later.news()
        return later.summary()
    finally:
        later.close()


# What lies in the home


@pytest.mark.parametrize(
    "change",
    [
        *({"number": number} for number in (-1, 10**9, 10**400, "x", 1.5, None, True)),
        *({"runner": name} for name in ("../../../victim", "x", "", None, 3, [])),
        *({"reason": reason} for reason in ("lost", "interrupted", "king", None, [])),
        *({"epochs": epochs} for epochs in (None, 7, [], {}, {"val_loss": ["x"]}, {"val_loss": [10**400]}, {"a": 1})),
        *({"ended": ended} for ended in ("", 7, None)),
        *({"error": ["boom"]}, {"worker": {}}, {"format": 1}, {"format": None}, {"study": "another"}),
    ],
    ids=lambda told: repr(told)[-60:],
)
def test_a_result_that_no_runner_has_left_is_passed_over(study, tmp_path, change):
    asked = study.ask()
    study.set_aside(asked.number, Reason.COMPLETED, curve(0.5), None, None)
    (path,) = (tmp_path / "undelivered" / "fixed").iterdir()
    (tmp_path / "victim-00000.json").write_text("")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    study._membership.lease.release()
    later = Study.open("fixed", study.spec, study._storage, tmp_path)
    assert (later.delivered, later.recovered) == (0, 1)
    assert (tmp_path / "victim-00000.json").exists()
    later.close()


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "\0", "null", "[]", "\udcff", '{"format": 2}'], ids=lambda it: it[:9]
)
def test_a_file_among_the_results_that_is_none_is_passed_over(study, tmp_path, content):
    (tmp_path / "undelivered" / "fixed").mkdir(parents=True)
    (tmp_path / "undelivered" / "fixed" / "x.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    later = Study.open("fixed", study.spec, study._storage, tmp_path)
    assert later.delivered == 0
    later.close()


TRIAL = make_assignment(0)
ROW = EpochResult(1, 0.5, 0.5, 0.9, 0.0)


def forged(folder: CheckpointFolder, change: dict[str, torch.Tensor | None]) -> None:
    """Write a checkpoint of which something is changed, as if it had been written so."""
    people = population()
    people.admit(TRIAL)
    people.train_epoch()
    folder.make_room(1)
    folder.write(TRIAL, Checkpoint((ROW,), people.state(0)))
    rows = torch.tensor([[*asdict(ROW).values()]], dtype=torch.float64)
    tensors = {
        name: tensor for name, tensor in ({**people.state(0), "rows": rows} | change).items() if tensor is not None
    }
    about = json.dumps({**folder._about(TRIAL), "checksum": _checksum(tensors)})
    save_file(tensors, folder.path(TRIAL), {"regsearch": about})


@pytest.mark.parametrize(
    "change",
    [
        {"rows": None},
        {"rows": torch.zeros(())},
        {"rows": torch.zeros(3)},
        {"rows": torch.zeros(2, 3)},
        {"rows": torch.full((1, 6), float("nan"))},
        {"rows": torch.full((1, 6), float("inf"))},
        {"epoch": None},
        {"epoch": torch.tensor(float("inf"))},
        {"epoch": torch.zeros(3)},
        {"epoch": torch.tensor(-5)},
        {"best_loss": torch.tensor(True)},
        {"more": torch.zeros(2)},
        {"more": torch.zeros(0, dtype=torch.bfloat16)},
        {"epoch": torch.zeros(2, dtype=torch.complex64)},
    ],
    ids=lambda change: " ".join(f"{name} {tensor}" for name, tensor in change.items()),
)
def test_a_trial_whose_checkpoint_makes_no_sense_begins_anew(tmp_path, change):
    folder = CheckpointFolder(tmp_path / "checkpoints", {})
    forged(folder, change)
    people = population()
    assert Keeper(folder, 60.0).admit(people, TRIAL) == ()
    assert people.train_epoch()[0].epoch == 1


def test_a_checkpoint_that_is_a_pickle_runs_nothing(tmp_path):
    folder = CheckpointFolder(tmp_path, {})
    torch.save({"rows": torch.zeros(1)}, folder.path(TRIAL))
    assert folder.read(TRIAL) is None
