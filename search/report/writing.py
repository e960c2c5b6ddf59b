"""The report as files: where it lies, and how it is written, whole or not at all."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from search.errors import ReportError
from search.places import artifact_folder, short_path, write_whole

if TYPE_CHECKING:
    from search.report.material import Material


def page_path(home: Path, study: str) -> Path:
    """Return where a study's report lies unless told otherwise."""
    return artifact_folder(home, study) / "report.html"


def where_is(home: Path, storage: str | None) -> dict[str, str]:
    """Return the options by which a study is found, as far as they are not the default; no passwords."""
    from search.printable import mask_password

    folder = short_path(home)
    options = {} if folder == "runs" else {"home": folder}
    return options if storage is None else {**options, "storage": mask_password(storage)}


def typed(verb: str, study: str, where: Mapping[str, str]) -> str:
    """Return a command on a study as one would type it; `where` as `where_is` has it."""
    places = [f"--{name} {shlex.quote(place)}" for name, place in where.items()]
    return " ".join(["regsearch", verb, "--study", shlex.quote(study), *places])


def write_page(material: Material, path: Path) -> None:
    """Write the page. Raises ReportError."""
    from search.report.page import render

    text = render(material)
    try:
        write_whole(path, text.encode())
    except OSError as error:
        reason = error.strerror or error
        raise ReportError(f"{path}: the report cannot be written ({reason}); name another file: --out") from error


def write_plots(material: Material, folder: Path) -> list[Path]:
    """Write each of the page's plots as an SVG file; return them. Raises ReportError, also where no browser is."""
    from search.report.sections import figures
    from search.report.static import write_figures

    return write_figures(figures(material), folder)
