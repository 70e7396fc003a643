"""Lightning and torch, imported by the name under which the training program imported them.

Promises an ImportError that names the extra where Lightning is not installed. Everything here is ``Any``:
Lightning's own types cost minutes and judge nothing here.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def _import_lightning() -> Any:
    """Import Lightning by the name under which the training program did: the classes of one are not the other's.

    Raises:
        ImportError: it is not installed.

    """
    names = ("lightning.pytorch", "pytorch_lightning")
    reason = None
    for name in sorted(names, key=lambda name: name not in sys.modules):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            reason = error
    raise ImportError("ckpt_indexer.lightning needs Lightning: pip install 'ckpt-indexer[lightning]'") from reason


lightning = _import_lightning()
torch: Any = importlib.import_module("torch")  # after Lightning, which needs it: its absence is Lightning's
Callback: Any = lightning.Callback
rank_zero_warn = importlib.import_module(f"{lightning.__name__}.utilities.rank_zero").rank_zero_warn
ModelCheckpoint: Any = importlib.import_module(f"{lightning.__name__}.callbacks").ModelCheckpoint
CheckpointIO: Any = importlib.import_module(f"{lightning.__name__}.plugins").CheckpointIO
