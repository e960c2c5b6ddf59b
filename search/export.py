"""The winner as something to use: refitted on all data that the search saw, in files that need no regsearch.

`model.safetensors` has the weights, `program.pt2` the whole model as torch.export makes it, `spec.json` what it was
trained by, `README.md` tells what it is and what it is worth.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from search.confirm import FIRST_SEED
from search.confirmation import METRICS
from search.crew import Crew
from search.errors import DataError, ExportError, TrainerError
from search.intervals import Estimate
from search.markdown import code, plain
from search.places import replace_file
from search.printable import first_line
from search.records import Assignment, Summary
from search.spec import StudySpec
from search.tracking.messages import without_passwords
from search.trainers import NOTHING_OWN, LocalTrainer, Own, TrainerLost
from search.verdict import Winner, comparison, confirmed_winner, headline, hurts, searched_winner, warnings, winner
from search.whole_folders import remove_unfinished, whole_folder
from search.wishes import Wishes

if TYPE_CHECKING:
    from torch import Tensor, nn

_CARD = "README.md"
_FILES = ("model.safetensors", "spec.json", "program.pt2", _CARD)

Pick = Literal["best", "one_standard_error"]


@dataclass(frozen=True)
class Exported:
    """What was exported, and how well this very model does on the test data."""

    choice: Winner
    accuracy: float
    loss: float
    ece: float | None
    model: nn.Module
    example: Tensor


def choose(summary: Summary, pick: Pick = "best") -> Winner:
    """Return what was confirmed as `pick`, or else what the search found. Raises ExportError when there is none."""
    chosen = winner(summary) if pick == "best" else _simplest(summary)
    if chosen is None:
        raise ExportError(f'study "{summary.study}" has no complete trial yet; search first: regsearch start')
    return chosen


def _simplest(summary: Summary) -> Winner | None:
    """Return the one-standard-error pick in the place of the winner."""
    if summary.confirmed is not None and summary.confirmed.one_standard_error is not None:
        return confirmed_winner(summary.confirmed.one_standard_error)
    record = summary.one_standard_error
    return None if record is None else searched_winner(record)


def export(
    spec: StudySpec, summary: Summary, choice: Winner, fingerprint: str | None, wishes: Wishes, out: Path
) -> Exported:
    """Refit what was chosen and write it to a new or empty folder.

    `fingerprint` is that of the study's data. Raises ExportError, DataError and DeviceError.
    """
    from search.training.exporting import write_program

    _check_place(out)
    if choice.params.keys() != spec.parameters().keys():
        raise ExportError(f'trial {choice.trial} of study "{summary.study}" lacks parameters, or has some of another')
    trainer, weights = refit(spec, choice, fingerprint, wishes)
    model, example = trainer.module(weights)
    exported = Exported(choice, *trainer.test(weights), model, example)
    try:
        _check_place(out)  # somebody may have put something there while the model was trained
        with whole_folder(out, last=_CARD) as folder:
            replace_file(folder / "model.safetensors", weights)
            replace_file(folder / "spec.json", _spec_json(spec, choice).encode())
            write_program(model, example, folder / "program.pt2")
            replace_file(folder / _CARD, _card(spec, summary, exported).encode())
            assert {file.name for file in folder.iterdir()} == set(_FILES)
    except OSError as error:
        raise ExportError(f"{out} cannot be written to: {error.strerror or error}") from error
    return exported


def refit(
    spec: StudySpec, choice: Winner, fingerprint: str | None, wishes: Wishes, own: Own = NOTHING_OWN
) -> tuple[LocalTrainer, bytes]:
    """Train what was chosen on training and validation data together; return a trainer that knows the model, and the
    weights. `fingerprint` is that of the study's data, None where nobody can have changed it. Raises DataError.
    """
    crew = Crew(spec, replace(wishes, workers=0, population=1, ray=None), own=own)
    try:
        crew.start()
    except TrainerLost as error:
        raise TrainerError(f"the model could not be trained: {error}") from error
    (trainer,) = crew.trainers
    if fingerprint not in (None, *crew.get_ready()):
        where = "" if own.data is not None else f" in {wishes.data_dir}"
        raise DataError(f"the data{where} are not what the study was started with: put the same there again")
    assert isinstance(trainer, LocalTrainer)
    assignment = Assignment(choice.trial, FIRST_SEED, choice.params, val_losses=choice.val_losses)
    return trainer, trainer.refit(assignment, choice.epochs)


def register(exported: Exported, study: str, uri: str) -> str:
    """Add the model to MLflow's registry; return how to load it, or why that could not be done: the files are there."""
    from search.tracking.registry import add_version

    metrics = {"test_accuracy": exported.accuracy, "test_loss": exported.loss}
    metrics |= {} if exported.ece is None else {"ece": exported.ece}
    try:
        version = add_version(uri, study, exported.model, exported.example, exported.choice.params, metrics)
    except Exception as error:  # MLflow's, its databases' and its servers'
        return f"It is not in MLflow's model registry: {without_passwords(_root_of(error), uri)}"
    return f'Load it from MLflow by mlflow.pytorch.load_model("{version}")'


def _root_of(error: BaseException) -> str:
    """Return what lies below an error, in a line: the outermost message may be a page long."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return first_line(error)


def _check_place(out: Path) -> None:
    """Remove what an export that was killed has left. Raises ExportError when something else is there."""
    try:
        if os.path.lexists(out) and not out.is_dir():
            raise ExportError(f"{out} is a file; name a new folder with --out")
        remove_unfinished(out, _FILES)
        if out.is_dir() and any(out.iterdir()):
            raise ExportError(f"{out} is not empty; name a new folder with --out")
    except OSError as error:
        raise ExportError(f"{out} cannot be used ({error.strerror}); name a new folder with --out") from error


def _spec_json(spec: StudySpec, choice: Winner) -> str:
    content = json.loads(spec.to_json())
    return json.dumps({"study": content, "params": dict(choice.params), "epochs": choice.epochs}, indent=2) + "\n"


def _card(spec: StudySpec, summary: Summary, exported: Exported) -> str:
    choice, shape = exported.choice, ", ".join(map(str, exported.example.shape[1:]))
    lines = [
        f"# {plain(spec.name)}",
        "",
        plain(spec.description),
        "",
        *_said_first(summary),
        f"{choice.name[0].upper()}{choice.name[1:]} of study {code(summary.study)}, found by regsearch, trained anew "
        f"on training and validation data together for {choice.epochs} epochs.",
        "",
        "| regularization | |",
        "| --- | --: |",
        *(f"| {name} | {value:.4g} |" for name, value in choice.params.items()),
        "",
        f"On the test data this very model has accuracy {exported.accuracy:.2%}, loss {exported.loss:.4f}"
        + ("." if exported.ece is None else f", calibration error {exported.ece:.2%}."),
        "",
        *(line for warning in warnings(summary) for line in (warning, "")),
        *_confirmed(summary, choice),
        "## Use",
        "",
        f"Only PyTorch is needed. {_inputs(spec)}; the program returns a logit for each class. "
        "A program can run code while it is loaded, so load those of people you trust; `model.safetensors` has numbers "
        "alone.",
        "",
        "```python",
        "import torch",
        "",
        'model = torch.export.load("program.pt2").module()',
        f"logits = model(torch.zeros(1, {shape}))",
        "```",
    ]
    return "\n".join(lines) + "\n"


def _inputs(spec: StudySpec) -> str:
    from search.training.sources import SOURCES

    if spec.data.name not in SOURCES:
        return "Inputs are what the search was given"
    return f"Inputs: {SOURCES[spec.data.name].preparation}"


def _said_first(summary: Summary) -> list[str]:
    """Return a verdict against regularization: nobody is to use a regularized model without having read it."""
    told = headline(summary)
    return [f"**{told[0].upper()}{told[1:]}.**", ""] if told is not None and hurts(summary) else []


def _confirmed(summary: Summary, choice: Winner) -> list[str]:
    """Return what is known of the configuration, trained on the training data alone."""
    confirmation = summary.confirmed
    if confirmation is None:
        return ["It was not confirmed over seeds.", ""]
    this = next((c for c in confirmation.by_rank if (c.trial, c.rate_of) == (choice.trial, choice.rate_of)), None)
    columns = {"this": this, "no regularization": None if this is confirmation.baseline else confirmation.baseline}
    there = {name: column.estimates for name, column in columns.items() if column is not None}
    names = [name for name in METRICS if all(name in estimates for estimates in there.values())]
    seeds = confirmation.best.estimates["val_loss"].n
    lines = [
        f"Over {seeds} seeds, trained on the training data alone (mean ± deviation):",
        "",
        f"| | {' | '.join(there)} |",
        f"| --- |{' --: |' * len(there)}",
        *(f"| {name} | {' | '.join(_told(estimates[name]) for estimates in there.values())} |" for name in names),
        "",
    ]
    compared = comparison(summary)
    if compared is not None and choice.trial == confirmation.regularized.trial:
        lines += [f"Against no regularization: {compared.label} {compared.amount}.", ""]
    return [*lines, *(line for remark in confirmation.remarks for line in (remark, ""))]


def _told(value: Estimate) -> str:
    return f"{value.mean:.4g} ± {value.std:.2g}"
