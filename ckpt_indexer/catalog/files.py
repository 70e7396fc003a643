"""Where what belongs to a checkpoint may stand: its configuration and its sidecar, by name. Opens nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ckpt_indexer.paths import OTHER_SIDECAR_ENDS, OWN_CONFIG_ENDS

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

CONFIG_NAMES = ("config.yaml", "hparams.yaml")


def resolve_config_path(checkpoint_path: str | os.PathLike[str], names: Sequence[str] = CONFIG_NAMES) -> Path | None:
    """Return the configuration of the run that a checkpoint belongs to, ``None`` where there is none.

    The first that is there of: files named after the checkpoint, ``.hydra/config.yaml`` two and three levels up, the
    *names* in the checkpoint's folder and in the one above.
    """
    path = Path(checkpoint_path).absolute()
    above = [*path.parents]
    candidates = [path.with_name(path.stem + suffix) for suffix in OWN_CONFIG_ENDS]
    candidates += [folder / ".hydra" / "config.yaml" for folder in above[1:3]]
    candidates += [folder / name for folder in above[:2] for name in names]
    return next((each for each in candidates if each.is_file()), None)


def metadata_paths(checkpoint_path: str | os.PathLike[str]) -> list[Path]:
    """Return the names that a checkpoint's sidecar may have, in the order in which they are tried."""
    path = Path(checkpoint_path)
    return [path.with_name(name + suffix) for suffix in OTHER_SIDECAR_ENDS for name in (path.name, path.stem)]
