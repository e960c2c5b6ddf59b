"""A home that its reader may not write to: what each command prints of it is the same as for who may."""

import difflib
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.faults.outputs import mounted
from scripts.faults.pretend import NAME
from scripts.faults.processes import REPOSITORY, pretend
from scripts.faults.tally import Tally

_TRIALS = 24
_READ = """
import sys
from click.testing import CliRunner
from search.cli import main
study, home, page = sys.argv[1:]
commands = [["show"], ["show", "--json"], ["status"], ["watch"], ["report", "--out", page]]
for command in [*([*each, "--study", study] for each in commands), ["studies"], ["status"]]:
    done = CliRunner().invoke(main, [*command, "--home", home])
    print(command[0], done.exit_code, done.stdout)
"""


def _read(home: Path, page: Path, *prefix: str) -> str:
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    command = [*prefix, sys.executable, "-P", "-c", _READ, NAME, str(home), str(page)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, cwd="/")
    return done.stdout


def _torn(dice: random.Random, home: Path) -> None:
    """Have the journal end as a kill may leave it: a reader cannot mend it."""
    with (home / "optuna.journal").open("ab") as file:
        file.write(dice.choice([b"", b'{"op_code":', b"\0" * 100, b"\xff\n\xfe\n"]))


def _compare(tally: Tally, wanted: str, told: str) -> None:
    if told != wanted or " 0 " not in wanted or "Error" in wanted:
        tally.complaints.append("\n".join(difflib.unified_diff(wanted.splitlines(), told.splitlines(), n=1)))


def read_only_mount(dice: random.Random, home: Path, tally: Tally) -> None:
    page, copy = home.with_name("page.html"), home.with_name("copy")
    with mounted(home, "20m") as enter:
        pretend(home, None, enter, trials=_TRIALS).end()
        wanted = _read(home, page, *enter)
        subprocess.run([*enter, "cp", "-a", home, copy], check=True)
        _torn(dice, copy)
        subprocess.run([*enter, "cp", copy / "optuna.journal", home], check=True)
        subprocess.run([*enter, "mount", "-o", "remount,ro", home], check=True)
        _compare(tally, wanted, _read(home, page, *enter))
    tally.count(copy, None, _TRIALS)


def anothers_folder(dice: random.Random, home: Path, tally: Tally) -> None:
    page = home.with_name("pages") / "page.html"
    pretend(home, trials=_TRIALS).end()
    page.parent.mkdir()
    for folder in (home.parent, page.parent):
        folder.chmod(0o755)
    wanted = _read(home, page)
    _torn(dice, home)
    shutil.chown(page.parent, "nobody")
    before = _listing(home)
    _compare(tally, wanted, _read(home, page, "setpriv", "--reuid=nobody", "--regid=65534", "--clear-groups"))
    if _listing(home) != before:
        tally.complaints.append("something has changed in the home")
    tally.count(home, None, _TRIALS)


def _listing(home: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime for path in home.rglob("*")}
