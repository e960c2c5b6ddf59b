"""`scripts/opening` runs; what it measures is for people to judge."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.report.static import find_browser


@pytest.mark.skipif(find_browser() is None, reason="no Chromium or Chrome is installed")
def test_opening_prints_a_table():
    repo = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "scripts.benchmarks.opening", "--trials", "24", "--openings", "1"],
        capture_output=True,
        text=True,
        cwd=repo,
        env=os.environ | {"PYTHONPATH": str(repo)},
    )
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.startswith("report.html, ")
    assert [row.split("  ")[1] for row in rows] == [
        "first paint",
        "verdict on the screen",
        "first plot drawn",
        "longest block, first 3 s",
        "a turn of the wheel moves the page after",
        "all plots drawn",
    ]
    assert all(float(row.split()[-2]) >= 0 for row in rows)
