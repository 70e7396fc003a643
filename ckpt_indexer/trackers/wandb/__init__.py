"""Weights & Biases: its local run folders (``run``), their logs (``log``), and its servers (``lookup``, optional)."""
