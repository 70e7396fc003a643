"""What a tracker's server says of runs, as the session's loop sees it: answers arrive later, and are drained each turn.

Owns the ``Lookup`` of one session, if the settings ask for one, and the two log lines about whether it is answered.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

import structlog

from ckpt_indexer.trackers.wandb.lookup import Lookup, default_cache_dir

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt_indexer.trackers.wandb.run import Run, RunPath

log = structlog.get_logger("ckpt_indexer")


class RunAnswers:
    """Answers about runs; *on_answer* is called, in the thread that asks, when there is one to be drained."""

    def __init__(self, on_answer: Callable[[], None], *, is_enabled: bool) -> None:
        self._on_answer = on_answer
        self._answered: collections.deque[str] = collections.deque()
        self._problem: str | None = None  # as it was logged
        self._lookup = Lookup(default_cache_dir(), on_result=self._receive) if is_enabled else None

    @property
    def get(self) -> Callable[[RunPath], Run | None] | None:
        """What returns at once what is known of a run; ``None`` where nobody is asked."""
        return None if self._lookup is None else self._lookup.get

    def drain(self) -> list[str]:
        """Remove and return the ids of the runs of which more is known than before."""
        run_ids = []
        while self._answered:
            run_ids.append(self._answered.popleft())
        return run_ids

    def report_problem(self) -> None:
        """Log once when the server cannot be asked, and when it can again."""
        problem = None if self._lookup is None else self._lookup.problem
        if problem is not None and self._problem is None:
            log.warning("wandb_unanswered", reason=problem)
        elif problem is None and self._problem is not None:
            log.info("wandb_answered")
        self._problem = problem

    def close(self) -> None:
        """Stop asking."""
        if self._lookup is not None:
            self._lookup.close()

    def _receive(self, run: RunPath) -> None:
        self._answered.append(run.id)
        self._on_answer()
