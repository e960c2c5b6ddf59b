"""The documentation is true: what README and docs show of Python and commands runs, and what they link to is there."""

import ast
import inspect
import re
import tomllib
from itertools import pairwise
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from pages import PAGES, REPO, anchors, blocks, commands, links, prose, words
from small_study import as_if_searched

import search as package
from search import errors
from search.cli import main
from search.confirmation import Confirm
from search.spec import PARAMETERS, read_spec, shipped_studies

README = REPO / "README.md"
DOCS = REPO / "docs"
OLDER_PROSE = {"cli.md", "cluster.md", "performance.md", "reliability.md", "security.md"}
"""Pages whose sentences come from help texts, or were written before the rules of prose."""
REFUSED_WORDS = ("told", "whoever", "of its own", "of one's own", "lest", "such as to", "as it were", "the business of")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


@each_page
def test_what_a_page_links_to_is_there(page):
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_readme_leads_to_every_page():
    led_to = {link.partition("#")[0] for link in links(README)}
    assert {f"docs/{page.name}" for page in DOCS.glob("*.md")} <= led_to


def test_readme_is_read_in_five_minutes():
    assert len(words(README)) <= 1_100


def test_readme_s_speed_is_that_of_the_measurements():
    table = README.read_text().partition("\n## Speed\n")[2].partition("\n\n## ")[0]
    seconds = re.findall(r"(\d+\.\d) (?:s\b|and)", table)
    assert len(seconds) == 12
    measured = (DOCS / "performance.md").read_text()
    assert [figure for figure in seconds if not re.search(rf"\| {re.escape(figure)} \(", measured)] == []


def test_readme_counts_settings_and_studies():
    counted = re.search(r"\[(\d+) settings\]", README.read_text())
    assert counted is not None
    assert int(counted[1]) == len(PARAMETERS)
    assert len(shipped_studies()) == 11
    assert "eleven shipped" in README.read_text()


@pytest.mark.parametrize("page", [README, DOCS / "python.md"], ids=lambda path: path.name)
@pytest.mark.usefixtures("tables")
def test_the_worked_examples_run_as_they_stand(page, tmp_path, monkeypatch, capsys):
    (example,) = blocks(page, "python")
    assert '"trials": 32' in example
    # As on the page, with few trials, and few of them confirmed.
    monkeypatch.setitem(package.run_search.__kwdefaults__, "confirm", Confirm(top=1, seeds=2))
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    exec(compile(example.replace('"trials": 32', '"trials": 3'), page, "exec"), names)
    printed = capsys.readouterr().out
    assert "Best configuration of study tumours" in printed
    assert "Confirmed with 2 seeds" in printed
    assert not names["model"].training
    assert names.get("accuracy", 1) > 0.8


def test_all_other_python_is_imports_that_work():
    for page in PAGES:
        if page not in (README, DOCS / "python.md"):
            for block in blocks(page, "python"):
                assert all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(block).body)
                exec(block, {})


def test_every_study_file_on_a_page_is_valid():
    rest = {"data": {"name": "mnist"}, "model": {"hidden": [8]}, "space": {"dropout": {"low": 0.0, "high": 0.5}}}
    found = [(page.name, block) for page in PAGES for block in blocks(page, "toml")]
    assert len(found) >= 4
    for name, block in found:
        read_spec(rest | {"name": name.removesuffix(".md")} | tomllib.loads(block))


def study_names(page: Path) -> set[str]:
    """Return studies that a page's readers have: those that are shipped, and those that the page makes."""
    made = {name for block in blocks(page, "python") for name in re.findall(r'name="(\w+)"', block)}
    return made | set(shipped_studies())


@each_page
def test_every_command_on_a_page_is_one_that_regsearch_takes(page):
    program = main.make_context("regsearch", ["studies"])
    for command, is_whole in commands(page):
        name = command[1]
        if name in ("--help", "--version") or name.isupper():  # COMMAND stands for any
            continue
        known = main.get_command(program, name)
        assert known is not None, command
        try:
            given = known.make_context(name, command[2:], parent=program).params.get("study")
        except click.exceptions.Exit:  # --help
            continue
        except (click.MissingParameter, click.BadOptionUsage):  # a sentence may name an option without its value
            assert not is_whole, command
        else:
            assert given is None or given.endswith(".toml") or given in study_names(page), command


def test_commands_that_read_results_run_as_they_stand(tmp_path, monkeypatch):
    as_if_searched(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    reading = ("show", "studies", "status", "report")
    shown = {tuple(command) for page in PAGES for command, is_whole in commands(page) if is_whole}
    run = 0
    for _, name, *options in sorted(shown):
        if name in reading and not {"--plots", "--storage"} & set(options):
            tiny = ["tiny" if before == "--study" else word for before, word in pairwise(["", *options])]
            done = CliRunner().invoke(main, [name, *tiny])
            assert done.exit_code == 0, (name, options, done.output)
            assert done.stdout
            run += 1
    assert run >= 5


def test_every_script_on_a_page_is_there():
    for page in PAGES:
        named = set(re.findall(r"\bscripts/[\w/.]+", page.read_text()))
        assert [name for name in named if not (REPO / name.rstrip(".")).exists()] == [], page.name


@each_page
def test_prose_is_plain(page):
    if page.name not in OLDER_PROSE:
        text = prose(page)
        assert [word for word in REFUSED_WORDS if re.search(rf"\b{word}\b", text, re.IGNORECASE)] == []


def test_the_api_page_has_every_public_name_argument_and_error():
    page = (DOCS / "api.md").read_text()
    assert [name for name in package.__all__ if f"`{name}`" not in page] == []
    said = inspect.getdoc(package.run_search)
    assert [name for name in inspect.signature(package.run_search).parameters if f"`{name}`" not in said] == []
    classes = [name for name, item in vars(errors).items() if isinstance(item, type) and issubclass(item, Exception)]
    assert [name for name in classes if f"| `{name}` |" not in page] == []
    assert re.findall(r"^- `[^`]+`: *$", page, re.MULTILINE) == []  # each field is described


def test_changelog_and_citation_are_of_this_version():
    changelog = (REPO / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[{re.escape(package.__version__)}\]", changelog, re.MULTILINE) or (
        "## [Unreleased]" in changelog and package.__version__ in changelog
    )
    citation = (REPO / "CITATION.cff").read_text()
    assert f"\nversion: {package.__version__}\n" in citation
    keys = re.findall(r"^([a-z-]+):", citation, re.MULTILINE)
    assert {"cff-version", "message", "title", "authors"} <= set(keys)
    assert len(keys) == len(set(keys))


def test_a_fresh_clone_s_pages_are_in_the_source_distribution():
    included = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["sdist"][
        "include"
    ]
    assert {path.name for path in REPO.glob("*.md")} | {"CITATION.cff"} <= set(included)
