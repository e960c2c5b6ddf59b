"""`scripts/opening` runs; what it measures is for people to judge."""

import pytest
from conftest import run_benchmark

from search.report.static import find_browser


@pytest.mark.skipif(find_browser() is None, reason="no Chromium or Chrome is installed")
def test_opening_prints_a_table():
    printed = run_benchmark("opening", "--trials", "24", "--openings", "1")
    header, *rows = printed.splitlines()
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
