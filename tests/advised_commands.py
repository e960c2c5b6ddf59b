"""The commands that messages tell people to type, found in the source, so that none is added without being tried."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "search"
_COMMANDS = "start|status|stop|logs|confirm|explain|show|watch|report|studies|export|sync|ui|repair"
_PROGRAMS = "pip install|apt install|chmod|chown|createdb|createuser|psql|sed -i|rm -|mkdir|kill -"
COMMAND = re.compile(rf"\b(?:regsearch (?:{_COMMANDS})\b|(?:{_PROGRAMS}))[^`;,<\n]*")


def advised_commands() -> set[tuple[str, str]]:
    """Return each command, with {} for what is filled in, behind the module whose message tells it."""
    return {
        (str(path.relative_to(PACKAGE)), command[0].strip(" .)"))
        for path in PACKAGE.rglob("*.py")
        for text in _messages(ast.parse(path.read_text()))
        for command in COMMAND.finditer(text)
    }


def as_printed(template: str, printed: str) -> str:
    """Return a command as it stands in what was printed."""
    pattern = r"('[^'\n]*'|[^\s`;']*)".join(map(re.escape, template.replace("{}{}", "{}").split("{}")))
    options = r"(?: --(?:home|storage) (?:'[^'\n]*'|[^\s`;]+))*"
    found = re.search(pattern + options, printed)
    assert found is not None, f"{template} is not in {printed}"
    return found[0]


def _messages(tree: ast.AST) -> Iterator[str]:
    """Give all texts but documentation, f-strings with {} in the place of values."""
    skipped = {id(part) for node in ast.walk(tree) for part in _no_messages(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _no_messages(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        yield node.value
    if isinstance(node, ast.JoinedStr):
        yield from (part for part in ast.walk(node) if part is not node)
