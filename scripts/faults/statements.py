"""Database errors at each statement of a search in turn: which SQLSTATE is injected where, and what became of it.

A runner that is started with `--fail CODE:FILE` has PostgreSQL itself raise that error in the place of each statement
that it comes to for the first time, and at each commit; the file keeps which those were, for the runners after it.
"""

import argparse
import os
import random
import re
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy

from scripts.faults.processes import REPOSITORY, pretend
from scripts.faults.tally import Tally
from search.study.sqlstates import AWAY, BRIEFLY, OVERTAKEN, RETRY, SQLSTATES, WAIT
from tests.postgresql import postgresql_server

PAGE = REPOSITORY / "docs" / "reliability.md"
MARK = "<!-- made by scripts/reliability, statements -->"
HEAD = (
    "SQLSTATE",
    "name",
    "answer",
    "statements failed",
    "searches",
    "results lost",
    "counted twice",
    "budget error",
    "ended otherwise",
)
CODES = (
    *("53100", "53200", "53300", "57P01", "57P03", "58030", "25006"),
    *("40001", "40P01", "55P03", "57014", "25P03"),
    "23505",
    *("08006", "28P01", "42501", "42P01", "XX000"),
    "XX001",
)
"""At least one of each answer, and of each class of the table that a statement can meet."""
_MADE_ONCE = ("INSERT INTO studies ",)
"""Where Optuna rightly takes a key that is there for a study that is there."""
MANNERS = {
    OVERTAKEN: "at once again, for a minute",
    WAIT: "wait",
    AWAY: "wait, but a start ends",
    BRIEFLY: "wait for a minute",
    RETRY: "at once again",
}
_NAMES = {"08006": "connection_failure", "28P01": "invalid_password"}
_TRIALS = 12
_MOST_RUNS = 400
_PARAMETERS = re.compile(r"(%\([^)]*\)s(::[A-Z]+( PRECISION)?)?(, )?)+")
_ROWS = re.compile(r"(\(\?[^()]*\)(, )?)+")


class Sabotage:
    """Fails each statement once, and each commit by what was executed last before it."""

    def __init__(self, code: str, file: Path | None = None) -> None:
        self._code, self._file = code, file
        self.failed = set() if file is None or not file.exists() else set(file.read_text().splitlines())
        self._last = ""

    def install(self, target: Any) -> None:
        """Begin, on an engine or on the class of all."""
        sqlalchemy.event.listen(target, "before_cursor_execute", self._execute, retval=True)
        sqlalchemy.event.listen(target, "commit", self._commit)

    def _execute(self, _connection, _cursor, statement, parameters, _context, executemany):
        self._last = statement
        if not self._is_due(statement):
            return statement, parameters
        return failing(self._code), [()] if executemany else ()

    def _commit(self, connection) -> None:
        if self._is_due(f"COMMIT after {self._last}"):
            connection.exec_driver_sql(failing(self._code), execution_options={})

    def _is_due(self, statement: str) -> bool:
        key = " ".join(_ROWS.sub("(?)", _PARAMETERS.sub("?", statement)).split())
        if key in self.failed or "SQLSTATE" in key or "pg_terminate_backend" in key:
            return False
        if self._code == "23505" and key.startswith(_MADE_ONCE):
            return False
        self.failed.add(key)
        if self._file is not None:
            with self._file.open("a") as file:
                file.write(f"{key}\n")
        return True


def failing(code: str) -> str:
    """Return a statement at which PostgreSQL raises an error of that code."""
    if code == "57P01":
        return "SELECT pg_terminate_backend(pg_backend_pid())"
    return f"DO $$ BEGIN RAISE SQLSTATE '{code}'; END $$"


def answer(code: str) -> str:
    """Return in words what the table says of a code."""
    known = SQLSTATES.get(code) or SQLSTATES.get(code[:2])
    return "end, and say why" if known is None or known[1] is None else MANNERS[known[1]]


@dataclass
class Outcome:
    """What became of one code, injected at every statement."""

    code: str
    statements: int
    tally: Tally = field(default_factory=Tally)
    otherwise: list[str] = field(default_factory=list)
    """Ends of runners that are none by the table."""

    @property
    def row(self) -> list[str]:
        name = SQLSTATES[self.code][0] if self.code in SQLSTATES else _NAMES[self.code]
        tally = self.tally
        counts = (self.statements, tally.tried, tally.lost, tally.twice, tally.budget_error, len(self.otherwise))
        return [self.code, name, answer(self.code), *map(str, counts)]


def fail_each_statement(code: str) -> Outcome:
    """Run searches, each in an empty database, until none comes to a statement that has not failed yet."""
    folder = Path(tempfile.mkdtemp(prefix="regsearch-statements-"))
    outcome, file = Outcome(code, 0), folder / "failed"
    try:
        with postgresql_server() as server:
            for which in range(_MOST_RUNS):
                before = _count(file)
                _search(outcome, file, _database(server, f"search{which}"), folder / str(which))
                if _count(file) == before:
                    break
        outcome.statements = _count(file)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    outcome.otherwise += outcome.tally.complaints
    return outcome


def _search(outcome: Outcome, file: Path, url: str, home: Path) -> None:
    """Run one search whose first runner is killed, so that the next has to take its trials over."""
    killed, dice = False, random.Random(0)
    for _ in range(_MOST_RUNS):
        before = _count(file)
        runner = pretend(home, url, trials=_TRIALS, slots=2, fail=f"{outcome.code}:{file}")
        if not killed and runner.wait_for("training"):
            killed = True
            dice.random()
            runner.kill()
        ended = runner.end()
        if ended > 0 and not may_end(outcome.code, runner.output):
            outcome.otherwise.append(f"{outcome.code} ended with {ended}: {runner.output[-1500:]}")
        if ended == 0 or (_count(file) == before and ended > 0):
            break
    last = pretend(home, url, trials=_TRIALS)
    if last.end():
        outcome.otherwise.append(f"the last runner ended: {last.output[-1500:]}")
    outcome.tally.count(home, url, _TRIALS)


def may_end(code: str, output: str) -> bool:
    """Return whether a runner may end with an error, which then has to be one line that names what happened."""
    ends = answer(code) not in (MANNERS[WAIT], MANNERS[RETRY], MANNERS[OVERTAKEN])
    return ends and "Traceback" not in output and code in output.rpartition("Error: ")[2]


def _database(server: str, name: str) -> str:
    engine = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return engine.url.set(database=name).render_as_string(hide_password=False)


def _count(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


def rewritten(page: str, rows: list[list[str]]) -> str:
    """Return the page with these rows in its table, in the place of older ones of the same codes."""
    before, old, after = page.split(MARK)
    there = {line[2:7]: line for line in old.split("\n") if line.startswith("| ")}
    lines = there | {row[0]: f"| {' | '.join(row)} |" for row in rows}
    head = f"| {' | '.join(HEAD)} |\n| {' | '.join(['---'] * len(HEAD))} |"
    table = "\n".join([head, *(lines[code] for code in CODES if code in lines)])
    return f"{before}{MARK}\n\n{table}\n\n{MARK}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="codes that begin so")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"write the rows into {PAGE.relative_to(REPOSITORY)}")
    options = parser.parse_args()
    outcomes = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for outcome in pool.map(fail_each_statement, [code for code in CODES if code.startswith(options.only)]):
            print(" | ".join(outcome.row), *outcome.otherwise[:3], sep="\n    ", flush=True)
            outcomes.append(outcome)
    if options.write:
        PAGE.write_text(rewritten(PAGE.read_text(), [outcome.row for outcome in outcomes]))
    sys.exit(any(not outcome.tally.holds or outcome.otherwise for outcome in outcomes))


if __name__ == "__main__":
    os.chdir(REPOSITORY)
    main()
