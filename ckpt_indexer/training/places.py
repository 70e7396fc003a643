"""Where the files of a training run stand, relative to the root that is indexed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckpt_indexer import paths
from ckpt_indexer.paths import RelPath
from ckpt_indexer.tree.local import fingerprint_of

if TYPE_CHECKING:
    from ckpt_indexer.model import Fingerprint

ANYTHING: Fingerprint = (-1, -1, -1)  # no file's: whatever stands there now is to be read
REMOVED: Fingerprint = (-2, -2, -2)  # likewise, and what was waited for there comes no more


class Places:
    """Paths below one root; each folder's real path is resolved once."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._folders: dict[str, RelPath | None] = {}  # absolute -> relative to the root, None outside

    def relative(self, path: str | os.PathLike[str]) -> RelPath | None:
        """Return a checkpoint's path relative to the root; ``None`` if it is outside, or no checkpoint's."""
        text = os.fspath(path)
        if "://" in text:
            return None
        folder, name = os.path.split(os.path.abspath(text))
        if not paths.is_checkpoint(name):
            return None
        if folder not in self._folders:
            self._folders[folder] = below(os.path.realpath(self.root), os.path.realpath(folder))
        inside = self._folders[folder]
        return None if inside is None else paths.subject_of(paths.join(inside, name))

    def config_of(self, folder: str | None, hydra_config: str | None) -> str | None:
        """Return the key of the configuration of a run in *folder*: the nearest above, else *hydra_config*.

        One outside the root has no key; its path is written as one.
        """
        relative = None if folder is None else self.relative(os.path.join(folder, "x.ckpt"))
        for above in paths.ancestors(relative) if relative is not None else ():
            for name in (f"{paths.HYDRA_FOLDER}/{paths.CONFIG_NAME}", paths.CONFIG_NAME):
                candidate = paths.join(above, name)
                full = os.path.join(self.root, candidate)
                if os.path.isfile(full) and not os.path.islink(full):
                    return paths.to_key(candidate)
        if hydra_config is None or not os.path.isfile(hydra_config):
            return None
        inside = below(os.path.realpath(self.root), os.path.realpath(hydra_config))
        return paths.to_text(hydra_config) if inside is None else paths.to_key(inside)


def below(folder: str, path: str) -> RelPath | None:
    """Return *path* relative to *folder*, ``None`` if it is not below it.

    >>> below("/a", "/a/b"), below("/a", "/a"), below("/a", "/ab"), below("/", "/a")
    ('b', '', None, 'a')
    """
    prefix = folder.rstrip("/") + "/"
    return RelPath(path[len(prefix) :]) if f"{path}/".startswith(prefix) else None


def stat(path: str | os.PathLike[str]) -> Fingerprint | None:
    try:
        return fingerprint_of(os.lstat(path))
    except OSError:
        return None
