"""Text from elsewhere as part of a Markdown page, where it is shown and is no markup. Plain text in and out."""

import re

_MARKUP = re.compile(r"[\\`*_\[\]~|#!$]")
_LINE_START = re.compile(r"^(\d*)([-+=.)>])")
"""Begins a list, or makes a heading of the line before it."""


def code(text: str) -> str:
    """Return text as a span of code, whatever it holds: it is fenced by more backticks than it has in a row."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    # A backtick at an end would belong to the fence; Markdown takes one space off each side again.
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{' '.join(text.split())}{space}{fence}"


def plain(text: str) -> str:
    """Return text as one paragraph that reads as it stands: no character of it is markup, and no line begins anew."""
    return _LINE_START.sub(r"\1\\\2", without_html(_MARKUP.sub(r"\\\g<0>", " ".join(text.split()))))


def without_links(text: str) -> str:
    """Return Markdown without HTML, links and pictures: those lead elsewhere, or fetch from there when they are seen.

    Emphasis and lists remain. Addresses that are written out are shown as they are.
    """
    return re.sub(r"\\?\[", "&#91;", without_html(text))


def without_html(text: str) -> str:
    """Return Markdown in which no HTML stands: browsers run some of what pages show as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;")
