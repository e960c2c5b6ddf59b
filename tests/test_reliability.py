"""Whatever breaks, nothing is lost and nothing counts twice: the faults of docs/reliability.md, a few times each.

With REGSEARCH_LONG=1 as often as for the table in the docs, which takes an hour.
"""

import os

import pytest

from scripts.faults.injections import FAULTS
from scripts.faults.rows import PAGE, inject, rewritten
from tests.postgresql import NoPostgreSQL

LONG = bool(os.environ.get("REGSEARCH_LONG"))


@pytest.mark.timeout(3600 if LONG else 600)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.name}, {fault.how}".replace(" ", "_"))
def test_nothing_is_lost_and_nothing_counts_twice(fault):
    times = fault.times if LONG else fault.few
    if times == 0:
        pytest.skip("takes minutes: REGSEARCH_LONG=1")
    if reason := fault.cannot():
        pytest.skip(reason)
    try:
        tally = inject(fault, times, seed=1)
    except NoPostgreSQL as reason:
        pytest.skip(str(reason))
    assert tally.complaints == []
    assert tally.holds
    assert tally.tried == times


def test_ten_kills_are_part_of_every_test_run():
    assert sum(fault.few for fault in FAULTS if "kill -9" in fault.how or fault.how == "the same on PostgreSQL") >= 10
    assert sum(fault.times for fault in FAULTS if "killed" in fault.name) >= 100


def test_the_docs_have_a_row_for_each_fault():
    rows = PAGE.read_text()
    for fault in FAULTS:
        assert f"| {fault.name} | {fault.how} |" in rows


def test_rows_that_are_measured_anew_replace_their_old_ones_alone():
    old, new = FAULTS[3], FAULTS[1]
    page = rewritten(PAGE.read_text(), [[new.name, new.how, *(["x"] * 8)]])
    assert f"| {new.name} | {new.how} | {' | '.join('x' * 8)} |" in page
    changed = [line for line in page.split("\n") if line not in PAGE.read_text().split("\n")]
    assert len(changed) == 1
    assert page.index(f"| {new.how} |") < page.index(f"| {old.how} |")
