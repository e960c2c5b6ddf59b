"""Bring your own: any module and any tensors through the Python API, every dropout layer searchable, stacked or not."""

import signal
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from conftest import kernels_in_use, make_assignment, make_data, make_training, regsearch
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from search import Confirm, Data, Range, run_search
from search.errors import DataError, ModelError, RegsearchError, SpecMismatchError, UsageError
from search.spec import DataSpec
from search.training.choosing import choose
from search.training.data import Split, fingerprint
from search.training.engines import TwinEngine, VmappedEngine
from search.training.kernels import compiled
from search.training.layout import layout_of
from search.training.memory import is_out_of_memory
from search.training.models import ChannelDropout
from search.training.own import (
    OwnData,
    OwnExamples,
    as_split,
    check_loss,
    check_model,
    dropout_rates,
    known_examples,
    searchable,
    torch_left_alone,
)
from search.training.population import Population, Way
from search.training.regularizers import Dropout
from search.training.stacking import stacked_twin

STRENGTHS = [{"dropout_0": 0.5, "l1": 1e-3}, {"dropout_1": 0.3, "weight_decay": 0.1}, {"learning_rate": 3e-3}]

pytestmark = pytest.mark.usefixtures("tables")


def plain():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 5), nn.Dropout(0.2), nn.Linear(5, 3))


def normalized():
    return nn.Sequential(
        *(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(8, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.2), nn.Linear(5, 3)),
    )


class Convolutional(nn.Module):
    """What has no twin: `vmap` must take it, running statistics included."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv1d(1, 4, 3, padding=1), nn.BatchNorm1d(4)
        self.dropout, self.output = nn.Dropout1d(0.3), nn.Linear(24, 3)

    def forward(self, x):
        x = self.dropout(F.relu(self.norm(self.convolution(x.unsqueeze(1)))))
        return self.output(x.flatten(1))


class Tied(nn.Module):
    """One weight in two places."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.output = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight = self.first.weight
        self.dropout = nn.Dropout(0.2)

    def forward(self, x):
        return self.output(self.dropout(torch.tanh(self.second(self.dropout(torch.tanh(self.first(x)))))))


class Frozen(nn.Module):
    """A part that is not to be trained, and one that is not used."""

    def __init__(self):
        super().__init__()
        self.features = nn.Linear(6, 8).requires_grad_(False)
        with torch.no_grad():
            self.features.weight.fill_(0.1)
        self.unused, self.output = nn.Linear(2, 2), nn.Linear(8, 3)

    def forward(self, x):
        return self.output(F.relu(self.features(x)))


class Branching(nn.Module):
    """Looks at the numbers to decide what to do: no engine can stack that."""

    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return self.small(x) if x.abs().mean() < 0.1 else self.large(x)


class Noisy(nn.Module):
    """Draws from torch's generator."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(6, 3)

    def forward(self, x):
        return self.output(F.dropout(x, 0.1, self.training))


class NoisyInEvaluation(nn.Module):
    """Draws from it whenever it is called."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(6, 3)

    def forward(self, x):
        return self.output(F.dropout(x, 0.1))


class RarelyNoisy(nn.Module):
    """Draws numbers that hardly ever make a difference."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(6, 3)

    def forward(self, x):
        return self.output(F.dropout(x, 1e-5, self.training))


class Casting(nn.Linear):
    """Computes in the type of its parameters, whatever its inputs are."""

    def __init__(self, dtype):
        super().__init__(6, 3, dtype=dtype)

    def forward(self, x):
        return super().forward(x.to(self.weight.dtype))


class Paired(nn.Module):
    """Has parameters whose gradients autograd keeps in one tensor, and one whose gradient is a single number."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(6, 3)
        self.left, self.right = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
        self.total = nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return self.output(x) + (self.left + self.right) + self.total.sum()


def assignments():
    return [make_assignment(number, **strengths) for number, strengths in enumerate(STRENGTHS)]


def trained(factory, engine, epochs=3):
    people = Population(searchable(factory), make_data(), make_training(), 7, 3, Way(engine))
    for assignment in assignments():
        people.admit(assignment)
    rows = [people.train_epoch() for _ in range(epochs)]
    return people, rows, [people.best_weights(number) for number in range(3)]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("factory", "engine"),
    [
        (plain, TwinEngine),
        (normalized, TwinEngine),
        (Convolutional, VmappedEngine),
        (Tied, TwinEngine),
        (Frozen, VmappedEngine),
    ],
)
def test_stacked_equals_looped(factory, engine):
    people, rows, weights = trained(factory, "stacked")
    assert isinstance(people._engine, engine)
    _, expected_rows, expected = trained(factory, "looped")
    for ours, theirs in zip(rows, expected_rows, strict=True):
        for number in ours:
            assert ours[number].val_loss == pytest.approx(theirs[number].val_loss, rel=1e-9)
    for ours, theirs in zip(weights, expected, strict=True):
        assert ours.keys() == theirs.keys() == factory().state_dict().keys()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-7, atol=1e-9)


class OtherInEvaluation(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        x = self.layer(x)
        return x if self.training else x.log_softmax(1)


class ZeroHead(nn.Module):
    """Mixes what would be slots, behind a layer whose weights begin at zero."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        x = F.relu(self.layer(x))
        return self.head(x - x.mean(1, keepdim=True))


@pytest.mark.parametrize("factory", [OtherInEvaluation, ZeroHead, Branching, RarelyNoisy])
def test_what_would_mix_slots_has_no_twin(factory):
    assert stacked_twin(searchable(factory)(), torch.randn(8, 6)) is None


def odd_layer_norms():
    return nn.Sequential(
        *(nn.Linear(6, 8), nn.LayerNorm(8, bias=False), nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 3))
    )


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("factory", [OtherInEvaluation, ZeroHead, odd_layer_norms])
def test_without_a_twin_vmap_does_as_well(factory):
    _, rows, _ = trained(factory, "stacked")
    _, expected, _ = trained(factory, "looped")
    for number in range(3):
        assert rows[-1][number].val_loss == pytest.approx(expected[-1][number].val_loss, rel=1e-9)


@pytest.mark.filterwarnings("ignore:dropout2d")
def test_dropout_of_channels_is_torchs():
    x = torch.ones(4, 50, 7)
    for layer, shape in ((nn.Dropout2d(0.5), (4, 50, 1)), (nn.Dropout1d(0.5), (4, 50, 1))):
        ours = searchable(lambda layer=layer: deepcopy(layer))().train()
        ours.configure(0.5, 3)
        for dropped in (ours(x), layer(x)):
            assert torch.equal(dropped, dropped[..., :1].expand_as(x))
            assert 0.2 < (dropped[..., 0] == 0).float().mean() < 0.8
            assert dropped.unique().tolist() == [0.0, 2.0]
            assert dropped[..., :1].shape == shape


def test_biases_by_any_name_are_not_regularized():
    recurrent, attention = nn.GRU(3, 4), nn.MultiheadAttention(4, 2)
    assert layout_of(recurrent).weights == 4 * 3 * (3 + 4)
    assert layout_of(attention).weights == 4 * 4 * 4


def test_memory_format_is_not_memory():
    assert not is_out_of_memory(RuntimeError("is_contiguous inside of vmap for memory_format other than"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("engine", ["stacked", "looped"])
def test_an_own_model_without_dropout_trains_as_with_torch(engine):
    data, assignment = make_data(), make_assignment(0, weight_decay=0.1)
    people = Population(searchable(Tied), data, make_training(batch_size=70), 7, 1, Way(engine))
    people.admit(assignment)
    model = deepcopy(people._fresh_model(assignment))
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    weights = [p for name, p in model.named_parameters() if not name.endswith("bias")]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    for _ in range(4):  # whole batches: their order does not matter
        optimizer.zero_grad()
        F.cross_entropy(model(data.train.x), data.train.y).backward()
        optimizer.step()
        rows = people.train_epoch()
    assert rows[0].val_loss == pytest.approx(F.cross_entropy(model(data.val.x), data.val.y).item(), rel=1e-9)


def test_every_dropout_layer_has_a_rate():
    shared = nn.Dropout(0.1)

    def make():
        torch.manual_seed(0)
        return nn.Sequential(shared, nn.Linear(6, 8), nn.Sequential(nn.Dropout(0.4), nn.Dropout2d(0.2)), shared)

    assert dropout_rates(make()) == [0.1, 0.4, 0.2]
    model = searchable(make)()
    assert [layer.parameter for layer in model.modules() if isinstance(layer, Dropout)] == [
        "dropout_0",
        "dropout_1",
        "dropout_2",
    ]
    assert model[0] is model[3]
    assert isinstance(model[2][1], ChannelDropout)
    assert isinstance(searchable(lambda: nn.Dropout(0.5))(), Dropout)


def test_what_is_frozen_stays_as_it_is():
    _, _, weights = trained(Frozen, "looped")
    for state in weights:
        assert bool((state["features.weight"] == 0.1).all())
    assert not torch.equal(weights[0]["output.weight"], weights[1]["output.weight"])


@pytest.mark.parametrize("factory", [Branching, Noisy])
def test_a_model_that_cannot_be_stacked_is_left_to_the_looped_engine(factory):
    people = Population(searchable(factory), make_data(), make_training(), 7, 3)
    chosen = choose(people, make_assignment(0), ["stacked", "looped"], ["fp32", "bf16"], [1], seconds=0.01)
    assert chosen.way.engine == "looped"
    assert "vmap" in chosen.refusals["stacked"]
    people.admit(make_assignment(0))
    assert people.train_epoch()[0].epoch == 1


@pytest.mark.parametrize("factory", [Noisy, NoisyInEvaluation])
def test_a_model_that_draws_by_itself_draws_the_same_beside_others_and_from_a_checkpoint(factory):
    def population():
        return Population(factory, make_data(), make_training(), 7, 3, Way("looped"))

    alone, crowded, resumed = population(), population(), population()
    alone.admit(make_assignment(1))
    torch.manual_seed(0)
    expected = [alone.train_epoch()[1] for _ in range(3)]
    for assignment in assignments():
        crowded.admit(make_assignment(assignment.number))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert [crowded.train_epoch()[1] for _ in range(2)] == expected[:2]
    assert torch.equal(torch.get_rng_state(), before)
    resumed.restore(make_assignment(1), crowded.state(1))
    assert resumed.train_epoch()[1] == expected[2]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("engine", ["stacked", "looped"])
def test_parameters_of_other_types_train_with_kernels_as_without(engine, dtype, precision):
    def train():
        people = Population(lambda: Casting(dtype), make_data(), make_training(), 7, 3, Way(engine, precision))
        for assignment in assignments():
            people.admit(assignment)
        people.train_epoch()
        return [people.best_weights(number)["weight"] for number in range(3)]

    with kernels_in_use("compiled"):
        ours = train()
    for left, right in zip(ours, train(), strict=True):
        assert left.dtype == dtype
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("engine", ["stacked", "looped"])
def test_parameters_with_one_gradient_have_noise_of_their_own(engine):
    people = Population(Paired, make_data(), make_training(optimizer="sgd"), 7, 1, Way(engine))
    people.admit(make_assignment(0, gradient_noise=1.0))
    people.train_epoch()
    weights = people.best_weights(0)
    assert (weights["left"] - weights["right"]).abs().min() > 0
    assert len(weights["total"].unique()) == 4


def test_a_model_that_nothing_can_train_says_why():
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.output = nn.Linear(6, 3)

        def forward(self, x):
            if self.training:
                raise ValueError("not like that")
            return self.output(x)

    people = Population(Failing, make_data(), make_training(), 7, 2)
    with pytest.raises(ValueError, match="not like that"):
        choose(people, make_assignment(0), ["stacked", "looped"], ["fp32"], [1])


# Through the API


def examples(count=120):
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(count) % 3
    return torch.randn(3, 6, generator=generator)[y] + 0.7 * torch.randn(count, 6, generator=generator), y


SMALL = {
    "training": {"max_epochs": 3, "batch_size": 16},
    "search": {"trials": 4, "pruner": {"name": "none"}},
    "confirm": Confirm(top=1, seeds=2),
    "quiet": True,
}


def find(tmp_path, model=normalized, data=None, **options):
    data = Data(train=examples(), test=examples(60)) if data is None else data
    return run_search(model, data, **{"name": "mine", "home": tmp_path / "runs", **SMALL, **options})


def test_a_search_for_a_model_of_ones_own(tmp_path):
    space = {"learning_rate": 1e-2, "dropout": Range(low=0.0, high=0.3), "l1": 0.0, "weight_decay": 1e-3}
    found = find(tmp_path, space=space, training={"max_epochs": 8, "batch_size": 8})
    assert set(found.params) >= {"dropout_0", "dropout_1", "weight_decay", "l1", "patience"}
    assert "Confirmed" in str(found)
    assert found.summary.confirmed.difference is not None
    model = found.model()
    assert type(model) is nn.Sequential
    assert dropout_rates(model) == [found.params["dropout_0"], found.params["dropout_1"]]
    x, y = examples(60)
    assert (model(x).argmax(1) == y).float().mean() > 0.5
    assert "dropout_1" in regsearch("show", "--study", "mine", "--home", str(tmp_path / "runs"))


def test_the_same_call_goes_on_and_another_model_is_refused(tmp_path):
    find(tmp_path, confirm=None)
    more = {**SMALL["search"], "trials": 6}
    assert find(tmp_path, confirm=None, search=more).summary.trials["complete"] == 6
    with pytest.raises(SpecMismatchError, match=r"model\.architecture"):
        find(tmp_path, model=plain)


def test_scores_on_other_test_data_are_not_those_of_the_study(tmp_path):
    find(tmp_path, confirm=None)
    x, y = examples(60)
    with pytest.raises(DataError, match='the test data is not what study "mine" was started with'):
        find(tmp_path, data=Data(train=examples(), test=(x * 0, y)))


def test_rates_that_are_not_searched_stay_as_the_model_has_them(tmp_path):
    found = find(tmp_path, space={"dropout_1": Range(low=0.0, high=0.3), "l1": {"low": 1e-6, "high": 1e-3}})
    assert found.params["dropout_0"] == 0.5
    assert found.params["dropout_1"] <= 0.3


def test_a_torch_data_set_given_validation_data_and_no_test_data(tmp_path):
    x, y = examples()
    data = Data(train=TensorDataset(x[:90], y[:90]), validation=(x[90:].numpy(), y[90:].tolist()))
    found = find(tmp_path, data=data)
    assert found.summary.best is not None
    assert not found.summary.test
    assert found.summary.confirmed.difference is None
    assert (tmp_path / "runs" / "artifacts" / "mine" / "best.safetensors").exists()
    assert found.model()(x[:2]).shape == (2, 3)


def test_own_data_for_a_shipped_model_and_a_data_set_for_an_own_model(tmp_path):
    found = find(tmp_path, model={"name": "mlp", "hidden": [8]}, confirm=None)
    assert found.model()(examples()[0]).shape == (120, 3)

    def make():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    found = find(tmp_path, model=make, data="digits", name="digits-mine", confirm=None)
    assert found.summary.test["best"].accuracy > 0.2


def test_more_logits_than_classes_can_be_smoothed(tmp_path):
    def make():
        return nn.Linear(6, 5)

    space = {"label_smoothing": Range(low=0.05, high=0.2), "mixup": 0.3}
    assert find(tmp_path, model=make, space=space, confirm=None).summary.best is not None


def test_labels_that_are_a_column_of_a_table(tmp_path):
    x, y = examples()
    table = torch.column_stack([y, y]).numpy()
    assert find(tmp_path, data=Data(train=(x.numpy(), table[:, 1])), confirm=None).summary.best is not None


def test_inputs_of_half_precision_for_a_shipped_model(tmp_path):
    x, y = examples()
    data = Data(train=(x.half(), y), validation=(x.half(), y), test=(x.half(), y))
    found = find(tmp_path, model={"name": "mlp", "hidden": [8]}, data=data, confirm=None)
    assert found.model()(x).dtype == torch.float32


def test_inputs_that_are_whole_numbers(tmp_path):
    assert find(tmp_path, model=Tokens, data=WORDS, confirm=None).model()(WORDS.train[0]).shape == (90, 3)


def test_folds_with_too_little_time(tmp_path):
    data = Data(train=examples(), folds=3, test=examples(60))
    found = find(tmp_path, data=data, timeout=1.0, search={"trials": 500, "pruner": {"name": "none"}})
    assert found.summary.trials["complete"] < 500


def test_what_each_ingredient_is_worth(tmp_path):
    told = find(tmp_path, confirm=None).explain(seeds=2)
    assert "Without each ingredient" in told
    assert "What the curves say" in told


def test_torch_is_left_as_it_was(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    numbers = torch.get_rng_state()
    found = find(tmp_path, confirm=None)
    assert torch.equal(torch.get_rng_state(), numbers)
    found.model()
    assert torch.equal(torch.get_rng_state(), numbers)
    assert torch.get_num_threads() == 2
    assert compiled._active is None
    torch.set_num_threads(threads)


def test_the_generators_of_a_device_that_was_first_used_meanwhile_begin_anew(monkeypatch):
    old, new = torch.Generator().manual_seed(3), torch.Generator().manual_seed(5)
    torch.rand(1, generator=old)
    states = [old.get_state(), new.get_state()]
    monkeypatch.setattr(torch.cuda, "default_generators", (old,))
    with torch_left_alone():
        monkeypatch.setattr(torch.cuda, "default_generators", (old, new))
        for generator in (old, new):
            torch.rand(1, generator=generator)
    assert all(map(torch.equal, [old.get_state(), new.get_state()], states))


def test_another_loss_is_another_study(tmp_path):
    find(tmp_path, loss=nn.CrossEntropyLoss(reduction="none"), confirm=None)
    with pytest.raises(SpecMismatchError, match="loss_digest"):
        find(tmp_path, loss=nn.MultiMarginLoss(reduction="none"), confirm=None)


def test_a_loss_of_ones_own(tmp_path):
    def loss(logits, classes):
        return F.cross_entropy(logits, classes, reduction="none") * 2

    doubled, once = find(tmp_path, loss=loss, confirm=None), find(tmp_path, name="once", confirm=None)
    ours, theirs = doubled.summary.baseline.best.val_loss, once.summary.baseline.best.val_loss
    assert ours == pytest.approx(2 * theirs, rel=0.2)  # Adam does not mind the factor


def test_several_processes(tmp_path):
    found = find(tmp_path, workers=2, confirm=None)
    assert found.summary.trials["complete"] == 4
    with pytest.raises(UsageError, match="cannot be sent to other processes"):
        find(tmp_path, model=lambda: plain(), workers=2, name="other")


def test_ctrl_c_leaves_things_tidy(tmp_path):
    calls = []

    def loss(logits, classes):
        calls.append(1)
        if len(calls) == 30:
            signal.raise_signal(signal.SIGINT)
        return F.cross_entropy(logits, classes, reduction="none")

    with pytest.raises(KeyboardInterrupt):
        find(tmp_path, loss=loss, confirm=None)
    assert find(tmp_path, loss=loss, confirm=None).summary.trials["complete"] == 4


def test_the_command_line_leaves_such_studies_to_python(tmp_path):
    find(tmp_path, confirm=None)
    for command in ("confirm", "explain"):
        told = regsearch(command, "--study", "mine", "--home", str(tmp_path / "runs"), code=2)
        assert "was made in Python" in told


class NotForEverybody(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.layer, self.outputs = nn.Linear(6, 3), outputs

    def forward(self, x):
        return self.outputs(self.layer(x))


ONE = nn.Linear(6, 3)


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        (ONE, r"pass a function that makes the model.* lambda: Linear\("),
        (lambda: "no", "must return an nn.Module, and returned a str"),
        (nn.Identity, "no parameters to train"),
        (lambda: nn.LazyLinear(3), "lazy layers"),
        (lambda: ONE, "must make a fresh model at each call"),
        (lambda: nn.Linear(5, 3), r"fails on inputs \[2, 6\]: RuntimeError"),
        (lambda: nn.Linear(6, 2), "returns 2 logits, and there are 3 classes"),
        (lambda: NotForEverybody(lambda x: (x, x)), r"must return logits \[batch, classes\], and returned tuple"),
        (lambda: NotForEverybody(lambda x: x.sum(1)), r"and returned \[2\] for a batch of 2"),
    ],
)
def test_models_that_cannot_be(factory, told):
    with pytest.raises(ModelError, match=told):
        check_model(factory, OwnExamples.read(Data(train=examples())))


def test_the_training_loss_is_measured_on_examples_of_all_classes_however_they_are_sorted():
    known, val = Split(torch.randn(90, 3), torch.arange(90) // 30), Split(torch.randn(12, 3), torch.arange(12) % 3)
    data = OwnData(DataSpec(name="own"), 0, 3, known, val).load()
    assert len(set(data.train_sample.y.tolist())) == 3
    assert sorted(data.train.x[:, 0].tolist()) == sorted(known.x[:, 0].tolist())
    assert all(
        (row == known.x).all(1).nonzero().item() // 30 == y for row, y in zip(data.train.x, data.train.y, strict=True)
    )


class Remembering(nn.Module):
    """Keeps a running mean of its inputs, in one way or another."""

    def __init__(self, remember):
        super().__init__()
        self.norm, self.output, self.remember = nn.BatchNorm1d(6), nn.Linear(6, 3), remember
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("unset", None)

    def forward(self, x):
        if self.training:
            self.remember(self, x.mean(0))
        return self.output(self.norm(x) - self.mean)


def reassigned(model, mean):
    model.mean = 0.9 * model.mean + 0.1 * mean


def moved(model, mean):
    model.mean.data = 0.9 * model.mean + 0.1 * mean


def set_late(model, mean):
    model.unset = mean


@pytest.mark.parametrize(("remember", "name"), [(reassigned, "mean"), (moved, "mean"), (set_late, "unset")])
def test_buffers_that_training_replaces_are_refused(remember, name):
    with pytest.raises(ModelError, match=f'in the place of the buffer "{name}".*copy_'):
        check_model(lambda: Remembering(remember), OwnExamples.read(Data(train=examples())))


@pytest.mark.parametrize("factory", [normalized, Noisy, lambda: Remembering(lambda m, mean: m.mean.lerp_(mean, 0.1))])
def test_buffers_that_are_updated_in_place_are_not(factory):
    torch.manual_seed(0)
    factory(), factory()
    expected = torch.get_rng_state()
    torch.manual_seed(0)
    _, count = check_model(factory, OwnExamples.read(Data(train=examples())))
    assert count == 3
    assert torch.equal(torch.get_rng_state(), expected)


class Projecting(nn.Module):
    """Begins with a random projection, kept in one way or another."""

    def __init__(self, keep, inputs=6, classes=3):
        super().__init__()
        keep(self, torch.randn(inputs, 4))
        self.dropout, self.output = nn.Dropout(0.5), nn.Linear(4, classes)

    def forward(self, x):
        return self.output(self.dropout(x @ self.projection))


def as_attribute(model, projection):
    model.projection = projection


def as_buffer(model, projection):
    model.register_buffer("projection", projection)


def as_passing_buffer(model, projection):
    model.register_buffer("projection", projection, persistent=False)


def as_constant(model, projection):
    model.projection = torch.ones_like(projection)


class Counting(nn.Linear):
    """Keeps in an attribute what it has learned."""

    seen = 0.0

    def forward(self, x):
        self.seen += x.std() if self.training else 0.0
        return super().forward(x) * (1 + self.seen)


def odd_one_out():
    """Return a factory of models of which each is larger than the one before."""
    widths = iter(range(4, 10))

    def make():
        width = next(widths)
        return nn.Sequential(nn.Linear(6, width), nn.Linear(width, 3))

    return make


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        (lambda: Projecting(as_attribute), "not in its state_dict is lost; register it as a persistent buffer"),
        (lambda: Projecting(as_passing_buffer), "a model differs from its copy"),
        (lambda: Counting(6, 3), "a model differs from its copy"),
        (odd_one_out(), "must make the same model at each call, .*size mismatch"),
    ],
)
def test_models_that_are_more_than_their_state_are_refused(factory, told):
    with pytest.raises(ModelError, match=f"(?s){told}"):
        check_model(factory, OwnExamples.read(Data(train=examples())))


@pytest.mark.parametrize(
    "factory", [lambda: Projecting(as_buffer), lambda: Projecting(as_constant), NoisyInEvaluation, normalized, Tied]
)
def test_models_that_are_their_state_are_not(factory):
    assert check_model(factory, OwnExamples.read(Data(train=examples())))[1] == 3


def test_a_model_for_a_named_data_set_is_compared_with_its_copy_on_numbers_that_tell():
    with pytest.raises(ModelError, match="a model differs from its copy"):
        check_model(lambda: nn.Sequential(nn.Flatten(), Projecting(as_attribute, 64, 10)), known_examples("digits"))


def test_a_model_that_fails_in_training_is_refused():
    class Auxiliary(nn.Linear):
        def forward(self, x):
            logits = super().forward(x)
            return (logits, logits) if self.training else logits

    with pytest.raises(ModelError, match="returned tuple for a batch of 2 in training"):
        check_model(lambda: Auxiliary(6, 3), OwnExamples.read(Data(train=examples())))


def hardest(logits, classes):
    losses = F.cross_entropy(logits, classes, reduction="none")
    return losses * (losses > losses.median())


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (nn.CrossEntropyLoss(), r'reduction="none", and returned \[\]'),
        (lambda logits, classes: 1.0, 'reduction="none", and returned float'),
        (lambda logits: logits, r"the loss fails on logits \[6, 3\]: TypeError"),
        (hardest, "must not depend on the others in its minibatch"),
    ],
)
def test_losses_that_cannot_be(loss, told):
    with pytest.raises(ModelError, match=told):
        check_loss(loss, classes=3)


class Endless(IterableDataset):
    def __iter__(self):
        yield from zip(*examples(), strict=True)


X, Y = examples()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((X, Y.float()), r"train: classes must be whole numbers \[examples\], not \[120\] of torch.float32"),
        ((X[:, 0], Y), r"train: inputs must be \[examples, ...\]"),
        ((X[:5], Y), "train: there are 5 inputs and 120 classes"),
        ((X * torch.nan, Y), "some are nan"),
        ((X, Y - 1), "numbered from 0, and one is -1"),
        ("nonsense", "must be inputs and classes"),
        (TensorDataset(X[:0], Y[:0]), "must be inputs and classes"),
        (Endless(), "must be inputs and classes.*TypeError"),
    ],
)
def test_data_that_cannot_be(given, told):
    with pytest.raises(DataError, match=told):
        as_split(given, "train")


class Tokens(nn.Module):
    """Words by their numbers."""

    def __init__(self):
        super().__init__()
        self.embedding, self.output = nn.Embedding(10, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.output(self.embedding(x).mean(1))


class Halved(nn.Module):
    """Computes in half precision."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(6, 3, dtype=torch.float16)

    def forward(self, x):
        return self.output(x.flatten(1))


MLP = {"name": "mlp", "hidden": [8]}
VIDEOS = Data(train=(torch.ones(90, 3, 4, 8, 8), Y[:90]))
HALVED_IMAGES = Data(train=(X.half().view(-1, 2, 3), Y))
WORDS = Data(train=(torch.randint(10, (90, 4), generator=torch.Generator().manual_seed(0)), Y[:90]))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model": Branching, "space": {"dropout": Range(low=0.0, high=0.5)}}, "it has none: add nn.Dropout"),
        ({"space": {"input_dropout": 0.1}}, "begin your own with an nn.Dropout"),
        ({"space": {"batch_norm": {"switch": True}}}, "the batch norms that it has"),
        ({"space": {"rotation": 5.0, "l1": Range(low=0.0, high=1.0)}}, "needs images"),
        ({"space": {"dropout_7": 0.5}}, "gives only dropout_0, dropout_1"),
        ({"loss": nn.CrossEntropyLoss(reduction="none"), "space": {"mixup": 0.2}}, 'the loss is "own"'),
        ({"training": {"loss": "multi_margin"}, "space": {"label_smoothing": 0.1}}, 'the loss is "multi_margin"'),
        ({"training": {"loss": "hinge"}}, "training.loss"),
        ({"data": Data(train=examples(), folds=500)}, "data.folds = 500 are more than there are examples, 120"),
        ({"data": Data(train=examples(), folds=3, validation=0.2)}, "has no effect with folds"),
        ({"data": "digit"}, 'did you mean "digits"'),
        ({"data": Data(train=examples(), test=(X[:, :5], Y))}, r"test: examples are \[5\] of torch.float32, and those"),
        ({"data": Data(train=examples(), test=(X.byte(), Y))}, r"test: examples are \[6\] of torch.uint8, and those"),
        ({"data": examples()}, "must be search.Data"),
        ({"training": {"loss": "own"}}, "pass the model or the loss itself"),
        ({"model": {"name": "mlp", "hidden": 8}}, r"model.hidden"),
        ({"model": {"name": "mlp", "hidden": [8]}, "loss": nn.CrossEntropyLoss()}, 'reduction="none"'),
        (
            {"model": Tokens, "data": WORDS, "space": {"mixup": 0.2, "l1": Range(low=0.0, high=1.0)}},
            "space.mixup: needs",
        ),
        (
            {"model": MLP, "data": Data(train=(X.byte(), Y))},
            'model "mlp" needs inputs of a floating-point type, and they are torch.uint8: convert them',
        ),
        (
            {"model": {"name": "cnn", "hidden": [8]}, "data": VIDEOS},
            r'model.name = "cnn": needs images, which are \[height, width\] or .*, and an example of own is \[3, 4',
        ),
        ({"model": MLP, "data": VIDEOS, "space": {"cutout": 0.3}}, "space.cutout needs images, which are"),
        (
            {"model": Halved, "data": HALVED_IMAGES, "space": {"rotation": 5.0, "l1": Range(low=0.0, high=1.0)}},
            "space.rotation: needs inputs of torch.float32, and they are torch.float16",
        ),
        ({"name": "../mine"}, "path separator"),
        ({"device": "gpu"}, "device: must be one of auto, cpu, cuda, and is 'gpu'"),
        ({"device": "cuda:1"}, 'did you mean "cuda"'),
        ({"engine": "fast"}, "engine: must be one of auto, stacked, looped"),
        ({"precision": "fp16"}, 'did you mean "bf16"'),
        ({"population": 0}, "population: must be a whole number from 1, or None, and is 0"),
        ({"workers": -1}, "workers: must be a whole number from 0"),
        ({"timeout": "soon"}, "timeout: 'soon' is not a time above zero; write seconds, or 15m, or 2h"),
        ({"confirm": 3}, r"confirm: must be search.Confirm\("),
    ],
)
def test_searches_that_cannot_be(tmp_path, options, told):
    with pytest.raises(RegsearchError, match=told):
        find(tmp_path, **options)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mlflow.db"]  # as it was


def test_no_file_may_name_what_comes_from_python(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(
        '[data]\nname = "own"\n[model]\nname = "mlp"\nhidden = [3]\n[space]\nl1 = { low = 0.0, high = 0.1 }\n'
    )
    told = regsearch("start", "--study", str(path), code=1)
    assert f'{path}: data.name = "own" stands for what comes from Python, with run_search' in told


def test_inputs_keep_their_type():
    assert as_split((X.double(), Y), "train").x.dtype == torch.float32
    assert as_split((torch.zeros(4, 2, dtype=torch.int64), Y[:4]), "train").x.dtype == torch.int64
    assert isinstance(as_split((X.numpy(), Y.numpy()), "train"), Split)


def test_data_may_be_of_a_type_that_numpy_lacks():
    x, y = examples(30)
    data = OwnExamples.read(Data(train=(x.bfloat16(), y), test=(x.bfloat16(), y)))
    assert data.test.x.dtype is torch.bfloat16
    assert len({fingerprint(split) for split in (data.train, Split(x.bfloat16() + 1, y))}) == 2
