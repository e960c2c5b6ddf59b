"""docs/regularizers.md, from the table of what a study's [space] may name."""

from search.spec import PARAMETERS, Parameter

_INTRODUCTION = """\
# Regularizers

The parameters of a study file's [space], from the program's own table. Each is a number, a range that is searched, or
behind a switch. With a switch, the search also decides whether the parameter is on, and samples its strength only then:

```toml
[space]
weight_decay = 1e-4                              # constant
dropout = { low = 0.0, high = 0.5 }              # searched
l1 = { low = 1e-7, high = 1e-3, log = true }     # searched on a logarithmic scale
mixup = { low = 0.1, high = 1.0, switch = true } # on or off; if on, in this range
flip = { low = 0.5, high = 0.5, switch = true }  # on or off; if on, always 0.5
batch_norm = { switch = true }                   # on or off
```

0 switches a regularizer off. A parameter that a file does not name is off, or has the default of this table.

"""


def regularizers() -> str:
    """Return the page."""
    header = ["| name | meaning | acts on | formula | values | source |", "| --- | --- | --- | --- | --- | --- |"]
    rows = [_row(name, parameter) for name, parameter in PARAMETERS.items()]
    return _INTRODUCTION + "\n".join([*header, *rows]) + "\n"


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
