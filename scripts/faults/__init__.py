"""Faults injected on purpose into real searches, and what became of them: the table in docs/reliability.md."""
