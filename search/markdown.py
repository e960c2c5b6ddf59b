"""Text from elsewhere as part of a Markdown page, where it is shown and is no markup. Plain text in and out."""

import re


def code(text: str) -> str:
    """Return text as a span of code, whatever it holds: it is fenced by more backticks than it has in a row."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    # A backtick at an end would belong to the fence; Markdown takes one space off each side again.
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{' '.join(text.split())}{space}{fence}"


def without_html(text: str) -> str:
    """Return Markdown in which no HTML stands: browsers run some of what pages show as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;")
