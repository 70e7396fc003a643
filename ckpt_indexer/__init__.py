"""ckpt-indexer: knows every PyTorch checkpoint below a folder.

Importing this package is cheap and stays so: it loads neither pydantic, structlog, watchdog nor torch.
"""

__version__ = "0.1.0"

from ckpt_indexer.index.reader import IndexView, read_index

__all__ = ["IndexView", "__version__", "read_index"]
