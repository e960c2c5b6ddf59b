"""Bring your own: what cannot be trained, or would be lost, is refused with the way out before anything begins."""

import pytest
import torch
import torch.nn.functional as F
from conftest import regsearch
from own_models import WORDS, Branching, Noisy, NoisyInEvaluation, Tied, Tokens, X, Y, examples, find, normalized
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from search import Data, Range
from search.errors import DataError, ModelError, RegsearchError
from search.spec import DataSpec
from search.training.data import Split, fingerprint
from search.training.own import (
    OwnData,
    OwnExamples,
    as_split,
    check_loss,
    check_model,
    known_examples,
)


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
        ({"data": examples()}, "must be Data"),
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
        ({"confirm": 3}, r"confirm: must be Confirm\("),
    ],
)
def test_searches_that_cannot_be(tmp_path, options, told):
    with pytest.raises(RegsearchError, match=told):
        find(tmp_path, **options)
    assert not (tmp_path / "runs").exists()


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
