"""A study file (`studies/*.toml`) becomes a `StudySpec`: validated, frozen, unknown keys refused with a suggestion.

A spec is data, never code. Here is the whole study, with what it derives from its sections, and the way from a name or
a path to it. Fields, defaults and limits stand in `sections` and `space`, the wording of errors in `problems`; import
all of it from here. Knows nothing of torch, Optuna or MLflow.
"""

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from search.errors import RegsearchError, SpecError, UsageError, did_you_mean
from search.printable import printable
from search.regular_files import read_regular
from search.spec.limits import MOST_BYTES, MOST_STORED, MOST_STORED_VALUES, MOST_TEXT, content_refusal, key_refusal
from search.spec.names import name_refusal
from search.spec.parameters import OWN
from search.spec.problems import Findings, as_lines, as_toml, bad_value
from search.spec.sections import (
    OPTIMIZER_OPTIONS,
    DataSpec,
    ModelSpec,
    SearchSpec,
    Section,
    TrainingSpec,
)
from search.spec.space import (
    Choices,
    Setting,
    SpaceSpec,
    Surroundings,
    image_refusal,
    nearest,
    parameter_of,
    read_space,
)


class StudySpec(Section):
    """One study, complete and valid."""

    name: str
    description: str = Field(default="", max_length=MOST_TEXT)
    data: DataSpec
    model: ModelSpec
    training: TrainingSpec = TrainingSpec()
    space: SpaceSpec = Field(default_factory=dict, validate_default=True)
    search: SearchSpec = SearchSpec()

    @field_validator("name")
    @classmethod
    def _name_is_safe(cls, name: str) -> str:
        if refusal := name_refusal(name):
            raise bad_value(refusal)
        return name

    @field_validator("description")
    @classmethod
    def _description_is_plain(cls, description: str) -> str:
        if description != printable(description):
            raise bad_value("must not contain control characters, nor any that nobody sees")
        return description

    @field_validator("model")
    @classmethod
    def _model_fits_the_data(cls, model: ModelSpec, info: ValidationInfo) -> ModelSpec:
        data = info.data.get("data")  # absent when it is invalid itself
        if data is not None and model.name not in ("mlp", OWN):
            _check_images(model, data)
        return model

    @field_validator("space", mode="before")
    @classmethod
    def _space_is_valid(cls, given: object, info: ValidationInfo) -> dict[str, Setting]:
        data, model, training = map(info.data.get, ("data", "model", "training"))  # absent when invalid themselves
        name, shape = (data.name, data.example_shape) if data else (None, ())
        loss, batch = (training.loss, training.batch_size) if training else (None, None)
        return read_space(given, Surroundings(model.name, model.layers, name, shape, loss, batch) if model else None)

    def parameters(self) -> dict[str, Setting]:
        """Return every parameter's setting, each hidden layer's dropout by itself, always in the same order."""
        return self.space.per_layer(self.model.layers)

    @property
    def is_own(self) -> bool:
        """Whether data, model or loss are the user's own, from Python: then the spec alone does not suffice."""
        return OWN in (self.data.name, self.model.name, self.training.loss)

    @property
    def choices(self) -> Choices:
        """What the search chooses, trial by trial."""
        return self.space.choices(self.model.layers)

    def baseline(self) -> dict[str, float]:
        """Return the configuration without regularization: strengths 0, even constant ones, and the most patience."""
        rows = ((name, setting, parameter_of(name)) for name, setting in self.parameters().items())
        return {
            name: row.baseline if row.regularizer else nearest(setting, row.baseline) for name, setting, row in rows
        }

    def textbook(self) -> dict[str, float]:
        """Return what a careful practitioner would try first, as near as the ranges allow; constants are kept."""
        first = {name: nearest(setting, parameter_of(name).textbook) for name, setting in self.parameters().items()}
        return self.choices.configuration(self.choices.chosen(first))

    def to_json(self) -> str:
        """Return the spec as one canonical line: equal specs give equal text."""
        return _canonical(self.model_dump(mode="json"))

    @staticmethod
    def from_json(text: str) -> "StudySpec":
        """Return the spec that `to_json` wrote. Raises `SpecError` when this version cannot read it."""
        if isinstance(text, str) and len(text) > MOST_STORED:
            raise SpecError(f"stored spec: it has {len(text):,} characters, and at most {MOST_STORED:,} are read")
        try:
            given = json.loads(text)
        except (RecursionError, TypeError, ValueError) as error:
            raise SpecError(f"stored spec: not valid JSON: {error}") from error
        if (refusal := content_refusal(given, MOST_STORED_VALUES)) is not None:
            raise SpecError(f"stored spec: {refusal}")
        if isinstance(given, dict) and isinstance(given.get("description"), str):
            # Earlier versions let some pass that files may not have any more.
            given["description"] = printable(given["description"])
        return _validated(given, "stored spec: ")

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what may not change on resume: equal when `spec_differences` finds none."""
        return hashlib.sha256(_canonical(_identity(self)).encode()).hexdigest()

    def with_overrides(
        self,
        *,
        trials: int | None = None,
        seed: int | None = None,
        sampler: str | None = None,
        pruner: str | None = None,
        optimizer: str | None = None,
    ) -> "StudySpec":
        """Return the spec with what the command line said. Another pruner or optimizer starts from its own defaults.

        Raises `UsageError` when a value is not valid.
        """
        given = self.model_dump(mode="json")
        search, training = given["search"], given["training"]
        search |= _said(trials=trials, seed=seed, sampler=sampler)
        if pruner not in (None, self.search.pruner.name):
            search["pruner"] = {"name": pruner}
        if optimizer not in (None, self.training.optimizer):
            unread = OPTIMIZER_OPTIONS[self.training.optimizer]
            given["training"] = {name: training[name] for name in training if name not in unread}
            given["training"]["optimizer"] = optimizer
        return _validated(given, "", UsageError)


def spec_differences(stored: StudySpec, given: StudySpec) -> list[str]:
    """Return a line for each value that differs, such as `space.l1.high: stored 0.001, given 0.01`.

    Leaves out what may change on resume: name, description and the number of trials.
    """
    return _differences(_identity(stored), _identity(given), "")


def shipped_studies() -> dict[str, Path]:
    """Return the study files that come with the program, by name."""
    package = Path(__file__).resolve().parent.parent
    # A wheel carries them inside the package; in a checkout they stand beside it.
    folders = (package / "studies", package.parent / "studies")
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return {path.stem: path for path in sorted(folder.glob("*.toml"), key=lambda path: path.stem)}


def load_spec(study: str) -> StudySpec:
    """Return the spec of a shipped study, by its name, or of a study file, by its path.

    Raises `UsageError` when there is no such study or file, and `SpecError`, which tells all that is wrong with it,
    when the file is not a valid study.
    """
    shipped = shipped_studies()
    if study in shipped:
        return _load_file(str(shipped[study]))
    if study.endswith(".toml") or "/" in study or os.sep in study or os.path.isfile(study):
        return _load_file(study)
    raise UsageError(
        f"there is no study {as_toml(study)}{did_you_mean(study, shipped)}\n"
        f"Shipped studies are {', '.join(shipped)}; for one of your own give the path of its .toml file."
    )


def read_spec(given: object) -> StudySpec:
    """Return the spec that a file's content, as plain values, amounts to. Raises `UsageError` that tells all."""
    return _validated(given, "", UsageError)


def _load_file(path: str) -> StudySpec:
    text = _read_text(path)
    if (refusal := key_refusal(text)) is not None:
        raise SpecError(f"{path}: {refusal}")
    try:
        given = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # tomllib lets through what Python says of huge numbers, deep nesting
        hint = "; is a quotation mark missing?" if "Illegal character '\\n'" in str(error) else ""
        raise SpecError(f"{path}: not valid TOML: {error}{hint}") from error
    if (refusal := content_refusal(given)) is not None:
        raise SpecError(f"{path}: {refusal}")
    spec = _validated({"name": Path(path).stem} | given, f"{path}: ")
    if spec.is_own:
        named = {"data.name": spec.data.name, "model.name": spec.model.name, "training.loss": spec.training.loss}
        keys = " and ".join(key for key, name in named.items() if name == OWN)
        raise SpecError(f'{path}: {keys} = "{OWN}" stands for what comes from Python, with run_search')
    return spec


def _read_text(path: str) -> str:
    try:
        return read_regular(Path(path), MOST_BYTES).decode("utf-8-sig")  # some editors put a byte order mark in front
    except (FileNotFoundError, NotADirectoryError) as error:
        shipped = ", ".join(shipped_studies())
        raise UsageError(f"{path}: there is no such file; the shipped studies go by name: {shipped}") from error
    except OSError as error:
        hint = "; give the path of a .toml file" if isinstance(error, IsADirectoryError) else ""
        raise SpecError(f"{path}: cannot be read: {error.strerror}{hint}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except ValueError as error:  # no file has a NUL in its name
        raise UsageError(f"{path}: there is no such file: {error}") from error


def _validated(given: object, source: str, error: type[RegsearchError] = SpecError) -> StudySpec:
    try:
        return StudySpec.model_validate(given)
    except ValidationError as invalid:
        raise error("\n".join(f"{source}{line}" for line in as_lines(invalid, StudySpec))) from None


def _check_images(model: ModelSpec, given: DataSpec) -> None:
    """Refuse a model for images that does not fit those of a data set. Raises as validators may."""
    data, shape = given.name, given.example_shape
    findings = Findings()
    if refusal := image_refusal(data, shape):
        findings.add(bad_value(f"{refusal}; use mlp"), ("name",), model.name)
    elif model.name == "cnn":
        _check_channels(model, data, shape[-2:], findings)
    else:
        _check_patches(model, data, shape[-2:], findings)
    findings.raise_any()


def _check_channels(model: ModelSpec, data: str, side: tuple[int, ...], findings: Findings) -> None:
    most = min(side).bit_length() - 1
    if len(model.channels) > most:
        text = f"must have at most {most} entries: each halves the images, which are {side[0]} x {side[1]} in {data}"
        findings.add(bad_value(text), ("channels",), model.channels)


def _check_patches(model: ModelSpec, data: str, side: tuple[int, ...], findings: Findings) -> None:
    if side[0] % model.patch[0] or side[1] % model.patch[1]:
        text = f"must divide the images, which are {side[0]} x {side[1]} in {data}"
        findings.add(bad_value(text), ("patch",), model.patch)
    if model.width % model.heads:
        findings.add(bad_value(f"must divide the width, which is {model.width}"), ("heads",), model.heads)
    if not model.hidden:
        findings.add(bad_value("must have an entry for each block, at least one"), ("hidden",), model.hidden)


def _said(**options: object) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _identity(spec: StudySpec) -> dict[str, Any]:
    """Return the spec as plain values without what may change when the study is resumed."""
    return spec.model_dump(mode="json", exclude={"name": True, "description": True, "search": {"trials"}})


def _differences(stored: object, given: object, key: str) -> list[str]:
    if stored == given:
        return []
    if not (isinstance(stored, Mapping) and isinstance(given, Mapping)):
        return [f"{key}: stored {_shown(stored)}, given {_shown(given)}"]
    names = [*stored, *(name for name in given if name not in stored)]
    place = f"{key}." if key else ""
    return [line for name in names for line in _differences(stored.get(name), given.get(name), f"{place}{name}")]


def _shown(value: object) -> str:
    return "nothing" if value is None else as_toml(value)
