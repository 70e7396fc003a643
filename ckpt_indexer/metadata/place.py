"""Whether a checkpoint stands where it was saved, as far as the names of folders tell.

A checkpoint carries paths of the machine that trained it, and its tree may have been moved as a whole: only the ends of
both are compared, and only names that a run has for itself count. Every run has a folder ``checkpoints``. Pure.
"""

from __future__ import annotations

import re

# Folders that many runs have under one name, running numbers among them: alike, they say nothing; different, they do.
_EVERYBODYS = re.compile(
    r"checkpoints?|ckpts?|weights|models?|saved_models?|lightning_logs|tb_logs|csv_logs|logs?|outputs?|runs?|results?"
    r"|experiments?|default|version_\d+|\d{1,4}",
    re.IGNORECASE,
)
# Where machines and containers put whatever is trained on them, below which a dirpath names no run.
_MOUNTS = frozenset(
    ["workspace", "working", "content", "ml", "opt", "app", "root", "home", "data", "mnt", "tmp", "scratch"]
)

ALIKE_MIN = 3  # names in a row that are enough although each of them is everybody's


def parts_of(path: str) -> list[str]:
    r"""Split a path of whatever machine into its names.

    >>> parts_of("C:\\train\\a.ckpt"), parts_of("/m//a/b.ckpt")
    (['C:', 'train', 'a.ckpt'], ['m', 'a', 'b.ckpt'])
    """
    return [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]


def is_same_folder(here: str, there: str) -> bool | None:
    """Return whether *here*, relative to a root, is the folder *there* of another machine; ``None``: not certain.

    >>> is_same_folder("ocr/b/checkpoints", "/train/ocr/b/checkpoints")
    True
    >>> is_same_folder("finetune/checkpoints", "/srv/pretrain/checkpoints")
    False

    What is the same up to a run's own name and differs above may have been moved, or be another project's:

    >>> [is_same_folder(here, "/a/unet/fold_0/checkpoints") for here in ("old/fold_0/checkpoints", "checkpoints")]
    [None, None]
    >>> is_same_folder("moved/logs/version_0/checkpoints", "/a/b/logs/version_0/checkpoints") is None
    True
    """
    ours, theirs = parts_of(here), parts_of(there)
    if len(ours) > 1 and ours == theirs[-len(ours) :]:
        return True
    found: bool | None = None
    for alike, (name, other) in enumerate(zip(reversed(ours), reversed(theirs), strict=False)):
        if name != other:
            return None if found or alike >= ALIKE_MIN or other in _MOUNTS or _is_in_run(ours, theirs) else False
        if not _EVERYBODYS.fullmatch(name):
            found = True
    return found


def _is_in_run(ours: list[str], theirs: list[str]) -> bool:
    """Return whether *ours* has the name that the run's folder has in *theirs*: it was moved within its run.

    A running number below that name is another run's.
    """
    for name in reversed(theirs):
        if not _EVERYBODYS.fullmatch(name):
            return name in ours
        if any(map(str.isdigit, name)):
            return False
    return False
