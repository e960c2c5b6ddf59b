"""Searches that go on by themselves: detached from the terminal, looked at, stopped from elsewhere, gone on with."""

import json
import os
import signal
import subprocess
import sysconfig
import threading
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import SPEC, regsearch
from scripted import Notes, ScriptedCrew, ScriptedTrainer, falling
from test_leases import LEASE, Clock, fall_asleep, join, record, study  # noqa: F401  study is a fixture
from whole_searches import ENDLESS, SLOW, assert_exact, counted, environment, is_alive, wait_until

from search.confirm import Confirming
from search.confirmation import Picks, Repeats
from search.errors import UsageError
from search.logs import NewLog, newest_log, read_log
from search.pruning import NoPruner
from search.records import Reason
from search.runner import Runner
from search.spec import load_spec
from search.stopping import StopRequest
from search.study.leases import RunnerRecord
from search.study.roster import Dismissal, all_running, standing

HERE = ["--workers=0", "--engine=stacked", "--precision=fp32", "--population=2"]


def command(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    program = Path(sysconfig.get_path("scripts")) / "regsearch"
    done = subprocess.run(
        [program, *arguments], cwd=folder, env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def log_of(place) -> tuple[Path, int]:
    """Return the only log, and the process that writes it."""
    (path,) = (place.home / "logs").iterdir()
    return path, int(path.stem.rpartition("-")[2])


def command_lines(session: int) -> list[str]:
    """Return the command lines of all processes of a session."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int((process / "stat").read_text().rpartition(") ")[2].split()[3]) == session:
                found.append((process / "cmdline").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.fixture
def place(make_place):
    made = make_place(SLOW)
    yield made
    for path in (made.home / "logs").glob("*.log"):
        pid = int(path.stem.rpartition("-")[2])
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


# From the command line


def test_a_detached_search_is_looked_at_stopped_and_gone_on_with(place):
    storage = f"sqlite:///file:{place.folder}/studies.db?mode=rwc&uri=true&password=hunter2"
    where = ["--study=tiny", "--storage", storage]
    start = command(
        place.folder, "start", "--study=tiny.toml", *HERE, ENDLESS, "--detach", "--storage", storage, "--timeout=10m"
    )
    log, pid = log_of(place)
    assert f"Process {pid} goes on with it, and writes to {log}" in start.stdout
    assert "regsearch stop --study tiny --storage 'sqlite:///file:" in start.stdout
    assert "On cpu, 1 trainer of 2 slots" in start.stderr
    lines = command_lines(pid)
    assert any("search.cli" in line and "tiny" in line for line in lines)
    assert not any("hunter2" in line for line in lines)

    wait_until(lambda: "] trial " in log.read_text())
    (told,) = json.loads(place.command("status", "--json", "--storage", storage))["studies"]
    assert (told["study"], told["budget"]) == ("tiny", 1000)
    (runner,) = told["runners"]
    assert (runner["pid"], runner["host"]) == (pid, os.uname().nodename)
    assert (runner["life"], runner["stopping"]) == ("alive", False)
    assert f"process {pid} on {os.uname().nodename}, since" in place.command("status", *where)

    stopped = place.command("stop", *where)
    assert stopped.splitlines()[-1] == f"process {pid} on {os.uname().nodename}: has left"
    wait_until(lambda: not is_alive(pid))
    printed = place.command("logs", "--study=tiny", "--follow")
    assert printed == f"{log}:\n{log.read_text()}"
    assert "Asked to stop: the epochs under way are the last" in printed
    assert "Stopped on request: trials are back in the queue; the same command goes on." in printed
    assert "hunter2" not in printed
    assert json.loads(place.command("status", "--json", "--storage", storage)) == {"studies": []}
    assert "Nobody runs study tiny" in place.command("stop", *where)

    total = place.summary(storage).trials["waiting"] + len(counted(place.records(storage))) + 1
    place.start(*HERE, f"--trials={total}", "--no-confirm", "--storage", storage)
    assert_exact(place, total, storage)


def test_both_of_two_searches_are_stopped_and_nothing_is_lost(place):
    searches = [place.launch(*HERE, ENDLESS, "--no-confirm") for _ in range(2)]
    for search in searches:
        search.wait_for_trials()
    stopped = place.command("stop", "--study=tiny")
    for search in searches:
        assert f"process {search.process.pid} on {os.uname().nodename}: has left" in stopped
        search.ends(0)
        assert "Stopped on request" in search.out
    left = place.summary().trials
    assert left["running"] == 0
    total = left["waiting"] + len(counted(place.records())) + 1
    place.start(*HERE, f"--trials={total}", "--no-confirm")
    assert_exact(place, total)


def test_what_is_wrong_is_told_before_a_detached_search_is_left_alone(place):
    arguments = ["start", "--study=tiny.toml", *HERE, "--detach", "--home=new"]
    refused = command(place.folder, *arguments, "--storage=redis://me:hunter2@host", code=1)
    assert "Error: redis://me:***@host: Redis storages are refused" in refused.stderr
    assert refused.stderr.count("Study tiny: ") == 2  # as it was said here, and there
    assert not refused.stdout
    assert not (place.folder / "new").exists()
    assert "holds no log of study" in regsearch("logs", "--study=tiny", "--home", str(place.home), code=2)


# Who runs a study, and asking them to stop


def test_all_that_run_a_study_are_asked_and_nobody_who_comes_later(study, tmp_path):  # noqa: F811
    other = join(study, tmp_path)
    dismissal, name = study.dismiss(tmp_path), other._membership.lease.runner
    assert {runner.runner for runner in dismissal.runners} == {study._membership.lease.runner, name}
    later = join(study, tmp_path)
    assert set(dismissal.answers().values()) == {"asked"}
    assert (study.news().stop, other.asked_to_stop(), later.news().stop) == (True, True, False)
    assert set(dismissal.answers().values()) == {"finishing"}
    assert [presence.stopping for presence in standing("fixed", study._storage, tmp_path).runners].count(True) == 2
    other.close()
    assert dismissal.answers() == {study._membership.lease.runner: "finishing", name: "gone"}
    later.close()


def test_who_has_died_or_does_not_answer_is_not_waited_for(study, tmp_path):  # noqa: F811
    fall_asleep(study)
    clock = Clock()
    dismissal = Dismissal(study._storage, study._study_id, tmp_path, clock)
    (name,) = dismissal.answers()
    for _ in range(9):
        clock.now += LEASE / 3
        answer = dismissal.answers()[name]
    assert answer == "silent"
    os.close(study._membership.lease._file)  # as the kernel does
    assert dismissal.answers() == {name: "dead"}
    assert Dismissal(study._storage, study._study_id, tmp_path).answers() == {name: "dead"}
    assert all_running(study._storage, tmp_path) == []
    study._membership.lease._file = os.open(os.devnull, os.O_RDONLY)


def test_a_runner_of_another_host_that_beats_but_never_answers_is_given_up(study, tmp_path):  # noqa: F811
    clock = Clock()
    far: RunnerRecord = record(runner="fa" * 6, boot="another", since="2026-07-01T12:00:00+00:00")
    study.close()
    study._storage.set_study_system_attr(study._study_id, f"runner:{far.runner}", asdict(far))
    dismissal, answers = Dismissal(study._storage, study._study_id, tmp_path, clock), []
    for beat in range(2, 11):
        study._storage.set_study_system_attr(study._study_id, f"runner:{far.runner}", asdict(replace(far, beat=beat)))
        answers.append(dismissal.answers()[far.runner])
        clock.now += 20
    assert answers == ["asked"] * 7 + ["silent"] * 2
    (presence,) = standing("fixed", study._storage, tmp_path).runners
    assert presence.life == "unknown"


def test_a_standing_tells_the_trials_of_each_runner(study, tmp_path):  # noqa: F811
    other = join(study, tmp_path)
    mine, theirs = study.ask(), other.ask()
    study.finish(mine.number, Reason.ERROR, [], "it broke")
    (told,) = all_running(study._storage, tmp_path)
    assert (told.ended, told.failures, told.last_error) == (1, {"error": 1}, "it broke")
    trials = {presence.record.runner: presence.trials for presence in told.runners}
    assert trials == {study._membership.lease.runner: {}, other._membership.lease.runner: {theirs.number: 0}}
    other.close()


# What is under way


class AskingTrainer(ScriptedTrainer):
    """Has the study's runners asked to stop amid its second epoch; no epoch is over at once."""

    def __init__(self, ask):
        super().__init__(falling, slots=3)
        self.epochs, self._ask = 0, ask

    def collect(self):
        self.epochs += 1
        if self.epochs == 2:
            self._ask()
        threading.Event().wait(0.02)
        return super().collect()


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "tiny.toml").write_text(SPEC)
    return load_spec(str(tmp_path / "tiny.toml"))


def test_epochs_under_way_are_finished_and_trials_go_back_to_the_queue(study, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("search.study.study._NEWS_SECONDS", 0.0)
    endless = study.spec.training.model_copy(update={"max_epochs": 100_000})
    study.spec = study.spec.model_copy(update={"training": endless})
    trainer, notes, stop = AskingTrainer(lambda: study.dismiss(tmp_path)), Notes(), StopRequest()
    Runner(study, ScriptedCrew(trainer), NoPruner(), None, notes, stop).run()
    assert stop.requested
    assert stop.signal is None
    assert not trainer.closed
    assert notes.messages == ["Asked to stop: the epochs under way are the last"]
    cut_short = [each for each in study.records() if each.reason is Reason.INTERRUPTED]
    assert study.waiting() == len(cut_short) == 3
    assert {each.number: len(each.epochs) for each in cut_short} == {n: life[0] for n, life in trainer.occupied.items()}


def test_a_confirmation_is_stopped_too(spec):
    stop, saved = StopRequest(), []
    confirming = Confirming(spec, Repeats(Picks([0], None, None)), {0: spec.textbook()}, None)
    trainer = ScriptedTrainer(falling)
    host = SimpleNamespace(asked_to_stop=lambda: True, trouble=None)
    confirming.train(confirming.due(5), ScriptedCrew(trainer), Notes(), stop, saved.append, host)
    assert stop.requested
    assert len(confirming.due(5)) + len(confirming.repeats.runs) == 5
    assert len(saved) == len(confirming.repeats.runs) < 5


# Logs


def test_the_newest_log_of_a_study_and_of_no_other(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    for name in ("tiny-20260102-000000-7", "tiny-20260101-000000-9", "tiny-2-20270101-000000-1", "tiny-new"):
        (folder / f"{name}.log").write_text(name)
    assert newest_log(tmp_path, "tiny").read_text() == "tiny-20260102-000000-7"
    assert newest_log(tmp_path, "tiny-2").read_text() == "tiny-2-20270101-000000-1"
    with pytest.raises(UsageError, match="holds no log of study"):
        newest_log(tmp_path, "t")


def test_a_log_is_followed_until_nobody_writes_it(tmp_path):
    log = NewLog(tmp_path / "home", "tiny")
    with open(os.dup(log.file.fileno()), "ab", buffering=0) as writer:  # as the process has it that inherits it
        log.give_to(7)
        writer.write(b"one\ntwo\n")
        assert list(read_log(log.path, 1, follow=False)) == ["two\n"]
        lines = read_log(log.path, None, follow=True)
        assert [next(lines), next(lines)] == ["one\n", "two\n"]
        later = threading.Timer(0.2, lambda: (writer.write(b"three\n"), writer.close()))
        later.start()
        assert list(lines) == ["three\n"]
        later.join()


def test_a_log_of_what_failed_leaves_nothing_behind(tmp_path):
    (tmp_path / "there").mkdir()
    for home in ("there", "new"):
        log = NewLog(tmp_path / home, "tiny")
        log.give_to(7)
        log.remove()
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
