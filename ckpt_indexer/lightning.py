"""Where configurations and training scripts import the Lightning callback from; it lives in ``training/callback``."""

from ckpt_indexer.training.callback import MetadataCallback

__all__ = ["MetadataCallback"]
