"""What is measured: cases (study, mode, how much of it), the sizes they come in, and the study file both sides read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from search.spec import StudySpec, load_spec

MODES = {
    "equal": "equal work: nothing pruned, nothing stopped early",
    "users": "as users run it: each side with its own pruner",
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison, and so one table."""

    study: str
    mode: str
    repeats: int
    """Each repeat has a seed of its own, the same for both sides: split, sampler and weights."""
    feeds: tuple[str, ...] = ("loader", "tensor")
    """Feeds of the plain script; none to run regsearch alone."""
    trials: int | None = None
    """None for the study's own number, as in all that follow."""
    epochs: int | None = None
    population: int | None = None
    workers: int | None = None

    def changed(self, **changes: Any) -> Case:
        """Return the case with those of the changes that are not None."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    @property
    def options(self) -> Mapping[str, object]:
        """Return the options of `regsearch start` that the case fixes."""
        return {"population": self.population, "workers": self.workers}

    @property
    def title(self) -> str:
        """Return what the table is headed with."""
        extent = {"trials": self.trials, "epochs": self.epochs, "slots": self.population, "workers": self.workers}
        said = [f"{value} {what if value > 1 else what[:-1]}" for what, value in extent.items() if value is not None]
        return "; ".join([f"{self.study}, {MODES[self.mode]}", *([", ".join(said)] if said else [])])


SIZES: Mapping[str, tuple[Case, ...]] = {
    "minute": (
        Case(study="digits", mode="equal", repeats=2, trials=16, epochs=10),
        Case(study="digits", mode="users", repeats=1),
    ),
    "hour": (
        Case(study="digits", mode="users", repeats=9),
        Case(study="digits", mode="equal", repeats=3, trials=32, epochs=15),
        Case(study="mnist", mode="equal", repeats=3, trials=16, epochs=2),
        Case(study="mnist-cnn", mode="equal", repeats=3, trials=8, epochs=1),
    ),
    # torchvision's images go through the host one by one: the loader feed would tell nothing about a GPU.
    "gpu": (
        Case(study="mnist", mode="equal", repeats=3, trials=64, epochs=3, population=64, feeds=("tensor",)),
        Case(study="mnist", mode="equal", repeats=3, trials=256, epochs=3, population=256, feeds=()),
        Case(study="mnist", mode="users", repeats=3, trials=256, epochs=20, population=128, feeds=()),
    ),
}

CHOICES: tuple[Case, ...] = (
    Case(study="digits", mode="users", repeats=5, feeds=()),
    Case(study="mnist", mode="equal", repeats=3, trials=16, epochs=2, feeds=()),
    Case(study="mnist-cnn", mode="equal", repeats=3, trials=8, epochs=1, feeds=()),
)
"""For every engine and precision: regsearch against itself. digits whole, since it tells what bf16 does to a study."""


TRAINERS: tuple[Case, ...] = (Case(study="mnist", mode="equal", repeats=3, trials=16, epochs=4, feeds=()),)
"""For every number of trainers: regsearch against itself."""


def derive_spec(case: Case, seed: int) -> StudySpec:
    """Return the case's study with its trials, epochs and seed; for equal work without pruning or early stops.

    Raises regsearch's own errors for a study or number that cannot be.
    """
    equal = case.mode == "equal"
    spec = load_spec(case.study).with_overrides(trials=case.trials, seed=seed, pruner="none" if equal else None)
    given = spec.model_dump(mode="json")
    given["training"]["max_epochs"] = epochs = case.epochs or spec.training.max_epochs
    if equal:
        given["space"]["patience"] = epochs
    return StudySpec.model_validate(given)


def write_spec(spec: StudySpec, path: Path) -> None:
    """Write a study file that reads as this spec."""
    path.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in spec.model_dump(mode="json").items()))


def _toml(value: object) -> str:
    """Return a value as TOML writes it: numbers, strings and lists are JSON's, tables stand in one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items() if item is not None) + " }"
    return json.dumps(value)
