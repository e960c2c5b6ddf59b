"""The one table of what a configuration may contain: every regularizer, and what decides how a trial is trained.

Each row tells name, limits, what it computes, where it acts and where it is from. The study file is checked against
it, and docs/regularizers.md is made from it. What the names do is implemented in `training`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, inf
from typing import Literal

MAX_EPOCHS = 100_000
"""Limit of everything that counts epochs: more is a slip of the pen."""

OWN = "own"
"""Name of a model, of data or of a loss that a user brings along in Python; no file may say it."""

FUNCTIONAL = "functional_dropout"
"""Name of the parameter that is 1 where dropout without a rate acts as a model has it, and 0 where it is off."""

Place = Literal["inputs", "layers", "loss", "gradients", "weights", "training"]
"""Where a parameter acts."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """What may stand under one name in [space], as a constant or as either end of a range."""

    description: str
    acts: Place
    formula: str
    source: str
    low: float = 0
    low_allowed: bool = True
    high: float
    high_allowed: bool = True
    integer: bool = False
    regularizer: bool = True
    """Whether it is a strength, and 0 switches it off."""
    optional: bool = False
    """Whether a configuration lacks it when the study file does not name it."""
    images: bool = False
    """Whether it makes sense for images only."""
    mixes: bool = False
    """Whether it mixes classes, which only cross-entropy can take."""
    default: float = 0.0
    textbook: float
    """What a careful practitioner would try first."""
    baseline: float = 0.0
    """Its value without regularization. A regularizer's holds whatever the range; others are clipped into it."""

    @property
    def is_switch(self) -> bool:
        """Whether it is either on or off, with no strength between."""
        return self.integer and self.regularizer and self.high == 1

    def refusal(self, value: object) -> str | None:
        """Return what `value` must be instead, or None when it may stand here. A bool is a switch's, nan nobody's."""
        if isinstance(value, bool):
            return None if self.is_switch else self._must()
        kind = int if self.integer else int | float
        return None if isinstance(value, kind) and self._holds(value) else self._must()

    def _must(self) -> str:
        if self.is_switch:
            return "must be true or false"
        low = f"{'at least' if self.low_allowed else 'above'} {self.low:g}"
        high = f"{'at most' if self.high_allowed else 'below'} {self.high:g}"
        return f"must be a {'whole ' if self.integer else ''}number, {low} and {high}"

    def _holds(self, value: float) -> bool:
        above = value >= self.low if self.low_allowed else value > self.low
        below = value <= self.high if self.high_allowed else value < self.high
        return above and below


# The upper limits of the strengths only keep them finite in single precision.
PARAMETERS: Mapping[str, Parameter] = {
    "learning_rate": Parameter(
        description="Step size of the optimizer, where the schedule begins.",
        acts="training",
        formula="w <- w - rate * direction",
        source="Kingma and Ba 2015",
        low_allowed=False,
        high=1000,
        regularizer=False,
        default=1e-3,
        textbook=1e-3,
        baseline=1e-3,
    ),
    "input_dropout": Parameter(
        description="Share of the inputs that dropout sets to zero, where `batch_norm` is off.",
        acts="inputs",
        formula="x * mask / (1 - p), mask ~ Bernoulli(1 - p)",
        source="Srivastava et al. 2014",
        high=1,
        high_allowed=False,
        textbook=0.1,
    ),
    "dropout": Parameter(
        description="Share of the units that dropout sets to zero, in each hidden layer by itself, whole channels "
        "after a convolution; `dropout_0`, `dropout_1`, ... speak for one layer.",
        acts="layers",
        formula="x * mask / (1 - p), mask ~ Bernoulli(1 - p)",
        source="Srivastava et al. 2014; channels: Tompson et al. 2015",
        high=1,
        high_allowed=False,
        textbook=0.2,
    ),
    FUNCTIONAL: Parameter(
        description="Whether dropout that a model from Python applies by a function, as `F.dropout(x, 0.4)`, acts: "
        "with the model's own rates. Without it in [space], it acts in all trials but the baseline.",
        acts="layers",
        formula="x * mask / (1 - p), mask ~ Bernoulli(1 - p)",
        source="Srivastava et al. 2014",
        high=1,
        integer=True,
        optional=True,
        default=0,
        textbook=1,
    ),
    "batch_norm": Parameter(
        description="Whether hidden layers are normalized by their minibatch. Dropout then acts after the last of them "
        "alone, whatever `input_dropout` and `dropout` say of what comes before.",
        acts="layers",
        formula="(x - mean) / sqrt(var + 1e-5) * weight + bias",
        source="Ioffe and Szegedy 2015; dropout's place: Li et al. 2019",
        high=1,
        integer=True,
        optional=True,
        default=0,
        textbook=0,
    ),
    "weight_decay": Parameter(
        description="Strength of the L2 penalty (adam, sgd) or decay (adamw).",
        acts="weights",
        formula="adam, sgd: gradient + strength * w; adamw: w <- w - rate * strength * w",
        source="Loshchilov and Hutter 2019",
        high=1e6,
        textbook=1e-4,
    ),
    "l1": Parameter(
        description="Strength of the L1 penalty or threshold; with weight decay beside it: elastic net.",
        acts="weights",
        formula="proximal: w <- sign(w) * max(|w| - rate * strength, 0); penalty: gradient + strength * sign(w)",
        source="Parikh and Boyd 2014, section 6.5.2; elastic net: Zou and Hastie 2005",
        high=1e6,
        textbook=1e-5,
    ),
    "max_norm": Parameter(
        description="Longest that the incoming weights of a unit may become, as a vector; 0 for no limit.",
        acts="weights",
        formula="w <- w * min(1, c / |w|) for each unit",
        source="Srivastava et al. 2014, section 5.1",
        high=1e6,
        optional=True,
        textbook=3.0,
    ),
    "gradient_noise": Parameter(
        description="Strength of Gaussian noise in the gradients, which fades with the steps.",
        acts="gradients",
        formula="gradient + N(0, strength / (1 + step)^0.55)",
        source="Neelakantan et al. 2015",
        high=1e6,
        optional=True,
        textbook=0.01,
    ),
    "label_smoothing": Parameter(
        description="Share of each target that is spread over all classes.",
        acts="loss",
        formula="(1 - e) * onehot(y) + e / classes",
        source="Szegedy et al. 2016",
        mixes=True,
        high=1,
        high_allowed=False,
        optional=True,
        textbook=0.1,
    ),
    "mixup": Parameter(
        description="How strongly pairs of examples and their targets are mixed: 0 not at all, 1 evenly.",
        acts="inputs",
        formula="m * a + (1 - m) * b, m ~ Beta(strength, strength) for each minibatch",
        source="Zhang et al. 2018",
        mixes=True,
        high=100,
        optional=True,
        textbook=0.2,
    ),
    "rotation": Parameter(
        description="Largest angle, in degrees, by which images are turned.",
        acts="inputs",
        formula="angle ~ Uniform(-strength, strength)",
        source="Simard et al. 2003",
        high=180,
        optional=True,
        images=True,
        textbook=10.0,
    ),
    "shift": Parameter(
        description="Largest shift of images, as a share of their sides.",
        acts="inputs",
        formula="dx, dy ~ Uniform(-strength, strength) * side",
        source="Simard et al. 2003",
        high=1,
        optional=True,
        images=True,
        textbook=0.1,
    ),
    "scale": Parameter(
        description="By how much images are zoomed, in or out.",
        acts="inputs",
        formula="factor = (1 + strength)^u, u ~ Uniform(-1, 1)",
        source="Simard et al. 2003",
        high=10,
        optional=True,
        images=True,
        textbook=0.1,
    ),
    "flip": Parameter(
        description="Probability that an image is mirrored, left to right. Not for digits and letters.",
        acts="inputs",
        formula="mirrored if u < strength, u ~ Uniform(0, 1)",
        source="Krizhevsky et al. 2012",
        high=1,
        optional=True,
        images=True,
        textbook=0.5,
    ),
    "crop": Parameter(
        description="Border of zeros put around images, as a share of their sides, before they are cropped to their "
        "size at a random place: a shift by whole pixels.",
        acts="inputs",
        formula="dx, dy ~ Uniform{-n, ..., n}, n = round(strength * side)",
        source="He et al. 2016",
        high=1,
        optional=True,
        images=True,
        textbook=0.125,
    ),
    "brightness": Parameter(
        description="Largest change of an image's brightness, in the units of the model's inputs.",
        acts="inputs",
        formula="x + Uniform(-strength, strength)",
        source="Howard 2013",
        high=10,
        optional=True,
        images=True,
        textbook=0.2,
    ),
    "contrast": Parameter(
        description="Largest change of an image's contrast, as a share.",
        acts="inputs",
        formula="mean(x) + (x - mean(x)) * Uniform(1 - strength, 1 + strength)",
        source="Howard 2013",
        high=1,
        optional=True,
        images=True,
        textbook=0.2,
    ),
    "cutout": Parameter(
        description="Side of the square that is cut out of each image, as a share of the image's.",
        acts="inputs",
        formula="0 within side / 2 of a random pixel",
        source="DeVries and Taylor 2017",
        high=1,
        optional=True,
        images=True,
        textbook=0.25,
    ),
    "weight_averaging": Parameter(
        description="Share of the epochs, the last ones, over which weights are averaged; what is scored and kept is "
        "the average.",
        acts="weights",
        formula="mean of the weights at the ends of these epochs, share * max_epochs, rounded up",
        source="Izmailov et al. 2018",
        high=1,
        optional=True,
        textbook=0.25,
    ),
    "patience": Parameter(
        description="Epochs without a better validation loss after which a trial stops; those before weights are "
        "averaged do not count.",
        acts="training",
        formula="stop when epoch - max(best epoch, last epoch before averaging) >= patience",
        source="Prechelt 1998",
        low=1,
        high=MAX_EPOCHS,
        integer=True,
        regularizer=False,
        default=5,
        textbook=5,
        baseline=inf,
    ),
    "min_improvement": Parameter(
        description="By how much, in nats, a validation loss must be lower to count as better for patience.",
        acts="training",
        formula="better when loss < best - min_improvement",
        source="Prechelt 1998",
        high=1e6,
        regularizer=False,
        optional=True,
        textbook=0.0,
    ),
}
"""Everything that [space] may name, in the order in which configurations list it."""


def epochs_before_averaging(share: float, max_epochs: int) -> int:
    """Return after how many epochs weights begin to be averaged, which is over that share of all, the last ones."""
    return max_epochs - ceil(share * max_epochs)
