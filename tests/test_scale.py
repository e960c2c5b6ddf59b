"""`scripts/scale` runs; what it measures is for people to judge."""

import pytest
from conftest import run_benchmark


@pytest.mark.parametrize("storage", ["journal", "postgresql"])
def test_scale_prints_a_table_of_trainers_and_one_of_runners(storage, request):
    if storage == "postgresql":
        request.getfixturevalue("postgresql")  # skips where there is no server
    options = ["--storage", storage, "--trainers", "3", "--runners", "2", "--trainers-each", "1", "--seconds", "2"]
    printed = run_benchmark("scale", *options)
    trainers, runners = printed.strip().split("\n\n")
    assert [table.splitlines()[-1].split()[1] for table in (trainers, runners)] == ["3", "2"]
    assert trainers.splitlines()[0].startswith("| trainers x slots | filled, s | trials/s |")
    assert runners.splitlines()[0].startswith("| runners | trials/s | statements/s |")
