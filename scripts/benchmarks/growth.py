"""What a trial costs outside training, and how that grows with the number of trials in the study.

The real runner drives a trainer that costs nothing, on a real study in a real storage, and every call of the storage
and the pruner is timed. Losses are a formula of the configuration with a minimum, overfitting and noise, so that trials
stop early, are pruned and complete about as they do on digits.
"""

import argparse
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from search.pruning import make_pruner
from search.records import Assignment, EpochResult, TrialRecord
from search.runner import Runner
from search.spec import load_spec
from search.stopping import StopRequest
from search.study import Study, close_storage, open_storage
from search.trainers import Report
from search.weights import WeightStore
from tests.postgresql import postgresql_server

MARKS = (100, 200, 500, 1000, 2000, 5000)
WIDEST_WINDOW = 100
IDLE_SECONDS = 0.001
DESK = ("ask", "report", "finish")
PARTS = (*DESK, "pruning", "rest")


class FreeTrainer:
    """Hands out the losses of `curve`, when the storage has done its work: a real epoch takes longer than that."""

    lacks = None

    def __init__(self, slots: int, watch: "Stopwatch") -> None:
        self.slots, self._watch = slots, watch
        self._lives: dict[int, Iterator[EpochResult]] = {}

    @staticmethod
    def first_done(trainers: Sequence["FreeTrainer"], timeout: float) -> Sequence["FreeTrainer"]:  # noqa: ARG004
        return trainers

    def begin(self, admit: Sequence[Assignment], free: Sequence[int]) -> None:
        for number in free:
            del self._lives[number]
        for assignment in admit:
            self._lives[assignment.number] = curve(assignment)

    def collect(self) -> Report:
        self._watch.wait_for_storage()
        return Report({number: next(life) for number, life in self._lives.items()})

    def best_weights(self, number: int) -> bytes:  # noqa: ARG002
        return b""

    def close(self) -> None:
        pass


class Alone:
    """A crew of one, who is never lost."""

    def __init__(self, trainer: FreeTrainer) -> None:
        self.trainers = [trainer]

    def replace(self, index: int) -> FreeTrainer:
        return self.trainers[index]


def curve(assignment: Assignment) -> Iterator[EpochResult]:
    """Yield a trial's epochs: the loss falls at a speed of its own to a floor, then rises with overfitting."""
    params, noise = assignment.params, random.Random(assignment.seed)
    decay, l1 = (math.log10(max(params[name], 1e-8)) for name in ("weight_decay", "l1"))
    dropout = params["dropout_0"] + params["dropout_1"] + params["input_dropout"]
    floor = 0.06 + 0.004 * (decay + 3) ** 2 + 0.003 * (l1 + 5) ** 2 + 0.05 * (dropout - 0.4) ** 2
    speed, overfitting = 3 + 8 * dropout, 0.004 / (0.2 + dropout)
    for epoch in range(1, sys.maxsize):
        loss = floor + 2 * math.exp(-epoch / speed) + overfitting * max(0, epoch - 2 * speed) + noise.gauss(0, 0.004)
        yield EpochResult(epoch, 0.8 * loss, loss, 1 - loss / 3, 0.1)


class Stopwatch:
    """Sums up the seconds of each part; as the runner's watcher, notes the sums whenever a trial has ended."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(PARTS, 0.0)
        self.notes = [dict(self.spent)]
        self.epochs = 0
        self._start, self._waited = time.thread_time(), 0.0
        self._last_call = 0.0

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        clock = time.perf_counter if part in DESK else time.thread_time

        def measured(*args: Any) -> Any:
            begin, self._last_call = clock(), math.inf
            try:
                return call(*args)
            finally:
                self.spent[part] += clock() - begin
                self._last_call = time.perf_counter()

        return measured

    def wait_for_storage(self) -> None:
        begin = time.thread_time()
        while time.perf_counter() - self._last_call < IDLE_SECONDS:
            time.sleep(IDLE_SECONDS)
        self._waited += time.thread_time() - begin

    def started(self, assignment: Assignment) -> None:
        pass

    def epoch_ended(self, report: Report) -> None:
        self.epochs += len(report.results)

    def ended(self, record: TrialRecord) -> None:  # noqa: ARG002
        # What the runner's own thread does beside pruning and waiting.
        self.spent["rest"] = time.thread_time() - self._start - self._waited - self.spent["pruning"]
        self.notes.append(dict(self.spent))

    def message(self, text: str) -> None:
        print(text, file=sys.stderr)


@contextmanager
def storage_url(wanted: str) -> Iterator[str | None]:
    if wanted == "postgresql":
        with postgresql_server(durable=True) as url:
            yield url
    else:
        yield None if wanted == "journal" else wanted


def measure(options: argparse.Namespace, url: str | None, home: Path) -> Stopwatch:
    """Run a study of `options.trials` trials and return what was timed."""
    spec = load_spec("digits").with_overrides(trials=options.trials, sampler=options.sampler, pruner=options.pruner)
    storage = open_storage(url, home)
    study, pruner, watch = Study.open("growth", spec, storage, home), make_pruner(spec), Stopwatch()
    for name in DESK:
        setattr(study, name, watch.timed(name, getattr(study, name)))
    for name in ("epoch_ended", "trial_ended"):
        setattr(pruner, name, watch.timed("pruning", getattr(pruner, name)))
    weights = WeightStore(home / "weights")
    Runner(study, Alone(FreeTrainer(options.population, watch)), pruner, weights, watch, StopRequest()).run()
    study.close()
    close_storage(storage)
    return watch


def show(watch: Stopwatch, trials: int) -> None:
    marks = [*(mark for mark in MARKS if mark < trials), trials]
    print("ms a trial     " + "".join(f"{part:>9}" for part in PARTS) + f"{'total':>9}{'against ' + str(marks[0]):>14}")
    first = 0.0
    for mark in marks:
        begin = mark - min(mark // 2, WIDEST_WINDOW)
        cost = [1e3 * (watch.notes[mark][part] - watch.notes[begin][part]) / (mark - begin) for part in PARTS]
        first = first or sum(cost)
        cells = "".join(f"{value:9.2f}" for value in (*cost, sum(cost)))
        print(f"{f'{begin}-{mark}':<15}{cells}{sum(cost) / first:14.2f}")
    print(f"whole study    {''.join(f'{1e3 * watch.notes[-1][part] / trials:9.2f}' for part in PARTS)}", end="")
    print(f"{1e3 * sum(watch.notes[-1].values()) / trials:9.2f}")
    print(f"{watch.epochs / trials:.1f} epochs a trial")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--storage", default="journal", help="journal, postgresql (starts a server) or a storage's URL")
    parser.add_argument("--population", type=int, default=16)
    parser.add_argument("--sampler")
    parser.add_argument("--pruner")
    options = parser.parse_args()
    with storage_url(options.storage) as url, tempfile.TemporaryDirectory(prefix="regsearch-growth-") as home:
        show(measure(options, url, Path(home)), options.trials)


if __name__ == "__main__":
    main()
