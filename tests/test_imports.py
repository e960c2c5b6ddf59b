"""Imports point one way, heavy libraries stay where they belong, and the command line starts without them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "search"

# A module may import from its own layer's package and from lower layers, never from a higher one.
LAYERS = [
    {"__main__"},
    {"cli", "api"},
    {"commands"},
    {"arguments"},
    {"terminal", "printing"},
    {"session", "findings", "export", "sync"},
    {"dashboards"},
    {"report"},
    {"tracked"},
    {"aftermath"},
    {"crew", "runner", "confirm", "results"},
    {"judging", "posts", "newspaper", "protocols", "shortage"},
    {"desk"},
    {"study", "trainers", "tracking", "pruning", "weights"},
    {"training"},
    {
        "stopping",
        "wishes",
        "spec",
        "detached",
        "intervals",
        "confirmation",
        "verdict",
        "ablation",
        "diagnosis",
        "machine",
        "pareto",
    },
    {"children", "places", "logs", "streams", "sqlite_files", "regular_files", "memory", "whole_folders"},
    {"records"},
    {"errors", "printable", "markdown"},
]
OWNERS = {
    "optuna": {"study"},
    "sqlalchemy": {"study"},
    "optuna_dashboard": {"dashboards"},
    "waitress": {"dashboards"},
    "matplotlib": {"dashboards"},
    "mlflow": {"tracking"},
    "click": {"cli", "commands", "arguments"},
    "rich": {"commands", "api", "terminal", "printing"},
    "torch": {"training", "trainers"},
    "ray": {"trainers"},
    "torchvision": {"training"},
    "sklearn": {"training"},
    "plotly": set(),  # comes in by Optuna's plots; the report takes its script only, and draws with plain values
    "jinja2": {"report"},
    "markupsafe": {"report"},
}


def modules() -> list[Path]:
    return sorted(
        path for path in PACKAGE.rglob("*.py") if path.parent.name != "studies" and path.name != "__init__.py"
    )


def part(path: Path) -> str:
    """Return the module of the package, or the sub-package, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, only_at_runtime: bool) -> set[str]:
    """Return the dotted names a file imports; those for type checkers alone do not bind layers at run time."""
    tree = ast.parse(path.read_text())
    if only_at_runtime:
        tree.body = [node for node in tree.body if not _for_types(node)]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def _for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def layer(name: str) -> int:
    return next(i for i, members in enumerate(LAYERS) if name in members)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    for name in imports(path, only_at_runtime=True):
        if name.startswith("search."):
            target = name.split(".")[1]
            assert target == part(path) or layer(target) >= layer(part(path)), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_are_imported_where_they_belong(path):
    for name in imports(path, only_at_runtime=True):
        owners = OWNERS.get(name.split(".")[0])
        assert owners is None or part(path) in owners, f"{path.name} imports {name}"


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_command_line_starts_without_heavy_libraries():
    heavy = {"torch", "optuna", "mlflow", "pydantic", "rich", "sklearn", "numpy", "plotly", "jinja2"}
    assert not loaded_after("import search.cli") & heavy


def test_trainer_process_imports_torch_and_nothing_else_heavy():
    loaded = loaded_after("import search.trainers.process, search.training.population")
    assert "torch" in loaded
    assert not loaded & {"optuna", "mlflow", "torchvision", "sklearn", "sqlalchemy", "rich", "ray"}


def test_runner_s_process_imports_neither_mlflow_nor_torch():
    loaded = loaded_after("import search.session, search.runner, search.study, search.tracking, search.confirm")
    assert not loaded & {"mlflow", "torch", "plotly", "jinja2", "matplotlib", "ray"}
