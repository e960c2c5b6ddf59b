"""`scripts/growth` runs; what it measures is for people to judge."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("storage", ["journal", "postgresql"])
def test_growth_prints_a_table(storage, request):
    if storage == "postgresql":
        request.getfixturevalue("postgresql")  # skips where there is no server
    repo = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "scripts.benchmarks.growth", "--trials", "24", "--storage", storage],
        capture_output=True,
        text=True,
        cwd=repo,
        env=os.environ | {"PYTHONPATH": str(repo)},
    )
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split()[3:9] == ["ask", "report", "finish", "pruning", "rest", "total"]
    assert [row.split()[0] for row in rows[:2]] == ["12-24", "whole"]
    assert all(float(cell) >= 0 for cell in rows[0].split()[1:])
