"""The plain sections of a study file: what each field may be, its default and its description.

What may be named (data sets, models, optimizers, samplers, pruners) is listed here; what the names do is in the
modules that implement them. [space] has a module of its own.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from search.spec.limits import MOST_DROPOUTS, MOST_TEXT
from search.spec.parameters import MAX_EPOCHS, OWN
from search.spec.problems import Findings, bad_value

DatasetName = Literal["digits", "mnist", "fashion-mnist", "cifar10", "wide", "newsgroups", "own"]
ModelName = Literal["mlp", "cnn", "transformer", "own"]
LossName = Literal["cross_entropy", "multi_margin", "own"]
OptimizerName = Literal["adam", "adamw", "sgd"]
ScheduleName = Literal["constant", "cosine", "plateau"]
L1Mode = Literal["proximal", "penalty"]
SamplerName = Literal["tpe", "random", "qmc", "gp"]
PrunerName = Literal["halving", "median", "percentile", "hyperband", "none"]
ObjectiveName = Literal["val_loss", "sparsity", "epochs"]

DATASET_SHAPES: Mapping[str, tuple[int, ...]] = {
    "digits": (8, 8),
    "mnist": (28, 28),
    "fashion-mnist": (28, 28),
    "cifar10": (3, 32, 32),
    "wide": (500,),
    "newsgroups": (4096,),
}
"""Shape of one example of each data set: images as height and width, with the number of colours in front."""

DATA_OPTIONS: Mapping[str, tuple[str, ...]] = {**dict.fromkeys(DATASET_SHAPES, ()), OWN: ("shape",)}
"""Which fields of [data] only some data sets read."""

MODEL_OPTIONS: Mapping[str, tuple[str, ...]] = {
    OWN: ("dropouts", "architecture"),
    "mlp": (),
    "cnn": ("channels",),
    "transformer": ("patch", "width", "heads"),
}
"""Which fields of [model] only some models read."""

OPTIMIZER_OPTIONS: Mapping[str, tuple[str, ...]] = {"adam": (), "adamw": (), "sgd": ("momentum",)}
"""Which fields of [training] only some optimizers read."""

SCHEDULE_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "constant": (),
    "cosine": (),
    "plateau": ("plateau_factor", "plateau_epochs"),
}
"""Which fields of [training] only some schedules read."""

LOSS_OPTIONS: Mapping[str, tuple[str, ...]] = {"cross_entropy": (), "multi_margin": (), OWN: ("loss_digest",)}
"""Which fields of [training] only some losses read."""

PRUNER_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "halving": ("min_epochs", "reduction_factor"),
    "median": ("min_epochs", "startup_trials"),
    "percentile": ("min_epochs", "startup_trials", "percentile"),
    "hyperband": ("min_epochs", "reduction_factor"),
    "none": (),
}
"""Which fields of [search.pruner] each pruner reads."""

MAX_SIZE = 2**20
"""Limit of layers and batches: more is a slip of the pen, and would only end as an out-of-memory error much later."""

Size = Annotated[int, Field(ge=1, le=MAX_SIZE)]
Widths = Annotated[tuple[Size, ...], Field(strict=False, min_length=1, max_length=100)]
"""The widths of layers, one after the other."""


class Section(BaseModel):
    """A section of the file: frozen, nothing unknown, nothing coerced but integers to floats, nothing infinite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _ChoiceSection(Section):
    """A section with options that only some of the choices read: given to another choice, they are refused."""

    _options: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]]
    """By the field that chooses, which fields each of its choices reads."""

    @field_validator("*")
    @classmethod
    def _is_read(cls, value: object, info: ValidationInfo) -> object:
        for field, options in cls._options.items():
            readers = [choice for choice, read in options.items() if info.field_name in read]
            choice = info.data.get(field)  # absent when it is invalid itself
            if readers and choice is not None and choice not in readers:
                raise bad_value(f'has no effect with {field} = "{choice}", only with {" or ".join(readers)}; remove it')
        return value

    @model_serializer(mode="wrap")
    def _without_unread(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unread = {name for field in self._options for name in self.unread(field)}
        return {name: value for name, value in serialize(self).items() if name not in unread}

    def unread(self, field: str) -> set[str]:
        """Return the options that what is chosen in `field` does not read, but others would."""
        chosen = self._options[field][getattr(self, field)]
        return {option for options in self._options[field].values() for option in options if option not in chosen}


class DataSpec(_ChoiceSection):
    """[data]: what to learn from."""

    _options = {"name": DATA_OPTIONS}

    name: DatasetName = Field(description="The data set.")
    folds: int | None = Field(
        default=None,
        ge=2,
        le=MAX_SIZE,
        exclude_if=lambda folds: folds is None,
        description="Folds of a cross-validation: each is held out once, and a trial's loss is the mean.",
    )
    validation: float = Field(
        default=1 / 6, gt=0, lt=1, description="Share of the training data held out to choose configurations by."
    )
    shape: Annotated[tuple[Size, ...], Field(strict=False)] = Field(
        default=(), description="Shape of an example of data from Python."
    )

    @field_validator("validation")
    @classmethod
    def _nothing_else_is_held_out(cls, share: float, info: ValidationInfo) -> float:
        if info.data.get("folds") is not None:
            raise bad_value("has no effect with folds, which are held out in turn; remove it")
        return share

    def unread(self, field: str) -> set[str]:
        """Return also what the choice of folds leaves unread."""
        return super().unread(field) | ({"validation"} if self.folds is not None else set())

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example: images as height and width, with the number of colours in front."""
        return self.shape if self.name == OWN else DATASET_SHAPES[self.name]


class ModelSpec(_ChoiceSection):
    """[model]: the network, the same for all trials."""

    _options = {"name": MODEL_OPTIONS}

    name: ModelName = Field(
        default="mlp",
        description="`mlp` is a multilayer perceptron, `cnn` a convolutional, `transformer` an attention network.",
    )
    channels: Widths = Field(
        default=(32, 64),
        description="Channels of each convolution of `cnn`: 3x3, ReLU, and pooling that halves height and width.",
    )
    patch: Annotated[tuple[Size, Size], Field(strict=False)] = Field(
        default=(4, 4),
        description="Height and width of the patches of `transformer`: [1, 28] are rows of MNIST's images.",
    )
    width: Size = Field(default=64, description="Numbers by which `transformer` describes a patch.")
    heads: Size = Field(default=4, description="Heads of its attention; they share its width.")
    hidden: Annotated[tuple[Size, ...], Field(strict=False, max_length=100)] = Field(
        description="Units of each hidden layer: after the convolutions of `cnn`, in each block of `transformer`; none "
        "for a linear model."
    )
    dropouts: int = Field(default=0, ge=0, le=MOST_DROPOUTS, description="Dropout layers of a model from Python.")
    architecture: str = Field(
        default="", max_length=MOST_TEXT, description="What tells it from other models from Python."
    )

    @property
    def layers(self) -> int:
        """How many hidden layers there are, convolutions included: each has a dropout rate of its own."""
        if self.name == OWN:
            return self.dropouts
        convolutions = len(self.channels) if self.name == "cnn" else 0
        return convolutions + len(self.hidden)


class TrainingSpec(_ChoiceSection):
    """[training]: how every trial is trained."""

    _options = {"optimizer": OPTIMIZER_OPTIONS, "schedule": SCHEDULE_OPTIONS, "loss": LOSS_OPTIONS}

    optimizer: OptimizerName = Field(
        default="adamw", description="`adam` adds decay to the gradient, `adamw` decouples it."
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of `sgd`.")
    schedule: ScheduleName = Field(
        default="constant",
        description="The learning rate over the epochs: `cosine` takes it to 0 at the last one, `plateau` lowers it "
        "where the validation loss stops falling.",
    )
    plateau_factor: float = Field(default=0.1, gt=0, lt=1, description="What `plateau` multiplies the rate with.")
    plateau_epochs: int = Field(
        default=3, ge=0, le=MAX_EPOCHS, description="Epochs without a better loss that `plateau` waits for."
    )
    batch_size: int = Field(default=32, ge=1, le=MAX_SIZE, description="Examples in a minibatch.")
    max_epochs: int = Field(
        default=30, ge=1, le=MAX_EPOCHS, description="Epochs after which a trial ends at the latest."
    )
    loss: LossName = Field(
        default="cross_entropy",
        description="What is minimized, and what trials are compared by: `multi_margin` is the multi-class hinge loss.",
    )
    loss_digest: str = Field(default="", max_length=MOST_TEXT, description="What tells a loss from Python from others.")
    l1_mode: L1Mode = Field(
        default="proximal", description="`proximal` shrinks weights to exact zeros, `penalty` adds L1 to the loss."
    )


class PrunerSpec(_ChoiceSection):
    """[search.pruner]: which trials are stopped because their siblings do better."""

    _options = {"name": PRUNER_OPTIONS}

    name: PrunerName = Field(default="halving", description="The rule.")
    min_epochs: int = Field(
        # Strong regularization learns slowly at first: judged after 2 epochs, it loses to no regularization.
        default=4,
        ge=1,
        le=MAX_EPOCHS,
        description="Epochs that every trial is given: the first rung.",
    )
    reduction_factor: int = Field(
        default_factory=lambda data: 3 if data["name"] == "hyperband" else 2,
        ge=2,
        le=1000,
        description="One in so many trials passes a rung, and rungs are so many times further apart.",
    )
    startup_trials: int = Field(
        default=5, ge=0, le=MAX_SIZE, description="Trials that must be complete before any is pruned."
    )
    percentile: float = Field(default=25.0, gt=0, lt=100, description="Share of trials, in percent, that are kept.")


_ONE_OBJECTIVE: tuple[ObjectiveName, ...] = ("val_loss",)
_SEVERAL_OBJECTIVES = '["val_loss", "sparsity"]'
_PRUNERS_BY_SEVERAL = ("halving", "none")  # the others are Optuna's, which know one number


class SearchSpec(Section):
    """[search]: how much to search, and how."""

    trials: int = Field(default=64, ge=1, le=10_000_000, description="How many trials end the search.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Fixes the split, the sampler and every trial.")
    sampler: SamplerName = Field(default="tpe", description="Who chooses the configurations.")
    objectives: Annotated[tuple[ObjectiveName, ...], Field(strict=False)] = Field(
        default=_ONE_OBJECTIVE,
        # Specs of versions that knew no other stay what they were.
        exclude_if=lambda objectives: objectives == _ONE_OBJECTIVE,
        description="What to look for: the lowest `val_loss`, and beside it the highest `sparsity` or the fewest "
        "`epochs`, both of the best epoch. With several of them there is a Pareto front to be found.",
    )
    pruner: PrunerSpec = PrunerSpec()

    @field_validator("objectives", mode="before")
    @classmethod
    def _objectives_are_a_list(cls, given: object) -> object:
        if not isinstance(given, list | tuple):
            raise bad_value(f"must be a list, as in {_SEVERAL_OBJECTIVES}")
        return given

    @field_validator("objectives")
    @classmethod
    def _the_loss_comes_first(cls, objectives: tuple[ObjectiveName, ...]) -> tuple[ObjectiveName, ...]:
        if objectives[:1] != _ONE_OBJECTIVE:
            raise bad_value(f'must begin with "val_loss", as in {_SEVERAL_OBJECTIVES}')
        if len(set(objectives)) < len(objectives):
            raise bad_value("must name none of them twice")
        return objectives

    @field_validator("pruner")
    @classmethod
    def _pruner_fits_the_objectives(cls, pruner: PrunerSpec, info: ValidationInfo) -> PrunerSpec:
        several = len(info.data.get("objectives", ())) > 1  # absent when they are invalid themselves
        findings = Findings()
        if several and pruner.name not in _PRUNERS_BY_SEVERAL:
            text = f"compares trials by a single objective; with several use {' or '.join(_PRUNERS_BY_SEVERAL)}"
            findings.add(bad_value(text), ("name",), pruner.name)
        findings.raise_any()
        return pruner
