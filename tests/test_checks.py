"""Mistakes that train without an error: each is refused, or told with what to do about it; ordinary use is not."""

import math

import pytest
import torch
from own_models import (
    WORDS,
    Branching,
    Convolutional,
    Frozen,
    NoisyInEvaluation,
    Tied,
    Tokens,
    examples,
    normalized,
    plain,
    unseen,
)
from torch import nn
from torch.utils.data import TensorDataset

from search import Data, Range, SearchWarning
from search.api import _specify
from search.errors import DataError, ModelError
from search.training.data import Dataset, Split
from search.training.data_checks import check_held_out

X, Y = examples()
X_TEST, Y_TEST = unseen()
L1 = {"l1": Range(low=1e-6, high=1e-3)}


def told(model=plain, data=None, space=None, loss=None, training=None):
    """Return what the user is warned of before a search, as one text."""
    data = Data(train=(X, Y), test=(X_TEST, Y_TEST)) if data is None else data
    sections = {"name": "mine", "training": training or {}, "search": {}}
    with pytest.warns(SearchWarning) as caught:
        _specify(model, data, space or L1, sections, loss)
    return "\n".join(str(each.message) for each in caught)


def ordinary(model=plain, data=None, space=None, loss=None, training=None):
    """Check that nothing is said: warnings are errors in tests."""
    data = Data(train=(X, Y), test=(X_TEST, Y_TEST)) if data is None else data
    _specify(model, data, space or L1, {"name": "mine", "training": training or {}, "search": {}}, loss)


class Series(nn.Module):
    """For series of two channels."""

    def __init__(self):
        super().__init__()
        self.layer, self.output = nn.Conv1d(2, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.output(self.layer(x).mean(2))


def ending(*layers):
    return lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3), *layers)


class Flat(nn.Module):
    """For images of any kind."""

    def __init__(self, numbers):
        super().__init__()
        self.output = nn.Linear(numbers, 3)

    def forward(self, x):
        return self.output(x.flatten(1))


# Classes


def test_a_single_class_is_refused():
    with pytest.raises(DataError, match="train: all 120 examples are of class 0, so that there is nothing to learn"):
        ordinary(data=Data(train=(X, Y * 0)))


@pytest.mark.parametrize("name", ["test", "validation"])
def test_a_class_that_training_lacks_is_told(name):
    other = (X_TEST, Y_TEST)
    data = Data(train=(X[Y < 2], Y[Y < 2]), **{name: other})
    assert f"{name}: 20 of 60 examples are of classes that train lacks (2)" in told(data=data)


def test_labels_from_1_for_a_model_with_one_output_more_are_told():
    text = told(lambda: nn.Linear(6, 4), Data(train=(X, Y + 1)))
    assert "no example is of class 0, and classes begin with 1: number them from 0 (y - 1)" in text


def test_labels_from_1_for_a_model_of_as_many_outputs_are_refused_with_what_to_do():
    with pytest.raises(ModelError, match=r"3 logits, and there are 4 classes, counted from 0: .* \(y - 1\)"):
        ordinary(data=Data(train=(X, Y + 1)))


def test_gaps_between_classes_are_told():
    text = told(lambda: nn.Linear(6, 21), Data(train=(X, Y * 10)))
    assert "the model has 21 outputs, and no example is of classes 1, 2, 3, 4, 5 and 13 more" in text


def test_quantities_in_the_place_of_classes_are_told():
    data = Data(train=(X, torch.arange(120)), test=(X_TEST, torch.arange(60)))
    assert "there are 120 classes for 120 examples: if they are quantities" in told(lambda: nn.Linear(6, 120), data)


@pytest.mark.parametrize(
    ("y", "way_out"),
    [
        (Y[:, None], r"write y.squeeze\(1\)$"),
        (Y[:, None].float(), r"write y.squeeze\(1\).long\(\)"),
        (Y.float(), r"write y.long\(\)"),
        (torch.nn.functional.one_hot(Y).float(), r"if they are one-hot, write y.argmax\(1\)"),
    ],
)
def test_classes_in_another_form_are_refused_with_how_to_write_them(y, way_out):
    with pytest.raises(DataError, match=way_out):
        ordinary(data=Data(train=(X, y)))


def test_a_class_that_is_not_held_out_is_told():
    text = told(data=Data(train=(X, Y), validation=0.02))
    assert "validation: no example is of class" in text
    assert "and train has some: hold out more, or use folds" in text


def test_a_class_of_which_all_is_held_out_is_told():
    labels = torch.tensor([0, 0, 1, 1])
    data = Dataset(Split(X[:4], labels), Split(X[4:7], torch.tensor([0, 1, 2])), 3, "")
    assert check_held_out(data) == [
        "train: no example is of class 2, and validation has some: hold out less, or use folds"
    ]


def test_a_class_with_fewer_examples_than_folds_is_told():
    y = torch.cat([torch.arange(118) % 2, torch.tensor([2, 2])])
    assert "folds: there are 5, and fewer examples of class 2" in told(data=Data(train=(X, y), folds=5))


def test_a_named_data_set_is_checked_by_those_who_load_it():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    data = Dataset(Split(X[:6], labels), Split(X[6:8], torch.tensor([0, 1])), 3, "")
    assert check_held_out(data) == [
        "validation: no example is of class 2, and train has some: hold out more, or use folds"
    ]


# Overlap


def test_test_data_that_are_the_training_data_are_told_with_their_number():
    assert "test: 120 of 120 examples are in train, too" in told(data=Data(train=(X, Y), test=(X, Y)))


def test_a_part_of_the_test_data_in_the_training_data_is_told_with_its_number():
    data = Data(train=(X, Y), test=(torch.cat([X_TEST, X[:6]]), torch.cat([Y_TEST, Y[:6]])))
    assert "test: 6 of 66 examples are in train, too" in told(data=data)


def test_validation_data_that_are_training_or_test_data_are_told():
    assert "validation: 30 of 30 examples are in train" in told(data=Data(train=(X, Y), validation=(X[:30], Y[:30])))
    text = told(data=Data(train=(X, Y), validation=(X_TEST, Y_TEST), test=(X_TEST, Y_TEST)))
    assert "test: 60 of 60 examples are in validation, too: its score is of data that the search has chosen by" in text


def test_training_data_with_copies_of_which_some_are_held_out_are_told():
    data = Data(train=(torch.cat([X, X[:60]]), torch.cat([Y, Y[:60]])))
    assert "train: 60 of 180 examples are copies of others" in told(data=data)


def test_equal_rows_by_coincidence_are_not_told():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(3, (400, 6), generator=generator).float()  # 729 different rows there can be
    y = (x[:, 0] + x[:, 1]).long() % 3
    ordinary(data=Data(train=(x[:300], y[:300]), test=(x[300:], y[300:])))


def test_an_overlap_is_a_remark_for_the_verdict():
    with pytest.warns(SearchWarning, match="120 of 120 examples are in train"):
        _, own = _specify(
            plain, Data(train=(X, Y), test=(X, Y)), L1, {"name": "mine", "training": {}, "search": {}}, None
        )
    assert own.remarks == (
        "Test: 120 of 120 examples are in train, too: its score is of data that the model has learned by heart.",
    )


# Inputs


def test_inputs_that_are_all_equal_are_refused():
    with pytest.raises(DataError, match="all 120 inputs are equal"):
        ordinary(data=Data(train=(torch.ones(120, 6), Y)))


@pytest.mark.parametrize("make", [lambda: plain, lambda: {"name": "mlp", "hidden": [8]}])
def test_inputs_that_are_not_scaled_are_told(make):
    text = told(make(), Data(train=(X * 50 + 128, Y)))
    assert "The untrained model has a loss of" in text
    assert "where guessing has 1.1" in text
    assert "scale them" in text


def test_a_batch_that_is_larger_than_all_there_is_is_told():
    assert "training.batch_size = 512 is more than the 120 examples" in told(training={"batch_size": 512})


def test_augmentation_of_series_is_told():
    data = Data(train=(torch.randn(120, 2, 64), Y))
    text = told(Series, data, {"rotation": Range(low=0.0, high=10.0)})
    assert "space.rotation: inputs [2, 64] are taken for images of 2 x 64 pixels: if they are series, leave" in text


def test_augmentation_of_images_whose_colours_come_last_is_told():
    data = Data(train=(torch.randn(120, 8, 8, 3), Y))
    text = told(lambda: Flat(192), data, {"rotation": Range(low=0.0, high=10.0)})
    assert "8 colours and 8 x 3 pixels: if colours come last, put them first, as by x.permute(0, 3, 1, 2)" in text


@pytest.mark.parametrize("shape", [(8, 8), (3, 8, 8), (1, 28, 20)])
def test_augmentation_of_images_is_not_told(shape):
    numbers = math.prod(shape)
    ordinary(lambda: Flat(numbers), Data(train=(torch.randn(120, *shape), Y)), {"rotation": Range(low=0.0, high=10.0)})


class Flipping(TensorDataset):
    """Mirrors every other example, by chance."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return (x.flip(0) if torch.rand(1) < 0.5 else x), y


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_transforms_that_draw_at_random_are_told(name):
    splits = {"train": TensorDataset(X, Y), name: Flipping(*((X, Y) if name == "train" else (X_TEST, Y_TEST)))}
    text = told(data=Data(**splits))
    assert f"{name}: " in text
    assert "items differ when they are read again, so their transforms draw at random" in text


# Models


@pytest.mark.parametrize("layer", [nn.Softmax(1), nn.Softmax(dim=-1)])
def test_a_softmax_at_the_end_is_told(layer):
    assert "returns probabilities, and the loss takes logits: leave out the softmax" in told(ending(layer))


class FunctionalSoftmax(nn.Linear):
    """Has no softmax layer, and yet returns probabilities."""

    def forward(self, x):
        return super().forward(x).softmax(1)


def test_a_softmax_that_is_no_layer_is_told():
    assert "returns probabilities" in told(lambda: FunctionalSoftmax(6, 3))


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.Sigmoid(), nn.Tanh()])
def test_an_activation_at_the_end_is_told(layer):
    assert f"ends with {type(layer).__name__}, which keeps logits" in told(ending(layer))


def test_a_log_softmax_at_the_end_is_none_of_that():
    ordinary(ending(nn.LogSoftmax(1)))  # its own log-softmax is the same: nothing changes


def test_a_loss_of_log_probabilities_for_logits_is_told():
    assert "nn.NLLLoss, which takes logarithms" in told(loss=nn.NLLLoss(reduction="none"))
    ordinary(ending(nn.LogSoftmax(1)), loss=nn.NLLLoss(reduction="none"))


class Deaf(nn.Module):
    """Does not listen."""

    def __init__(self):
        super().__init__()
        self.answer = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return self.answer.expand(len(x), 3)


def test_a_model_that_does_not_depend_on_its_inputs_is_told():
    assert "returns the same for all inputs" in told(Deaf)


def zero_head():
    model = plain()
    nn.init.zeros_(model[-1].weight)
    return model


class Detached(nn.Linear):
    """Computes without gradients."""

    def forward(self, x):
        return super().forward(x).detach()


def test_a_model_without_a_gradient_is_refused():
    with pytest.raises(ModelError, match=r"logits have no gradient.*torch\.no_grad"):
        ordinary(lambda: Detached(6, 3))


class Nan(nn.Linear):
    """Takes logarithms of what may be below zero."""

    def forward(self, x):
        return super().forward(x).log()


def test_a_loss_that_is_nan_from_the_start_is_refused():
    with pytest.raises(ModelError, match="loss of the untrained model is nan"):
        ordinary(lambda: Nan(6, 3))


class Subtracting(nn.Linear):
    """Changes its inputs."""

    def forward(self, x):
        x -= 1.0
        return super().forward(x)


@pytest.mark.parametrize("factory", [lambda: Subtracting(6, 3), lambda: nn.Sequential(nn.ReLU(inplace=True), plain())])
def test_a_model_that_changes_its_inputs_is_refused_and_the_caller_s_data_stay(factory):
    before = X.clone()
    with pytest.raises(ModelError, match=r"changes its inputs in place.*inplace=False"):
        ordinary(factory)
    assert torch.equal(X, before)


def partly_in_evaluation():
    model = normalized()
    model[1].eval()
    return model


def test_parts_in_evaluation_mode_are_told():
    assert "Parts of the model are in evaluation mode (1)" in told(partly_in_evaluation)


@pytest.mark.parametrize(
    "factory",
    [
        *(plain, normalized, Tied, Frozen, Branching, Convolutional, NoisyInEvaluation, zero_head),
        lambda: normalized().eval(),  # as pretrained models come
        lambda: nn.Linear(6, 3),
        lambda: nn.Sequential(nn.Dropout(0.2, inplace=True), nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)),
        {"name": "mlp", "hidden": [8]},
    ],
)
def test_ordinary_models_and_data_are_not_warned_of(factory):
    ordinary(factory)


def test_raw_features_are_not_warned_of_where_the_model_scales_them():
    def scaling():
        return nn.Sequential(nn.BatchNorm1d(6, affine=False), plain())

    ordinary(scaling, Data(train=(X * 1000 + 500, Y)))


def test_words_by_their_numbers_are_not_warned_of():
    ordinary(Tokens, WORDS)


def test_a_model_for_a_named_data_set_is_checked():
    def soft():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1))

    assert "returns probabilities" in told(soft, "digits")
    ordinary(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "digits")
