"""Measurements of regsearch, run through the scripts above this folder; no part of the installed program."""
