"""`scripts/growth` runs; what it measures is for people to judge."""

import pytest
from conftest import run_benchmark


@pytest.mark.parametrize("storage", ["journal", "postgresql"])
def test_growth_prints_a_table(storage, request):
    if storage == "postgresql":
        request.getfixturevalue("postgresql")  # skips where there is no server
    printed = run_benchmark("growth", "--trials", "24", "--storage", storage)
    header, *rows = printed.splitlines()
    assert header.split()[3:9] == ["ask", "report", "finish", "pruning", "rest", "total"]
    assert [row.split()[0] for row in rows[:2]] == ["12-24", "whole"]
    assert all(float(cell) >= 0 for cell in rows[0].split()[1:])
