"""A folder that was cloned from a stranger: no command that is used in it runs its files, in whatever process."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from search.children import drop_accidental_folder, find_program, safe_children, start_python
from search.places import absolute_address, module_path

SHADOWED = """
    sitecustomize usercustomize conftest stranger search runpy pkgutil re json logging multiprocessing pickle
    struct subprocess tempfile threading socket selectors queue asyncio concurrent ssl http urllib email html
    hashlib hmac random secrets statistics decimal csv sqlite3 ctypes platform inspect typing dataclasses
    datetime uuid zipfile tarfile numpy scipy sklearn pandas torch torchvision safetensors optuna
    optuna_dashboard mlflow sqlalchemy alembic yaml click rich pydantic pydantic_core jinja2 matplotlib plotly
    psutil requests urllib3 certifi cloudpickle filelock platformdirs flask werkzeug waitress uvicorn starlette
    fastapi h11 anyio gunicorn huey git google grpc ray aiohttp setproctitle
"""
"""Modules that some process of some command imports, early or late."""

RUN = """
import json, sys
from pathlib import Path
from click.testing import CliRunner
from search.cli import main
from search.dashboards.ui import Wanted, dashboards

for command in json.loads(sys.argv[1]):
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, (command, result.output, result.exception)
with dashboards(Wanted(Path("runs").absolute()), lambda: False) as running:
    running.check()
print("all ran")
"""


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A folder in which each of these modules leaves a mark in `marks` when it is imported."""
    folder, marks = tmp_path / "cloned", tmp_path / "marks"
    folder.mkdir()
    marks.mkdir()
    for name in SHADOWED.split():
        (folder / f"{name}.py").write_text(f"open({str(marks / name)!r}, 'w'); raise ImportError('a stranger runs')")
    (folder / "matplotlibrc").write_text("backend: module://stranger\n")
    (folder / ".env").write_text(f"PYTHONPATH={folder}\nMLFLOW_TRACKING_URI=http://127.0.0.1:9\nREGSEARCH_HOME=/\n")
    return folder


def marks(stranger: Path) -> list[str]:
    return sorted(path.name for path in (stranger.parent / "marks").iterdir())


def test_no_command_runs_a_module_of_the_working_directory(searched, stranger, monkeypatch):
    subprocess.run([sys.executable, "-c", "import yaml"], cwd=stranger, capture_output=True, check=False)
    assert marks(stranger) == ["yaml"]  # as Python does by itself
    (stranger.parent / "marks" / "yaml").unlink()

    shutil.copytree(searched / "runs", stranger / "runs")
    begin = ["start", "--study", str(searched / "tiny.toml"), "--trials=2", "--no-confirm"]
    commands = [
        [*begin, "--name=two", "--workers=2"],
        [*begin, "--name=away", "--workers=1", "--detach"],
        ["confirm", "--study=tiny", "--workers=1", "--seeds=2", "--top=2"],
        ["explain", "--study=tiny", "--workers=0", "--seeds=1"],
        ["export", "--study=tiny", "--out=model"],
        ["logs", "--study=away", "--follow"],
        *([verb, "--study=tiny"] for verb in ("show", "report", "sync", "watch", "status", "stop")),
        ["studies"],
    ]
    if find_spec("ray") is not None:
        commands.append([*begin, "--name=ray", "--workers=1", "--ray=local", "--device=cpu"])
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")))
    monkeypatch.setenv("HOME", str(stranger.parent))  # where Ray keeps a token
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "MLFLOW_TRACKING_URI", "REGSEARCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    program = [sys.executable, "-P", "-c", RUN, json.dumps(commands)]
    done = subprocess.run(program, cwd=stranger, capture_output=True, text=True, check=False, timeout=300)
    assert (marks(stranger), done.stdout.splitlines()[-1:]) == ([], ["all ran"]), done.stdout + done.stderr
    module = [sys.executable, "-P", "-m", "search", "studies"]
    assert subprocess.run(module, cwd=stranger, capture_output=True, check=False).returncode == 0
    assert marks(stranger) == []


def test_children_find_modules_where_this_process_does(stranger, monkeypatch):
    """And so do those that libraries start, with whatever words."""
    monkeypatch.chdir(stranger)
    code = "import os, sys, yaml; print(os.getcwd(), yaml.__file__)"
    child = start_python(code, stdout=subprocess.PIPE)
    with safe_children():
        others = [
            subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE)
            for words in (["-c", code], ["-m", "json.tool", "--help"])
        ]
    told, plain, module = (process.communicate()[0].decode() for process in (child, *others))
    assert told.startswith("/ ")
    assert plain.startswith(f"{stranger} ")
    assert "json.tool" in module
    assert marks(stranger) == []
    assert "PYTHONSAFEPATH" not in os.environ


@pytest.mark.parametrize(("path", "stays"), [("{}:", False), (":{}", False), ("{}", False), ("{}:{here}", True)])
def test_an_empty_entry_of_pythonpath_is_no_way_in(stranger, monkeypatch, path, stays):
    monkeypatch.chdir(stranger)
    monkeypatch.setenv("PYTHONPATH", path.format("/modules", here=stranger))
    named = [str(stranger)] if path != "{}" else []  # as Python itself understands it
    monkeypatch.setattr(sys, "path", [*named, "/modules", *sys.path])
    drop_accidental_folder()
    assert (str(stranger) in sys.path) is stays
    assert (str(stranger) in module_path().split(os.pathsep)) is stays
    assert "/modules" in sys.path


def test_the_working_directory_s_own_programs_are_not_found(stranger, monkeypatch):
    (stranger / "cc").write_text("#!/bin/sh\ntouch ../marks/cc\n")
    (stranger / "cc").chmod(0o755)
    monkeypatch.chdir(stranger)
    for path in ("", ".", f".{os.pathsep}", f"{os.pathsep}."):
        monkeypatch.setenv("PATH", path)
        assert find_program("cc") is None
    monkeypatch.setenv("PATH", f"{os.pathsep}{stranger}")
    assert find_program("cc") == str(stranger / "cc")
    assert find_program("./cc") == str(stranger / "cc")  # as CC may name it


@pytest.mark.parametrize(
    ("address", "absolute"),
    [
        ("sqlite:///a b.db?timeout=3", "sqlite:////home/50%25/a b.db?timeout=3"),
        ("sqlite:////x.db", "sqlite:////x.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("runs/x.journal", "/home/50%/runs/x.journal"),
        ("file:runs", "file:///home/50%25/runs"),
        ("postgresql:///studies", "postgresql:///studies"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("databricks", "databricks"),
    ],
)
def test_addresses_mean_the_same_where_children_work(tmp_path, monkeypatch, address, absolute):
    (tmp_path / "50%").mkdir()
    monkeypatch.chdir(tmp_path / "50%")
    assert absolute_address(address).replace(str(tmp_path), "/home") == absolute
