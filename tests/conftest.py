"""What several test files share: a tiny spec, a tiny data set and a database server, made here and now."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

# Tests run side by side: with several threads each they would wait for each other at every operation.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell has what it starts in the background ignore Ctrl-C, and so would the searches that are interrupted here.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import sqlalchemy
import torch
from click.testing import CliRunner
from postgresql import NoPostgreSQL, postgresql_server
from small_data import small_cifar10, small_fashion, small_mnist, small_newsgroups

from search.cli import main
from search.errors import KernelError
from search.records import Assignment
from search.report.static import find_browser
from search.spec import TrainingSpec
from search.tracking import Closing, TrackedStudy, Tracker, TrackingOutcome, default_tracking_uri
from search.training import files
from search.training.data import Dataset, Split
from search.training.kernels import compiled
from search.training.kernels.building import kernel_library

pytest.register_assert_rewrite("whole_searches", "mlflow_runs")

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]

SPEC = """
name = "tiny"

[data]
name = "digits"

[model]
name = "mlp"
hidden = [12, 8]

[training]
batch_size = 64
max_epochs = 4

[space]
input_dropout = { low = 0.0, high = 0.3 }
dropout = { low = 0.0, high = 0.6 }
weight_decay = { low = 1e-6, high = 1e-1, log = true }
l1 = { low = 1e-7, high = 1e-3, log = true }
patience = { low = 2, high = 10 }

[search]
trials = 6
"""


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise urllib.error.URLError("Temporary failure in name resolution")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture(scope="session")
def _postgresql_server():
    try:
        with postgresql_server() as url:
            yield url
    except NoPostgreSQL as reason:
        pytest.skip(str(reason))


@pytest.fixture
def postgresql(_postgresql_server):
    """The URL of an empty PostgreSQL database of the test's own; where there is no server, the test is skipped."""
    engine = sqlalchemy.create_engine(_postgresql_server, isolation_level="AUTOCOMMIT")
    name = f"test_{uuid.uuid4().hex}"
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"create database {name}"))
    engine.dispose()
    return engine.url.set(database=name).render_as_string(hide_password=False)


@pytest.fixture(params=["journal", "sqlite", "postgresql", "memory"])
def url(request, tmp_path):
    """Where studies are kept: as `open_storage` takes it, or `memory`."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgresql")
    return {"journal": None, "sqlite": f"sqlite:///{tmp_path}/study.db", "memory": "memory"}[request.param]


@pytest.fixture
def storage_url(url):
    """As `url`, where several processes can open it."""
    if url == "memory":
        pytest.skip("a storage in memory is its process's own")
    return url


@pytest.fixture
def storage(url, tmp_path):
    from optuna.storages import InMemoryStorage  # Optuna takes a second to import

    from search.study import close_storage, open_storage

    opened = InMemoryStorage() if url == "memory" else open_storage(url, tmp_path)
    yield opened
    close_storage(opened)


@pytest.fixture
def study(storage, tmp_path):
    """The small study of `fixed_study`, opened to be searched."""
    from fixed_study import make_spec

    from search.study import Study

    opened = Study.open("fixed", make_spec(), storage, tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def make_place(tmp_path, database):
    """Makes folders to search in; what was begun there and is still at work in the end is killed."""
    from whole_searches import Place

    places = []

    def make(spec=SPEC, name="place"):
        (tmp_path / name).mkdir()
        places.append(Place(tmp_path / name, database, spec))
        return places[-1]

    yield make
    for place in places:
        place.close()


@pytest.fixture(params=["compiled", "torch"])
def kernels(request):
    """Who computes the details of a step: compiled kernels, where there is a compiler, and torch's operations."""
    with kernels_in_use(request.param):
        yield


@pytest.fixture(autouse=True)
def _no_kernels_left():
    """A search in the tests' own process leaves its kernels in use."""
    yield
    compiled.use(None)


@pytest.fixture
def mnist(tmp_path, monkeypatch) -> Path:
    """A data folder with a small MNIST, whose checksums are the ones to expect."""
    monkeypatch.setattr(files, "MNIST_FILES", small_mnist(tmp_path))
    return tmp_path


@pytest.fixture
def fashion(tmp_path, monkeypatch) -> Path:
    """A data folder with a small Fashion-MNIST."""
    monkeypatch.setattr(files, "FASHION_FILES", small_fashion(tmp_path))
    return tmp_path


@pytest.fixture
def cifar10(tmp_path, monkeypatch) -> Path:
    """A data folder with a small CIFAR-10, also for torchvision."""
    from torchvision.datasets import CIFAR10

    expected = small_cifar10(tmp_path)
    sums = {name: md5 for name, (_, md5) in expected.items()}
    monkeypatch.setattr(files, "CIFAR10_FILES", expected)
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in sums if name.startswith("data")])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": sums["batches.meta"]})
    return tmp_path


@pytest.fixture
def newsgroups(tmp_path, monkeypatch) -> Path:
    """A data folder with a small collection of posts."""
    monkeypatch.setattr(files, "NEWSGROUPS_FILES", small_newsgroups(tmp_path))
    return tmp_path


@contextmanager
def kernels_in_use(name: str):
    try:
        compiled.use(kernel_library() if name == "compiled" else None)
    except KernelError as reason:
        pytest.skip(str(reason))
    try:
        yield
    finally:
        compiled.use(None)


@pytest.fixture
def double():
    """Do everything in float64, so that only an error, and no rounding, makes a difference that a test can see."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_data(examples: int = 70, inputs: int = 6, classes: int = 3) -> Dataset:
    """Return clustered points: `examples` to train on, half as many to validate with."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(examples * 3 // 2) % classes
    centres = torch.randn(classes, inputs, generator=generator)
    points = centres[labels] + 0.7 * torch.randn(len(labels), inputs, generator=generator)
    split = Split(points.to(torch.get_default_dtype()), labels)
    return Dataset(split.take(slice(0, examples)), split.take(slice(examples, None)), classes, "fingerprint")


def make_training(**changes) -> TrainingSpec:
    return TrainingSpec(**{"batch_size": 16, "max_epochs": 5, **changes})


def make_assignment(number: int, **params: float) -> Assignment:
    """Return an assignment for a network with two hidden layers, regularized only as `params` say."""
    defaults = dict.fromkeys(("input_dropout", "dropout_0", "dropout_1", "weight_decay", "l1"), 0.0)
    return Assignment(number, number, {"learning_rate": 1e-2, "patience": 5, **defaults, **params})


def run_benchmark(name: str, *options: str) -> str:
    """Run one of `scripts.benchmarks` as a command; return what it prints."""
    repo = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", f"scripts.benchmarks.{name}", *options],
        capture_output=True,
        text=True,
        cwd=repo,
        env=os.environ | {"PYTHONPATH": str(repo)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def regsearch(*arguments: str, code: int = 0) -> str:
    """Run a command in this process; return what it printed."""
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs, since creating its tables is the slowest step of a tiny search."""
    home = tmp_path_factory.mktemp("database")
    tracker = Tracker(default_tracking_uri(home), home / "artifacts", TrackedStudy("template", "{}", ""), [])
    outcome = tracker.finish(Closing(False, datetime.now(UTC)), 90.0)
    assert outcome == TrackingOutcome(0, 0, None)
    return home / "mlflow.db"


@pytest.fixture
def tables(tmp_path: Path, database: Path) -> None:
    """Let the home `runs` have MLflow's tables already."""
    (tmp_path / "runs").mkdir()
    shutil.copy(database, tmp_path / "runs")


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Path:
    """A folder with a study, `tiny`, that has been searched and confirmed; its home is `runs`."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "runs").mkdir()
    shutil.copy(database, folder / "runs")
    (folder / "tiny.toml").write_text(SPEC)
    start = ["start", "--study", str(folder / "tiny.toml"), "--home", str(folder / "runs"), "--workers=0"]
    regsearch(*start, "--engine=stacked", "--precision=fp32", "--no-confirm")
    regsearch("confirm", "--study", "tiny", "--home", str(folder / "runs"), "--workers=0", "--seeds=2", "--top=2")
    return folder


@pytest.fixture
def browser():
    """A headless Chromium, where one is installed."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium or Chrome is installed")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=QUIET)
        yield opened
        opened.close()
