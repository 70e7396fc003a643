"""One checkpoint, from its files to its entry: read the evidence, judge it, act.

An ``Examiner`` decides nothing about the index. Its promise: the entry describes what was in the file between two equal
fingerprints. What else is promised stands where it is kept: in ``evidence``, ``judge`` and ``act``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from ckpt_indexer.passes.act import Examined, act, remove_sidecars
from ckpt_indexer.passes.evidence import Evidence, EvidenceReader
from ckpt_indexer.passes.judge import SidecarSettings, is_enough, judge

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from ckpt_indexer.model import TwinScore
    from ckpt_indexer.passes.scan import Found
    from ckpt_indexer.paths import Key
    from ckpt_indexer.trackers.wandb.run import Run, RunPath

    LookUp = Callable[[RunPath], Run | None]

__all__ = ["Examined", "Examiner"]


class Examiner:
    """Makes entries for the checkpoints below one root; any number of threads may use it."""

    def __init__(
        self,
        root: str,
        *,
        sidecars: bool = True,
        fill: bool = True,
        both_names: bool = False,
        lookup: LookUp | None = None,
        executor: Executor | None = None,
    ) -> None:
        """*lookup* returns at once what is known of a run elsewhere than in the tree.

        *sidecars*, *fill* and *both_names* are the settings ``sidecars``, ``sidecar_fill`` and ``sidecar_names``.
        *executor* reads the evidence, wherever it sees the same tree under the same *root*; without it the calling
        thread does.
        """
        self.root = root
        self._evidence = EvidenceReader(root)
        self._settings = SidecarSettings(sidecars, fill, both_names)
        self._lookup = lookup
        self._executor = executor

    def close(self) -> None:
        """End the worker processes; no thread may be examining any more."""
        self._evidence.close()

    def warm_up(self) -> None:
        """Start this thread's worker process now: the first checkpoint would wait for it."""
        if self._executor is None:
            self._evidence.warm_up()

    def examine(self, key: Key, found: Found, *, force: bool = False, twin: TwinScore | None = None) -> Examined:
        """Make the entry of the checkpoint at *key*; with *force* our own sidecar is made anew if it is current too.

        *twin* is the score of another checkpoint that is the same save.
        """
        enough = None if force else is_enough
        if self._executor is None:
            evidence = self._evidence.read(key, found, is_enough=enough)
        else:
            evidence = self._executor.submit(self._evidence.read, key, found, is_enough=enough).result()
        return act(self.root, judge(self._looked_up(evidence), self._settings, twin), self._settings)

    def remove_sidecar_if_ours(self, key: Key) -> bool:
        """Remove the sidecars of a checkpoint that is gone, as ``act.remove_sidecars`` does."""
        return remove_sidecars(self.root, key, self._evidence.read_sidecar)

    def _looked_up(self, evidence: Evidence) -> Evidence:
        """Add to the run's configuration what is known of it elsewhere; what the tree says of it counts more."""
        run = evidence.run
        if self._lookup is None or run is None or run.run_path is None:
            return evidence
        if (remote := self._lookup(run.run_path)) is None:
            return evidence
        return replace(evidence, run=replace(run, config={**remote.config, **run.config}))
