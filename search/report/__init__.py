"""A study as one page that people open first: the verdict, and everything that it rests on. Imports nothing heavy."""

from search.report.material import Material, gather
from search.report.writing import page_path, typed, where_is, write_page, write_plots

__all__ = ["Material", "gather", "page_path", "typed", "where_is", "write_page", "write_plots"]
