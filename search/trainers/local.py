"""A trainer in this process: what a trainer's own process runs, and for tests and debuggers also the runner's."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from search.errors import DataError, RegsearchError
from search.memory import is_out_of_memory
from search.records import Assignment, EpochResult
from search.trainers.interface import (
    OutOfMemory,
    Report,
    StudyData,
    TrainerLost,
    TrainerSetup,
    TrainerStopped,
)
from search.trainers.keeping import make_keeper

if TYPE_CHECKING:
    from torch import Tensor, nn

    from search.training.choosing import Chosen
    from search.training.data import Dataset, Split
    from search.training.folding import FoldedPopulation
    from search.training.losses import Loss
    from search.training.models import ModelFactory
    from search.training.population import Population


class LocalTrainer:
    """A population in this process. `collect` does the work."""

    def __init__(self, setup: TrainerSetup, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Load the data. Raises DataError, and TrainerLost for what the user cannot mend.

        `slots` may become fewer than asked for, where the device's memory does not hold them.
        """
        self.slots = setup.slots
        self._setup, self._should_stop = setup, should_stop
        self._orders: tuple[Sequence[Assignment], Sequence[int]] = ((), ())
        self._population: Population | FoldedPopulation | None = None
        self._test: Split | None = None
        self._engine = ""
        self._amid_epoch = False
        self._doubts: list[str] = []
        try:
            self._data = setup.data.load()
            _check_same(setup, self._data)
            self.slots = fit(setup, self._data)
            if setup.own.data is None:  # of the user's own, `run_search` has told already
                self._doubts = _doubts(self._data)
        except RegsearchError:
            raise
        except Exception as error:
            raise as_lost(error) from error
        self._keeper = make_keeper(setup, self._data)

    @staticmethod
    def first_done(trainers: Sequence[LocalTrainer], timeout: float) -> Sequence[LocalTrainer]:  # noqa: ARG004
        return trainers[:1]

    @property
    def lacks(self) -> str | None:
        return None

    @property
    def alive(self) -> bool:
        return True

    def get_ready(self) -> str:
        return self._data.fingerprint

    def warm_up(self) -> Population | FoldedPopulation:
        """Make the population, if it is not there yet, and choose how it computes. Raises TrainerLost."""
        if self._population is None:
            try:
                self._population, chosen = make_population(replace(self._setup, slots=self.slots), self._data)
            except Exception as error:
                raise as_lost(error) from error
            self._engine = _in_words(chosen, self._setup.kernels is not None)
        return self._population

    def begin(self, admit: Sequence[Assignment], free: Sequence[int]) -> None:
        self._orders = (admit, free)

    def collect(self) -> Report:
        from search.training.population import Stopped

        admit, free = self._orders
        population = self.warm_up()
        self._check_room(population, admit, free)
        try:
            self._free(population, free)
            # Only now it is known who goes on: nobody shall do so from a checkpoint where the runner had ended it.
            self._keeper.write_if_due(population)
            failed, resumed = self._admit(population, admit)
            self._amid_epoch = True
            results = population.train_epoch(self._should_stop)
            self._amid_epoch = False
        except Stopped:
            raise TrainerStopped from None
        except Exception as error:
            raise as_lost(error) from error
        self._keeper.epoch_ended(results)
        notice = "\n".join([*self._doubts, *filter(None, [self._keeper.take_notice()])])
        self._doubts = []
        return Report(results, failed, self._engine, *population.seconds, resumed, notice)

    def best_weights(self, number: int) -> bytes:
        from safetensors.torch import save

        from search.training.population import Population

        population = self.warm_up()
        assert isinstance(population, Population), "a trial of several folds has several models"
        return save(population.best_weights(number))

    def vacate(self) -> None:
        if self._population is not None:
            self._population.free(self._population.numbers)
            self._keeper.vacated()

    def checkpoint(self, free: Sequence[int]) -> None:
        if self._population is None or self._amid_epoch:  # what an epoch left half done is nothing to go on from
            return
        try:
            self._free(self._population, free)
        except Exception as error:
            raise as_lost(error) from error
        self._keeper.write(self._population)

    def retrain(self, assignment: Assignment, epochs: int) -> bytes:
        if self._data.folds is not None:
            return self.refit(assignment, epochs)
        # In single precision, which is as near as can be to however it was trained first.
        setup = replace(self._setup, slots=1, engine="looped", precision="fp32", checkpoints=None)
        alone = LocalTrainer(setup, self._should_stop)
        alone.begin([assignment], [])
        for _ in range(epochs):
            alone.collect()
            alone.begin([], [])
        return alone.best_weights(assignment.number)

    def refit(self, assignment: Assignment, epochs: int) -> bytes:
        """Train one trial on training and validation data together and return the weights of its last epoch.

        Nothing is held out then: a schedule that goes by validation losses goes by the assignment's. Raises
        TrainerStopped.
        """
        from safetensors.torch import save

        from search.training.population import Population, Stopped, Way

        setup, data = self._setup, self._data.merged
        factory, loss = _factory(setup, data), setup.own.loss
        alone = Population(
            factory, data, setup.training, setup.seed, 1, Way("looped"), setup.device, keep_last=True, loss=loss
        )
        alone.admit(assignment)
        try:
            for _ in range(epochs):
                alone.train_epoch(self._should_stop)
        except Stopped:
            raise TrainerStopped from None
        return save(alone.best_weights(assignment.number))

    def module(self, weights: bytes) -> tuple[nn.Module, Tensor]:
        """Return the model with these weights, in evaluation mode, and a few inputs to call it with, on the CPU."""
        from safetensors.torch import load

        model = _factory(self._setup, self._data)()
        model.load_state_dict(load(weights))
        return model.eval(), self._data.train.x[:4]

    def test(self, weights: bytes) -> tuple[float, float, float | None]:
        from safetensors.torch import load

        from search.training.evaluation import score
        from search.training.seeds import derive_seed, seeded

        try:
            if self._test is None:
                self._test = self._setup.data.load_test()
            with seeded(derive_seed(self._setup.seed, 0, "test"), self._test.x.device):  # some models draw even here
                return score(_factory(self._setup, self._data)(), load(weights), self._test, _loss(self._setup))
        except RegsearchError:
            raise
        except Exception as error:
            raise as_lost(error) from error

    def close(self) -> None:
        pass

    def _check_room(
        self, population: Population | FoldedPopulation, admit: Sequence[Assignment], free: Sequence[int]
    ) -> None:
        """Raise OutOfMemory when they are too many: of a trainer that joined late nobody has asked how many fit."""
        if len(population.numbers) - len(free) + len(admit) > self.slots:
            raise OutOfMemory(f"the memory that is free holds {self.slots} of {self._setup.slots} slots")

    def _free(self, population: Population | FoldedPopulation, numbers: Sequence[int]) -> None:
        population.free(numbers)
        self._keeper.freed(numbers)

    def _admit(
        self, population: Population | FoldedPopulation, assignments: Sequence[Assignment]
    ) -> tuple[dict[int, str], dict[int, tuple[EpochResult, ...]]]:
        """Return the errors of trials that could not be admitted, and the earlier epochs of those that go on."""
        failed: dict[int, str] = {}
        resumed: dict[int, tuple[EpochResult, ...]] = {}
        for assignment in assignments:
            try:
                rows = self._keeper.admit(population, assignment)
            except Exception as error:  # a configuration that cannot be built must not end the others
                failed[assignment.number] = brief(error)
            else:
                resumed |= {assignment.number: rows} if rows else {}
        return failed, resumed


def fit(setup: TrainerSetup, data: Dataset) -> int:
    """Return how many of the slots asked for the device's memory holds, at least 1."""
    from search.training.memory import fitting_slots
    from search.training.optimizers import MOMENTS

    batch = data.train.x[: setup.training.batch_size]
    moments, folds = MOMENTS[setup.training.optimizer], data.folds or 1
    models = fitting_slots(_factory(setup, data)(), batch, moments, setup.slots * folds, setup.device, setup.sharers)
    return max(1, models // folds)


def _check_same(setup: TrainerSetup, data: Dataset) -> None:
    """Raise DataError when the data are not those that the study's other trainers have."""
    if setup.fingerprint not in (None, data.fingerprint):
        where = f" in {setup.data.folder}" if isinstance(setup.data, StudyData) else ""
        raise DataError(f"the data{where} are not what the study's other trainers have: put the same there")


def _doubts(data: Dataset) -> list[str]:
    from search.training.data_checks import check_held_out

    return check_held_out(data)


def as_lost(error: Exception) -> TrainerLost:
    """Return how an error that ends a trainer is told to the runner."""
    return (OutOfMemory if is_out_of_memory(error) else TrainerLost)(brief(error))


def make_population(setup: TrainerSetup, data: Dataset) -> tuple[Population | FoldedPopulation, Chosen]:
    """Return the population, set to the best way to compute, and what that is."""
    import torch

    from search.training.choosing import choose
    from search.training.engines import ENGINES, PRECISIONS
    from search.training.folding import FoldedPopulation
    from search.training.kernels import compiled
    from search.training.population import Population

    compiled.use(setup.kernels)
    factory, slots = _factory(setup, data), setup.slots * (data.folds or 1)
    population = Population(factory, data, setup.training, setup.seed, slots, device=setup.device, loss=setup.own.loss)
    engines = list(ENGINES) if setup.engine == "auto" else [setup.engine]
    precisions = list(PRECISIONS) if setup.precision == "auto" else [setup.precision]
    threads = sorted({1, torch.get_num_threads()}) if setup.threads is None else [setup.threads]
    chosen = choose(population, setup.probe, engines, precisions, threads)
    return population if data.folds is None else FoldedPopulation(population, data.folds), chosen


def brief(error: BaseException) -> str:
    """Return type, message and place of an error: enough to find it, short enough to store with a trial."""
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" ({os.path.basename(frame[0].filename)}:{frame[0].lineno})" if frame else ""
    return f"{type(error).__name__}: {error}{place}"


def _factory(setup: TrainerSetup, data: Dataset) -> ModelFactory:
    from search.training.models import model_factory

    if setup.own.model is not None:
        from search.training.noise import searchable

        return searchable(setup.own.model, setup.own.noise)
    return model_factory(setup.model, data.shape, data.classes, setup.batch_norm)


def _loss(setup: TrainerSetup) -> Loss:
    from search.training.losses import LOSSES, on_device

    return LOSSES[setup.training.loss] if setup.own.loss is None else on_device(setup.own.loss, "cpu")


def _in_words(chosen: Chosen, compiled: bool) -> str:
    way, kernels = chosen.way, "compiled kernels" if compiled else "torch's kernels"
    threads = f"{chosen.threads} thread{'s' if chosen.threads > 1 else ''}"
    others = "".join(f"; not {engine}: {reason}" for engine, reason in chosen.refusals.items())
    return f"{way.engine} engine, {way.precision}, {threads}, {kernels}{others}"
