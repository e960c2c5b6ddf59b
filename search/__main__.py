"""`python -P -m search` is `regsearch`; without -P, Python takes modules from the working directory."""

from search.cli import main

main(prog_name="regsearch")
