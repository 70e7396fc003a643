"""The daemon's log: one line an event, JSON unless a person watches, on standard error.

``EVENTS`` is the whole vocabulary, with what each line carries: it is the manual's table, and a test holds the code to
it. No event is logged once for each checkpoint at the default level, whatever happens: a long burst is one
``index_written`` each 0.8 s (``watch/schedules.py``).
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any, TextIO, cast

import structlog

from ckpt_indexer.printable import printable

# event -> (level, fields, meaning)
EVENTS: dict[str, tuple[str, str, str]] = {
    "daemon_started": ("info", "root, version, pid", "the process runs; nothing is indexed yet"),
    "daemon_ready": ("info", "entries, generation, counts by status", "the index equals the disk for the first time"),
    "daemon_stopped": ("info", "signal", "the last commit is done"),
    "pass_finished": ("info", "folders, checkpoints, to_read, seconds", "the whole tree was looked at"),
    "index_written": ("info", "generation, changed, first, entries, seconds", "the index was replaced"),
    "checkpoint_indexed": ("debug", "key, status", "one checkpoint was read"),
    "checkpoint_failed": ("error", "key, exception", "a defect of this program met one checkpoint; the rest goes on"),
    "index_overwritten": (
        "warning",
        "generation, known, times",
        "somebody wrote an older index without the lock; what is known stands, and is written again",
    ),
    "index_set_aside": ("warning", "file, reason", "the index was no index; it was kept under another name"),
    "commit_failed": ("error", "reason", "the index could not be written; tried again, nothing is lost"),
    "commit_recovered": ("info", "failures", "the index could be written again"),
    "degraded": ("warning", "code, message, cure", "the index may be behind the disk, once for each code"),
    "restored": ("info", "code", "that reason is gone"),
    "watch_lost": ("warning", "reason, rebuilds", "events were lost; watching starts anew and everything is looked at"),
    "watch_restored": ("info", "watches", "watching works again"),
    "root_lost": ("warning", "root, reason", "the root is not there, or cannot be used; its entries stand"),
    "root_found": ("info", "root", "it is there again"),
    "root_replaced": ("warning", "root", "another folder stands where the root was; a new session begins"),
    "wandb_unanswered": ("warning", "reason", "Weights & Biases' servers do not answer; what is known of runs stands"),
    "wandb_answered": ("info", "", "they answer again"),
    "settings_reloaded": ("info", "every setting", "SIGHUP was followed"),
    "settings_rejected": ("error", "reason", "the new settings are wrong; the old ones stay"),
    "turn_failed": ("error", "exception", "a pass failed: the disk, or a defect of this program; tried again"),
}


class _Stderr:
    """Standard error that may fail, on a full disk or with a reader that is gone, without ending who logs."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def configure_log(level: str, format: str, *, is_terminal: bool) -> None:  # noqa: A002 - the setting's name
    """Send the log to standard error; *format* is ``json``, ``text`` or ``auto``."""
    as_text = format == "text" or (format == "auto" and is_terminal)
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=is_terminal) if as_text else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _make_printable,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Stderr())),
        cache_logger_on_first_use=False,
    )
    logging.getLogger("watchdog").setLevel(logging.ERROR)


def ensure_log() -> None:
    """Send warnings to standard error where the program has not set up a log; structlog would print all to stdout."""
    if not structlog.is_configured():
        configure_log("warning", "text", is_terminal=False)


def _make_printable(_: Any, __: str, event: Any) -> Any:
    """Keep what files are called from controlling a terminal or breaking a line."""
    for key, value in event.items():
        if isinstance(value, str):
            # A traceback keeps its lines; they are ours, around texts that may not be.
            event[key] = printable(value, kept="\n" if key == "exception" else "")
    return event
