"""Every regularizer of the table in a population: off is off, engines agree, and neighbours change nothing."""

from dataclasses import replace

import pytest
import torch
from conftest import make_assignment, make_data, make_training

from search.spec import FUNCTIONAL, PARAMETERS, ModelSpec
from search.training.engines import ENGINES, VmappedEngine
from search.training.models import model_factory
from search.training.population import Population, Way

SEED = 3
EPOCHS = 4
STRENGTHS = {
    "input_dropout": 0.3,
    "dropout": 0.4,
    "batch_norm": 1,
    "weight_decay": 0.3,
    "l1": 1e-2,
    "max_norm": 0.3,
    "gradient_noise": 0.1,
    "label_smoothing": 0.2,
    "mixup": 0.5,
    "rotation": 20.0,
    "shift": 0.2,
    "scale": 0.3,
    "flip": 0.5,
    "crop": 0.25,
    "brightness": 0.5,
    "contrast": 0.5,
    "cutout": 0.4,
    "weight_averaging": 0.7,
}


def image_data():
    """Return clustered images of 8 x 8 pixels."""
    data = make_data(inputs=64)
    train, val = (replace(split, x=split.x.unflatten(1, (8, 8))) for split in (data.train, data.val))
    return replace(data, train=train, val=val, fill=data.fill.to(train.x.dtype))


def spelled(name: str, strength: float) -> dict[str, float]:
    return {"dropout_0": strength, "dropout_1": strength} if name == "dropout" else {name: strength}


def train(assignments, engine="stacked", slots=None, **training):
    data = image_data()
    factory = model_factory(ModelSpec(name="mlp", hidden=[8, 5]), data.shape, data.classes, batch_norm=True)
    people = Population(
        factory, data, make_training(max_epochs=EPOCHS, **training), SEED, slots or len(assignments), Way(engine)
    )
    for assignment in assignments:
        people.admit(assignment)
    return [people.train_epoch() for _ in range(EPOCHS)]


def losses(rows, number):
    return [(row[number].train_loss, row[number].val_loss) for row in rows]


@pytest.fixture(params=["twin", "vmapped"])
def stacked(request, monkeypatch):
    if request.param == "vmapped":
        monkeypatch.setitem(ENGINES, "stacked", VmappedEngine)


def test_every_regularizer_of_the_table_is_here():
    # Shipped models have no functional dropout: test_noise_rates has those that do.
    assert {*STRENGTHS, FUNCTIONAL} == {name for name, row in PARAMETERS.items() if row.regularizer}


@pytest.mark.usefixtures("stacked")
@pytest.mark.parametrize("name", STRENGTHS)
def test_stacked_equals_looped_and_neighbours_change_nothing(double, name):
    """Trials with the regularizer strong, weak and off, side by side, one by one, and each by itself."""
    strong = STRENGTHS[name]
    weak = strong if PARAMETERS[name].is_switch else strong / 2
    trials = [make_assignment(i, **spelled(name, strength)) for i, strength in enumerate((strong, 0.0, weak))]
    together, looped = train(trials), train(trials, "looped")
    for trial in trials:
        expected = losses(looped, trial.number)
        assert losses(together, trial.number) == [pytest.approx(row, rel=1e-9) for row in expected]
        assert losses(train([trial]), trial.number) == [pytest.approx(row, rel=1e-9) for row in expected]


@pytest.mark.parametrize("name", STRENGTHS)
def test_strength_zero_is_off_and_another_is_not(name):
    plain, off, on = (
        losses(train([make_assignment(0, **changes)]), 0)
        for changes in ({}, spelled(name, 0.0), spelled(name, STRENGTHS[name]))
    )
    assert off == plain
    assert on != plain


@pytest.mark.usefixtures("stacked")
@pytest.mark.parametrize("schedule", ["constant", "cosine", "plateau"])
def test_all_at_once_with_every_schedule(double, schedule):
    everything = {key: value for name in STRENGTHS for key, value in spelled(name, STRENGTHS[name]).items()}
    trials = [make_assignment(0, **everything), make_assignment(1), make_assignment(2, rotation=10.0, mixup=0.2)]
    together, looped = (train(trials, engine, schedule=schedule) for engine in ("stacked", "looped"))
    for trial in trials:
        expected = losses(looped, trial.number)
        assert losses(together, trial.number) == [pytest.approx(row, rel=1e-9) for row in expected]


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_a_trial_that_moves_to_another_slot_goes_on_as_it_would_have(double, schedule):
    data = image_data()
    factory = model_factory(ModelSpec(name="mlp", hidden=[8, 5]), data.shape, data.classes, batch_norm=True)
    training = make_training(
        max_epochs=6, schedule=schedule, **({"plateau_epochs": 0} if schedule == "plateau" else {})
    )
    mover = make_assignment(1, weight_averaging=0.9, gradient_noise=0.1, batch_norm=1, learning_rate=0.05)

    def life(neighbour: bool) -> list:
        people = Population(factory, data, training, SEED, 2, Way("stacked"))
        if neighbour:
            people.admit(make_assignment(0))
        people.admit(mover)
        rows = []
        for epoch in range(6):
            if neighbour and epoch == 3:
                people.free([0])
            rows.append(people.train_epoch())
        return losses(rows, 1)

    assert life(neighbour=True) == [pytest.approx(row, rel=1e-9) for row in life(neighbour=False)]


def test_bfloat16_trains_every_regularizer():
    everything = {key: value for name in STRENGTHS for key, value in spelled(name, STRENGTHS[name]).items()}
    data = image_data()
    factory = model_factory(ModelSpec(name="mlp", hidden=[8, 5]), data.shape, data.classes, batch_norm=True)
    for engine in ENGINES:
        people = Population(factory, data, make_training(), SEED, 2, Way(engine, "bf16"))
        people.admit(make_assignment(0, **everything))
        people.admit(make_assignment(1))
        rows = people.train_epoch()
        assert all(torch.isfinite(torch.tensor(row.val_loss)) for row in rows.values())
