"""The population: trials that train together, each in a slot from its first to its last epoch.

Slots are admitted, trained, evaluated, snapshotted, freed and refilled while the others go on. The population knows
nothing of studies, samplers or pruning: it is told whom to admit and whom to free, and returns one `EpochResult` per
occupied slot and epoch. What a trial needs to go on can be taken out between two epochs, and put into another slot or
population.

State is one matrix [slots, parameters] (see `layout`), the same for the best epoch's weights and for each of the
optimizer's moments. Occupied slots are always the leading rows: a slot freed in the middle is taken by the last one.
So no work is done for empty slots, and everything below runs on plain slices without gathering.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn

from search.records import Assignment, EpochResult
from search.spec import TrainingSpec
from search.training.averaging import Averages
from search.training.data import Dataset
from search.training.engines import ENGINES, PRECISIONS, Engine, Models
from search.training.evaluation import widest_activation
from search.training.factories import factory_seeded
from search.training.feeding import Feed
from search.training.layout import layout_of, state_dict
from search.training.losses import LOSSES, Loss, on_device
from search.training.models import ModelFactory
from search.training.occupants import Occupant, resumed
from search.training.optimizers import Coefficients, Strengths, make_optimizer
from search.training.regularizers import GradientNoise, NormLimits, configure
from search.training.schedules import make_schedule
from search.training.scoring import Scores, Scoring
from search.training.seeds import derive_seed, seeded
from search.training.turns import Turn


class Stopped(Exception):
    """Raised out of an epoch when `should_stop` said so; the population is of no further use."""


@dataclass(frozen=True)
class Way:
    """How a population computes: what makes it faster or slower, and what it computes different only by rounding."""

    engine: str = "stacked"
    precision: str = "fp32"


@dataclass(frozen=True)
class _Step:
    """What one step of some slots takes."""

    index: int
    """0 for the first of the epoch."""
    x: Tensor
    targets: Tensor
    now: Coefficients
    noise: GradientNoise
    limits: NormLimits


class Population:
    """Up to `slots` trials training at once on one device.

    A trial depends on (study seed, its assignment's seed) alone: initial weights, batch order and noise are derived
    from them. An incomplete last batch is left out, since each epoch is shuffled anew.
    """

    def __init__(
        self,
        factory: ModelFactory,
        data: Dataset,
        training: TrainingSpec,
        study_seed: int,
        slots: int,
        way: Way = Way(),
        device: torch.device | str = "cpu",
        keep_last: bool = False,
        loss: Loss | None = None,
    ) -> None:
        """`keep_last` takes the last epoch's weights for a trial's best, where nothing is held out to tell; a schedule
        that goes by validation losses then goes by those that are known of the trial.

        `loss` takes the place of the one that the training section names.
        """
        with factory_seeded(derive_seed(study_seed, 0, "template"), torch.device(device)):
            # What of a model is not trained is the template's own: the same in every trainer.
            template = factory()
        self.slots = slots
        self._keep_last = keep_last
        self._factory, self._training, self._seed = factory, training, study_seed
        self._device = torch.device(device)
        self._data = data.to(self._device)
        self._layout = layout_of(template)
        dtype = next(template.parameters()).dtype
        self._rows = torch.zeros(slots, self._layout.size, device=self._device, dtype=dtype)
        self._buffers = {name: self._slotted(buffer) for name, buffer in template.named_buffers()}
        self._trained = {"weights": self._rows} | {f"buffers/{name}": each for name, each in self._buffers.items()}
        self._best = {name: tensor.clone() for name, tensor in self._trained.items()}
        self._optimizer = make_optimizer(training, self._rows, self._layout.weights)
        self._strengths = Strengths(
            *(torch.zeros(slots, 1, device=self._device, dtype=torch.float64) for _ in range(3))
        )
        self._occupants: list[Occupant] = []
        self.seconds = (0.0, 0.0)
        """What the last epoch's training and its evaluation took."""
        self._schedule = make_schedule(training, slots)
        self._averages = Averages(self._trained, training.max_epochs)
        self._feed = Feed(self._data, training.batch_size)
        example = self._data.train.x[:8]
        self._engines: dict[Way, Engine] = {}
        loss = LOSSES[training.loss] if loss is None else on_device(loss, self._device)
        self._models = Models(template.to(self._device), self._layout, self._rows, self._buffers, example, loss)
        self._scoring = Scoring(self._data, loss, widest_activation(self._models.template, example))
        self.go(way)

    def go(self, way: Way) -> None:
        """Go on in another way; trials are not affected, but for the last bits of what they compute."""
        compute = PRECISIONS[way.precision]
        self.way = way
        if way not in self._engines:
            self._engines[way] = ENGINES[way.engine](self._models, compute)
        self._feed.prepare(compute)
        self._engine, self._compute = self._engines[way], compute

    def settle(self, way: Way) -> None:
        """Go on in this way for good: what other ways need is given up."""
        self.go(way)
        self._engines = {way: self._engine}
        self._feed.prepare(self._compute, only=True)

    @property
    def folds(self) -> int | None:
        """How many folds the data has, if it has any."""
        return self._data.folds

    @property
    def numbers(self) -> list[int]:
        """Trial numbers in slot order."""
        return [occupant.assignment.number for occupant in self._occupants]

    def admit(self, assignment: Assignment) -> None:
        """Put a trial into the next free slot: fresh weights, no optimizer history, its own strengths."""
        slot = len(self._occupants)
        model = self._fresh_model(assignment)
        self._rows[slot] = self._layout.row(model)
        for name, buffer in model.named_buffers():
            self._buffers[name][slot] = buffer
        self._optimizer.reset(slot)
        self._schedule.reset(slot)
        for tensor, name in zip(vars(self._strengths).values(), vars(self._strengths), strict=True):
            tensor[slot] = assignment.params[name]
        self._occupants.append(Occupant(assignment))

    def free(self, numbers: Iterable[int]) -> None:
        """Empty the slots of these trials; the last occupied slots move into the gaps."""
        for number in numbers:
            gap, last = self._slot(number), len(self._occupants) - 1
            if gap != last:
                self._move(last, gap)
            self._occupants.pop()

    @torch.no_grad()
    def state(self, number: int) -> dict[str, Tensor]:
        """Return all that a trial needs to go on, between two epochs: copies on the CPU, the same for every slot."""
        slot = self._slot(number)
        occupant = self._occupants[slot]
        memory = {name: tensor[slot].to("cpu", copy=True) for name, tensor in self._memory_of(occupant).items()}
        return memory | occupant.progress()

    @torch.no_grad()
    def restore(self, assignment: Assignment, state: Mapping[str, Tensor]) -> None:
        """Put a trial into the next free slot as it was when `state` was taken, here or in another population.

        Raises ValueError, and changes nothing, when no such trial can have had such a state here.
        """
        occupant = resumed(assignment, state)
        memory = self._memory_of(occupant)
        if not occupant.has_state(state, memory):
            raise ValueError("this is the state of a trial of another model or another training")
        self.admit(assignment)
        slot = len(self._occupants) - 1
        for name, tensor in memory.items():
            tensor[slot] = state[name]
        self._occupants[slot] = occupant

    def train_epoch(self, should_stop: Callable[[], bool] = lambda: False) -> dict[int, EpochResult]:
        """Train every trial for one epoch, evaluate it, keep its weights if they are its best; results by number.

        `should_stop` is asked before every minibatch; raises Stopped when it says so.
        """
        start = time.perf_counter()
        for rows in self._chunks():
            with self._seeded(rows, "model"):
                self._train(rows, should_stop)
        self._synchronize()
        trained = time.perf_counter()
        with self._averages.in_place(self._turns(slice(len(self._occupants)))):
            results = self._results()
            self._keep_best(results)
        self.seconds = (trained - start, time.perf_counter() - trained)
        return results

    def step_cost(self, warm_up: int, steps: int) -> float:
        """Train the occupied slots for a few steps; return the seconds per slot that the fastest of them took.

        The first ones, which build caches and pick kernels, are not counted; nor are those that other programs slow.
        """
        rows = self._chunks()[0]
        fastest = float("inf")
        for index, step in enumerate(islice(self._steps(rows), warm_up + steps)):
            start = time.perf_counter()
            self._step(rows, step)
            self._synchronize()
            if index >= warm_up:
                fastest = min(fastest, time.perf_counter() - start)
        return fastest / len(self._occupants[rows])

    def best_weights(self, number: int) -> dict[str, Tensor]:
        """Return the state of a trial's module at its best epoch, on the CPU, as its `state_dict` would."""
        slot = self._slot(number)
        state = self._layout.views(self._best["weights"][slot])
        state |= {name: self._best[f"buffers/{name}"][slot] for name in self._buffers}
        return state_dict(self._models.template, state)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _slotted(self, buffer: Tensor) -> Tensor:
        return buffer.to(self._device).repeat(self.slots, *[1] * buffer.dim()).view(self.slots, *buffer.shape)

    def _fresh_model(self, assignment: Assignment) -> nn.Module:
        with factory_seeded(derive_seed(self._seed, assignment.seed, "weights"), self._device):
            model = self._factory()
        configure(model, dict(assignment.params), self._seed, assignment.seed)
        return model

    def _slot(self, number: int) -> int:
        return self.numbers.index(number)

    def _memory(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return all that slots remember of their trials, by name, each [slots, ...]; `means` are weight averages."""
        optimizer, schedule = self._optimizer.history, self._schedule.history
        parts = {
            "": self._trained,
            "best/": self._best,
            "optimizer/": optimizer,
            "schedule/": schedule,
            "means/": means,
        }
        return {prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.items()}

    def _memory_of(self, occupant: Occupant) -> dict[str, Tensor]:
        """Return what of that this trial has as far as it has come."""
        return self._memory(self._averages.history(occupant.turn(self._seed, occupant.epoch)))

    def _move(self, source: int, target: int) -> None:
        for tensor in (*self._memory(self._averages.means).values(), *vars(self._strengths).values()):
            tensor[target] = tensor[source]
        self._occupants[target] = self._occupants[source]

    def _chunks(self) -> list[slice]:
        occupied = len(self._occupants)
        size = self._engine.chunk(occupied)
        return [slice(start, min(start + size, occupied)) for start in range(0, occupied, size)]

    def _turns(self, rows: slice) -> list[Turn]:
        return [occupant.turn(self._seed, occupant.epoch + 1) for occupant in self._occupants[rows]]

    def _steps(self, rows: slice) -> Iterator[_Step]:
        """Yield what each step of an epoch takes; all must be taken."""
        turns, steps = self._turns(rows), self._feed.steps
        strengths = self._strengths.rows(rows)
        factors = self._schedule.factors(rows, self._optimizer.steps[rows], steps)
        scheduled = replace(strengths, learning_rate=strengths.learning_rate * factors)
        coefficients = self._optimizer.begin(rows, scheduled, steps)
        noise, limits = GradientNoise(turns, steps, self._device), NormLimits(turns, self._device)
        batches = self._feed.batches(turns, self._compute)
        for index, ((x, targets), now) in enumerate(zip(batches, coefficients, strict=True)):
            yield _Step(index, x, targets, now, noise, limits)

    def _seeded(self, rows: slice, purpose: str) -> AbstractContextManager[None]:
        """Have torch's own generators begin where a trial's epoch has them begin, for models that draw from these.

        Such models are never stacked: a chunk is one trial.
        """
        return seeded(self._turns(rows)[0].derive(purpose), self._device)

    def _train(self, rows: slice, should_stop: Callable[[], bool]) -> None:
        for step in self._steps(rows):
            if should_stop():
                raise Stopped
            self._step(rows, step)

    def _step(self, rows: slice, step: _Step) -> None:
        gradients = self._engine.gradients(rows, step.x, step.targets)
        gradients = step.noise.added(step.index, gradients)
        self._optimizer.step(rows, gradients, step.now)
        if step.limits:
            step.limits.apply_(self._units(rows))

    def _units(self, rows: slice) -> dict[str, Tensor]:
        """Return the weights whose rows are the incoming ones of a unit, [slots, units, ...]."""
        views = self._layout.views(self._rows[rows])
        return {name: view for name, view in views.items() if name in self._layout.of_units}

    @torch.no_grad()
    def _results(self) -> dict[int, EpochResult]:
        train_loss, val_loss, val_accuracy, error = self._scores()
        weights = self._rows[: len(self._occupants), : self._layout.weights]
        sparsity = (weights == 0).double().mean(1)
        # The one place in an epoch where the host waits for the device.
        table = torch.stack([train_loss, val_loss, val_accuracy, sparsity, error], dim=1).tolist()
        for occupant in self._occupants:
            occupant.epoch += 1
        return {o.assignment.number: EpochResult(o.epoch, *row) for o, row in zip(self._occupants, table, strict=True)}

    def _scores(self) -> Scores:
        chunks = []
        for rows in self._chunks():
            folds = [occupant.assignment.fold for occupant in self._occupants[rows]]
            with self._seeded(rows, "scores"):
                chunks.append(self._scoring.scores(self._engine, rows, folds))
        return Scores(*map(torch.cat, zip(*chunks, strict=True)))

    def _keep_best(self, results: dict[int, EpochResult]) -> None:
        improved = []
        for slot, occupant in enumerate(self._occupants):
            loss = results[occupant.assignment.number].val_loss
            if loss < occupant.best_loss or self._keep_last:
                occupant.best_loss = loss
                improved.append(slot)
            known = occupant.known_loss if self._keep_last else loss
            if known is not None:
                self._schedule.epoch_ended(slot, known)
        if improved:
            slots = torch.tensor(improved, device=self._device)
            for name, tensor in self._trained.items():
                self._best[name][slots] = tensor[slots]
