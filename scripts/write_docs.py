"""Writes the parts of docs/ that are made from the program: python -m scripts.write_docs [--check].

So what the documentation says of names, limits and formulas is what the program does.
"""

import sys
from pathlib import Path

from search.spec import PARAMETERS, Parameter

DOCS = Path(__file__).parent.parent / "docs"

REGULARIZERS = """\
# Regularizers

What [space] of a study file may name, from the program's own table. Each is a number, a range that is searched, or
behind a switch; then the search decides too whether it is on at all, and samples its strength only where it is:

```toml
[space]
weight_decay = 1e-4                              # always so strong
dropout = { low = 0.0, high = 0.5 }              # searched
l1 = { low = 1e-7, high = 1e-3, log = true }     # searched on a logarithmic scale
mixup = { low = 0.1, high = 1.0, switch = true } # on or off; where it is on, so strong
flip = { low = 0.5, high = 0.5, switch = true }  # on or off; where it is on, always 0.5
batch_norm = { switch = true }                   # on or off, and nothing else to choose
```

0 switches a regularizer off. What a file does not name is off, or has the default that is told here.

"""


def regularizers() -> str:
    """Return docs/regularizers.md."""
    header = ["| name | what it is | acts on | formula | values | source |", "| --- | --- | --- | --- | --- | --- |"]
    rows = [_row(name, parameter) for name, parameter in PARAMETERS.items()]
    return REGULARIZERS + "\n".join([*header, *rows]) + "\n"


def _row(name: str, parameter: Parameter) -> str:
    cells = [
        f"`{name}`",
        parameter.description
        + (" Images only." if parameter.images else "")
        + (" Cross-entropy only." if parameter.mixes else ""),
        parameter.acts,
        f"`{parameter.formula}`",
        _values(parameter),
        parameter.source,
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _values(parameter: Parameter) -> str:
    if parameter.is_switch:
        return "true or false"
    kind = "whole numbers " if parameter.integer else ""
    opening, closing = "[" if parameter.low_allowed else "(", "]" if parameter.high_allowed else ")"
    default = f"; default {parameter.default:g}" if parameter.default else ""
    return f"{kind}{opening}{parameter.low:g}, {parameter.high:g}{closing}{default}"


FILES = {"regularizers.md": regularizers}


def main() -> None:
    """Write all, or with --check tell what differs and fail."""
    stale = [name for name, make in FILES.items() if not _same(DOCS / name, make())]
    if "--check" not in sys.argv[1:]:
        for name in stale:
            (DOCS / name).write_text(FILES[name](), encoding="utf-8")
    elif stale:
        sys.exit(f"{', '.join(f'docs/{name}' for name in stale)}: not up to date; run python -m scripts.write_docs")


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    main()
