"""A command that a message tells people to type works, typed as printed.

The list of them is made from the source. Ten are typed in each test run, chosen at random; all with REGSEARCH_LONG=1.
"""

import random
import shlex
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from contextlib import closing as closed
from pathlib import Path
from types import SimpleNamespace

import pytest
from advised_commands import PACKAGE, advised_commands, as_printed
from conftest import SPEC, regsearch
from fuzzing import LONG
from packaging.requirements import Requirement
from small_study import as_if_searched

from search.confirmation import Repeats
from search.dashboards.application import Dashboards
from search.dashboards.ui import read_token
from search.errors import KernelError, UsageError
from search.report.repeating import spec_toml
from search.study import Study, open_storage
from search.study.storage import DRIVERS
from search.tracked import closing
from search.tracking import TrackedStudy, Tracker
from search.training.kernels.building import _own_folder

Typed = Callable[["Desk"], None]
TYPED: dict[tuple[str, str], Typed] = {}
"""By module and command, what has the message printed, and types it."""
ELSEWHERE = {
    ("report/static.py", "apt install chromium"): "is one of several systems' ways",
    ("dashboards/notes.py", "regsearch ui"): "names who shows the page, and is no command to type",
    ("dashboards/guard.py", "regsearch ui"): "names who shows the page, and is no command to type",
    ("dashboards/guard.py", "regsearch ui shows studies"): "names who shows the page, and is no command to type",
    ("export.py", "regsearch start"): "is the command by which the study was begun",
    ("commands/running.py", "regsearch start"): "is the command by which the study was begun",
    ("study/repair.py", "regsearch start"): "is the command by which the study was begun",
    ("study/gone.py", "regsearch start"): "is the command by which the study was begun",
    ("study/trials.py", "regsearch repair"): "was typed already",
    ("study/opening.py", "regsearch repair"): "was typed already",
    ("report/parameters.py", "regsearch explain"): "names the command whose full form the page's end has",
    ("commands/searching.py", "regsearch studies"): "is the help of an option",
}


class Desk:
    """A home with a study, and a person who types what is printed."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder, self.home = folder, folder / "runs"
        self.home.mkdir()
        shutil.copy(database, self.home)
        (folder / "tiny.toml").write_text(SPEC)

    def study(self, url: str | None = None) -> Study:
        study = as_if_searched(self.home, url)
        study.set_fact("data_fingerprint", None)
        return study

    def type(self, command: str, code: int = 0) -> str:
        program, *arguments = shlex.split(command)
        assert program == "regsearch"
        return regsearch(*arguments, code=code)


def typed(module: str, *commands: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def note(scenario: Callable[..., None]) -> Callable[..., None]:
        for command in commands:
            TYPED[module, command] = lambda desk, command=command: scenario(desk, command)
        return scenario

    return note


@typed("study/journal_format.py", "regsearch repair --storage {}")
def damaged_journal(desk: Desk, command: str) -> None:
    desk.study()
    path = desk.home / "optuna.journal"
    path.write_bytes(path.read_bytes().replace(b'"step":2', b'"step":3', 1))
    printed = regsearch("show", "--study", "tiny", "--home", str(desk.home), code=1)
    desk.type(as_printed(command, printed))
    regsearch("show", "--study", "tiny", "--home", str(desk.home))


def damaged_by(desk: Desk, statement: str) -> str:
    """Return the URL of a database with a study, in which a statement has damaged something."""
    url = f"sqlite:///{desk.home}/study.db"
    desk.study(url)
    with closed(sqlite3.connect(desk.home / "study.db")) as connection:
        connection.execute(statement)
        connection.commit()
    return url


@typed("study/storage.py", "regsearch repair --storage {}")
def damaged_database(desk: Desk, command: str) -> None:
    url = damaged_by(desk, "update trial_user_attributes set value_json = '{' where key = 'gap'")
    printed = regsearch("show", "--study", "tiny", "--storage", url, code=1)
    desk.type(as_printed(command, printed))
    assert "Left out" in regsearch("show", "--study", "tiny", "--storage", url)


@typed("study/kept.py", "regsearch repair --study {}")
def damaged_fact(desk: Desk, command: str) -> None:
    url = damaged_by(desk, "update study_user_attributes set value_json = '9.0' where key = 'wall_seconds'")
    printed = regsearch("show", "--study", "tiny", "--storage", url, code=1)
    assert "with the same --home and --storage" in printed
    desk.type(f"{as_printed(command, printed)} --storage {url}")
    regsearch("show", "--study", "tiny", "--storage", url)


@typed("study/opening.py", "regsearch start --study FILE --name {}")
def lost_head(desk: Desk, command: str) -> None:
    study = desk.study()
    path = desk.home / "optuna.journal"
    path.write_bytes(b"".join(line for line in path.read_bytes().splitlines(True) if b'{"spec":' not in line))
    study._storage = open_storage(None, desk.home)
    study._study._storage.set_study_user_attr(0, "spec", None)
    printed = regsearch("show", "--study", "tiny", "--home", str(desk.home), code=1)
    (desk.folder / "begun.toml").write_text(spec_toml(study.spec))
    desk.type(as_printed(command, printed).replace("FILE", str(desk.folder / "begun.toml")))


@typed("study/storage.py", "regsearch start --study digits")
def no_studies(desk: Desk, command: str) -> None:
    printed = regsearch("show", "--study", "digits", "--home", str(desk.home), code=2)
    desk.type(as_printed(command, printed))
    regsearch("show", "--study", "digits")


@typed("commands/reading.py", "regsearch show --study {}{}")
def watched(desk: Desk, command: str) -> None:
    desk.study()
    printed = regsearch("watch", "--study", "tiny", "--home", str(desk.home))
    assert "Best configuration" in desk.type(as_printed(command, printed))


@typed("commands/running.py", "regsearch status --study {}{}")
def stopped(desk: Desk, command: str) -> None:
    spec = desk.study().spec
    running = Study.open("tiny", spec, open_storage(None, desk.home), desk.home)
    try:
        printed = regsearch("stop", "--study", "tiny", "--no-wait", "--home", str(desk.home))
        assert "tiny" in desk.type(as_printed(command, printed))
    finally:
        running.close()


@typed("printing.py", "regsearch report {}", "regsearch explain {}", "regsearch export {} --out {}-model")
def next_steps(desk: Desk, command: str) -> None:
    desk.study()
    printed = regsearch("show", "--study", "tiny", "--home", str(desk.home))
    desk.type(as_printed(command.replace("{}", "--study {} --home {}", 1), printed))


@typed("printing.py", "regsearch confirm {}")
def not_confirmed(desk: Desk, command: str) -> None:
    study = desk.study()
    study.set_fact("repeats", None)
    assert study.fact("repeats", Repeats) is None
    printed = regsearch("show", "--study", "tiny", "--home", str(desk.home))
    desk.type(as_printed(command.replace("{}", "--study {}", 1), printed))


@typed("printing.py", "regsearch start --study NAME", "regsearch show --study NAME")
def listed(desk: Desk, command: str) -> None:
    desk.study()
    printed = regsearch("studies")
    name = "digits" if "start" in command else "tiny"
    assert name in printed
    desk.type(as_printed(command, printed).replace("NAME", name))


@typed(
    "commands/searching.py",
    "regsearch watch {}{}",
    "regsearch status {}{}",
    "regsearch logs {}{} --follow",
    "regsearch stop {}{}",
)
def detached(desk: Desk, command: str) -> None:
    # In a process of its own, which ends before the search that it leaves behind.
    start = [sys.executable, "-P", "-m", "search", "start", "--detach"]
    options = ["--study", str(desk.folder / "tiny.toml"), "--home", str(desk.home)]
    printed = subprocess.run([*start, *options], capture_output=True, text=True, check=True).stdout
    template = command.replace(" {}{}", " --study {}")
    for _ in range(100):  # a search that has just been cut off shows what there was
        if (desk.home / "optuna.journal").exists():
            break
        time.sleep(0.1)
    if command.endswith("--follow"):
        template = template.replace("{}", "{} --home {}", 1) if "--home" in printed else template
    desk.type(as_printed(template, printed))
    regsearch("stop", "--study", "tiny", "--home", str(desk.home))


@typed("tracked.py", "regsearch show --study {}")
def noted(desk: Desk, command: str) -> None:
    study = desk.study()
    desk.type(as_printed(command, str(closing(study, desk.home / "artifacts" / "tiny")).replace("`", " ")))


@typed("tracking/tracker.py", "regsearch sync --study {}")
def missed(desk: Desk, command: str) -> None:
    desk.study()
    tracker = Tracker("http://127.0.0.1:9", None, TrackedStudy("tiny", "{}", ""), [])
    tracker.abandon()
    desk.type(as_printed(command, tracker._again))


@typed("dashboards/application.py", "regsearch report --study {} --home {}")
def no_report(desk: Desk, command: str) -> None:
    desk.study()
    application = Dashboards.__new__(Dashboards)
    application._config = SimpleNamespace(home=str(desk.home))
    desk.type(as_printed(command, str(application._report("tiny"))))
    assert "200" in str(application._report("tiny"))


@typed("dashboards/ui.py", "chmod 600 it")
def readable_token(desk: Desk, command: str) -> None:
    path = desk.folder / "token"
    path.write_text("x" * 20)
    path.chmod(0o644)
    with pytest.raises(UsageError) as refused:
        read_token(path)
    subprocess.run(shlex.split(as_printed(command, str(refused.value)).replace("it", str(path))), check=True)
    assert read_token(path)


@typed("training/kernels/building.py", "chmod go-w {}")
def open_folder(desk: Desk, command: str) -> None:
    folder = desk.folder / "kernels"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(KernelError) as refused:
        _own_folder(folder)
    subprocess.run(shlex.split(as_printed(command, str(refused.value))), check=True)
    assert stat.S_IMODE(_own_folder(folder).stat().st_mode) == 0o755


@typed("trainers/cluster.py", "pip install 'regsearch[ray]'")
@typed("report/page.py", "pip install plotly")
@typed("study/storage.py", "pip install '{}'")
def installed(desk: Desk, command: str) -> None:
    """Installs nothing: what is named is a requirement, and of this project one that it has."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    names = DRIVERS.values() if "{}" in command else [shlex.split(command)[2]]
    for requirement in map(Requirement, names):
        if requirement.name == project["name"]:
            assert requirement.extras <= project["optional-dependencies"].keys()


def test_every_advised_command_is_typed_by_a_test():
    assert advised_commands() - TYPED.keys() == {key for key in ELSEWHERE if key in advised_commands()}
    assert TYPED.keys() - advised_commands() == set()


SEED = random.SystemRandom().randrange(10**6)


@pytest.mark.timeout(600)
def test_ten_advised_commands_work_as_printed(tmp_path, database, monkeypatch, no_network):
    print(f"chosen by seed {SEED}")
    chosen = sorted(TYPED) if LONG else random.Random(SEED).sample(sorted(TYPED), 10)
    quick = {"TRIALS": "2", "WORKERS": "0", "CONFIRM": "0", "ENGINE": "stacked", "PRECISION": "fp32", "REGISTER": "0"}
    for name, value in (quick | {"KERNELS": "torch", "SEEDS": "2", "TOP": "1"}).items():
        monkeypatch.setenv(f"REGSEARCH_{name}", value)
    for number, key in enumerate(chosen):
        print(*key, flush=True)
        (tmp_path / f"{number}").mkdir()
        monkeypatch.chdir(tmp_path / f"{number}")
        TYPED[key](Desk(tmp_path / f"{number}", database))
