"""A study file is read whole: what is right becomes a spec, what is wrong is told all at once, with the way out."""

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from search.errors import SpecError, UsageError
from search.spec import (
    DATASET_SHAPES,
    OWN,
    PARAMETERS,
    PRUNER_OPTIONS,
    DatasetName,
    Range,
    StudySpec,
    check_study_name,
    load_spec,
    shipped_studies,
    spec_differences,
)

SMALL = {
    "data": {"name": '"digits"'},
    "model": {"hidden": "[8, 4]"},
    "training": {},
    "space": {"dropout": "{ low = 0.0, high = 0.5 }"},
    "search": {},
    "search.pruner": {},
}


def study_text(**changes: str | None) -> str:
    """Return a small study with changes such as `space__l1="0.1"`; None takes a field away."""
    tables = {table: dict(fields) for table, fields in SMALL.items()}
    top = []
    for key, value in changes.items():
        table, _, field = key.replace("__", ".").rpartition(".")
        if not table:
            top.append(f"{field} = {value}")
        elif value is None:
            del tables[table][field]
        else:
            tables[table][field] = value
    lines = [f"[{table}]\n" + "\n".join(f"{k} = {v}" for k, v in fields.items()) for table, fields in tables.items()]
    return "\n".join(top + lines)


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Read a small study with changes from `studies/a.toml` in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    Path("studies").mkdir()

    def read(**changes: str | None) -> StudySpec:
        Path("studies/a.toml").write_text(study_text(**changes), encoding="utf-8")
        return load_spec("studies/a.toml")

    return read


@pytest.mark.parametrize(
    ("name", "data", "model", "trials", "epochs"),
    [("digits", "digits", "mlp", 64, 30), ("mnist", "mnist", "mlp", 64, 30), ("mnist-cnn", "mnist", "cnn", 32, 20)],
)
def test_shipped_studies_load_by_name_and_by_path(name, data, model, trials, epochs):
    spec = load_spec(name)
    assert spec == load_spec(str(shipped_studies()[name]))
    assert (spec.name, spec.data.name, spec.model.name) == (name, data, model)
    assert (spec.search.trials, spec.training.max_epochs) == (trials, epochs)


def test_every_shipped_study_is_named_after_its_file():
    assert [load_spec(str(path)).name for path in shipped_studies().values()] == list(shipped_studies())


def test_digits_searches_each_layer_by_itself():
    spec = load_spec("digits")
    searched = ["input_dropout", "dropout_0", "dropout_1", "weight_decay", "l1", "patience"]
    assert list(spec.parameters()) == ["learning_rate", *searched]
    assert list(spec.choices.ranges()) == searched
    assert spec.choices.ranges()["dropout_1"] == Range(low=0.0, high=0.6)
    assert spec.choices.ranges()["patience"] == Range(low=2, high=10, integer=True)


def test_a_convolution_is_a_hidden_layer_with_dropout_of_its_own(read):
    spec = read(model__name='"cnn"', model__channels="[3, 5]", space__dropout_2="0.2")
    assert (spec.model.channels, spec.model.hidden, spec.model.layers) == ((3, 5), (8, 4), 4)
    assert list(spec.choices.ranges()) == ["dropout_0", "dropout_1", "dropout_3"]
    assert spec.parameters()["dropout_2"] == 0.2
    assert set(json.loads(spec.to_json())["model"]) == {"name", "channels", "hidden"}


def test_channels_are_no_part_of_a_model_that_has_none(read):
    assert json.loads(read().to_json())["model"] == {"name": "mlp", "hidden": [8, 4]}
    assert read().model.layers == 2


def test_a_convolutional_network_has_default_channels(read):
    assert read(model__name='"cnn"').model.channels == (32, 64)


def test_defaults(read):
    spec = read()
    assert (spec.name, spec.description) == ("a", "")
    assert spec.data.validation == 1 / 6
    assert (spec.training.optimizer, spec.training.l1_mode) == ("adamw", "proximal")
    assert (spec.search.trials, spec.search.seed, spec.search.sampler) == (64, 0, "tpe")
    assert (spec.search.pruner.name, spec.search.pruner.reduction_factor) == ("halving", 2)
    constants = {name: setting for name, setting in spec.parameters().items() if not isinstance(setting, Range)}
    assert constants == {"learning_rate": 1e-3, "input_dropout": 0.0, "weight_decay": 0.0, "l1": 0.0, "patience": 5}


def test_hyperband_reduces_by_three(read):
    assert read(search__pruner__name='"hyperband"').search.pruner.reduction_factor == 3


def test_what_is_off_fits_everywhere(read):
    assert read(training__batch_size="1", space__batch_norm="false").training.batch_size == 1


def test_integers_stand_for_floats(read):
    spec = read(space__l1="1", space__dropout="{ low = 0, high = 0.5 }")
    assert spec.parameters()["l1"] == 1.0
    assert isinstance(spec.parameters()["l1"], float)
    assert isinstance(spec.choices.ranges()["dropout_0"].low, float)


def test_one_layer_overrides_the_shorthand(read):
    spec = read(space__dropout_1="0.2")
    assert spec.parameters()["dropout_1"] == 0.2
    assert list(spec.choices.ranges()) == ["dropout_0"]


def test_baseline_has_no_regularization_and_the_most_patience():
    spec = load_spec("digits")
    assert spec.baseline() == {
        "learning_rate": 1e-3,
        **dict.fromkeys(["input_dropout", "dropout_0", "dropout_1", "weight_decay", "l1"], 0.0),
        "patience": 10,
    }


def test_baseline_switches_constants_off_and_keeps_other_constants(read):
    baseline = read(space__l1="0.5", space__dropout_0="0.3", space__patience="7").baseline()
    assert (baseline["l1"], baseline["dropout_0"], baseline["patience"]) == (0.0, 0.0, 7)


def test_textbook_stays_inside_the_ranges_and_keeps_constants(read):
    spec = read(
        space__dropout="{ low = 0.3, high = 0.5 }",
        space__dropout_1="0.05",
        space__learning_rate="{ low = 1e-5, high = 1e-4, log = true }",
        space__weight_decay="{ low = 1e-6, high = 1e-1, log = true }",
        space__patience="{ low = 8, high = 9 }",
    )
    assert spec.textbook() == {
        "learning_rate": 1e-4,
        "input_dropout": 0.0,
        "dropout_0": 0.3,
        "dropout_1": 0.05,
        "weight_decay": 1e-4,
        "l1": 0.0,
        "patience": 8,
    }
    assert spec.baseline()["learning_rate"] == 1e-4


def test_a_switch_is_searched_beside_the_strength_that_it_governs(read):
    spec = read(
        space__dropout="{ low = 0.1, high = 0.5, switch = true }",
        space__dropout_1="{ low = 0.2, high = 0.3 }",
        space__flip="{ low = 0.5, high = 0.5, switch = true }",
        space__batch_norm="{ switch = true }",
        space__mixup="0.4",
    )
    choices = spec.choices
    assert choices.switches == ["use_dropout", "use_batch_norm", "use_flip"]
    assert list(choices.ranges()) == ["dropout_0", "dropout_1"]
    on, off = dict.fromkeys(choices.switches, True), dict.fromkeys(choices.switches, False)
    assert list(choices.ranges(off)) == ["dropout_1"]
    assert list(choices.ranges(off | {"use_dropout": True})) == ["dropout_0", "dropout_1"]
    assert list(choices.ranges(on)) == ["dropout_1"]  # dropout acts after the last batch norm alone
    config = choices.configuration(on | {"dropout_1": 0.25})
    assert config == spec.baseline() | {
        "dropout_1": 0.25,
        "batch_norm": 1,
        "mixup": 0.4,
        "flip": 0.5,
        "patience": 5,
    }
    assert choices.configuration(choices.chosen(config)) == config
    assert choices.chosen(spec.baseline()) == off | {"dropout_1": 0.2}
    assert StudySpec.from_json(spec.to_json()) == spec


def test_what_a_constant_batch_norm_switches_off_is_not_searched(read):
    spec = read(space__batch_norm="true", space__dropout="{ low = 0.1, high = 0.5, switch = true }")
    assert spec.choices.switches == ["use_dropout"]
    assert list(spec.choices.ranges()) == ["dropout_1"]
    config = spec.choices.configuration({"use_dropout": True, "dropout_1": 0.25})
    assert (config["input_dropout"], config["dropout_0"], config["dropout_1"]) == (0, 0, 0.25)
    assert StudySpec.from_json(spec.to_json()) == spec
    kept = read(space__batch_norm="true", space__input_dropout="0.0", space__dropout_0="0.0")
    assert kept.choices.switches == []


def test_a_switched_batch_norm_goes_with_dropout_before_it(read):
    spec = read(space__batch_norm="{ switch = true }", space__input_dropout="0.2", space__dropout_0="0.1")
    assert spec.choices.configuration({"use_batch_norm": False, "dropout_1": 0.3})["input_dropout"] == 0.2


def test_what_a_file_does_not_name_is_no_part_of_a_configuration(read):
    assert "mixup" not in read().baseline()
    assert read(space__mixup="0.0").baseline()["mixup"] == 0


def test_a_schedule_has_options_of_its_own(read):
    spec = read(training__schedule='"plateau"', training__plateau_factor="0.5")
    assert set(json.loads(spec.to_json())["training"]) >= {"schedule", "plateau_factor", "plateau_epochs"}
    assert "plateau_factor" not in json.loads(read().to_json())["training"]


def test_clip_rounds_where_only_integers_are():
    assert Range(low=2, high=10, integer=True).clip(4.6) == 5
    assert [Range(low=0.1, high=0.2).clip(value) for value in (0.0, 0.15, 1.0)] == [0.1, 0.15, 0.2]


BAD = [
    # what is changed, what the message says after the file's name
    ({"space__l1": "nan"}, ["space.l1 = nan: must be a number, at least 0"]),
    ({"space__l1": "inf"}, ["space.l1 = inf: must be a number, at least 0"]),
    ({"space__l1": "{ low = 1e-7, high = inf }"}, ["space.l1.high = inf: must be"]),
    ({"space__l1": "{ low = nan, high = 1.0 }"}, ["space.l1.low = nan: must be"]),
    ({"data__validation": "nan"}, ["data.validation = nan: must be"]),
    ({"training__momentum": "nan", "training__optimizer": '"sgd"'}, ["training.momentum = nan: must be"]),
    ({"search__pruner__percentile": "-inf"}, ["search.pruner.percentile = -inf: must be"]),
    ({"space__l1": "-0.1"}, ["space.l1 = -0.1: must be a number, at least 0 and at most 1e+06"]),
    ({"space__weight_decay": "-1"}, ["space.weight_decay = -1: must be a number, at least 0"]),
    ({"space__learning_rate": "0.0"}, ["space.learning_rate = 0.0: must be a number, above 0"]),
    ({"space__input_dropout": "1.0"}, ["space.input_dropout = 1.0: must be a number, at least 0 and below 1"]),
    ({"space__dropout": "{ low = 0.0, high = 1.0 }"}, ["space.dropout.high = 1.0:", "below 1"]),
    ({"space__dropout": "{ low = -0.1, high = 0.5 }"}, ["space.dropout.low = -0.1:", "at least 0"]),
    ({"space__l1": "{ low = 0.0, high = 1.0, log = true }"}, ["space.l1.low = 0.0: must be above 0", "1e-7"]),
    (
        {"space__dropout": "{ low = 0.5, high = 0.1 }"},
        ["space.dropout = {low = 0.5, high = 0.1}: low must be below high"],
    ),
    (
        {"space__dropout": "{ low = 0.5, high = 0.5 }"},
        ["space.dropout = {low = 0.5, high = 0.5}:", "for a constant write dropout = 0.5"],
    ),
    (
        {"space__l1": "{ low = 0.0, high = 5e-324 }"},
        ["space.l1 = {", "and by more than rounding; for a constant write l1 = 0.0"],
    ),
    (
        {"space__dropout": "{ low = 0.5, high = 0.5000000000000001 }"},
        ["space.dropout = {", "low must be below high, and by more"],
    ),
    ({"space__dropout": "{ low = 0.0 }"}, ["space.dropout.high is missing", "{ low = ..., high = ... }"]),
    ({"space__dropout": "{ low = 0.0, high = 0.5, log = 1 }"}, ["space.dropout.log = 1: must be true or false"]),
    ({"space__dropout": "{ low = 0.0, hihg = 0.5 }"}, ['space.dropout.hihg is not a field; did you mean "high"?']),
    ({"space__dropout": "{ low = 0, high = 0.5, integer = true }"}, ["space.dropout.integer is not a field"]),
    ({"space__dropout": "[0.0, 0.5]"}, ["space.dropout = [0.0, 0.5]:", "or a range { low = ..., high = ... }"]),
    ({"space__dropout": '"0.5"'}, ['space.dropout = "0.5": must be a number']),
    ({"space__l1": "true"}, ["space.l1 = true: must be a number"]),
    ({"space__patience": "0"}, ["space.patience = 0: must be a whole number, at least 1"]),
    ({"space__patience": "5.0"}, ["space.patience = 5.0: must be a whole number"]),
    ({"space__patience": "{ low = 2, high = 9.5 }"}, ["space.patience.high = 9.5: must be a whole number"]),
    ({"space__dropout_7": "0.1"}, ["space.dropout_7 has no layer", "dropout_0, dropout_1"]),
    (
        {"model__name": '"cnn"', "model__channels": "[2]", "space__dropout_3": "0.1"},
        ["space.dropout_3 has no layer", "dropout_0, dropout_1, dropout_2"],
    ),
    (
        {"model__hidden": "[]", "space__dropout": None, "space__dropout_0": "0.1"},
        ["space.dropout_0 has no layer to speak for; the model has no dropout layers"],
    ),
    ({"space__dropout_01": "0.1"}, ['space.dropout_01 is not a field; did you mean "dropout_']),
    ({"space__droput": "0.1"}, ['space.droput is not a field; did you mean "dropout"?']),
    ({"space__zzz": "0.1"}, ["space.zzz is not a field; known are learning_rate, input_dropout"]),
    ({"space__dropout": "0.1"}, ["space has no range", "dropout = { low = 0.0, high = 0.6 }"]),
    ({"space__dropout": None}, ["space has no range"]),
    ({"space__dropout_0": "0.1", "space__dropout_1": "0.1"}, ["space has no range"]),
    ({"data__name": '"digit"'}, ['data.name = "digit": must be one of digits, mnist, ', '; did you mean "digits"?']),
    ({"data__name": None}, ["data.name is missing; add it to [data]"]),
    ({"data__validation": "1"}, ["data.validation = 1: must be below 1"]),
    ({"data__validation": "0.0"}, ["data.validation = 0.0: must be above 0"]),
    ({"data__validation": '"0.2"'}, ['data.validation = "0.2": must be a finite number']),
    ({"model__name": '"mpl"'}, ['model.name = "mpl": must be one of mlp, cnn, transformer; did you mean "mlp"?']),
    ({"model__name": '"cnm"'}, ['model.name = "cnm": must be one of mlp, cnn, transformer; did you mean "cnn"?']),
    (
        {"model__channels": "[16, 32]"},
        ['model.channels = [16, 32]: has no effect with name = "mlp", only with cnn; remove it'],
    ),
    ({"model__channel": "[16]"}, ['model.channel is not a field; did you mean "channels"?']),
    ({"model__name": '"cnn"', "model__channels": "[]"}, ["model.channels = []: must have at least one entry"]),
    ({"model__name": '"cnn"', "model__channels": "[0]"}, ["model.channels[0] = 0: must be at least 1"]),
    (
        {"model__name": '"cnn"', "model__channels": "[4, 4, 4, 4]"},
        ["model.channels = [4, 4, 4, 4]: must have at most 3 entries: each halves", "8 x 8 in digits"],
    ),
    (
        {"model__name": '"cnn"', "model__channels": "[4, 4, 4, 4, 4]", "data__name": '"mnist"'},
        ["model.channels = [4, 4, 4, 4, 4]: must have at most 4 entries: each halves", "28 x 28 in mnist"],
    ),
    ({"model__hidden": None}, ["model.hidden is missing; add it to [model]"]),
    ({"model__hidden": "[]"}, ["space.dropout acts on hidden layers, and the model has none"]),
    (
        {"model__name": '"transformer"', "model__hidden": "[]"},
        ["model.hidden = []: must have an entry for each block"],
    ),
    (
        {"model__name": '"transformer"', "model__patch": "[3, 8]"},
        ["model.patch = [3, 8]: must divide the images, which are 8 x 8 in digits"],
    ),
    (
        {"model__name": '"transformer"', "model__width": "30"},
        ["model.heads = 4: must divide the width, which is 30"],
    ),
    (
        {"model__name": '"transformer"', "space__batch_norm": "true"},
        ["space.batch_norm does not go with transformer"],
    ),
    *(
        (
            {"space__batch_norm": "true", f"space__{name}": value},
            [
                f"space.{name} has no effect with batch_norm = true: dropout acts after the last batch norm alone",
                "as dropout_1; remove it, or search batch_norm = { switch = true }",
            ],
        )
        for name, value in [("input_dropout", "{ low = 0.0, high = 0.3 }"), ("dropout_0", "0.2")]
    ),
    *(
        ({"space__batch_norm": "true", "space__dropout_1": "0.1", "space__dropout": value}, ["space has no range"])
        for value in ("{ low = 0.0, high = 0.5 }", "{ low = 0.1, high = 0.5, switch = true }")
    ),
    *(
        (
            {"training__batch_size": "1", "space__batch_norm": value},
            ["space.batch_norm needs minibatches of several examples, and training.batch_size is 1: make it larger"],
        )
        for value in ("true", "{ switch = true }")
    ),
    (
        {"model__name": '"cnn"', "data__name": '"wide"'},
        ['model.name = "cnn": needs images, and an example of wide is a row of 500 numbers; use mlp'],
    ),
    (
        {"data__name": '"wide"', "space__flip": "0.5"},
        ["space.flip needs images, and an example of wide is a row of 500 numbers"],
    ),
    ({"space__rotation": "181"}, ["space.rotation = 181: must be a number, at least 0 and at most 180"]),
    ({"space__label_smoothing": "1.0"}, ["space.label_smoothing = 1.0: must be a number, at least 0 and below 1"]),
    ({"space__batch_norm": "2"}, ["space.batch_norm = 2: must be true or false, or a search { switch = true }"]),
    (
        {"space__batch_norm": "{ low = 0, high = 1 }"},
        ["space.batch_norm = {low = 0, high = 1}: is either on or off", "{ switch = true }"],
    ),
    (
        {"space__patience": "{ low = 2, high = 4, switch = true }"},
        ["space.patience.switch = true: is no regularizer: it cannot be off"],
    ),
    ({"space__mixup": "{ low = 0.1, high = 1, switch = 1 }"}, ["space.mixup.switch = 1: must be true or false"]),
    (
        {"space__mixup": "{ low = 0, high = 0, switch = true }"},
        ["space.mixup.high = 0.0: must be above 0, which is what off means"],
    ),
    ({"training__schedule": '"cosin"'}, ['training.schedule = "cosin": must be one of', 'did you mean "cosine"?']),
    (
        {"training__plateau_factor": "0.5"},
        ['training.plateau_factor = 0.5: has no effect with schedule = "constant", only with plateau; remove it'],
    ),
    ({"model__hidden": "64"}, ["model.hidden = 64: must be a list"]),
    ({"model__hidden": "[8, 0]"}, ["model.hidden[1] = 0: must be at least 1"]),
    ({"model__hidden": "[8, true]"}, ["model.hidden[1] = true: must be a whole number"]),
    ({"model__hidden": "[8.0]"}, ["model.hidden[0] = 8.0: must be a whole number"]),
    ({"model__hidden": "[1048577]"}, ["model.hidden[0] = 1048577: must be at most 1048576"]),
    ({"model__hidden": "[0x" + "f" * 9000 + "]"}, ["model.hidden[0] = a very large number: must be at most"]),
    ({"model__hidden": str([1] * 101)}, ["model.hidden = [1, 1,", "...: must have at most 100 entries"]),
    ({"training__batch_size": "0"}, ["training.batch_size = 0: must be at least 1"]),
    ({"training__batch_size": "1048577"}, ["training.batch_size = 1048577: must be at most 1048576"]),
    ({"training__batch_size": "32.0"}, ["training.batch_size = 32.0: must be a whole number"]),
    ({"training__max_epochs": "0"}, ["training.max_epochs = 0: must be at least 1"]),
    ({"training__max_epochs": "100001"}, ["training.max_epochs = 100001: must be at most 100000"]),
    ({"training__optimizer": '"adamm"'}, ['training.optimizer = "adamm": must be one of', 'did you mean "adam']),
    ({"training__optimizer": "3"}, ["training.optimizer = 3: must be one of adam, adamw, sgd"]),
    ({"training__optimizer": '"sgd"', "training__momentum": "1.0"}, ["training.momentum = 1.0: must be below 1"]),
    ({"training__momentum": "0.9"}, ['training.momentum = 0.9: has no effect with optimizer = "adamw", only with sgd']),
    ({"training__l1_mode": '"proximall"'}, ['training.l1_mode = "proximall": must be', 'did you mean "proximal"?']),
    ({"training__batchsize": "3"}, ['training.batchsize is not a field; did you mean "batch_size"?']),
    ({"search__trials": "0"}, ["search.trials = 0: must be at least 1"]),
    ({"search__trials": "true"}, ["search.trials = true: must be a whole number"]),
    ({"search__seed": "-1"}, ["search.seed = -1: must be at least 0"]),
    ({"search__seed": "9223372036854775808"}, ["search.seed = 9223372036854775808: must be below 9223372036854775808"]),
    ({"search__sampler": '"tep"'}, ['search.sampler = "tep": must be one of', 'did you mean "tpe"?']),
    (
        {"search__objectives": '"val_loss"'},
        ['search.objectives = "val_loss": must be a list, as in ["val_loss", "sparsity"]'],
    ),
    ({"search__objectives": "[]"}, ['search.objectives = []: must begin with "val_loss"']),
    (
        {"search__objectives": '["sparsity", "val_loss"]'},
        ['search.objectives = ["sparsity", "val_loss"]: must begin with "val_loss", as in ["val_loss", "sparsity"]'],
    ),
    (
        {"search__objectives": '["val_loss", "epochs", "epochs"]'},
        ['search.objectives = ["val_loss", "epochs", "epochs"]: must name none of them twice'],
    ),
    (
        {"search__objectives": '["val_loss", "sparsty"]'},
        [
            'search.objectives[1] = "sparsty": must be one of val_loss, sparsity, epochs',
            'did you mean "sparsity"?',
        ],
    ),
    (
        {"search__objectives": '["val_loss", "epochs"]', "search__pruner__name": '"median"'},
        [
            'search.pruner.name = "median": compares trials by a single objective; with several use halving or none',
        ],
    ),
    ({"search__pruner__name": '"medain"'}, ['search.pruner.name = "medain":', 'did you mean "median"?']),
    ({"search__pruner__min_epoch": "1"}, ['search.pruner.min_epoch is not a field; did you mean "min_epochs"?']),
    ({"search__pruner__reduction_factor": "1"}, ["search.pruner.reduction_factor = 1: must be at least 2"]),
    (
        {"search__pruner__percentile": "10.0"},
        ['search.pruner.percentile = 10.0: has no effect with name = "halving", only with percentile; remove it'],
    ),
    ({"training__trials": "8"}, ["training.trials is not a field here; it belongs to [search]"]),
    ({"pruner": '{ name = "none" }'}, ["pruner is not a field here; it belongs to [search]"]),
    ({"data__reduction_factor": "2"}, ["data.reduction_factor is not a field here; it belongs to [search.pruner]"]),
    (
        {"space__label_smoothing": "{ low = 0.1, switch = true }"},
        ["space.label_smoothing.high is missing; a range is written { low = ..., high = ..., switch = true }"],
    ),
    ({"description": "5"}, ["description = 5: must be text in quotes"]),
    ({"descripton": '"x"'}, ['descripton is not a field; did you mean "description"?']),
    ({'"a\\u001b[31m"': "1"}, ['"a\\u001b[31m" is not a field']),
    ({"name": '""'}, ['name = "": must have 1 to 100 characters']),
    ({"name": '"../x"'}, ['name = "../x": must not contain a path separator']),
    ({"name": '"MLflow"'}, ['name = "MLflow": must be none of mlflow, optuna, which are folders']),
    ({"description": r'"a\u001b[31m"'}, [r'description = "a\u001b[31m": must not contain control characters']),
    ({"model__hidden": "[" * 350 + "]" * 350}, ["model.hidden[0] = [[[", "must be a whole number"]),
]


@pytest.mark.parametrize(
    ("changes", "told"), BAD, ids=[" ".join(f"{k}={v:.30}" for k, v in c.items() if v) for c, _ in BAD]
)
def test_a_bad_value_is_told_with_file_key_value_and_way_out(read, changes, told):
    with pytest.raises(SpecError) as caught:
        read(**changes)
    message = str(caught.value)
    assert message.startswith(f"studies/a.toml: {told[0]}")
    assert all(part in message for part in told)
    assert "\n" not in message
    assert "pydantic" not in message
    assert "\x1b" not in message


def test_all_that_is_wrong_is_told_at_once(read):
    with pytest.raises(SpecError) as caught:
        read(
            data__name='"digts"',
            data__validate="0.2",
            training__batch_size="0",
            training__optimizer='"adamm"',
            space__dropout="{ low = 0.9, high = 0.1, lgo = true }",
            space__l1="{ low = 0.0, high = -1.0, log = true }",
            space__dropout_2="0.1",
            search__trials='"many"',
            search__pruner__name='"halfing"',
        )
    lines = str(caught.value).splitlines()
    assert all(line.startswith("studies/a.toml: ") for line in lines)
    assert [line.split()[1] for line in lines] == [
        "data.name",
        "data.validate",
        "training.optimizer",
        "training.batch_size",
        "space.dropout.lgo",
        "space.dropout",
        "space.l1.high",
        "space.l1.low",
        "space.dropout_2",
        "search.trials",
        "search.pruner.name",
    ]


def test_a_section_must_be_a_table(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('space = 3\ndata = "digits"\n')
    with pytest.raises(SpecError) as caught:
        load_spec(str(path))
    assert str(caught.value).splitlines() == [
        f'{path}: data = "digits": must be a table, as in [data]',
        f"{path}: model is missing; add a table [model]",
        f"{path}: space = 3: must be a table, as in [space]",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"name = 'a'\nspace = {\n", "not valid TOML: "),
        (b'name = "a\n', "is a quotation mark missing?"),
        (b"a = 1\na b = 2\n", "(at line 2, column 3)"),
        (b"name = '\xff'", "not UTF-8 text (byte 8); save it as UTF-8"),
        (b"a = " + b"[" * 20_000, "not valid TOML: "),
        (b"a = " + b"9" * 5_000, "not valid TOML: "),
    ],
)
def test_a_file_that_is_not_toml(tmp_path, content, told):
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load_spec(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert told in str(caught.value)


def test_a_folder_is_not_a_study_file(tmp_path):
    with pytest.raises(SpecError, match=r"Is a directory; give the path of a \.toml file"):
        load_spec(f"{tmp_path}/")


@pytest.mark.parametrize("study", ["nowhere.toml", "no/where", "pyproject.toml/x"])
def test_a_path_that_is_not_there(study):
    with pytest.raises(UsageError, match=f"{study}: there is no such file; .* digits, digits-augmented, fashion-mnist"):
        load_spec(study)


@pytest.mark.parametrize(("study", "hint"), [("digit", '; did you mean "digits"?'), ("", ""), ("zzz", "")])
def test_an_unknown_study_is_answered_with_those_there_are(study, hint):
    with pytest.raises(UsageError) as caught:
        load_spec(study)
    assert f'there is no study "{study}"{hint}\n' in str(caught.value)
    assert f"Shipped studies are {', '.join(shipped_studies())}; " in str(caught.value)


def test_a_study_loads_from_any_folder_under_any_file_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine").write_bytes(b"\xef\xbb\xbf" + study_text().replace("\n", "\r\n").encode())
    assert load_spec("mine") == load_spec("./mine") == load_spec(str(tmp_path / "mine"))
    assert load_spec("mine").name == "mine"
    assert load_spec("digits").data.name == "digits"


def test_several_objectives_are_part_of_the_spec_and_a_single_one_leaves_it_as_it_was(read):
    lone = read()
    assert lone.search.objectives == ("val_loss",)
    assert read(search__objectives='["val_loss"]').digest == lone.digest
    assert set(json.loads(lone.to_json())["search"]) == {"trials", "seed", "sampler", "pruner"}
    several = read(search__objectives='["val_loss", "epochs", "sparsity"]')
    assert several.search.objectives == ("val_loss", "epochs", "sparsity")
    assert StudySpec.from_json(several.to_json()) == several
    assert several.digest != lone.digest
    assert several.with_overrides(trials=3, pruner="none").search.objectives == several.search.objectives
    with pytest.raises(UsageError, match=r'pruner\.name = "hyperband": compares trials by a single objective'):
        several.with_overrides(pruner="hyperband")


@pytest.mark.parametrize("name", shipped_studies())
def test_json_round_trip_is_exact(name):
    spec = load_spec(name)
    again = StudySpec.from_json(spec.to_json())
    assert again == spec
    assert again.to_json() == spec.to_json()
    assert again.digest == spec.digest
    assert again.parameters() == spec.parameters()


@pytest.mark.parametrize("pruner", PRUNER_OPTIONS)
def test_json_round_trip_with_every_pruner_and_optimizer(read, pruner):
    spec = read(search__pruner__name=f'"{pruner}"', training__optimizer='"sgd"', space__dropout_1="0.25")
    assert StudySpec.from_json(spec.to_json()) == spec
    assert set(json.loads(spec.to_json())["search"]["pruner"]) == {"name", *PRUNER_OPTIONS[pruner]}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "a", "data": NaN}'])
def test_a_stored_spec_that_cannot_be_read(text):
    with pytest.raises(SpecError, match=r"^stored spec: "):
        StudySpec.from_json(text)


def test_defaults_written_out_make_the_same_study(read):
    written = read(space__learning_rate="1e-3", search__seed="0", search__pruner__min_epochs="4")
    assert written.digest == read().digest


def test_what_may_change_on_resume_makes_no_difference(read):
    changed = read(name='"b"', description='"more"', search__trials="1000")
    assert spec_differences(read(), changed) == []
    assert changed.digest == read().digest


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"space__dropout": "{ low = 0.0, high = 0.25 }"}, ["space.dropout.high: stored 0.5, given 0.25"]),
        ({"space__dropout_1": "0.2"}, ["space.dropout_1: stored nothing, given 0.2"]),
        ({"space__l1": "{ low = 0, high = 1 }"}, ["space.l1: stored 0.0, given {low = 0.0, high = 1.0, log = false}"]),
        ({"model__hidden": "[8, 8]"}, ["model.hidden: stored [8, 4], given [8, 8]"]),
        (
            {"model__name": '"cnn"', "model__channels": "[4]"},
            ['model.name: stored "mlp", given "cnn"', "model.channels: stored nothing, given [4]"],
        ),
        (
            {"search__seed": "7", "data__name": '"mnist"'},
            ['data.name: stored "digits", given "mnist"', "search.seed: stored 0, given 7"],
        ),
        (
            {"search__objectives": '["val_loss", "sparsity"]'},
            ['search.objectives: stored nothing, given ["val_loss", "sparsity"]'],
        ),
        (
            {"search__pruner__name": '"none"'},
            [
                'search.pruner.name: stored "halving", given "none"',
                "search.pruner.min_epochs: stored 4, given nothing",
                "search.pruner.reduction_factor: stored 2, given nothing",
            ],
        ),
    ],
)
def test_differences_are_told_by_key(read, changes, told):
    stored, given = read(), read(**changes)
    assert spec_differences(stored, given) == told
    assert stored.digest != given.digest


def test_overrides_replace_what_they_name_and_nothing_else():
    spec = load_spec("digits")
    changed = spec.with_overrides(trials=3, seed=9, sampler="random", pruner="hyperband", optimizer="sgd")
    assert (changed.search.trials, changed.search.seed, changed.search.sampler) == (3, 9, "random")
    assert (changed.search.pruner.name, changed.search.pruner.reduction_factor) == ("hyperband", 3)
    assert (changed.training.optimizer, changed.training.momentum) == ("sgd", 0.9)
    assert changed.training.batch_size == spec.training.batch_size
    assert changed.space == spec.space
    assert spec.with_overrides() == spec
    assert changed.with_overrides(trials=64, seed=0, sampler="tpe", pruner="halving", optimizer="adamw") == spec


def test_the_same_pruner_and_optimizer_keep_their_options(read):
    spec = read(search__pruner__min_epochs="3", training__optimizer='"sgd"', training__momentum="0.5")
    assert spec.with_overrides(pruner="halving", optimizer="sgd") == spec


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"trials": 0}, "search.trials = 0: must be at least 1"),
        ({"seed": -1}, "search.seed = -1: must be at least 0"),
        ({"sampler": "tep"}, 'did you mean "tpe"?'),
        ({"pruner": "halfing"}, 'search.pruner.name = "halfing": must be one of'),
        ({"optimizer": "adagrad"}, 'training.optimizer = "adagrad": must be one of adam, adamw, sgd'),
    ],
)
def test_a_bad_override_is_the_command_lines_fault(overrides, told):
    with pytest.raises(UsageError) as caught:
        load_spec("digits").with_overrides(**overrides)
    assert told in str(caught.value)


@pytest.mark.parametrize("name", ["a", "x" * 100, "Größe 2", "a.b-c_d"])
def test_good_study_names(name):
    assert check_study_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "x" * 101, "a/b", "a\\b", "a\0b", "a\nb", "\x1b[31m", ".hidden", "..", " a", "a\u202eb", "\udcff"]
)
def test_bad_study_names(name):
    with pytest.raises(UsageError, match=r"^study name .*: must ") as caught:
        check_study_name(name)
    str(caught.value).encode()


def test_a_file_name_that_is_no_study_name_asks_for_one(tmp_path):
    path = tmp_path / ".toml"
    path.write_text(study_text())
    with pytest.raises(SpecError, match=r'name = "\.toml": must not begin with a dot'):
        load_spec(str(path))


def test_a_spec_is_frozen():
    spec = load_spec("digits")
    with pytest.raises(ValueError, match="frozen"):
        spec.search.trials = 3


def test_every_data_set_has_a_shape():
    assert {*DATASET_SHAPES, OWN} == set(get_args(DatasetName))


def test_every_default_and_textbook_value_is_one_that_may_be_written():
    for parameter in PARAMETERS.values():
        assert parameter.refusal(parameter.default) is None
        assert parameter.refusal(parameter.textbook) is None


def test_reading_a_study_imports_nothing_heavy():
    heavy = "{'torch', 'optuna', 'mlflow', 'numpy'}"
    code = f"import sys, search.spec as s; s.load_spec('digits'); sys.exit(bool({heavy} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
