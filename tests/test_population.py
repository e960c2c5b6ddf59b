"""The headline: a population equals the same trials trained one by one, and equals a plain torch.optim loop."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import make_assignment, make_data, make_training
from torch import nn

from search.spec import ModelSpec
from search.training.choosing import choose
from search.training.engines import ENGINES, TwinEngine, VmappedEngine
from search.training.evaluation import score
from search.training.models import model_factory
from search.training.population import Population, Stopped, Way
from search.training.seeds import batch_order, derive_seed
from search.training.stacking import stacked_twin

pytestmark = pytest.mark.usefixtures("kernels")

SEED = 7
COCKTAILS = [
    make_assignment(0, input_dropout=0.2, dropout_0=0.5, weight_decay=0.1, l1=1e-3),
    make_assignment(1, dropout_1=0.3, l1=1e-2),
    make_assignment(2, weight_decay=1e-2, learning_rate=3e-3),
    make_assignment(3),
    make_assignment(4, input_dropout=0.1, dropout_0=0.1, dropout_1=0.1, weight_decay=1.0, l1=1e-1),
]


def mlp_factory(data):
    return model_factory(ModelSpec(name="mlp", hidden=[8, 5]), data.shape, data.classes)


def population(data, slots=5, engine="stacked", precision="fp32", **training):
    return Population(mlp_factory(data), data, make_training(**training), SEED, slots, Way(engine, precision))


def life(people, arrivals, departures=(), epochs=5):
    """Train, with trials arriving and leaving before the given epochs; return results by (trial, own epoch)."""
    rows = {}
    for epoch in range(epochs):
        people.free([number for when, number in departures if when == epoch])
        for when, assignment in arrivals:
            if when == epoch:
                people.admit(assignment)
        rows |= {(number, row.epoch): row for number, row in people.train_epoch().items()}
    return rows


def assert_equal_rows(left, right, tolerance):
    assert left.keys() == right.keys()
    for key, row in left.items():
        other = right[key]
        assert (row.train_loss, row.val_loss) == pytest.approx((other.train_loss, other.val_loss), rel=tolerance)
        assert (row.val_accuracy, row.sparsity) == pytest.approx((other.val_accuracy, other.sparsity), abs=0.02)


@pytest.fixture(params=["twin", "vmapped"])
def stacked(request, monkeypatch):
    """Both ways to make one batched model of a population."""
    if request.param == "vmapped":
        monkeypatch.setitem(ENGINES, "stacked", VmappedEngine)


@pytest.mark.usefixtures("stacked")
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("l1_mode", ["proximal", "penalty"])
def test_stacked_population_equals_looped_engine(double, optimizer, l1_mode):
    data = make_data()
    arrivals = [(0, COCKTAILS[0]), (0, COCKTAILS[1]), (1, COCKTAILS[2]), (2, COCKTAILS[3]), (3, COCKTAILS[4])]
    departures = [(2, 0), (4, 3)]
    rows = [
        life(population(data, engine=engine, optimizer=optimizer, l1_mode=l1_mode), arrivals, departures)
        for engine in ("stacked", "looped")
    ]
    assert len(rows[0]) == 2 + 5 + 4 + 2 + 2
    assert_equal_rows(*rows, tolerance=1e-9)


@pytest.mark.usefixtures("stacked")
def test_stacked_population_equals_looped_engine_in_single_precision():
    data = make_data()
    rows = [life(population(data, engine=e), [(0, a) for a in COCKTAILS], epochs=3) for e in ("stacked", "looped")]
    assert_equal_rows(*rows, tolerance=1e-4)


def image_data():
    """Return clustered images of 8 x 8 pixels."""
    data = make_data(inputs=64)
    train, val = (replace(split, x=split.x.unflatten(1, (8, 8))) for split in (data.train, data.val))
    return replace(data, train=train, val=val)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_stacked_convolutional_networks_equal_looped_ones(double, optimizer):
    data = image_data()
    factory = model_factory(ModelSpec(name="cnn", channels=[3, 4], hidden=[5]), data.shape, data.classes)
    trials = [
        make_assignment(i, input_dropout=0.1 * i, dropout_0=0.2 * i, dropout_1=0.3, dropout_2=0.1, l1=1e-3 * i)
        for i in range(3)
    ]
    rows = [
        life(
            Population(factory, data, make_training(optimizer=optimizer), SEED, 3, Way(engine)),
            [(0, trials[0]), (0, trials[1]), (1, trials[2])],
            [(3, 0)],
        )
        for engine in ("stacked", "looped")
    ]
    assert len(rows[0]) == 3 + 5 + 4
    assert_equal_rows(*rows, tolerance=1e-9)


@pytest.mark.usefixtures("stacked")
def test_trial_depends_on_its_seed_alone(double):
    """Alone, or in another slot, beside others, and later: the same trial."""
    data = make_data()
    alone = life(population(data, slots=1), [(0, COCKTAILS[0])], epochs=3)
    others = [(0, COCKTAILS[1]), (0, COCKTAILS[2]), (1, COCKTAILS[3])]
    crowded = life(population(data), [*others, (2, COCKTAILS[0])], [(3, 1)], epochs=5)
    assert_equal_rows(alone, {key: row for key, row in crowded.items() if key[0] == 0}, tolerance=1e-9)


OPTIMIZERS = {
    "adam": lambda groups, lr: torch.optim.Adam(groups, lr=lr),
    "adamw": lambda groups, lr: torch.optim.AdamW(groups, lr=lr),
    "sgd": lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=0.9),
}


def plain_loop(data, assignment, optimizer, epochs):
    """Train one configuration as a textbook would: a module, an optimizer, a loop. Returns validation losses."""
    torch.manual_seed(derive_seed(SEED, assignment.seed, "weights"))
    model = model_factory(ModelSpec(name="mlp", hidden=[8, 5]), data.shape, data.classes)()
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    groups = [
        {"params": weights, "weight_decay": assignment.params["weight_decay"]},
        {"params": biases, "weight_decay": 0.0},
    ]
    steps = OPTIMIZERS[optimizer](groups, assignment.params["learning_rate"])
    losses = []
    for epoch in range(1, epochs + 1):
        model.train()
        order = batch_order(SEED, assignment.seed, epoch, len(data.train))
        for rows in order.split(16)[: len(order) // 16]:
            penalty = sum(p.abs().sum() for p in weights)
            loss = F.cross_entropy(model(data.train.x[rows]), data.train.y[rows])
            steps.zero_grad()
            (loss + assignment.params["l1"] * penalty).backward()
            steps.step()
        model.eval()
        losses.append(F.cross_entropy(model(data.val.x), data.val.y).item())
    return losses


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_without_dropout_equals_a_plain_torch_loop(double, optimizer):
    data = make_data()
    decays = (0.0, 1e-3, 1e-1)
    trials = [
        make_assignment(i, weight_decay=decay, l1=1e-3, learning_rate=1e-3 * (i + 1)) for i, decay in enumerate(decays)
    ]
    rows = life(
        population(data, optimizer=optimizer, l1_mode="penalty"), [(i, a) for i, a in enumerate(trials)], epochs=6
    )
    for trial, epochs in zip(trials, (6, 5, 4), strict=True):
        ours = [rows[trial.number, epoch].val_loss for epoch in range(1, epochs + 1)]
        assert ours == pytest.approx(plain_loop(data, trial, optimizer, epochs), rel=1e-9)


def test_best_epochs_weights_are_kept_and_give_its_score():
    data = make_data()
    people = population(data, optimizer="sgd")
    people.admit(make_assignment(0, learning_rate=0.9))
    losses = [people.train_epoch()[0].val_loss for _ in range(12)]
    assert losses.index(min(losses)) < 11, "the test needs a best epoch that is not the last"
    model = model_factory(ModelSpec(name="mlp", hidden=[8, 5]), data.shape, data.classes)()
    assert score(model, people.best_weights(0), data.val)[1] == pytest.approx(min(losses), rel=1e-5)


def test_freed_slots_are_refilled_while_others_go_on():
    people = population(make_data(), slots=2)
    people.admit(COCKTAILS[0])
    people.admit(COCKTAILS[1])
    people.train_epoch()
    people.free([0])
    people.admit(COCKTAILS[2])
    assert {number: row.epoch for number, row in people.train_epoch().items()} == {1: 2, 2: 1}


def test_one_trial_that_diverges_leaves_its_neighbours_alone(double):
    data = make_data()
    wild = make_assignment(9, learning_rate=1e30)
    people = population(data, optimizer="sgd")
    rows = life(people, [(0, wild), (0, COCKTAILS[0])], [(2, 9)], epochs=4)
    assert not torch.isfinite(torch.tensor(rows[9, 2].val_loss))
    quiet = life(population(data, optimizer="sgd"), [(0, COCKTAILS[0])], epochs=4)
    assert_equal_rows({k: v for k, v in rows.items() if k[0] == 0}, quiet, tolerance=1e-9)


def test_epoch_stops_between_minibatches_when_asked():
    people = population(make_data())
    people.admit(COCKTAILS[0])
    with pytest.raises(Stopped):
        people.train_epoch(should_stop=lambda: True)


def test_sparsity_counts_exact_zeros_of_weights_only():
    people = population(make_data())
    people.admit(make_assignment(0, l1=1e3))
    people.admit(make_assignment(1))
    rows = people.train_epoch()
    assert rows[0].sparsity == 1.0
    assert rows[1].sparsity == 0.0


def test_way_is_chosen_by_measuring_and_leaves_the_population_empty():
    people = population(make_data(), slots=2)
    chosen = choose(people, make_assignment(0), ["stacked", "looped"], ["fp32", "bf16"], [1, 2], seconds=0.01)
    assert chosen.way.engine in ("stacked", "looped")
    assert chosen.way.precision in ("fp32", "bf16")
    assert chosen.threads in (1, 2)
    assert not chosen.refusals
    assert people.numbers == []
    assert people.way == chosen.way


@pytest.mark.parametrize("engine", ["stacked", "looped"])
def test_bfloat16_trains_alike_with_parameters_in_single_precision(engine):
    data = make_data()
    coarse, fine = population(data, engine=engine, precision="bf16"), population(data, engine=engine)
    rows = [life(people, [(0, assignment) for assignment in COCKTAILS]) for people in (coarse, fine)]
    for key, row in rows[0].items():
        assert row.val_loss == pytest.approx(rows[1][key].val_loss, rel=0.05)
    assert {tensor.dtype for name, tensor in coarse.best_weights(0).items() if "weight" in name} == {torch.float32}


def test_ways_can_be_changed_while_trials_train(double):
    """As when the fastest is chosen: what one engine has bound to its module is not another's business."""
    data = make_data()
    steady, changing = population(data, precision="fp32"), population(data)
    ways = [Way("stacked", "bf16"), Way("stacked"), Way("looped"), Way("stacked")]
    for people in (steady, changing):
        people.admit(COCKTAILS[0])
    changing.go(ways[0])
    changing.step_cost(warm_up=1, steps=1)
    changing.free([0])
    changing.admit(COCKTAILS[0])
    for way in ways[1:]:
        changing.go(way)
        assert changing.train_epoch()[0].val_loss == pytest.approx(steady.train_epoch()[0].val_loss, rel=1e-9)


class NormNet(nn.Module):
    """A model with batch norm, whose running statistics are buffers that training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(F.relu(self.norm(self.first(x))))


def test_running_statistics_belong_to_their_slot(double):
    data = make_data()
    rows = [
        life(
            Population(NormNet, data, make_training(), SEED, 3, Way(engine)),
            [(0, COCKTAILS[1]), (1, COCKTAILS[2])],
            epochs=3,
        )
        for engine in ("stacked", "looped")
    ]
    assert_equal_rows(*rows, tolerance=1e-9)


def test_model_without_a_twin_is_stacked_by_vmap():
    data = make_data()
    engines = [Population(f, data, make_training(), SEED, 2)._engine for f in (Centred, mlp_factory(data))]
    assert [type(engine) for engine in engines] == [VmappedEngine, TwinEngine]


class Centred(nn.Module):
    """A model whose forward pass would mix slots if it were stacked as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.first(x)
        return self.last(F.relu(x - x.mean(0)))


def test_model_that_mixes_examples_gets_no_twin():
    assert stacked_twin(Centred(), torch.randn(8, 6)) is None


@pytest.mark.usefixtures("stacked")
def test_stacked_transformers_equal_looped_ones(double):
    data = image_data()
    spec = ModelSpec(name="transformer", patch=[4, 4], width=8, heads=2, hidden=[6, 10])
    factory = model_factory(spec, data.shape, data.classes)
    trials = [make_assignment(i, input_dropout=0.1 * i, dropout_0=0.2 * i, dropout_1=0.3, l1=1e-4) for i in range(3)]
    rows = [
        life(Population(factory, data, make_training(), SEED, 3, Way(engine)), [(0, t) for t in trials], epochs=2)
        for engine in ("stacked", "looped")
    ]
    assert_equal_rows(*rows, tolerance=1e-9)


def test_a_transformer_has_a_twin():
    data = image_data()
    spec = ModelSpec(name="transformer", patch=[4, 4], width=8, heads=2, hidden=[6])
    assert stacked_twin(model_factory(spec, data.shape, data.classes)(), data.train.x[:4]) is not None
