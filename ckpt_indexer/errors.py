"""Every exception this package raises on purpose, and the exit code each one means.

An error ends a command, or a pass; a *problem* (``model.Problem``) is a checkpoint that cannot be read and never ends
anything. The docstring of a leaf is its message, filled from the fields given to the constructor, so that callers
match on types and fields, never on text.

Exit codes: 0 ok, 1 error, 2 usage, 3 findings, 10 no index, 11 locked or another daemon runs, 130/143 interrupted,
141 whoever read the output is gone.

Importing this module loads nothing but the standard library's ``typing``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from ckpt_indexer.model import Format, Problem

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_FINDINGS = 3
EXIT_NO_INDEX = 10
EXIT_LOCKED = 11
EXIT_PIPE_CLOSED = 141  # 128 + SIGPIPE: the reader of our output has seen enough


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


class ExtraMissing(CkptIndexerError, ImportError):
    """serve needs {missing}: pip install 'ckpt-indexer[web]'"""


class NotInIndex(CkptIndexerError, LookupError):
    """{key} is not in the index of {root}"""


class SyncTimeout(CkptIndexerError, TimeoutError):
    """the daemon of {root} did not catch up within {timeout_s:g} s; see `ckpt-indexer status`"""


class AddressTaken(CkptIndexerError, OSError):
    """cannot listen at {host} port {port}: {reason}"""


class TooBusy(CkptIndexerError):
    """too many requests at a time: try again"""


class NotRegularFile(CkptIndexerError, OSError):
    """it is no regular file"""

    def __init__(self, errno: int, filename: str) -> None:
        """Build the error of *filename*, where a FIFO, socket, device, link or folder stands instead of a file."""
        super().__init__()
        self.errno, self.strerror, self.filename = errno, self.__doc__, filename


class FormatProblem(CkptIndexerError):
    """{message}"""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        format: Format | None = None,  # noqa: A002
        at: int | None = None,
    ) -> None:
        """Build the error of bytes that are no readable checkpoint: a problem's *code* and *message*.

        Raised inside ``formats`` only, where ``read_facts`` turns it into facts. *format* is what they are instead.
        *at* is the offset of the damage, where it may be that nothing was written there.
        """
        super().__init__(message=message)
        self.code = code
        self.format = format
        self.at = at

    @property
    def problem(self) -> Problem:
        """The problem as an entry of the index keeps it."""
        from ckpt_indexer.model import Problem  # loads msgspec, which importing errors must not

        return Problem.of(self.code, self.fields["message"])


def reason_of(error: OSError) -> str:
    """Return why the operating system refused, without its number and the file's name.

    >>> reason_of(FileNotFoundError(2, "No such file or directory", "a")), reason_of(OSError("odd"))
    ('No such file or directory', 'odd')
    """
    return error.strerror or str(error)
