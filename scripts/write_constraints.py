"""Writes scripts/constraints.txt, the versions that the tests run with: python -m scripts.write_constraints.

They are those installed here, of all that pyproject.toml names and of all that this needs in turn; nothing else of the
environment, no paths, and no `+cpu` or `+cu132` behind a version: each machine finds its own. What belongs to a GPU's
driver is left to torch, which names the exact versions itself, and only where they are of use.
"""

import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPO = Path(__file__).parent.parent
FILE = Path(__file__).parent / "constraints.txt"
_OF_DRIVERS = ("nvidia-", "cuda-", "triton")
_HEAD = """\
# Made by `python -m scripts.write_constraints` from an environment in which all tests pass; not to be edited.
# Python 3.11 on Linux, x86-64. Other Pythons and systems may need a package that is not here: that is not constrained.
"""


def main() -> None:
    """Write the file."""
    FILE.write_text(constraints(), encoding="utf-8")


def constraints() -> str:
    """Return the file's content: a line for each distribution, by name."""
    versions = installed(named())
    return _HEAD + "".join(f"{name}=={versions[name]}\n" for name in sorted(versions))


def named() -> list[Requirement]:
    """Return what pyproject.toml names, for running, for testing and for all extras."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(text) for text in [*project["dependencies"], *(each for extra in extras for each in extra)]]


def installed(requirements: Iterable[Requirement]) -> dict[str, str]:
    """Return the versions of these distributions and of all that they need, as far as they are installed here."""
    versions: dict[str, str] = {}
    asked: set[tuple[str, str]] = set()
    left = [(requirement, extra) for requirement in requirements for extra in _extras(requirement)]
    while left:
        requirement, extra = left.pop()
        name = canonicalize_name(requirement.name)
        if name.startswith(_OF_DRIVERS) or (name, extra) in asked:
            continue
        asked.add((name, extra))
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        versions[name] = Version(found.version).public
        needed = [Requirement(text) for text in found.requires or []]
        applies = [each for each in needed if each.marker is None or each.marker.evaluate({"extra": extra})]
        left += [(each, inner) for each in applies for inner in _extras(each)]
    return versions


def _extras(requirement: Requirement) -> list[str]:
    return ["", *sorted(requirement.extras)]


if __name__ == "__main__":
    main()
