"""Checkpoints: a trial that was cut off goes on to the last bit as if nothing had happened, or begins anew."""

import errno
import json
import math
import os
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import SPEC, make_assignment, make_data, make_training, regsearch
from safetensors import safe_open
from safetensors.torch import save_file
from scripted import Notes
from test_cocktail import STRENGTHS, image_data, spelled
from test_folds import FOLDS, folded
from test_population import NormNet
from test_trainers import setup

from search.crew import Crew
from search.pruning import NoPruner
from search.records import EpochResult, Reason, Role
from search.runner import Runner
from search.spec import DataSpec, ModelSpec, load_spec
from search.stopping import StopRequest
from search.study import Study, open_storage
from search.trainers import LocalTrainer, ProcessTrainer, StudyData, TrainerLost, TrainerStopped, keeping
from search.trainers.keeping import Keeper
from search.training.augmentation import AUGMENTATIONS
from search.training.checkpoints import Checkpoint, CheckpointFolder
from search.training.engines import ENGINES, VmappedEngine
from search.training.folding import FoldedPopulation
from search.training.models import model_factory
from search.training.population import Population, Way
from search.wishes import Wishes

SEED, EPOCHS = 7, 5
EVERYTHING = {key: value for name in STRENGTHS for key, value in spelled(name, STRENGTHS[name]).items()}
TRIALS = [
    make_assignment(0, input_dropout=0.2, dropout_0=0.5, weight_decay=0.1, l1=1e-3),
    make_assignment(1, **EVERYTHING),
    make_assignment(2, learning_rate=3e-2, weight_averaging=0.3, batch_norm=1),
    make_assignment(3, learning_rate=0.3),  # whose loss rises again
]


def mlp(data):
    return model_factory(ModelSpec(name="mlp", hidden=[8, 5]), data.shape, data.classes, batch_norm=True)


def cnn(data):
    return model_factory(ModelSpec(name="cnn", channels=[3, 4], hidden=[5]), data.shape, data.classes)


CASES = {
    "adamw": {},
    "adam, penalty": {"optimizer": "adam", "l1_mode": "penalty"},
    "sgd": {"optimizer": "sgd"},
    "cosine": {"schedule": "cosine"},
    "plateau": {"schedule": "plateau", "plateau_epochs": 0, "plateau_factor": 0.5},
    "convolutions": {"factory": cnn},
    "own batch norm": {"factory": lambda _: NormNet, "data": make_data},
    "folds": {"data": folded},
}


def population(engine="stacked", slots=4, factory=mlp, data=image_data, precision="fp32", **training):
    examples = data()
    models = slots * (examples.folds or 1)
    people = Population(
        factory(examples), examples, make_training(max_epochs=EPOCHS, **training), SEED, models, Way(engine, precision)
    )
    return people if examples.folds is None else FoldedPopulation(people, examples.folds)


def trials(case):
    """Trials that the data of a case allow: only images can be moved."""
    if "data" not in case:
        return TRIALS
    return [replace(t, params={k: v for k, v in t.params.items() if k not in AUGMENTATIONS}) for t in TRIALS]


def same(left, right):
    """Return whether rows are the same to the last bit, nan being itself."""
    return repr(left) == repr(right)


def approx(value):
    return pytest.approx(value, rel=1e-9)


@pytest.fixture(params=["stacked", "looped", "vmapped"])
def engine(request, monkeypatch):
    if request.param == "vmapped":
        monkeypatch.setitem(ENGINES, "stacked", VmappedEngine)
        return "stacked"
    return request.param


def steadily(people, trials):
    """Train trials from first to last; return each one's rows, and its states after each epoch."""
    for trial in trials:
        people.admit(trial)
    rows, states = [], []
    for _ in range(EPOCHS):
        rows.append(people.train_epoch())
        states.append({trial: people.state(trial) for trial in rows[-1]})
    return rows, states


def resumed(people, trials, states, cut):
    """Train trials on from the states that they had after epoch `cut`; return their rows from there."""
    for trial in trials:
        people.restore(trial, states[cut - 1][trial.number])
    return [people.train_epoch() for _ in range(cut, EPOCHS)]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("name", CASES)
def test_a_trial_goes_on_in_another_population_to_the_last_bit(engine, name):
    case = CASES[name]
    steady = population(engine, **case)
    rows, states = steadily(steady, trials(case))
    for cut in range(1, EPOCHS):
        other = population(engine, **case)
        assert same(resumed(other, trials(case), states, cut), rows[cut:])
    if name != "folds":
        for trial in range(len(TRIALS)):
            there, here = steady.best_weights(trial), other.best_weights(trial)
            assert all(torch.equal(there[key], here[key]) for key in there)


@pytest.mark.parametrize("name", CASES)
def test_a_trial_goes_on_in_another_slot(double, engine, name):
    """To rounding: a batched matrix product may be rounded otherwise in another place."""
    case = CASES[name]
    rows, states = steadily(population(engine, **case), trials(case))
    for cut in range(1, EPOCHS):
        later = resumed(population(engine, **case), trials(case)[::-1], states, cut)
        for ours, theirs in zip(later, rows[cut:], strict=True):
            for number, row in ours.items():
                assert (row.epoch, row.val_loss) == (theirs[number].epoch, approx(theirs[number].val_loss))


def test_a_trial_goes_on_beside_others_and_moves(double, engine):
    """In a population of another size, among trials that are older, younger and leave."""
    rows, states = steadily(population(engine, slots=1), TRIALS[1:2])
    people = population(engine, slots=5)
    for number in (10, 11):
        people.admit(make_assignment(number, dropout_0=0.1))
    people.train_epoch()
    people.restore(TRIALS[1], states[0][1])
    people.admit(TRIALS[2])
    later = [people.train_epoch()[1]]
    people.free([10, 11])
    assert people.numbers.index(1) == 1
    later += [people.train_epoch()[1] for _ in range(2, EPOCHS)]
    for row, other in zip(later, rows[1:], strict=True):
        assert (row.epoch, row.val_loss) == (other[1].epoch, approx(other[1].val_loss))


@pytest.mark.parametrize(("there", "here"), [("stacked", "looped"), ("looped", "stacked")])
def test_a_state_serves_both_engines(double, there, here):
    rows, states = steadily(population(there), TRIALS)
    for ours, theirs in zip(resumed(population(here), TRIALS, states, 2), rows[2:], strict=True):
        for number, row in ours.items():
            assert row.val_loss == approx(theirs[number].val_loss)


def test_a_state_in_bfloat16_is_as_good():
    steady, other = (population(precision="bf16") for _ in range(2))
    steady.admit(TRIALS[0])
    steady.train_epoch()
    other.restore(TRIALS[0], steady.state(0))
    assert same(steady.train_epoch(), other.train_epoch())


@pytest.mark.parametrize(
    ("other", "trial"),
    [
        ({"factory": cnn}, TRIALS[0]),
        ({"optimizer": "sgd"}, TRIALS[0]),
        ({"schedule": "plateau"}, TRIALS[0]),
        ({"data": folded}, TRIALS[0]),
        ({}, replace(TRIALS[0], params={**TRIALS[0].params, "weight_averaging": 1.0})),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_nobody_is_disturbed(other, trial):
    before, people = population(slots=2), population(slots=2, **other)
    before.admit(TRIALS[0])
    before.train_epoch()
    people.admit(make_assignment(9))
    with pytest.raises(ValueError, match="state"):
        people.restore(trial, before.state(0))
    assert people.numbers == [9]
    people.admit(make_assignment(8))
    assert sorted(people.train_epoch()) == [8, 9]


def test_a_trial_of_other_folds_is_refused():
    people = [population(data=partial(folded, folds), slots=1) for folds in (FOLDS + 1, FOLDS)]
    people[0].admit(TRIALS[3])
    people[0].train_epoch()
    state = people[0].state(3)
    for wrong in (state, {name: tensor for name, tensor in state.items() if not name.startswith(f"fold_{FOLDS - 1}/")}):
        with pytest.raises(ValueError, match="state"):
            people[1].restore(TRIALS[3], wrong)
        assert people[1].numbers == []
    people[1].admit(TRIALS[3])
    assert sorted(people[1].train_epoch()) == [3]


ROWS = (EpochResult(1, 0.5, math.inf, 0.25, 0.0), EpochResult(2, math.nan, 0.1 + 0.2, -math.inf, 1 / 3, 1e-300))


@pytest.fixture
def kept(tmp_path):
    """A folder with the checkpoint of the trial `make_assignment(12)`."""
    folder = CheckpointFolder(tmp_path / "kept", {"training": {"batch_size": 16}})
    folder.make_room(0)
    state = {"weights": torch.arange(5.0), "steps": torch.tensor(3), "none": torch.zeros(0, dtype=torch.int32)}
    folder.write(make_assignment(12), Checkpoint(ROWS, state))
    return folder


def test_a_checkpoint_comes_back_as_it_was(kept):
    found = kept.read(make_assignment(12))
    assert same(found.rows, ROWS)
    assert {name: tensor.tolist() for name, tensor in found.state.items()} == {
        "weights": [0.0, 1.0, 2.0, 3.0, 4.0],
        "steps": 3,
        "none": [],
    }
    assert [path.name for path in kept.folder.iterdir()] == [kept.path(make_assignment(12)).name]
    assert kept.path(make_assignment(12)).name.startswith("trial-00012-")


def test_later_attempts_at_a_trial_find_it_and_no_others(kept):
    own = make_assignment(12)
    assert kept.read(replace(own, number=40)) is not None
    assert kept.read(replace(own, seed=13)) is None
    assert kept.read(make_assignment(12, l1=1e-9)) is None
    assert CheckpointFolder(kept.folder, {"training": {"batch_size": 32}}).read(own) is None
    # Not even where it lies under the other's name.
    shutil.copy(kept.path(own), kept.path(replace(own, seed=13)))
    assert kept.read(replace(own, seed=13)) is None


def test_a_checkpoint_of_another_format_is_none(kept, monkeypatch):
    monkeypatch.setattr("search.training.checkpoints._FORMAT", 2)
    assert kept.read(make_assignment(12)) is None


def test_what_is_damaged_is_none(kept):
    path = kept.path(make_assignment(12))
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        assert kept.read(make_assignment(12)) is None
    for place in range(0, len(content), 5):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        found = kept.read(make_assignment(12))  # blanks at the header's end may be others
        assert found is None or same(found.rows, ROWS)
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    assert kept.read(make_assignment(12)) is None


@pytest.mark.parametrize("about", [None, "[]", "{", '"regsearch"'])
def test_what_others_have_written_is_none(kept, about):
    path = kept.path(make_assignment(12))
    save_file({"weights": torch.zeros(3)}, path, None if about is None else {"regsearch": about})
    assert kept.read(make_assignment(12)) is None
    path.unlink()
    path.mkdir()
    assert kept.read(make_assignment(12)) is None


def tiny(folder, **changes):
    return setup(checkpoints=folder, **changes)


def life(trainer, admit, epochs, free=()):
    reports = []
    for _ in range(epochs):
        trainer.begin(admit, free)
        reports.append(trainer.collect())
        admit, free = [], []
    return reports


def again(trials):
    """Second attempts: other numbers, the same seeds."""
    return [replace(trial, number=trial.number + 100) for trial in trials]


PAIR = [make_assignment(0, dropout_0=0.5, l1=1e-3), make_assignment(1, weight_decay=0.1)]


def test_a_trainer_goes_on_where_another_was_killed(tmp_path):
    expected = life(LocalTrainer(setup()), PAIR, 5)
    first, second = ProcessTrainer(), ProcessTrainer()
    try:
        first.set_up(tiny(tmp_path))
        second.set_up(tiny(tmp_path, slots=2))
        life(first, PAIR, 2)
        first.checkpoint([])
        life(first, [], 1)
        first.begin([], [])
        os.kill(first.process.pid, signal.SIGKILL)
        with pytest.raises(TrainerLost):
            first.collect()
        reports = life(second, again(PAIR), 3)
    finally:
        first.close()
        second.close()
    for trial in PAIR:
        rows = [report.results[trial.number] for report in expected]
        assert same(list(reports[0].resumed[trial.number + 100]), rows[:2])
        assert same([report.results[trial.number + 100] for report in reports], rows[2:])
    assert [report.resumed for report in reports[1:]] == [{}, {}]


def test_checkpoints_go_with_their_trials_and_stay_when_all_leave(tmp_path):
    trainer = LocalTrainer(tiny(tmp_path))
    life(trainer, PAIR, 1)
    trainer.checkpoint([])
    assert len(list(tmp_path.iterdir())) == 2
    life(trainer, [], 1, free=[0])
    assert [path.name[:11] for path in tmp_path.iterdir()] == ["trial-00001"]
    trainer.vacate()
    assert len(list(tmp_path.iterdir())) == 1
    (report,) = life(trainer, again(PAIR), 1)
    assert {number: row.epoch for number, row in report.results.items()} == {100: 1, 101: 2}
    trainer.checkpoint([101])
    assert [path.name[:11] for path in tmp_path.iterdir()] == ["trial-00000"]


def test_a_trainer_that_may_not_keep_anything_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = LocalTrainer(setup())
    life(trainer, PAIR, 2)
    trainer.checkpoint([0])
    assert sorted(life(trainer, [], 1)[0].results) == [1]
    assert list(tmp_path.iterdir()) == []


def test_an_epoch_given_up_is_not_kept(tmp_path):
    stop = []
    trainer = LocalTrainer(tiny(tmp_path), should_stop=lambda: bool(stop))
    trainer.checkpoint([])  # there is no population yet
    life(trainer, PAIR, 1)
    stop.append(True)
    with pytest.raises(TrainerStopped):
        life(trainer, [], 1)
    trainer.checkpoint([])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"model": ModelSpec(name="mlp", hidden=[8, 4])},
        {"training": make_training(batch_size=32)},
        {"data": SimpleNamespace(load=lambda: replace(make_data(), fingerprint="other"))},
    ],
)
def test_trials_of_another_study_begin_anew(tmp_path, changes):
    first = LocalTrainer(tiny(tmp_path))
    life(first, PAIR, 2)
    first.checkpoint([])
    (report,) = life(LocalTrainer(tiny(tmp_path, **changes)), PAIR, 1)
    assert report.resumed == {}
    assert {row.epoch for row in report.results.values()} == {1}


def test_a_file_that_fits_but_for_its_tensors_is_not_used(tmp_path):
    first = LocalTrainer(tiny(tmp_path))
    life(first, PAIR, 1)
    first.checkpoint([])
    files = CheckpointFolder(tmp_path, first._keeper._files._setting)
    found = files.read(PAIR[0])
    files.write(PAIR[0], Checkpoint(found.rows, {**found.state, "weights": torch.zeros(3)}))
    (report,) = life(LocalTrainer(tiny(tmp_path)), PAIR, 1)
    assert sorted(report.resumed) == [1]
    assert sorted(report.results) == [0, 1]


def searched(tmp_path, folder, lost):
    """Return the rows of the baseline and the textbook configuration of a search whose first trainer may be lost."""
    (tmp_path / "tiny.toml").write_text(SPEC)
    spec = load_spec(str(tmp_path / "tiny.toml")).with_overrides(trials=3)
    home = tmp_path / f"home {lost}"
    home.mkdir()
    wishes = Wishes(tmp_path, "cpu", "stacked", "fp32", "torch", population=3, workers=0)
    crew = Crew(spec, wishes, checkpoints=folder)
    crew.start()
    trainer = crew.trainers[0]
    epochs = iter(range(1, 100))

    def collect():
        if lost and next(epochs) == 3:
            trainer.checkpoint([])
            raise TrainerLost("a cosmic ray")
        return LocalTrainer.collect(trainer)

    trainer.collect = collect
    study = Study.open("tiny", spec, open_storage(None, home), home)
    Runner(study, crew, NoPruner(), None, Notes(), StopRequest()).run()
    records = study.records()
    study.close()
    assert sum(record.reason is Reason.INTERRUPTED for record in records) == (3 if lost else 0)
    return [next(r.epochs for r in records if r.role is role and r.state == "complete") for role in Role]


def test_a_search_that_loses_a_trainer_finds_the_same(tmp_path, monkeypatch):
    expected = searched(tmp_path, None, lost=False)
    earlier, admit = [], Keeper.admit

    def spied(*given):
        earlier.append(admit(*given))
        return earlier[-1]

    monkeypatch.setattr(Keeper, "admit", spied)
    assert same(searched(tmp_path, tmp_path / "kept", lost=True), expected)
    assert [len(rows) for rows in earlier] == [0, 0, 0, 2, 2, 2]


def test_folds_go_on_together(tmp_path):
    data = StudyData(DataSpec(name="digits", folds=2), Path(), 0)
    expected = life(LocalTrainer(setup(data=data)), PAIR, 3)
    first = LocalTrainer(tiny(tmp_path, data=data))
    life(first, PAIR, 2)
    first.checkpoint([])
    (report,) = life(LocalTrainer(tiny(tmp_path, data=data)), again(PAIR), 1)
    assert same([report.resumed[n + 100][1] for n in (0, 1)], [expected[1].results[n] for n in (0, 1)])
    assert same([report.results[n + 100] for n in (0, 1)], [expected[2].results[n] for n in (0, 1)])


def test_repeats_with_the_same_seed_have_files_of_their_own(tmp_path):
    repeats = [PAIR[0], replace(PAIR[1], seed=0)]
    first = LocalTrainer(tiny(tmp_path))
    life(first, repeats, 1)
    first.checkpoint([])
    (report,) = life(LocalTrainer(tiny(tmp_path)), repeats, 1)
    assert {number: len(rows) for number, rows in report.resumed.items()} == {0: 1, 1: 1}


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(keeping, "time", SimpleNamespace(monotonic=lambda: self.now))


def test_checkpoints_are_written_when_it_is_time_and_seldom_where_that_takes_long(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    trainer = LocalTrainer(tiny(tmp_path, checkpoint_seconds=60.0))
    life(trainer, PAIR, 1)
    writes, write = [], CheckpointFolder.write

    def slow(self, assignment, checkpoint):
        writes.append((clock.now, len(checkpoint.rows)))
        clock.now += 2.0
        write(self, assignment, checkpoint)

    monkeypatch.setattr(CheckpointFolder, "write", slow)
    for _ in range(50):
        clock.now += 10.0
        life(trainer, [], 1)
    # Four seconds of 200.
    assert [now for now, _ in writes] == [60.0, 62.0, 264.0, 266.0, 468.0, 470.0]
    assert [epochs for _, epochs in writes[:2]] == [6, 6]


def full(*_args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_once_and_training_goes_on(tmp_path, monkeypatch):
    trainer = LocalTrainer(tiny(tmp_path))
    life(trainer, PAIR, 1)
    trainer.checkpoint([])
    with monkeypatch.context() as patched:
        patched.setattr("search.places.os.replace", full)
        reports = []
        for _ in range(3):
            trainer.checkpoint([])
            reports += life(trainer, [], 1)
    assert [bool(report.notice) for report in reports] == [True, False, False]
    assert "No space left on device" in reports[0].notice
    assert str(tmp_path) in reports[0].notice
    assert not list(tmp_path.glob("*.part"))
    (report,) = life(LocalTrainer(tiny(tmp_path)), PAIR, 1)
    assert {len(rows) for rows in report.resumed.values()} == {1}


def test_a_disk_is_not_filled(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_000))
    trainer = LocalTrainer(tiny(tmp_path))
    life(trainer, PAIR, 1)
    trainer.checkpoint([])
    assert list(tmp_path.iterdir()) == []
    assert "No space left" in life(trainer, [], 1)[0].notice


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    trainer = LocalTrainer(tiny(tmp_path / "file" / "folder"))
    life(trainer, PAIR, 1)
    trainer.checkpoint([])
    assert "Not a directory" in life(trainer, [], 1)[0].notice


def test_no_home_is_made_on_a_machine_that_does_not_share_it(tmp_path):
    trainer = LocalTrainer(tiny(tmp_path / "home" / "checkpoints" / "tiny"))
    trainer.begin([make_assignment(7)], [])
    trainer.collect()
    trainer.checkpoint([])
    trainer.begin([], [])
    assert "No such file or directory" in trainer.collect().notice
    assert not (tmp_path / "home").exists()


def test_what_cannot_be_written_for_another_reason_is_told_too(tmp_path):
    keeper = Keeper(CheckpointFolder(tmp_path, {}), 0.0)
    keeper.admit(SimpleNamespace(admit=lambda _: None), PAIR[0])
    keeper.write(SimpleNamespace(state=lambda _: {"weights": torch.zeros(2, dtype=torch.complex32)}))
    keeper.write(SimpleNamespace(state=lambda _: {}))
    assert "may begin anew" in keeper.take_notice()
    assert keeper.take_notice() == ""


def test_a_file_says_in_words_what_it_is(tmp_path):
    trainer = LocalTrainer(tiny(tmp_path))
    life(trainer, PAIR[:1], 1)
    trainer.checkpoint([])
    (path,) = tmp_path.iterdir()
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["regsearch"])
    assert about["params"] == PAIR[0].params
    assert (about["seed"], about["study_seed"], about["training"]["optimizer"]) == (0, 0, "adamw")
    assert about["data"] == {"fingerprint": "fingerprint", "train": 70, "val": 35, "folds": None}


def test_a_finished_search_leaves_no_checkpoints(tmp_path, database):
    (tmp_path / "tiny.toml").write_text(SPEC)
    folder = tmp_path / "runs" / "checkpoints" / "tiny"
    folder.mkdir(parents=True)
    shutil.copy(database, tmp_path / "runs")
    for name in ("trial-00000-12345678.safetensors", "trial-00001-12345678.part"):
        (folder / name).write_bytes(b"cut off")
    regsearch(
        "start", "--study", str(tmp_path / "tiny.toml"), "--home", str(tmp_path / "runs"), "--workers=0", "--no-confirm"
    )
    assert not (tmp_path / "runs" / "checkpoints").exists()
