"""docs/cli.md has every command, the same on every machine; pictures are used; security.md names tests that exist."""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from PIL import Image

from scripts import write_docs
from scripts.documentation.commands import commands
from search.cli import main
from search.report.static import find_browser

REPO = Path(__file__).parent.parent


def section(page: str, name: str) -> str:
    """Return what the page says of a command."""
    return page.partition(f"\n## `regsearch {name}`\n")[2].partition("\n## ")[0]


def test_every_command_is_there_with_its_help_example_and_options():
    page = commands()
    for name, command in main.commands.items():
        told = section(page, name)
        assert told.strip().startswith(" ".join(command.help.partition("\n\n")[0].split()))
        assert f"\n    regsearch {name}" in told
        for option in command.params:
            [row] = re.findall(rf"^\| `{option.opts[0]}\b.*$", told, re.MULTILINE)
            assert option.help in row
            assert all(f"`{variable}`" in row for variable in [option.envvar] if variable)


def test_a_new_command_appears_by_itself(monkeypatch):
    @click.command()
    @click.option("--depth", default=3, show_default=True, help="How deep | how wide.")
    def dig(depth: int) -> None:
        """Dig a hole.

        \b
          regsearch dig --depth 4
          regsearch dig
        """

    monkeypatch.setitem(main.commands, "dig", dig)
    told = section(commands(), "dig")
    assert "\n    regsearch dig --depth 4\n    regsearch dig\n" in told
    assert "| `--depth INTEGER` |  | `3` | How deep \\| how wide. |" in told


def test_it_is_the_same_on_every_machine(monkeypatch, tmp_path):
    page = commands()
    for name in (
        "HOME",
        "XDG_CACHE_HOME",
        "REGSEARCH_HOME",
        "REGSEARCH_DATA",
        "REGSEARCH_TRIALS",
        "MLFLOW_TRACKING_URI",
    ):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.chdir(tmp_path)
    assert commands() == page
    assert str(Path.home()) not in page


def test_a_stale_page_is_named_with_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setattr(write_docs, "DOCS", tmp_path)
    monkeypatch.setattr("sys.argv", ["write_docs"])
    write_docs.main()
    (tmp_path / "cli.md").write_text("as it was")
    monkeypatch.setattr("sys.argv", ["write_docs", "--check"])
    with pytest.raises(SystemExit, match=r"docs/cli\.md: not up to date; run python -m scripts\.write_docs"):
        write_docs.main()
    assert (tmp_path / "cli.md").read_text() == "as it was"


def test_every_picture_is_shown_and_all_are_small():
    pytest.importorskip("playwright", reason="playwright is not installed")
    from scripts.documentation.pictures import PICTURES

    files = sorted((REPO / "docs" / "pictures").iterdir())
    assert [file.name for file in files] == sorted(f"{name}.png" for name in PICTURES)
    pages = "".join(page.read_text() for page in [REPO / "README.md", *(REPO / "docs").glob("*.md")])
    assert [file.name for file in files if f"pictures/{file.name}" not in pages] == []
    assert sum(file.stat().st_size for file in files) < 1.2e6


@pytest.mark.skipif(find_browser() is None, reason="no Chromium or Chrome is installed")
def test_a_picture_is_taken_of_a_study_of_one_s_own(searched, tmp_path):
    pytest.importorskip("playwright", reason="playwright is not installed")
    from scripts.documentation.pictures import main as pictures

    arguments = ["--home", str(searched / "runs"), "--study", "tiny", "--out", str(tmp_path / "pictures")]
    done = CliRunner().invoke(pictures, [*arguments, "--only", "report", "--only", "life"])
    assert done.exit_code == 0, done.output
    for name in ("report", "life"):
        with Image.open(tmp_path / "pictures" / f"{name}.png") as picture:
            assert picture.width == 1660


def test_every_test_that_the_threat_model_names_is_there():
    page = (REPO / "docs" / "security.md").read_text()
    there = {
        name for path in (REPO / "tests").glob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    named = set(re.findall(r"\b(test_\w+)(?!\.py|\w)", page))
    assert not {name for name in named if name not in there and not (REPO / "tests" / f"{name}.py").exists()}


def test_every_row_of_the_threat_model_names_what_holds_it():
    page = (REPO / "docs" / "security.md").read_text()
    model = page.partition("## Who attacks")[2].partition("\n## ")[0]
    rows = [line for line in model.splitlines() if line.startswith("| ") and line[2:5] not in ("can", "---")]
    assert len(rows) >= 20
    assert all("test" in row.rsplit(" | ", 1)[1] for row in rows)
