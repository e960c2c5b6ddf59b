"""The report as one HTML page that loads nothing: scripts, styles and data are in it."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from search.records import Reason
from search.report import cost, repeating, words
from search.report.material import Material
from search.report.sections import sections
from search.report.theme import PALETTES, TEMPLATE
from search.results import as_json, finite

_TEMPLATES = Path(__file__).parent / "templates"
_PLOTLY = "package_data/plotly.min.js"
_DIGITS = 6
"""Significant digits of a plot's numbers: more than a screen can show."""


def render(material: Material) -> str:
    """Return the page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(_TEMPLATES)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["with_code"] = _with_code
    plotly, program = plotly_js(), _markup("page.js")
    return environment.get_template("page.html.jinja").render(
        spec=material.spec,
        summary=material.summary,
        verdict=words.verdict(material),
        sections=sections(material),
        figure_data=lambda figure: in_script(figure.plot, _DIGITS),
        summary_json=in_script(as_json(material.summary)),
        style=_markup("page.css"),
        program=program,
        plotly=plotly,
        scripts=[_source(plotly), _source(program)],
        settings=in_script({"palettes": PALETTES, "template": TEMPLATE}),
        palettes=PALETTES,
        made=material.made.strftime("%Y-%m-%d %H:%M"),
        faults=cost.faults(material),
        facts=repeating.facts(material),
        ended=len(material.counted),
        reasons=[(reason.value, many) for reason in Reason if (many := material.summary.reasons.get(reason, 0))],
        wall_time=words.duration(material.summary.wall_seconds),
        show_command=f"{words.command(material, 'show')} --json",
        steps=repeating.repeat_steps(material),
        study_file=repeating.spec_toml(material.spec),
    )


def _source(script: str) -> str:
    """Return by what a browser knows a script that it may run; others, should any get into the page, it does not."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _with_code(text: str) -> Any:
    """Return text, escaped, in which what stands between backticks is marked as code."""
    from markupsafe import Markup, escape

    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def in_script(value: Any, digits: int | None = None) -> Any:
    """Return JSON that may stand inside a script element, null for what JSON has no number for; rounded if wanted."""
    from markupsafe import Markup

    text = json.dumps(finite(value, digits), separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def plotly_js() -> Any:
    """Return plotly.js, which comes with plotly. That itself takes long to import, and is not needed."""
    from markupsafe import Markup

    found = find_spec("plotly")
    if found is None or found.origin is None:
        raise ImportError("plotly is not installed: pip install plotly", name="plotly")
    text = (Path(found.origin).parent / _PLOTLY).read_text(encoding="utf-8")
    return Markup(text.replace("</script", "<\\/script"))


def _markup(name: str) -> Any:
    from markupsafe import Markup

    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))
