"""The versions that tests run with are written down, all of them, and are what pyproject.toml allows."""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from scripts import write_constraints
from scripts.auditing import CLEAN, UNKNOWN, VULNERABLE, lines, status

PINNED = dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", write_constraints.FILE.read_text(), re.MULTILINE))
NEEDED = ("psycopg", "pytest", "hypothesis", "mlflow", "torch")


def test_what_the_project_names_is_pinned_within_its_bounds():
    for requirement in write_constraints.named():
        name = canonicalize_name(requirement.name)
        if name in PINNED:
            assert requirement.specifier.contains(PINNED[name]), f"{name}: run python -m scripts.write_constraints"
    there = {canonicalize_name(each.name) for each in write_constraints.named() if _is_installed(each.name)}
    assert there <= PINNED.keys(), "run python -m scripts.write_constraints"
    assert {*NEEDED} <= PINNED.keys()


@pytest.mark.parametrize(
    ("name", "mended"),
    [
        ("filelock", "3.20.3"),  # CVE-2025-68146, CVE-2026-22701: a link in the lock's place was followed
        ("jinja2", "3.1.6"),  # CVE-2025-27516: out of the sandbox by the filter `attr`
        ("mlflow", "3.17.2"),  # models that are pickles can be refused
        ("pytest", "9.0.3"),  # CVE-2025-71176: a folder in /tmp with a name that others can foresee
        ("ray", "2.52"),  # CVE-2025-62593: jobs from web pages
        ("scikit-learn", "1.5"),  # CVE-2024-5206: words of the data left in a vectorizer
        ("torch", "2.8"),  # CVE-2025-32434, CVE-2025-3730: code by `torch.load` with `weights_only`
        ("waitress", "3.0.1"),  # CVE-2024-49768, CVE-2024-49769: a second request after the connection was refused
    ],
)
def test_no_version_with_a_weakness_that_is_known_and_mended_is_allowed(name, mended):
    bounds = [requirement.specifier for requirement in write_constraints.named() if requirement.name == name]
    assert bounds
    for specifier in bounds:
        assert max(Version(each.version) for each in specifier if each.operator == ">=") >= Version(mended)


def _is_installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False


def test_a_pin_is_a_version_that_an_index_has_for_every_machine():
    for line in write_constraints.FILE.read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line), line
    assert all(Version(version).local is None for version in PINNED.values())
    assert not [name for name in PINNED if name.startswith(("nvidia-", "cuda-", "triton", "regsearch", "pip"))]


def test_what_is_needed_in_turn_is_pinned_too():
    closure = write_constraints.installed(write_constraints.named())
    assert {"alembic", "werkzeug", "jinja2", "urllib3"} <= closure.keys()
    assert "regsearch" not in closure
    assert write_constraints.constraints().splitlines()[-1].startswith("zipp==")


FOUND = {"name": "a", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"], "description": ""}]}
FINE = {"name": "b", "version": "2.0", "vulns": []}
SKIPPED = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("found", "code", "told"),
    [
        ([FINE], CLEAN, "1 of 1 packages looked up, 0 of them"),
        ([FINE, FOUND], VULNERABLE, "a 1.0: PYSEC-1, mended in 1.1"),
        ([FINE, SKIPPED], UNKNOWN, "could not be reached"),
        ([FOUND, SKIPPED], VULNERABLE, "could not be reached"),
        ([], UNKNOWN, "could not be reached"),
    ],
)
def test_an_audit_that_knows_nothing_does_not_pass(found, code, told, tmp_path):
    assert status(found) == code
    assert told in "\n".join(lines(found))
    (tmp_path / "found").write_text(json.dumps({"dependencies": found}) if found else "")
    script = Path(write_constraints.__file__).with_name("auditing.py")
    done = subprocess.run([sys.executable, "-I", script, tmp_path / "found"], capture_output=True, text=True)
    assert (done.returncode, told in done.stdout) == (code, True)
