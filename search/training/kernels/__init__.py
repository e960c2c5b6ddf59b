"""Compiled kernels for what a training step does number by number on a processor.

`kernels.c` says what they compute, `building` compiles it, `compiled` calls it on tensors. All of it is optional:
without a C compiler the same formulas are computed by torch's operations, in two to three times the time of a step of a
small model.
"""
