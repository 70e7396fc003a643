"""Weights & Biases' runs as a source of metadata: asked through their own package, imported late, never necessary.

Without the package, or ``WANDB_API_KEY``, every answer is ``None``. Nothing of the catalogue depends on this: what a
run left on the disk is in the index already.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ckpt_indexer.catalog.files import resolve_config_path
from ckpt_indexer.catalog.metadata import CheckpointMetadataV1, load_config, load_metadata, metadata_of
from ckpt_indexer.formats.facts import Facts
from ckpt_indexer.metadata.compose import Config, compose
from ckpt_indexer.metadata.config import find_text
from ckpt_indexer.paths import RelPath, to_key

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY_NAME = "WANDB_API_KEY"
TIMEOUT_S = 15  # of one question to the server

log = logging.getLogger("ckpt_indexer.catalog")


class WandbClient:
    """Asks for runs by ``entity/project/run``, and remembers the latest answers; any thread may use it."""

    def __init__(self, cache_size: int = 256) -> None:
        self.cache_size = cache_size
        self._cache: OrderedDict[str, tuple[dict[str, Any], dict[str, Any]]] = OrderedDict()
        self._api: Any = None
        self._lock = threading.Lock()

    @property
    def is_available(self) -> bool:
        """Whether there are a key and the package."""
        return self._connected() is not None

    def get_run_config(self, run_id: str) -> dict[str, Any] | None:
        """Return a run's configuration."""
        run = self._run(run_id)
        return None if run is None else dict(run[0])

    def get_run_summary(self, run_id: str) -> dict[str, Any] | None:
        """Return the last values that a run logged."""
        run = self._run(run_id)
        return None if run is None else dict(run[1])

    def get_metadata_from_wandb(
        self, run_id: str, checkpoint_path: str | os.PathLike[str]
    ) -> CheckpointMetadataV1 | None:
        """Build a checkpoint's metadata from its run's configuration and last values, which may be of a later epoch."""
        run = self._run(run_id)
        if run is None:
            return None
        config, summary = run
        facts = Facts(
            epoch=_count(summary, "epoch"),
            global_step=_count(summary, "trainer/global_step", "global_step", "_step"),
            metrics={"summary": {name: float(value) for name, value in summary.items() if _is_number(value)}},
        )
        document = compose(
            key=to_key(RelPath(os.fspath(checkpoint_path))),
            link_target=None,
            fingerprint=(0, time.time_ns(), 0),
            facts=facts,
            config=Config("", config, (0, 0, 0)),
        )
        document.wandb_run_id, document.hydra_config_path = run_id, None
        try:
            return metadata_of(document)
        except ValidationError as error:
            log.warning("what run %s says is no metadata: %s", run_id, error.errors()[0]["msg"])
            return None

    def _run(self, run_id: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        with self._lock:
            if run_id in self._cache:
                self._cache.move_to_end(run_id)
                return self._cache[run_id]
        api = self._connected()
        if api is None:
            return None
        try:
            run = api.run(run_id)
            found = (dict(run.config), dict(run.summary))
        except Exception as error:  # noqa: BLE001 - the network, or anything that their package raises
            log.warning("Weights & Biases does not know the run %s: %s", run_id, error)
            return None
        with self._lock:
            self._cache[run_id] = found
            while len(self._cache) > self.cache_size:
                self._cache.popitem(last=False)
        return found

    def _connected(self) -> Any:
        if not os.environ.get(KEY_NAME):
            return None
        if self._api is None:
            try:
                import wandb

                self._api = wandb.Api(timeout=TIMEOUT_S)
            except Exception as error:  # noqa: BLE001 - no package, or a key that it does not take
                log.warning("Weights & Biases cannot be asked: %s", error)
        return self._api


@functools.cache
def get_wandb_client() -> WandbClient:
    """Return the client that the whole program shares."""
    return WandbClient()


def extract_run_id_from_checkpoint(checkpoint_path: str | os.PathLike[str]) -> str | None:
    """Return the id of a checkpoint's run: its sidecar's, else its configuration's ``logger.wandb.id``."""
    metadata = load_metadata(checkpoint_path)
    if metadata is not None and metadata.wandb_run_id:
        return metadata.wandb_run_id
    config_path = resolve_config_path(checkpoint_path)
    config = None if config_path is None else load_config(config_path)
    return find_text(config, "logger.wandb.id") if config else None


def _count(summary: Mapping[str, Any], *names: str) -> int | None:
    return next((int(summary[name]) for name in names if _is_number(summary.get(name)) and summary[name] >= 0), None)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
