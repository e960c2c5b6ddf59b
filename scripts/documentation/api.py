"""docs/api.md, from the docstrings of the public names: a new name or argument is in it as soon as it is public."""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from inspect import cleandoc
from types import ModuleType
from typing import Any

from pydantic import BaseModel

import search as package
from search import errors

_INTRODUCTION = """\
# The Python API

The public names, from their docstrings; `help` prints the same. [Your own model and data](python.md) has an example.

```python
from {package} import {names}
```

All arguments beside `model` and `data` have a counterpart in [study files](studies.md) or [the command line](cli.md).
"""

_ERRORS = """\
## Errors

All are in `{module}`. The command line prints their message without a traceback and leaves with their exit code.

"""


@dataclass(frozen=True)
class _Member:
    """A field, property or method of a class."""

    spelled: str
    """As code, with annotation and default."""
    text: str


def api() -> str:
    """Return the page."""
    names = sorted(package.__all__)
    objects = {name: getattr(package, name) for name in names}
    functions = [name for name in names if inspect.isfunction(objects[name])]
    others = [name for name in names if name not in functions and not _is_error(objects[name])]
    parts = [_INTRODUCTION.format(package=package.__name__, names=", ".join(names))]
    parts += [_function(name, objects[name]) for name in functions]
    parts += [_class(name, objects[name]) for name in others]
    parts.append(_ERRORS.format(module=errors.__name__) + _error_table())
    return "\n".join(parts)


def _is_error(item: object) -> bool:
    return isinstance(item, type) and issubclass(item, Exception)


def _function(name: str, function: Any) -> str:
    node = _definition(function)
    arguments = [*_arguments(node, inspect.getmodule(function))]
    listed = "".join(f"    {argument},\n" for argument in arguments)
    signature = f"```text\n{name}(\n{listed}) -> {_code(node.returns)}\n```\n"
    return f"## `{name}`\n\n{signature}\n{cleandoc(function.__doc__ or '')}\n"


def _arguments(node: ast.FunctionDef, module: ModuleType | None) -> Iterator[str]:
    """Yield arguments as they are written; a default that is a constant of the module is shown by its value."""
    given = [*node.args.posonlyargs, *node.args.args]
    missing: list[ast.expr | None] = [None] * (len(given) - len(node.args.defaults))
    yield from (
        _argument(argument, default, module)
        for argument, default in zip(given, missing + node.args.defaults, strict=True)
        if argument.arg != "self"
    )
    if node.args.kwonlyargs:
        yield "*"
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        yield _argument(argument, default, module)


def _argument(argument: ast.arg, default: ast.expr | None, module: ModuleType | None) -> str:
    spelled = f"{argument.arg}: {_code(argument.annotation)}"
    if default is None:
        return spelled
    value = repr(getattr(module, default.id)) if isinstance(default, ast.Name) else _code(default)
    return f"{spelled} = {value}"


def _class(name: str, described: type) -> str:
    rows = [f"- `{member.spelled}`: {member.text}" for member in _members(described)]
    return "\n".join([f"## `{name}`\n", f"{cleandoc(described.__doc__ or '')}\n", *rows]) + "\n"


def _members(described: type) -> Iterator[_Member]:
    body = _definition(described).body
    for node, following in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id[0] != "_":
            if (member := _field(node, node.target.id, following)) is not None:
                yield member
        # Methods of a study file's sections are for the program.
        elif isinstance(node, ast.FunctionDef) and node.name[0] != "_" and not issubclass(described, BaseModel):
            yield _method(node, inspect.getmodule(described))


def _field(node: ast.AnnAssign, name: str, following: ast.stmt) -> _Member | None:
    """Return a field with its default and description: a docstring below it, or those of pydantic's `Field`."""
    spelled, text, default = f"{name}: {_code(node.annotation)}", "", node.value
    if isinstance(default, ast.Call):
        told = {keyword.arg: keyword.value for keyword in default.keywords}
        if "exclude" in told:
            return None
        default, text = told.get("default"), ast.literal_eval(told["description"])
    if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
        text = str(following.value.value)
    return _Member(spelled if default is None else f"{spelled} = {_code(default)}", " ".join(text.split()))


def _method(node: ast.FunctionDef, module: ModuleType | None) -> _Member:
    is_property = any(isinstance(each, ast.Name) and each.id == "property" for each in node.decorator_list)
    arguments = "" if is_property else f"({', '.join(_arguments(node, module))})"
    arrow = ": " if is_property else " -> "
    return _Member(
        f"{node.name}{arguments}{arrow}{_code(node.returns)}", " ".join((ast.get_docstring(node) or "").split())
    )


def _error_table() -> str:
    """Return a table of all errors and warnings, each after the one that it is a kind of."""
    lines = ["| name | kind of | exit code | meaning |", "| --- | --- | --: | --- |"]
    for error in vars(errors).values():
        if not (_is_error(error) and error.__module__ == errors.__name__):
            continue
        code = getattr(error, "exit_code", "")
        text = cleandoc(error.__doc__ or "").replace("|", "\\|")
        lines.append(f"| `{error.__name__}` | `{error.__base__.__name__}` | {code} | {' '.join(text.split())} |")
    return "\n".join(lines) + "\n"


def _code(node: ast.expr | None) -> str:
    return "None" if node is None else ast.unparse(node).replace("'", '"')


def _definition(item: Any) -> Any:
    """Return the syntax tree of a class or function."""
    module = inspect.getmodule(item)
    assert module is not None
    return next(node for node in _tree(module).body if getattr(node, "name", None) == item.__name__)


@cache
def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))
