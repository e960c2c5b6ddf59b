"""What a user can get wrong at the command line is answered in a few lines that say the way out, and writes nothing."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from inspect import cleandoc
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import SPEC

from search.cli import main
from search.spec import load_spec, shipped_studies
from search.study import Study, close_storage, open_storage

USAGE, FAILED = 2, 1


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """Work in a folder of its own, without settings from outside, with a study in `tiny.toml`."""
    for name in list(os.environ):
        if name.startswith(("REGSEARCH_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(SPEC)
    return tmp_path


def regsearch(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def everything() -> dict[str, bytes | None]:
    """Return all files and folders in the working directory with their contents."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}


def refused(code: int, *arguments: str) -> str:
    """Return the message with which the command is refused; nothing may be written."""
    before = everything()
    result = regsearch(*arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    assert not result.stdout
    assert "Traceback" not in result.stderr
    assert everything() == before
    return result.stderr


def start_refused(code: int, *arguments: str) -> str:
    return refused(code, "start", "--study", "tiny.toml", *arguments)


def a_stored_study(home: Path = Path("runs")) -> None:
    home.mkdir()
    Study.open("tiny", load_spec("tiny.toml"), open_storage(None, home), home).close()


# The study


@pytest.mark.parametrize(("study", "near"), [("digit", "digits"), ("minst", "mnist")])
def test_an_unknown_study_is_answered_with_the_nearest(study, near):
    message = refused(USAGE, "start", "--study", study)
    assert f'there is no study "{study}"; did you mean "{near}"?' in message
    assert f"Shipped studies are {', '.join(shipped_studies())}" in message


def test_a_study_file_that_is_not_there():
    message = refused(USAGE, "start", "--study", "studies/mine.toml")
    assert "studies/mine.toml: there is no such file; the shipped studies go by name: cifar10, digits" in message


def test_a_study_must_be_named():
    assert "Missing option '--study'" in refused(USAGE, "start")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[data]", "[data", "not valid TOML"),
        ("[data]", "[data]\xff", "not UTF-8 text"),
        ("[space]", "[space]\ndropuot = 0.1", 'space.dropuot is not a field; did you mean "dropout"?'),
        ("max_epochs", "max_epoch", 'training.max_epoch is not a field; did you mean "max_epochs"?'),
        ("high = 0.6", "hihg = 0.6", 'space.dropout.hihg is not a field; did you mean "high"?'),
        ("trials = 6", 'trials = "six"', 'search.trials = "six": must be a whole number'),
        ("trials = 6", "trials = 0", "search.trials = 0: must be at least 1"),
        ("[12, 8]", "12", "model.hidden = 12: must be a list, as in [128, 64]"),
        ("high = 0.6", "high = 1.0", "space.dropout.high = 1.0: must be a number, at least 0 and below 1"),
        ("high = 0.3", "high = 1.5", "space.input_dropout.high = 1.5: must be a number, at least 0 and below 1"),
        ("low = 1e-6", "low = -1e-6", "space.weight_decay.low = -1e-06: must be a number, at least 0"),
        ("{ low = 1e-7, high = 1e-3, log = true }", "-0.1", "space.l1 = -0.1: must be a number, at least 0"),
        ("low = 2, high = 10", "low = 10, high = 2", "low must be below high"),
        ("low = 1e-7", "low = 0.0", "space.l1.low = 0.0: must be above 0 on a logarithmic scale"),
        (
            '"digits"',
            '"digts"',
            'data.name = "digts": must be one of digits, mnist, ',
        ),
        ('"mlp"', '"rnn"', 'model.name = "rnn": must be one of mlp, cnn'),
        ("[training]", '[training]\noptimizer = "adm"', 'training.optimizer = "adm": must be one of adam, adamw, sgd'),
        ("[search]", '[search]\nsampler = "tpee"', 'did you mean "tpe"?'),
        ("[search]", '[search]\npruner = { name = "medain" }', 'search.pruner.name = "medain": must be one of halving'),
    ],
)
def test_a_study_file_with_a_mistake_is_refused_with_its_place(old, new, told):
    assert old in SPEC
    Path("tiny.toml").write_text(SPEC.replace(old, new), encoding="latin-1")
    message = start_refused(FAILED)
    assert message.startswith("Error: tiny.toml: ")
    assert told in message


def test_all_mistakes_of_a_study_file_are_told_at_once():
    Path("tiny.toml").write_text(SPEC.replace("[12, 8]", "[0]").replace("high = 0.6", "high = 2"))
    message = start_refused(FAILED)
    assert "model.hidden[0] = 0" in message
    assert "space.dropout.high = 2" in message


def test_a_study_file_that_cannot_be_read():
    Path("folder.toml").mkdir()
    assert "folder.toml: cannot be read: Is a directory" in refused(FAILED, "start", "--study", "folder.toml")


# Options


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--trials", "0", "0 is not in the range x>=1"),
        ("--trials", "-3", "-3 is not in the range x>=1"),
        ("--trials", "many", "'many' is not a valid integer"),
        ("--trials", "99999999999", "search.trials = 99999999999: must be at most"),
        ("--workers", "many", "'many' is neither a number from 0 to 999999 nor auto"),
        ("--workers", "-1", "'-1' is neither a number from 0 to 999999 nor auto"),
        ("--population", "0", "'0' is neither a number from 1 to 999999 nor auto"),
        ("--population", "-4", "'-4' is neither a number"),
        ("--population", "some", "'some' is neither a number"),
        ("--timeout", "0", "'0' is not a time above zero; write seconds, or 15m, or 2h"),
        ("--timeout", "-5m", "'-5m' is not a time above zero"),
        ("--timeout", "soon", "'soon' is not a time above zero"),
        ("--seed", "-1", "-1 is not in the range"),
        ("--sampler", "tpee", 'search.sampler = "tpee": must be one of tpe, random, qmc, gp; did you mean "tpe"?'),
        ("--pruner", "halfing", 'did you mean "halving"?'),
        ("--optimizer", "adm", 'training.optimizer = "adm": must be one of adam, adamw, sgd; did you mean "adam"?'),
        ("--engine", "fast", "'fast' is not one of 'auto', 'stacked', 'looped'"),
        ("--device", "tpu", "'tpu' is not one of 'auto', 'cpu', 'cuda'"),
        ("--name", "a/b", 'study name "a/b": must not contain a path separator'),
        ("--name", ".hidden", "must not begin with a dot"),
        ("--home", "~nobody-of-that-name/runs", "~nobody-of-that-name/runs"),
        ("--data-dir", "~nobody-of-that-name/data", "~nobody-of-that-name/data"),
        ("--trails", "3", "'--trials'"),
    ],
)
def test_a_wrong_option_is_a_usage_error(option, value, told):
    assert told.lower() in start_refused(USAGE, f"{option}={value}").lower()


def test_an_unknown_command_is_a_usage_error():
    assert "No such command 'strat'" in refused(USAGE, "strat")


def test_a_traceback_is_printed_for_those_who_ask_for_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("REGSEARCH_DEBUG", "1")
    result = CliRunner().invoke(main, ["start", "--study", "tiny.toml", "--device", "cuda"])
    assert result.exit_code == FAILED
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: --device cuda")


def test_a_wrong_environment_variable_is_a_usage_error_that_names_it(monkeypatch):
    monkeypatch.setenv("REGSEARCH_WORKERS", "many")
    assert "--workers" in start_refused(USAGE)


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = start_refused(FAILED, "--device", "cuda")
    assert "--device cuda: torch finds no CUDA device here; use --device cpu, or auto" in message


# Data


def test_missing_data_without_network_say_where_the_files_go(no_network, monkeypatch):
    Path("data/MNIST/raw").mkdir(parents=True)
    monkeypatch.setenv("REGSEARCH_DATA", "data")
    message = refused(FAILED, "start", "--study", "mnist")
    for part in ("data/MNIST/raw", "train-images-idx3-ubyte", "--data-dir", "`--study digits` needs no download"):
        assert part in message


def test_a_corrupted_data_file_is_named():
    raw = Path("data/MNIST/raw")
    raw.mkdir(parents=True)
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{part}-ubyte").write_bytes(b"cut off")
    message = refused(FAILED, "start", "--study", "mnist", "--data-dir", "data")
    assert "train-images-idx3-ubyte has 7 bytes instead of 47,040,016: delete it" in message


# Where things are kept


@pytest.mark.parametrize("home", ["in-the-way", "in-the-way/runs", "x" * 300])
def test_a_home_that_cannot_be_written(home):
    Path("in-the-way").write_text("a file")
    message = start_refused(FAILED, "--home", home)
    assert "cannot be written to" in message
    assert "name another: --home or REGSEARCH_HOME" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_home():
    Path("runs").mkdir(mode=0o500)
    assert "runs cannot be written to (Permission denied)" in start_refused(FAILED)


def test_a_database_server_that_cannot_be_reached_shows_no_password():
    message = start_refused(FAILED, "--storage", "postgresql://me:s3cret@127.0.0.1:9/regsearch")
    assert "postgresql://me:***@127.0.0.1:9/regsearch" in message
    assert "s3cret" not in message
    # The first without a driver, the second with one: nobody listens at that port.
    assert "driver is not installed: pip install 'psycopg" in message or "cannot be opened" in message


@pytest.mark.parametrize(
    ("storage", "told"),
    [
        ("sqlite:///no/such/folder/study.db", "sqlite:///no/such/folder/study.db: cannot be opened"),
        ("sqlite:///", "this database lives in memory and would be lost"),
        ("postgers://me:s3cret@host/db", "postgers:// is not a storage"),
        ("redis://:s3cret@host/db", "Redis storages are refused"),
        ("journal://study.journal", "journal:///PATH"),
        ("tiny.toml", "is not an Optuna journal"),
    ],
)
def test_a_storage_that_cannot_be_used(storage, told):
    message = start_refused(FAILED, "--storage", storage)
    assert told in message
    assert "s3cret" not in message


@pytest.mark.parametrize("command", ["start", "show"])
def test_a_database_of_another_program_is_left_alone(command, folder):
    with sqlite3.connect("other.db") as database:
        database.execute("create table recipes (name)")
    database.close()
    study = "tiny.toml" if command == "start" else "tiny"
    message = refused(FAILED, command, "--study", study, "--storage", "sqlite:///other.db")
    assert "sqlite:///other.db: this database is not Optuna's (it has the tables recipes)" in message


@pytest.mark.parametrize("content", ["Dear diary,\n", '{"op_code": 0}\nnot json\n{"op_code": 1}\n'])
def test_a_journal_that_is_none_is_left_alone(content):
    a_stored_study()
    Path("runs/optuna.journal").write_text(content)
    assert "optuna.journal: " in start_refused(FAILED)
    assert "optuna.journal: " in refused(FAILED, "show", "--study", "tiny")


def test_another_spec_is_refused_with_the_fields_and_the_way_out():
    a_stored_study()
    Path("tiny.toml").write_text(SPEC.replace("[12, 8]", "[12]").replace("high = 1e-3", "high = 1e-2"))
    message = start_refused(FAILED)
    assert 'study "tiny" exists with another spec' in message
    assert "model.hidden: stored [12, 8], given [12]" in message
    assert "space.l1.high: stored 0.001, given 0.01" in message
    assert "--name NEW" in message
    assert "search.seed: stored 0, given 5" in start_refused(FAILED, "--seed", "5")


# Settings from the environment


def test_a_flag_beats_the_environment_which_beats_the_spec(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("REGSEARCH_DEVICE", "cuda")  # refused once all options have been read
    assert "Study tiny: 6 trials" in start_refused(FAILED)
    monkeypatch.setenv("REGSEARCH_TRIALS", "7")
    assert "Study tiny: 7 trials" in start_refused(FAILED)
    assert "Study tiny: 8 trials" in start_refused(FAILED, "--trials", "8")
    monkeypatch.setenv("REGSEARCH_STUDY", "tiny.toml")
    monkeypatch.setenv("REGSEARCH_NAME", "mine")
    assert "Study mine: 7 trials of at most 4 epochs" in refused(FAILED, "start")


def test_the_home_from_the_environment(monkeypatch):
    a_stored_study(Path("elsewhere"))
    assert "runs holds no studies yet" in refused(USAGE, "show", "--study", "tiny")
    monkeypatch.setenv("REGSEARCH_HOME", "elsewhere")
    assert regsearch("show", "--study", "tiny").exit_code == 0
    assert "runs holds no studies yet" in refused(USAGE, "show", "--study", "tiny", "--home", "runs")


# Help


def commands() -> list[tuple[str, click.Command]]:
    return sorted(main.commands.items())


@pytest.mark.parametrize(("name", "command"), commands())
def test_every_command_and_option_has_help(name, command):
    assert command.help
    _, leading, *_ = cleandoc(command.help).split("\n\n")
    assert re.match(rf"\x08\n  regsearch {name}\b", leading), "the first words are followed by an example"
    for parameter in command.params:
        assert isinstance(parameter, click.Option)
        assert parameter.help, parameter.name
        if parameter.name != "as_json":
            assert parameter.envvar, parameter.name
    result = regsearch(name, "--help")
    assert result.exit_code == 0
    assert all(option in result.stdout for parameter in command.params for option in parameter.opts)


def test_help_leads_with_examples_and_names_every_command():
    result = regsearch("--help")
    assert result.exit_code == 0
    assert result.stdout.index("regsearch start --study digits") < result.stdout.index("Commands:")
    names = "confirm explain export logs repair report show start status stop studies sync ui watch"
    assert [name for name, _ in commands()] == names.split()
    assert regsearch("-h").stdout == result.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["start", "--trials", "0"]])
def test_what_needs_nothing_heavy_imports_nothing_heavy(arguments):
    code = (
        "import sys\nfrom search.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "print('loaded:', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = result.stdout.splitlines()[-1].split()
    assert loaded[0] == "loaded:"
    heavy = {"torch", "optuna", "mlflow", "pydantic", "rich", "numpy", "sqlalchemy", "plotly", "jinja2"}
    assert not heavy & set(loaded)


# Looking at studies


def test_studies_without_a_home_lists_the_shipped_ones_and_makes_none():
    before = everything()
    result = regsearch("studies")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in shipped_studies())
    assert "1,797 handwritten digits" in " ".join(result.stdout.split())
    assert "No stored studies yet" in result.stdout
    assert json.loads(regsearch("studies", "--json").stdout)["stored"] == []
    assert everything() == before


def test_studies_lists_the_stored_ones_with_their_state():
    a_stored_study()
    result = regsearch("studies")
    assert result.exit_code == 0
    assert "tiny" in result.stdout
    assert "2 waiting; best none yet" in result.stdout
    listed = json.loads(regsearch("studies", "--json").stdout)
    assert set(listed["shipped"]) == set(shipped_studies())
    assert [study["study"] for study in listed["stored"]] == ["tiny"]
    assert listed["stored"][0]["trials"]["waiting"] == 2


@pytest.mark.parametrize("storage", ["sqlite:///new.db", "new.journal", "journal:///{folder}/new.journal"])
@pytest.mark.parametrize(
    "command", [["show", "--study", "tiny"], ["show", "--study", "tiny", "--json"], ["watch", "--study", "tiny"]]
)
def test_showing_what_is_not_there_creates_nothing(folder, command, storage):
    message = refused(USAGE, *command, "--storage", storage.format(folder=folder))
    assert "holds no studies yet" in message


def test_listing_a_storage_that_is_not_there_creates_nothing():
    before = everything()
    result = regsearch("studies", "--storage", "sqlite:///new.db")
    assert (result.exit_code, everything()) == (0, before)
    assert "No stored studies yet" in result.stdout


def test_show_without_a_home_says_how_to_begin():
    message = refused(USAGE, "show", "--study", "digits")
    assert "runs holds no studies yet; `regsearch start --study digits` makes one, --home names another" in message


@pytest.mark.parametrize("command", ["show", "watch"])
def test_an_unknown_stored_study_is_answered_with_the_nearest(command):
    a_stored_study()
    assert 'there is no study "tony"; did you mean "tiny"? (known: tiny)' in refused(USAGE, command, "--study", "tony")


def test_show_says_how_to_go_on_with_the_study_where_it_is(searched):
    home = str(searched / "runs")
    told = regsearch("show", "--study", "tiny", "--home", home).stdout
    for command in ("report", "explain", "export"):
        assert f"regsearch {command} --study tiny --home {home}" in told


def test_show_of_a_study_that_has_no_trials_yet():
    a_stored_study()
    result = regsearch("show", "--study", "tiny")
    assert result.exit_code == 0
    assert "no best configuration" in result.stdout
    shown = json.loads(regsearch("show", "--study", "tiny", "--json").stdout)
    assert shown["trials"] == {"complete": 0, "pruned": 0, "failed": 0, "running": 0, "waiting": 2}
    assert (shown["best"], shown["baseline"], shown["test"], shown["reasons"]) == (None, None, {}, {})


def test_a_study_in_a_database_is_shown_from_there(folder):
    storage = open_storage("sqlite:///study.db", folder)
    Study.open("tiny", load_spec("tiny.toml"), storage, folder).close()
    close_storage(storage)
    result = regsearch("show", "--study", "tiny", "--storage", "sqlite:///study.db")
    assert result.exit_code == 0
    assert "2 waiting" in result.stdout
