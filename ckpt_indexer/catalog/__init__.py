"""The Python interface of an older catalogue, over the index: for pages and scripts that were written for it.

    build ─▶ switch ─▶ index, or one pass that makes it ─▶ records
                 └──▶ plain ─▶ plain_worker (torch, limited) ─▶ records

Owns names and behaviour that callers already have, and no knowledge of its own: what a checkpoint is, is the index's.
Importing it loads neither pydantic, structlog, watchdog, torch nor wandb; a name loads what it needs when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckpt_indexer.catalog.build import (
        CatalogCache,
        CatalogOptions,
        CheckpointCatalogBuilder,
        build_catalog,
        build_lightweight_catalog,
        clear_global_cache,
        differences,
    )
    from ckpt_indexer.catalog.checking import (
        CheckpointValidation,
        MetadataValidator,
        ValidationReport,
        ValidationResult,
        validate_checkpoint,
    )
    from ckpt_indexer.catalog.files import resolve_config_path
    from ckpt_indexer.catalog.indexing import CheckpointIndex, generate_metadata_for_checkpoint
    from ckpt_indexer.catalog.metadata import (
        CheckpointMetadataV1,
        load_config,
        load_metadata,
        load_metadata_batch,
        save_metadata,
    )
    from ckpt_indexer.catalog.records import CheckpointCatalog, CheckpointCatalogEntry, CheckpointInfo
    from ckpt_indexer.catalog.wandb_runs import WandbClient, extract_run_id_from_checkpoint, get_wandb_client

_MODULES = {
    "build": (
        "CatalogCache", "CatalogOptions", "CheckpointCatalogBuilder", "build_catalog", "build_lightweight_catalog",
        "clear_global_cache", "differences",
    ),
    "checking": (
        "CheckpointValidation", "MetadataValidator", "ValidationReport", "ValidationResult", "validate_checkpoint",
    ),
    "files": ("resolve_config_path",),
    "indexing": ("CheckpointIndex", "generate_metadata_for_checkpoint"),
    "metadata": ("CheckpointMetadataV1", "load_config", "load_metadata", "load_metadata_batch", "save_metadata"),
    "records": ("CheckpointCatalog", "CheckpointCatalogEntry", "CheckpointInfo"),
    "wandb_runs": ("WandbClient", "extract_run_id_from_checkpoint", "get_wandb_client"),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "CatalogCache",
    "CatalogOptions",
    "CheckpointCatalog",
    "CheckpointCatalogBuilder",
    "CheckpointCatalogEntry",
    "CheckpointIndex",
    "CheckpointInfo",
    "CheckpointMetadataV1",
    "CheckpointValidation",
    "MetadataValidator",
    "ValidationReport",
    "ValidationResult",
    "WandbClient",
    "build_catalog",
    "build_lightweight_catalog",
    "clear_global_cache",
    "differences",
    "extract_run_id_from_checkpoint",
    "generate_metadata_for_checkpoint",
    "get_wandb_client",
    "load_config",
    "load_metadata",
    "load_metadata_batch",
    "resolve_config_path",
    "save_metadata",
    "validate_checkpoint",
]


def __getattr__(name: str) -> Any:
    """Import the module of a name when it is first used: a page that lists checkpoints needs no pydantic."""
    if name not in _MODULE_OF:
        raise AttributeError(name)
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value
