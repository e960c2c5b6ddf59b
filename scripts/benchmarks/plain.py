"""What a practitioner writes instead of using regsearch: plain Optuna + PyTorch + MLflow, one trial at a time.

The yardstick for speed. Split, model, space, epochs, batch size and seed are the study file's, so that both sides do
the same work; everything else is its own and usual: TPE, L1 as a penalty in the loss, and Optuna's MedianPruner, unless
the study has no pruner. Two ways of feeding the data:

  --feed loader   torch DataLoader over a torchvision or tensor dataset, as Optuna's own PyTorch example does
  --feed tensor   the whole training set as one in-memory tensor, sliced by hand (a well-tuned script)

Prints one JSON line, times in seconds. Knows nothing of the other files here and runs by itself:

  python scripts/benchmarks/plain.py --study digits --feed tensor
"""

# ruff: noqa: E402
import time

_STARTED = time.perf_counter()  # before the imports, which take seconds

import json
import logging
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import inf, prod
from pathlib import Path

import click
import mlflow
import optuna
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from search.places import default_data_dir
from search.spec import ModelSpec, Range, Setting, StudySpec, load_spec
from search.training.data import Dataset, load_data
from search.training.seeds import derive_seed

Params = Mapping[str, float]
Shape = Sequence[int]

EVALUATION_BATCH = 1024


def mlp(spec: ModelSpec, shape: Shape, classes: int, params: Params) -> nn.Module:
    layers = [nn.Flatten(), nn.Dropout(params["input_dropout"])]
    return nn.Sequential(*layers, *dense(prod(shape), spec.hidden, classes, params, 0))


def cnn(spec: ModelSpec, shape: Shape, classes: int, params: Params) -> nn.Module:
    *colours, height, width = shape
    inputs = colours[0] if colours else 1
    # torchvision gives gray images a dimension for their one colour, the tensors have none.
    layers = [nn.Flatten(), nn.Dropout(params["input_dropout"]), nn.Unflatten(1, (inputs, height, width))]
    for i, outputs in enumerate(spec.channels):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Dropout2d(params[f"dropout_{i}"])]
        inputs, height, width = outputs, height // 2, width // 2
    features, convolutions = inputs * height * width, len(spec.channels)
    return nn.Sequential(*layers, nn.Flatten(), *dense(features, spec.hidden, classes, params, convolutions))


def dense(width: int, hidden: Sequence[int], classes: int, params: Params, first: int) -> list[nn.Module]:
    """Return hidden layers, the `first` of which has that number's dropout rate, and the output layer."""
    layers: list[nn.Module] = []
    for i, units in enumerate(hidden, first):
        layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(params[f"dropout_{i}"])]
        width = units
    return [*layers, nn.Linear(width, classes)]


# The plain twin of each model that a study can name: examples of `shape` in, logits out.
MODELS: dict[str, Callable[[ModelSpec, Shape, int, Params], nn.Module]] = {"mlp": mlp, "cnn": cnn}


def make_optimizer(spec: StudySpec, model: nn.Module, params: Params) -> torch.optim.Optimizer:
    options = {"lr": params["learning_rate"], "weight_decay": params["weight_decay"]}
    match spec.training.optimizer:
        case "adamw":
            return torch.optim.AdamW(model.parameters(), **options)
        case "adam":
            return torch.optim.Adam(model.parameters(), **options)
        case "sgd":
            return torch.optim.SGD(model.parameters(), momentum=spec.training.momentum, **options)


class TensorFeed:
    """The whole training set on the device, in a new order each epoch."""

    def __init__(self, x: Tensor, y: Tensor, batch: int) -> None:
        self._x, self._y, self._batch = x, y, batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self._x), device=self._x.device)
        for start in range(0, len(order) - self._batch + 1, self._batch):
            rows = order[start : start + self._batch]
            yield self._x[rows], self._y[rows]


Feed = TensorFeed | DataLoader


def make_feed(kind: str, spec: StudySpec, data: Dataset, folder: Path, device: torch.device) -> Feed:
    batch = min(spec.training.batch_size, len(data.train))
    if kind == "tensor":
        return TensorFeed(data.train.x.to(device), data.train.y.to(device), batch)
    is_mnist = spec.data.name == "mnist"
    dataset = mnist_images(spec, data, folder) if is_mnist else TensorDataset(data.train.x, data.train.y)
    return DataLoader(dataset, batch, shuffle=True, drop_last=True, pin_memory=device.type == "cuda")


def mnist_images(spec: StudySpec, data: Dataset, folder: Path) -> Subset:
    """Return the study's training images as torchvision's dataset, which transforms each one when it is asked for."""
    from torchvision import datasets, transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    images = datasets.MNIST(str(folder), train=True, transform=transform)
    seed = derive_seed(spec.search.seed, 0, "split")
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[len(data.val) :]
    assert torch.equal(images.targets[rows], data.train.y), "this is not the study's own split"
    return Subset(images, rows.tolist())


@dataclass
class Clock:
    """Where the time went, in seconds."""

    first_step: float = inf
    """From the process's start until the first training step began."""
    training: float = 0.0
    evaluation: float = 0.0
    epochs: int = 0


@dataclass
class Objective:
    """One trial: suggest, build, train with early stopping, tell Optuna and MLflow after each epoch."""

    spec: StudySpec
    data: Dataset
    feed: Feed
    device: torch.device
    clock: Clock

    def __call__(self, trial: optuna.Trial) -> float:
        params = {name: suggest(trial, name, setting) for name, setting in self.spec.parameters().items()}
        torch.manual_seed(derive_seed(self.spec.search.seed, trial.number, "plain"))
        model = MODELS[self.spec.model.name](self.spec.model, self.data.train.x.shape[1:], self.data.classes, params)
        model.to(self.device)
        optimizer = make_optimizer(self.spec, model, params)
        best, waited = inf, 0
        with mlflow.start_run(run_name=f"trial-{trial.number}", nested=True):
            mlflow.log_params(params)
            for epoch in range(self.spec.training.max_epochs):
                metrics = self.run_epoch(model, optimizer, params["l1"])
                val_loss = metrics["val_loss"]
                mlflow.log_metrics(metrics, step=epoch)
                trial.report(val_loss, epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned
                if val_loss < best:
                    best, waited = val_loss, 0
                else:
                    waited += 1
                    if waited >= params["patience"]:
                        break
        return best

    def run_epoch(self, model: nn.Module, optimizer: torch.optim.Optimizer, l1: float) -> dict[str, float]:
        start = time.perf_counter()
        self.clock.first_step = min(self.clock.first_step, start - _STARTED)
        train_loss = self.train(model, optimizer, l1)
        trained = time.perf_counter()
        metrics = {"train_loss": train_loss, **self.evaluate(model)}
        self.clock.training += trained - start
        self.clock.evaluation += time.perf_counter() - trained
        self.clock.epochs += 1
        return metrics

    def train(self, model: nn.Module, optimizer: torch.optim.Optimizer, l1: float) -> float:
        model.train()
        total, steps = torch.zeros((), device=self.device), 0
        for x, y in self.feed:
            x, y = x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
            penalty = sum(p.abs().sum() for p in model.parameters())
            loss = F.cross_entropy(model(x), y) + l1 * penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()  # `.item()` here would have the host wait for a GPU at every step
            steps += 1
        return total.item() / steps

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        model.eval()
        x, y = self.data.val.x, self.data.val.y
        logits = torch.cat([model(part) for part in x.split(EVALUATION_BATCH)])
        return {
            "val_loss": F.cross_entropy(logits, y).item(),
            "val_accuracy": (logits.argmax(1) == y).float().mean().item(),
        }


def suggest(trial: optuna.Trial, name: str, setting: Setting) -> float:
    if not isinstance(setting, Range):
        return setting
    if setting.integer:
        return trial.suggest_int(name, int(setting.low), int(setting.high), log=setting.log)
    return trial.suggest_float(name, setting.low, setting.high, log=setting.log)


def search(spec: StudySpec, objective: Objective, folder: Path) -> tuple[optuna.Study, datetime, float]:
    """Run the study in a folder of its own; return it, when its search began, and how many seconds that took."""
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment(spec.name)
    prunes = spec.search.pruner.name != "none"
    study = optuna.create_study(
        storage=f"sqlite:///{folder}/optuna.db",
        sampler=optuna.samplers.TPESampler(seed=spec.search.seed),
        pruner=optuna.pruners.MedianPruner(8, 2) if prunes else optuna.pruners.NopPruner(),
    )
    began, start = datetime.now(), time.perf_counter()
    with mlflow.start_run(run_name="study"):
        study.optimize(objective, n_trials=spec.search.trials)
    return study, began, time.perf_counter() - start


def best_so_far(study: optuna.Study, began: datetime) -> list[tuple[float, float | None]]:
    """Return, for the end of each trial, seconds since the search began and the best loss of the complete trials."""
    best, rows = inf, []
    for trial in sorted(study.trials, key=lambda trial: trial.datetime_complete):
        if trial.state == optuna.trial.TrialState.COMPLETE:
            best = min(best, trial.value)
        rows.append(((trial.datetime_complete - began).total_seconds(), best if best < inf else None))
    return rows


def peak_rss_mib() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


@click.command(help=__doc__.partition("\n")[0])
@click.option("--study", default="digits", show_default=True, help="A shipped study or a study file.")
@click.option("--feed", type=click.Choice(["loader", "tensor"]), default="loader", help="DataLoader, or one tensor.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to train.")
@click.option("--data-dir", envvar="REGSEARCH_DATA", type=click.Path(path_type=Path), help="Where data sets are.")
def main(study: str, feed: str, device: str, data_dir: Path | None) -> None:
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spec, folder = load_spec(study), data_dir or default_data_dir()
    chosen = torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    data = load_data(spec.data, folder, spec.search.seed)
    clock, source = Clock(), make_feed(feed, spec, data, folder, chosen)
    with tempfile.TemporaryDirectory() as scratch:
        objective = Objective(spec, data.to(chosen), source, chosen, clock)
        finished, began, search_s = search(spec, objective, Path(scratch))
        ends = best_so_far(finished, began)
    result = {
        "study": spec.name,
        "feed": feed,
        "device": str(chosen),
        "search_s": search_s,
        "search_began": began.timestamp(),
        "command_s": time.perf_counter() - _STARTED,
        "first_step_s": clock.first_step,
        "training_s": clock.training,
        "evaluation_s": clock.evaluation,
        "trials": Counter(trial.state.name.lower() for trial in finished.trials),
        "trial_epochs": clock.epochs,
        "ms_per_trial_epoch": 1e3 * search_s / clock.epochs,
        "best_val_loss": finished.best_value,
        "best_so_far": ends,
        "peak_rss_mib": peak_rss_mib(),
    }
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
