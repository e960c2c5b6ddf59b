"""The pages of the documentation as their readers use them: links, headings, and blocks to copy."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

REPO = Path(__file__).parent.parent
PAGES = [*sorted(REPO.glob("*.md")), *sorted((REPO / "docs").glob("*.md"))]

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`]+`", re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks(page: Path, language: str) -> list[str]:
    """Return the page's fenced blocks of a language, as one would copy them."""
    return [dedent(text) for _, name, text in _FENCE.findall(page.read_text()) if name == language]


def words(page: Path) -> list[str]:
    """Return the words of a page without its blocks of code."""
    text = re.sub(r"(?m)^ {4}.*$", "", _FENCE.sub("", page.read_text()))
    return [word for word in text.split() if re.search(r"\w", word)]


def prose(page: Path) -> str:
    """Return the text of a page without code of any kind."""
    return _CODE.sub("", re.sub(r"(?m)^ {4}.*$", "", _FENCE.sub("", page.read_text())))


def links(page: Path) -> list[str]:
    return _LINK.findall(_FENCE.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """Return the headings' anchors, as GitHub makes them."""
    made: list[str] = []
    for title in re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()).replace(" ", "-")
        made.append(f"{anchor}-{made.count(anchor)}" if anchor in made else anchor)
    return set(made)


def commands(page: Path) -> Iterator[tuple[list[str], bool]]:
    """Yield each `regsearch` command of a page as words, and whether it stands in a block, and so is a whole one."""
    text = page.read_text()
    for line in re.findall(r"^ +(?:\$ |srun )?(regsearch .+)$", text, re.MULTILINE):
        for command in line.split("&&"):
            yield _shell_words(command), True
    for span in _CODE.findall(_FENCE.sub("", text)):
        if span.startswith("`regsearch "):
            yield _shell_words(span.strip("`")), False


def _shell_words(command: str) -> list[str]:
    """Return what a shell gives to the program; what it does with the output is not of interest."""
    words = shlex.split(command, comments=True)
    redirected = next((index for index, word in enumerate(words) if re.match(r"\d?[>|&]", word)), len(words))
    return words[:redirected]
