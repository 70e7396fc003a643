"""Pickles without running them: the inert unpickler, and what tensors, values and modules stand for."""
