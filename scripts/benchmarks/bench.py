"""The command `scripts/bench`: the plain script and regsearch in one run, alternating, a table for each comparison.

Figures of different runs do not compare, since a machine is busier at one hour than at the next: only those in one
table do. Progress goes to standard error, tables to standard output.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import IO, Any

import click
from click.core import ParameterSource
from rich.console import Console

from scripts.benchmarks.cases import CHOICES, MODES, SIZES, TRAINERS, Case, derive_spec
from scripts.benchmarks.comparing import measures
from scripts.benchmarks.machine import describe_machine
from scripts.benchmarks.rates import Rate, Work, matmul_rates, trial_epoch_work
from scripts.benchmarks.sides import REGSEARCH, Run, Setup, run_side
from scripts.benchmarks.tables import (
    Table,
    as_markdown,
    as_rich,
    case_table,
    choices_table,
    rates_table,
    trainers_table,
)
from search.crew import plan
from search.errors import RegsearchError
from search.places import default_data_dir
from search.trainers import cores, pick_devices
from search.training.data import load_data
from search.training.engines import ENGINES, PRECISIONS

FEEDS: Mapping[str, tuple[str, ...]] = {
    "loader": ("loader",),
    "tensor": ("tensor",),
    "both": ("loader", "tensor"),
    "none": (),
}
Contestants = Mapping[str, tuple[str, Mapping[str, object]]]
"""Who runs a case, by the name in the table: a side, and its options."""

_AUTO = "auto"
_PIPE_COLUMNS = 160


@dataclass
class Bench:
    """What all cases share: setup, output, and what was measured so far."""

    setup: Setup
    out: IO[str] | None
    markdown: Path | None
    command: str
    _machine: Mapping[str, str] = field(default_factory=dict)
    _rates: Sequence[Rate] = ()
    _tables: list[Table] = field(default_factory=list)

    def begin(self) -> None:
        """Write down the machine and measure its rate at matrix products."""
        self._machine = describe_machine(self.setup.device)
        self._write("machine", self._machine)
        _say("Measuring matrix products ...")
        self._rates = matmul_rates(self.setup.device)
        for rate in self._rates:
            self._write("rate", asdict(rate))
        self._show(rates_table(self._rates))

    def compare(self, case: Case) -> None:
        """Run both sides of a case and show its table."""
        sides = [*(f"plain {feed}" for feed in case.feeds), REGSEARCH]
        runs, work = self._alternate(case, {side: (side, case.options) for side in sides})
        peak = max(rate.gflops for rate in self._rates if rate.device == self.setup.device)
        chosen = "; ".join(sorted({run.chosen for run in runs[REGSEARCH] if run.chosen}))
        note = f"regsearch measured and chose: {chosen}" if chosen else ""
        self._show(case_table(case.title, case.repeats, measures(runs, work, peak), note))

    def choose(self, case: Case) -> None:
        """Run regsearch with every engine and precision, and with its own choice, and show the table."""
        fixed = {f"{engine}, {precision}": (engine, precision) for engine, precision in product(ENGINES, PRECISIONS)}
        contestants = {
            name: (REGSEARCH, {**case.options, "engine": engine, "precision": precision})
            for name, (engine, precision) in {_AUTO: (_AUTO, _AUTO), **fixed}.items()
        }
        runs, _ = self._alternate(case, contestants)
        self._show(choices_table(case.title, case.repeats, runs, list(fixed)))

    def multiply(self, case: Case) -> None:
        """Run regsearch with 1, 2, 4, ... trainers of one thread each, up to one for each core, and show the table.

        All have the same number of slots together.
        """
        counts = [2**i for i in range(cores().bit_length())]
        slots = plan(derive_spec(case, 0).search.trials, 1, case.population, ["cpu"])[1]
        contestants = {
            str(count): (REGSEARCH, {"workers": count, "population": -(-slots // count)}) for count in counts
        }
        # Torch's own setting: several trainers have one thread each anyway.
        os.environ["OMP_NUM_THREADS"] = "1"
        runs, _ = self._alternate(case, contestants)
        self._show(trainers_table(case.title, case.repeats, runs))

    def _alternate(self, case: Case, contestants: Contestants) -> tuple[dict[str, list[Run]], Work]:
        """Have each contestant run once in each repeat; none of them always comes first."""
        runs: dict[str, list[Run]] = {name: [] for name in contestants}
        _say(case.title)
        for repeat in range(case.repeats):
            spec = derive_spec(case, seed=repeat)
            work = trial_epoch_work(spec, load_data(spec.data, self.setup.data_dir, spec.search.seed))
            for name in _rotated(list(contestants), repeat):
                _say(f"  repeat {repeat + 1} of {case.repeats}, {name} ...")
                side, options = contestants[name]
                run = replace(run_side(side, spec, self.setup, options), side=name)
                runs[name].append(run)
                entry = {"case": asdict(case), "repeat": repeat, "flops_per_trial_epoch": work.of(side), **asdict(run)}
                self._write("run", entry)
                _say(f"    {run.search_s:.1f} s for {run.trial_epochs} trial-epochs, best {run.best_val_loss:.4f}")
        return runs, work

    def _show(self, table: Table) -> None:
        """Print a table, and write the page anew: whatever happens later, it is there."""
        self._tables.append(table)
        console = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
        console.print(as_rich(table), "")
        if self.markdown:
            self.markdown.write_text(as_markdown(self._machine, self.command, self._tables))

    def _write(self, kind: str, values: Mapping[str, Any]) -> None:
        if self.out is not None:
            self.out.write(json.dumps({"kind": kind, **values}) + "\n")
            self.out.flush()


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--size", type=click.Choice(list(SIZES)), default="minute", show_default=True, help="How much to run.")
@click.option("--choices", is_flag=True, help="Instead: regsearch with each engine and precision, beside auto.")
@click.option("--trainers", is_flag=True, help="Instead: regsearch with 1, 2, ... trainers of a thread each.")
@click.option("--study", metavar="NAME|FILE", help="Only this study, whether or not it is one of the size's.")
@click.option("--mode", type=click.Choice(list(MODES)), help="Only equal work, or only as users run it.")
@click.option("--repeats", type=click.IntRange(min=1), help="Repeats, each with a seed of its own.")
@click.option("--feed", type=click.Choice(list(FEEDS)), help="How the plain script feeds its data; none leaves it out.")
@click.option("--trials", type=click.IntRange(min=1), help="Trials of each search.")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs of each trial at most.")
@click.option("--population", type=click.IntRange(min=1), help="Slots of each of regsearch's trainers.")
@click.option("--workers", type=click.IntRange(min=0), help="regsearch's trainers; 0: in its own process.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where both sides train.")
@click.option("--data-dir", envvar="REGSEARCH_DATA", type=click.Path(path_type=Path), help="Where data sets are.")
@click.option("--out", type=click.File("w"), metavar="FILE", help="Write every run as a line of JSON.")
@click.option("--markdown", type=click.Path(path_type=Path), metavar="FILE", help="Write the tables as Markdown.")
@click.pass_context
def main(
    context: click.Context,
    /,
    *,
    size: str,
    choices: bool,
    trainers: bool,
    study: str | None,
    mode: str | None,
    feed: str | None,
    device: str,
    data_dir: Path | None,
    out: IO[str] | None,
    markdown: Path | None,
    **changes: int | None,
) -> None:
    """Measure a whole search by regsearch against a plain script that does the same one trial at a time.

    \b
      scripts/bench
      scripts/bench --size hour --out runs.jsonl --markdown tables.md
      scripts/bench --study mnist --mode equal --trials 8 --epochs 2
      scripts/bench --choices --study digits
      scripts/bench --trainers
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends this ends what it has started, too
    feeds = None if feed is None else FEEDS[feed]
    cases = [case.changed(feeds=feeds, **changes) for case in _cases(size, choices, trainers, study, mode)]
    try:
        setup = Setup(_kind(pick_devices(device)), data_dir or default_data_dir())
        bench = Bench(setup, out, markdown, _command(context))
        _check(cases, setup.data_dir)
        bench.begin()
        for case in cases:
            (bench.choose if choices else bench.multiply if trainers else bench.compare)(case)
    except RegsearchError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        _say("Interrupted.")
        context.exit(130)


def _cases(size: str, choices: bool, trainers: bool, study: str | None, mode: str | None) -> list[Case]:
    """Return the size's cases that were asked for, or else the hour's, or else one of the whole study in each mode."""
    for known in [CHOICES] if choices else [TRAINERS] if trainers else [SIZES[size], SIZES["hour"]]:
        found = [case for case in known if study in (None, case.study) and mode in (None, case.mode)]
        if found:
            return found
    modes = ["equal"] if choices or trainers else [mode] if mode else MODES
    return [Case(study=study or "digits", mode=one, repeats=1) for one in modes]


def _check(cases: Iterable[Case], data_dir: Path) -> None:
    """Find out what cannot work, and download what is missing, before anything is measured."""
    for case in cases:
        spec = derive_spec(case, seed=0)
        load_data(spec.data, data_dir, spec.search.seed)


def _kind(devices: Sequence[str]) -> str:
    """Return `cpu` or `cuda`: what both sides are told to use."""
    return devices[0].partition(":")[0]


def _rotated(names: list[str], by: int) -> list[str]:
    start = by % len(names)
    return names[start:] + names[:start]


def _command(context: click.Context) -> str:
    """Return the command as given, without the places of files, which are nobody else's."""
    given = [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in context.params.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        and name not in ("data_dir", "out", "markdown")
    ]
    return shlex.join(["scripts/bench", *given])


def _say(text: str) -> None:
    click.echo(text, err=True)


if __name__ == "__main__":
    main(prog_name="scripts/bench")
