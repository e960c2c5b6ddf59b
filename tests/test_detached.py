"""A search that goes on in a process of its own: its starter tells how it ended when it did before it began."""

import subprocess
import sys

import pytest

from search import detached


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        ("import os; print('Study x', flush=True); os.kill(os.getpid(), 9)", 137, ["Study x", "SIGKILL", "memory"]),
        ("raise SystemExit(3)", 3, ["the process ended before the search began (exit code 3)"]),
        ("print('Error: no such study'); raise SystemExit(1)", 1, ["Error: no such study\n"]),
    ],
)
def test_a_detached_search_that_dies_before_it_begins_is_told_with_the_cause(
    tmp_path, monkeypatch, code, exit_code, said
):
    def start(log, _study, channel):
        command = [sys.executable, "-S", "-c", code]
        return subprocess.Popen(command, stdin=-1, stdout=log.file, stderr=log.file, pass_fds=[channel])

    monkeypatch.setattr(detached, "_start", start)
    launched = detached.launch(["start"], "x", tmp_path)
    assert (launched.began, launched.exit_code) == (False, exit_code)
    assert all(text in launched.said for text in said)
    assert not launched.log.exists()
