"""Writes the pages of docs/ that are generated from the program: python -m scripts.write_docs [--check].

Names, limits, formulas and options in the documentation are therefore those of the program.
"""

import sys
from pathlib import Path

from scripts.documentation.api import api
from scripts.documentation.commands import commands
from scripts.documentation.regularizers import regularizers

DOCS = Path(__file__).parent.parent / "docs"
FILES = {"api.md": api, "cli.md": commands, "regularizers.md": regularizers}


def main() -> None:
    """Write all pages, or with --check name the stale ones and fail."""
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
