"""Every exception this package raises on purpose, and the exit code each one means.

An error ends a command, or a pass; a *problem* (``model.Problem``) is a checkpoint that cannot be read and never ends
anything. The docstring of a leaf is its message, filled from the fields given to the constructor, so that callers
match on types and fields, never on text.

Exit codes: 0 ok, 1 error, 2 usage, 3 findings, 10 no index, 11 locked or another daemon runs, 130/143 interrupted.
"""

from __future__ import annotations

from typing import Any, ClassVar

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_FINDINGS = 3
EXIT_NO_INDEX = 10
EXIT_LOCKED = 11


class CkptIndexerError(Exception):
    """Something went wrong."""

    exit_code: ClassVar[int] = EXIT_ERROR

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        super().__init__((self.__doc__ or "").format(**fields))

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["fields"][name]
        except KeyError:
            raise AttributeError(name) from None


class RootUnusable(CkptIndexerError, OSError):
    """outputs root {root}: {reason}"""


class ScanStopped(CkptIndexerError):
    """the scan of {root} was stopped before its end"""


class SettingInvalid(CkptIndexerError, ValueError):
    """setting {setting}: {reason}"""

    exit_code = EXIT_USAGE


class QueryInvalid(CkptIndexerError, ValueError):
    """{what} {text!r}: {reason}"""

    exit_code = EXIT_USAGE


class StoreError(CkptIndexerError):
    """The index could not be read or written."""


class IndexMissing(StoreError, FileNotFoundError):
    """no index at {path}: run `ckpt-indexer watch` or `ckpt-indexer rebuild` first"""

    exit_code = EXIT_NO_INDEX


class IndexCorrupt(StoreError, ValueError):
    """{path} is not an index: {reason}"""


class IndexTooNew(StoreError, ValueError):
    """{path} has version {version} of a newer ckpt-indexer (this one reads {supported}): upgrade, or move it away"""


class IndexLocked(StoreError, TimeoutError):
    """{path} has been locked by another writer for {waited_s:.0f} s"""

    exit_code = EXIT_LOCKED


class DaemonRunning(StoreError):
    """another ckpt-indexer daemon already watches {root}"""

    exit_code = EXIT_LOCKED


class SidecarInvalid(CkptIndexerError, ValueError):
    """the sidecar is not a valid document: {reason}"""


class WatchFailed(CkptIndexerError, OSError):
    """cannot watch {path}: {reason}"""


class TorchMissing(CkptIndexerError, ImportError):
    """--load needs torch: pip install 'ckpt-indexer[torch]'"""
