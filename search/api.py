"""The Python API: a search for the user's own model or data, in the caller's process, and its result.

    from search import Data, Range, run_search

    result = run_search(make_model, Data(train=(x, y), test=(x_test, y_test)), name="mine")
    print(result)
    model = result.model()

The same as `regsearch start` with a study file, with objects in the place of names. Results lie in the same home, for
`regsearch show`, optuna-dashboard and MLflow.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.confirmation import Confirm
from search.errors import SearchWarning, UsageError
from search.places import closed_to_others, default_data_dir
from search.records import Params, Summary
from search.session import Ending, Options, Session
from search.spec import FUNCTIONAL, OWN, ModelSpec, Range, Setting, StudySpec, check_study_name, read_spec
from search.stopping import StopRequest, seconds_of
from search.trainers import Own, RayWishes
from search.wishes import Wishes

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor, nn

    from search.training.own import Examples

_USUAL: Mapping[str, Setting] = {
    "weight_decay": Range(low=1e-6, high=1e-1, log=True),
    "l1": Range(low=1e-7, high=1e-3, log=True),
    "patience": Range(low=2, high=10),
}
_CONFIRM = Confirm()
_DROPOUT = Range(low=0.0, high=0.6)


@dataclass(frozen=True)
class Data:
    """The user's examples: pairs of inputs [n, ...] and classes [n] from 0 as tensors or arrays, or torch data sets.

    The model receives inputs as they are, except that float64 becomes float32; for shipped models half precision does,
    too. Images are [n, height, width], or [n, colours, height, width]. A data set is read into memory once. Random
    transforms in it are therefore drawn once for all epochs, with a warning; use `space` to augment images instead.
    """

    train: Examples
    """Examples to train on. Without `validation` and `folds`, a part of them is held out."""
    validation: Examples | float | None = None
    """Examples to choose configurations by, or the share of `train` that is held out for that. None: 1/6."""
    folds: int | None = None
    """Number of folds of a cross-validation, in the place of `validation`."""
    test: Examples | None = None
    """Examples for the final scores alone."""


@dataclass(frozen=True)
class Found:
    """Result of a search. Printed, it is the text of `regsearch show`."""

    summary: Summary
    """The study at a glance: best trial, baseline, confirmation."""
    _spec: StudySpec = field(repr=False)
    _options: Options = field(repr=False)

    def __str__(self) -> str:
        from search.terminal.page import print_summary

        return _text(lambda console: print_summary(self.summary, console))

    @property
    def params(self) -> Params:
        """Configuration of the winner: the confirmed one, or else that of the search's best trial.

        Where no regularization does best, it is the baseline's. Raises ExportError when no trial is complete.
        """
        from search.export import choose

        return choose(self.summary).params

    @property
    def layers(self) -> Mapping[str, str]:
        """Place of each dropout rate in the user's model, as `{"dropout_0": "encoder.layers.0.dropout"}`."""
        return {} if self.summary.noise is None else self.summary.noise.layers

    @property
    def noise(self) -> Sequence[str]:
        """Modules of the user's model whose noise cannot be switched off: the baseline has it, too."""
        return () if self.summary.noise is None else self.summary.noise.unknown

    def model(self) -> nn.Module:
        """Return the winner, trained on training and validation data together, in evaluation mode, on the CPU.

        The user's model comes as its factory makes it, with the winner's dropout rates. Raises ExportError when no
        trial is complete, and DataError when the data have changed since the search.
        """
        from search.export import choose, refit
        from search.study import StoredStudy
        from search.study.storage import open_to_read
        from search.training.own import finished, torch_left_alone

        choice, options, own = choose(self.summary), self._options, self._options.own
        stored = StoredStudy.load(options.name, open_to_read(options.storage, options.home))
        fingerprint = stored.fact("data_fingerprint", str)  # arrays may have been changed since
        with torch_left_alone():
            trainer, weights = refit(self._spec, choice, fingerprint, options.trainers, own)
            if own.model is None:
                return trainer.module(weights)[0]
            return finished(own.model, choice.params, weights, own.noise)

    def explain(self, seeds: int = 5) -> str:
        """Train the best regularized configuration without each ingredient; return the text of `regsearch explain`.

        `seeds` is the number of trainings for each ingredient; earlier ones count.
        """
        from search.printing import print_explanation
        from search.study import StoredStudy
        from search.study.storage import open_to_read

        options = replace(self._options, search=False, confirm=None, ablate=seeds)
        ending = _run(Session(self._spec, options), None, quiet=True)
        stored = StoredStudy.load(options.name, open_to_read(options.storage, options.home))
        return _text(lambda console: print_explanation(ending.summary, stored.importances(), console))


def _text(draw: Callable[[Console], None]) -> str:
    from rich.console import Console

    text = io.StringIO()
    draw(Console(file=text, width=80, highlight=False, emoji=False))
    return text.getvalue()


def run_search(
    model: Callable[[], nn.Module] | Mapping[str, Any],
    data: Data | str,
    *,
    name: str,
    space: Mapping[str, Setting | Mapping[str, Any]] | None = None,
    training: Mapping[str, Any] | None = None,
    search: Mapping[str, Any] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    home: str | Path = "runs",
    storage: str | None = None,
    tracking_uri: str | None = None,
    data_dir: str | Path | None = None,
    device: str = "auto",
    engine: str = "auto",
    precision: str = "auto",
    population: int | None = None,
    workers: int | None = 0,
    ray: str | None = None,
    gpus_per_worker: float | None = None,
    confirm: Confirm | None = _CONFIRM,
    timeout: float | str | None = None,
    quiet: bool = False,
) -> Found:
    """Search, confirm, and return the result. Called again, continue where the last call stopped.

    - `model`: a function that makes a fresh model with logits [batch, classes] as its output; or the [model] section
      of a study file, as a mapping. Each of the model's dropout rates is a parameter, `dropout_0`, `dropout_1` and so
      on, in the order of `model.modules()`; `Found.layers` lists where each acts.
    - `data`: `Data`, or the name of a shipped data set.
    - `name`: name of the study.
    - `space`, `training`, `search`: these sections of a study file. Without `space`, dropout, weight decay, L1 and
      patience are searched. Dropout that `space` does not name stays as the model has it, in all trials but the
      baseline.
    - `loss`: a function of logits [n, classes] and classes [n] that returns losses [n]. Trials train together, so each
      loss must depend on its own example alone.
    - `home`: folder for all that is written.
    - `storage`, `tracking_uri`, `data_dir`: Optuna's storage, MLflow's server or database, and the folder of data
      sets, as in `regsearch start`. Environment variables are not read.
    - `device`, `engine`, `precision`, `population`: as in `regsearch start`.
    - `workers`: number of trainers. 0 trains in this process, on one device. More, or None for one on each core or
      GPU, need a factory that can be pickled.
    - `ray`, `gpus_per_worker`: address of a Ray cluster, and the share of a GPU for each trainer. With `ray`, the
      factory need not be picklable, and `workers` 0 or None are as many as the cluster has room for.
    - `confirm`: number of configurations and seeds of the confirmation; None for no confirmation.
    - `timeout`: time after which the search stops, in seconds or as text such as "2h".
    - `quiet`: whether to print no progress.

    Raises RegsearchError when an argument is wrong or the search fails, and KeyboardInterrupt after Ctrl-C, once
    unfinished trials are back in the queue. Warns (SearchWarning) of likely mistakes, as test data that are in the
    training data.
    """
    started = time.monotonic()
    from search.training.own import torch_left_alone

    if not isinstance(data, Data | str):
        raise UsageError(f"data must be Data(train=...) or a data set's name, not a {type(data).__name__}")
    sections = {"name": check_study_name(name), "training": dict(training or {}), "search": dict(search or {})}
    with torch_left_alone():  # model and loss are tried
        spec, own = _specify(model, data, space, sections, loss)
    if not isinstance(confirm, Confirm | None):
        raise UsageError(f"confirm: must be Confirm(top=..., seeds=...), or None for none, and is {confirm!r}")
    wishes = Wishes(
        default_data_dir() if data_dir is None else Path(data_dir).absolute(),
        device,
        engine,
        precision,
        population=population,
        workers=workers if ray is None else workers or None,
        ray=None if ray is None else RayWishes(ray, gpus_per_worker, own_folders=data_dir is None),
    )
    if workers != 0 and ray is None:
        _check_portable(own)
    options = Options(name, Path(home).absolute(), wishes, storage, tracking_uri, confirm, own=own)
    return Found(_run(Session(spec, options, started), _seconds(timeout), quiet).summary, spec, options)


def _run(session: Session, timeout: float | None, quiet: bool) -> Ending:
    """Run a session and leave everything as it was. Raises KeyboardInterrupt when it was interrupted."""
    from rich.console import Console

    from search.streams import SteadyText, occupy_descriptors
    from search.terminal.live import make_progress
    from search.training.own import torch_left_alone

    occupy_descriptors()
    stream: Any = SteadyText(sys.stderr)
    console = Console(file=stream, quiet=quiet, highlight=False, emoji=False)
    stop = StopRequest(timeout)
    with ExitStack() as stack:
        stack.enter_context(torch_left_alone())
        stack.enter_context(closed_to_others())
        session.prepare()
        stack.callback(session.close)
        console.print(session.choices, markup=False, soft_wrap=True)
        if threading.current_thread() is threading.main_thread():  # no other hears signals
            stack.enter_context(stop)
        with make_progress(console, session, stop) as progress:
            ending = session.run(progress, stop)
    if ending.interrupted_by is not None:
        raise KeyboardInterrupt
    return ending


def _specify(
    model: Callable[[], nn.Module] | Mapping[str, Any],
    data: Data | str,
    space: Mapping[str, Setting | Mapping[str, Any]] | None,
    sections: Mapping[str, Any],
    loss: Callable[[Tensor, Tensor], Tensor] | None,
) -> tuple[StudySpec, Own]:
    """Return the study as a spec, and what a spec cannot hold. `sections` are those that need no reading."""
    from search.training import own
    from search.training.checks import find_doubts
    from search.training.factories import IsolatedFactory
    from search.training.noise import dropout_rates
    from search.training.noise_search import find_noise

    given, factory, noise = dict(sections), None, None
    if OWN in (given["training"].get("loss"), model.get("name") if isinstance(model, Mapping) else None):
        raise UsageError(f'"{OWN}" is no name to give: pass the model or the loss itself')
    examples = own.known_examples(data) if isinstance(data, str) else own.OwnExamples.read(data)
    given["data"] = examples.section
    if isinstance(model, Mapping):
        logits, given["model"], given["space"] = examples.classes, dict(model), _space(space, _layers(model))
    else:
        fresh, logits = own.check_model(model, examples)
        factory = IsolatedFactory(model)
        noise = find_noise(factory, examples.train.x[:2].clone())  # a model may write into its inputs
        rates = dropout_rates(fresh, noise)
        if FUNCTIONAL in (space or {}) and not noise.functional:
            raise UsageError(f"space.{FUNCTIONAL}: the model has none; its dropout layers are what `dropout` sets")
        given["model"] = {"name": OWN, "hidden": [], "dropouts": len(rates), "architecture": _digest(fresh)}
        given["space"] = _space(space, len(rates), rates, bool(noise.functional))
    if loss is not None:
        given["training"] = {**given["training"], "loss": OWN, "loss_digest": own.check_loss(loss, logits)}
    spec = read_spec(given)
    source, given_data = examples.source(spec, logits), data if isinstance(data, Data) else None
    doubts = find_doubts(spec, factory, noise, loss, examples, given_data, logits)
    for text in doubts.told:
        warnings.warn(text, SearchWarning, stacklevel=3)  # at the line that calls `run_search`
    return spec, Own(factory, source, loss, noise, tuple(doubts.remarks))


def _seconds(timeout: float | str | None) -> float | None:
    try:
        return None if timeout is None else seconds_of(timeout)
    except ValueError as error:
        raise UsageError(f"timeout: {error}") from error


def _layers(model: Mapping[str, Any]) -> int:
    """Return how many dropout layers a shipped model has."""
    try:
        return ModelSpec.model_validate(dict(model)).layers
    except ValueError:  # what is wrong with it is told with the rest of the spec
        return 0


def _space(
    space: Mapping[str, Setting | Mapping[str, Any]] | None,
    layers: int,
    rates: Sequence[float] = (),
    functional: bool = False,
) -> dict[str, Any]:
    """Return what is searched for a model with so many dropout layers: rates that nobody speaks of are constants."""
    constant: dict[str, Any] = {FUNCTIONAL: True} if functional else {}
    if space is None:
        return {**constant, **_USUAL, **({"dropout": _DROPOUT} if layers else {})}
    if "dropout" not in space:
        constant |= {f"dropout_{index}": rate for index, rate in enumerate(rates)}
    return {**constant, **space}


def _digest(model: nn.Module) -> str:
    """Return what tells models of different layers or sizes apart."""
    shapes = [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]
    return hashlib.sha256(f"{model}{shapes}".encode()).hexdigest()[:16]


def _check_portable(own: Own) -> None:
    try:
        pickle.dumps((own.model, own.loss))
    except Exception as error:  # whatever a user's objects raise
        raise UsageError(
            f"the model or the loss cannot be sent to other processes ({error}): define them by name at the top of a "
            "module, or train in this process: workers=0"
        ) from error
