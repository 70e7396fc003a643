"""What is on disk now: a walk over some places of the tree, with a stamp for every checkpoint in them.

A scan opens no file, follows no link out of the tree, and tells apart what is not there from what could not be looked
at.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec.structs import replace

from ckpt_indexer import paths
from ckpt_indexer.errors import ScanStopped, reason_of
from ckpt_indexer.model import Fingerprint, OtherSidecar, Stamp
from ckpt_indexer.paths import Key, RelPath
from ckpt_indexer.trackers.wandb import run as wandb
from ckpt_indexer.tree.local import fingerprint_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

SHARDS_MAX = 100_000  # files in one sharded checkpoint
_GONE = (errno.ENOENT, errno.ENOTDIR)
# A sidecar or configuration that cannot be reached counts as none: the checkpoint is to be indexed without it. Any
# other error may pass, and must not look like a change.
_OUT_OF_REACH = (*_GONE, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG)
_HYDRA_CONFIG = f"{paths.HYDRA_FOLDER}/{paths.CONFIG_NAME}"
_CONFIGS = (_HYDRA_CONFIG, paths.CONFIG_NAME)  # in one folder, Hydra's own record wins
_HPARAMS = paths.SETTINGS_NAMES[:1]
_SHARED_NAMES = frozenset((paths.CONFIG_NAME, *paths.SETTINGS_NAMES))
_BESIDE = (*paths.OTHER_SIDECAR_ENDS, *paths.OWN_CONFIG_ENDS)


class Found(msgspec.Struct, frozen=True, gc=False):
    """A checkpoint as the scan found it."""

    stamp: Stamp
    problem: tuple[str, str] | None = None  # (code, message): what keeps it from being opened at all
    is_folder: bool = False
    has_hard_links: bool = False  # hard links: writing under one name changes the others without an event

    def path_to_read(self, key: Key) -> RelPath:
        """Return the path, relative to the root, of what has to be opened: a link's target, else the checkpoint."""
        return paths.to_path(key if self.stamp.link_target is None else Key(self.stamp.link_target))


class Snapshot(NamedTuple):
    """The checkpoints in some places, at about one moment."""

    found: dict[Key, Found]
    orphans: dict[Key, Fingerprint]  # sidecars without a checkpoint, by the key that the checkpoint would have
    unseen: dict[RelPath, str]  # paths that could not be looked at -> why; what is known of them still stands
    temporaries: list[RelPath]  # our own unfinished files, from a run that was killed
    folders: int  # how many were listed


def scan(
    root: str,
    places: Collection[RelPath] = (paths.ROOT,),
    suffixes: tuple[str, ...] = paths.SUFFIXES,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> Snapshot:
    """Scan *places* and everything below them.

    What ends in one of *suffixes* is a checkpoint. *should_stop* is asked before each folder and each place.

    Raises:
        OSError: the root itself cannot be listed.
        ScanStopped: *should_stop* said so; half a snapshot would make the rest look gone.

    """
    walk = _Walk(root, suffixes, should_stop)
    os.stat(root)
    for place in _outermost(places):
        walk.look_at(place)
    return Snapshot(walk.found, walk.orphans, walk.unseen, walk.temporaries, walk.folders)


def _outermost(places: Collection[RelPath]) -> list[RelPath]:
    """Leave out the places that stand below another one."""
    kept: list[RelPath] = []
    for place in sorted(places):
        if not kept or not paths.is_below(place, kept[-1]):
            kept.append(place)
    # Sorting puts "a.b" between "a" and "a/b"; what slipped through is looked at twice, which changes nothing.
    return kept


class _Around(NamedTuple):
    """What the folders above a checkpoint say of it."""

    config: tuple[Key, Fingerprint] | None = None  # as in the stamp
    settings: tuple[Key, Fingerprint] | None = None  # what stands for it where there is none, in this folder
    hparams: tuple[Key, Fingerprint] | None = None  # the same for the folders right below
    runs: Mapping[RelPath, dict[str, list[RelPath]]] = MappingProxyType({})  # folder -> what ``list_runs`` gives of it


class _Walk:
    def __init__(self, root: str, suffixes: tuple[str, ...], should_stop: Callable[[], bool]) -> None:
        self.root = root
        self.should_stop = should_stop
        self.suffixes = suffixes
        self.sidecar_ends = tuple(suffix + paths.SIDECAR_SUFFIX for suffix in suffixes)
        self.real_root = os.path.realpath(root)
        self.found: dict[Key, Found] = {}
        self.orphans: dict[Key, Fingerprint] = {}
        self.unseen: dict[RelPath, str] = {}
        self.temporaries: list[RelPath] = []
        self.folders = 0
        self.arounds: dict[RelPath, _Around] = {}  # of places in a folder, by that folder
        self.runs: dict[RelPath, wandb.RunStat | None] = {}  # by their oldest folder

    def look_at(self, place: RelPath) -> None:
        self._check_stop()
        if place == "":
            self._folder(place, _Around())
            return
        is_checkpoint = paths.is_checkpoint(posixpath.basename(place), self.suffixes)
        try:
            around = self._around(place)
            status = _lstat_at(f"{self.root}/{place}")
            sidecar = self._stat_sidecar(place) if is_checkpoint else None
        except OSError as error:
            # Nothing is known of it now, least of all that it is gone, or that its sidecar is an orphan.
            self._note_unseen(place, error)
            return
        if is_checkpoint and status is not None:
            self._checkpoint(place, status, sidecar, around)
        elif sidecar is not None:
            self.orphans[paths.to_key(place)] = sidecar
        elif status is not None and stat.S_ISDIR(status.st_mode):
            self._folder(place, around)

    def _folder(self, folder: RelPath, around: _Around) -> None:
        """List *folder* and those below, depth first, without recursion."""
        waiting = [(folder, around)]
        while waiting:
            self._check_stop()
            folder, around = waiting.pop()
            self.folders += 1
            named: set[str] = set()  # configurations and settings
            checkpoints: list[tuple[str, os.stat_result]] = []
            sidecars: dict[str, Fingerprint] = {}
            beside: dict[str, Fingerprint] = {}  # files that are about the checkpoint of the same stem
            alike: set[str] = set()  # names that may be checkpoints, by whatever suffix
            inner: list[str] = []
            try:
                with os.scandir(f"{self.root}/{folder}") as entries:
                    for entry in entries:
                        name = entry.name
                        if name.endswith(paths.KNOWN_SUFFIXES):
                            alike.add(name)
                        if name.endswith(self.suffixes):
                            if (status := _lstat(entry)) is not None:
                                checkpoints.append((name, status))
                        elif name.endswith(self.sidecar_ends):
                            # A folder of that name, too: it stands in the way of the sidecar, and is no other stamp.
                            if (status := _lstat(entry)) is not None:
                                sidecars[name.removesuffix(paths.SIDECAR_SUFFIX)] = fingerprint_of(status)
                                if stat.S_ISDIR(status.st_mode):
                                    inner.append(name)
                        elif entry.is_dir(follow_symlinks=False):
                            inner.append(name)
                        elif name.endswith(_BESIDE):
                            if (status := _lstat(entry)) is not None and stat.S_ISREG(status.st_mode):
                                beside[name] = fingerprint_of(status)
                        elif name in _SHARED_NAMES:
                            named.add(name)
                        elif paths.is_temporary(name):
                            self.temporaries.append(paths.join(folder, name))
                around = self._inside(folder, around, named, inner)
                config = around.config or around.settings
            except OSError as error:
                if error.errno not in _GONE or not folder:
                    self._note_unseen(folder, error)
                continue
            for name, status in checkpoints:
                path = paths.join(folder, name)
                sidecar = sidecars.pop(name, None)
                if stat.S_ISREG(status.st_mode) and not around.runs and not beside:
                    # Nearly all are so, and what `_checkpoint` does more costs as much again as the system's stat.
                    stamp = Stamp(fingerprint_of(status), None, sidecar, config)
                    self.found[paths.to_key(path)] = Found(stamp, None, False, status.st_nlink > 1)
                else:
                    self._checkpoint(path, status, sidecar, around, (beside, alike))
            self.orphans.update((paths.to_key(paths.join(folder, name)), print_) for name, print_ in sidecars.items())
            waiting += [(paths.join(folder, name), around) for name in inner]

    def _inside(self, folder: RelPath, around: _Around, named: set[str], inner: list[str]) -> _Around:
        """Return what is around the checkpoints in *folder*, given its configurations and the folders in it."""
        if paths.HYDRA_FOLDER in inner:
            named.add(_HYDRA_CONFIG)
        if named or around.settings or around.hparams:
            hparams = self._first_of(folder, _HPARAMS, named)
            settings = self._first_of(folder, paths.SETTINGS_NAMES, named) or around.hparams
            config = self._first_of(folder, _CONFIGS, named) or around.config
            around = around._replace(config=config, settings=settings, hparams=hparams)
        if wandb.FOLDER in inner:
            around = around._replace(runs={**around.runs, folder: wandb.list_runs(self.root, folder)})
        return around

    def _checkpoint(
        self,
        path: RelPath,
        status: os.stat_result,
        sidecar: Fingerprint | None,
        around: _Around,
        listed: tuple[Mapping[str, Fingerprint], Collection[str]] | None = None,
    ) -> None:
        """Add one checkpoint; *listed* is what its folder's listing had: what stands beside it, and what is alike."""
        try:
            run = self._run(path, around)
            own = self._own_config(path, None if listed is None else listed[0])
            config = own or around.config or around.settings
            other = self._other_sidecar(path, listed)
            stamp = Stamp(fingerprint_of(status), None, sidecar, config, run, other)
            self.found[paths.to_key(path)] = self._found(path, status, stamp)
        except FileNotFoundError:
            pass  # it vanished while it was looked at
        except OSError as error:
            self._note_unseen(path, error)

    def _own_config(self, path: RelPath, beside: Mapping[str, Fingerprint] | None) -> tuple[Key, Fingerprint] | None:
        """Find the configuration of this one checkpoint, which stands beside it."""
        for candidate in paths.own_config_paths(path, self.suffixes):
            if beside is None:
                config = self._config_at(candidate)
            else:
                found = beside.get(posixpath.basename(candidate))
                config = None if found is None else (paths.to_key(candidate), found)
            if config is not None:
                return config
        return None

    def _other_sidecar(
        self, path: RelPath, listed: tuple[Mapping[str, Fingerprint], Collection[str]] | None
    ) -> OtherSidecar | None:
        """Find the sidecar that another program wrote under its own name."""
        for candidate in paths.other_sidecar_paths(path, self.suffixes):
            if listed is None:
                status = _lstat_at(f"{self.root}/{candidate}", _OUT_OF_REACH)
                is_file = status is not None and stat.S_ISREG(status.st_mode)
                found = fingerprint_of(status) if status is not None and is_file else None
            else:
                found = listed[0].get(posixpath.basename(candidate))
            if found is not None:
                is_by_stem = not candidate.startswith(path)
                return OtherSidecar(paths.to_key(candidate), found, is_by_stem and self._is_shared(path, listed))
        return None

    def _is_shared(self, path: RelPath, listed: tuple[Mapping[str, Fingerprint], Collection[str]] | None) -> bool:
        """Return whether something else of the same stem may be a checkpoint, too."""
        stem = paths.stem_of(path, self.suffixes)
        others = {stem + suffix for suffix in (*paths.KNOWN_SUFFIXES, *self.suffixes)} - {path}
        if listed is not None:
            return any(posixpath.basename(other) in listed[1] for other in others)
        return any(_lstat_at(f"{self.root}/{other}", _OUT_OF_REACH) is not None for other in others)

    def _found(self, path: RelPath, status: os.stat_result, stamp: Stamp) -> Found:
        if stat.S_ISREG(status.st_mode):
            return Found(stamp, has_hard_links=status.st_nlink > 1)
        if stat.S_ISLNK(status.st_mode):
            return self._link(path, stamp)
        if stat.S_ISDIR(status.st_mode):
            return Found(replace(stamp, fingerprint=fingerprint_of_folder(self.root, path)), is_folder=True)
        kind = "FIFO" if stat.S_ISFIFO(status.st_mode) else "socket" if stat.S_ISSOCK(status.st_mode) else "device"
        return Found(stamp, ("not-a-file", f"this is a {kind}"))

    def _link(self, path: RelPath, stamp: Stamp) -> Found:
        """Follow a link, of which *stamp* knows what is around it, as far as the tree goes."""
        full = f"{self.root}/{path}"
        try:
            written = os.readlink(full)
            real = os.path.realpath(full, strict=True)
            target = os.stat(real, follow_symlinks=False)
        except OSError as error:
            stamp = replace(stamp, link_target=_readable_link(full))
            if error.errno == errno.ELOOP:
                return Found(stamp, ("link-loop", "the link leads back to itself"))
            if error.errno in _GONE:
                return Found(stamp, ("link-dangling", f"the link's target {stamp.link_target} is not there"))
            return Found(stamp, ("io-error", reason_of(error)))
        if not real.startswith(self.real_root.rstrip("/") + "/"):
            return Found(
                replace(stamp, link_target=paths.to_text(written)), ("link-outside", "the link leaves the outputs root")
            )
        inside = RelPath(os.path.relpath(real, self.real_root))
        stamp = replace(stamp, fingerprint=fingerprint_of(target), link_target=paths.to_key(inside))
        if stat.S_ISDIR(target.st_mode):
            if paths.is_below(path, inside):  # its sidecar would be one of its files, and change it with each writing
                return Found(stamp, ("link-loop", "the link leads to a folder that it stands in"))
            return Found(replace(stamp, fingerprint=fingerprint_of_folder(self.root, inside)), is_folder=True)
        if not stat.S_ISREG(target.st_mode):
            return Found(stamp, ("not-a-file", "the link's target is no regular file"))
        return Found(stamp)

    def _stat_sidecar(self, path: RelPath) -> Fingerprint | None:
        status = _lstat_at(f"{self.root}/{paths.sidecar_path(path)}", _OUT_OF_REACH)
        return None if status is None else fingerprint_of(status)

    def _around(self, place: RelPath) -> _Around:
        above = paths.ancestors(place)
        if above[0] in self.arounds:  # a burst leaves hints for many files of one folder
            return self.arounds[above[0]]
        runs = {}
        for folder in above:
            # Asked first, because it is rarely there, and to be told so by opening it takes ten times as long.
            if _lstat_at(f"{self.root}/{folder}/{wandb.FOLDER}", _OUT_OF_REACH) is not None:
                runs[folder] = wandb.list_runs(self.root, folder)
        around = _Around(
            self._nearest(above, _CONFIGS),
            self._first_of(above[0], paths.SETTINGS_NAMES) or self._nearest(above[1:2], _HPARAMS),
            self._first_of(above[0], _HPARAMS),
            {folder: found for folder, found in runs.items() if found},
        )
        self.arounds[above[0]] = around
        return around

    def _run(self, path: RelPath, around: _Around) -> tuple[Key, Fingerprint] | None:
        """Find the Weights & Biases run that the checkpoint belongs to, as far as names tell."""
        if not around.runs:
            return None
        config = around.config or around.settings
        home = None if config is None else paths.subject_of(paths.to_path(config[0]))
        folders = wandb.find_run(path, around.runs, home=home)
        if not folders:
            return None
        if folders[0] not in self.runs:
            self.runs[folders[0]] = wandb.stat_run(self.root, folders)
        status = self.runs[folders[0]]
        return None if status is None else (paths.to_key(folders[0]), status.fingerprint)

    def _nearest(self, above: list[RelPath], names: Sequence[str]) -> tuple[Key, Fingerprint] | None:
        """Find the nearest file of these names in the folders *above*; in one folder, the first of the names wins."""
        return next((found for folder in above if (found := self._first_of(folder, names)) is not None), None)

    def _first_of(
        self, folder: RelPath, names: Sequence[str], listed: Collection[str] | None = None
    ) -> tuple[Key, Fingerprint] | None:
        """Find the first of *names* that is a file in *folder*; only those that are *listed* are looked for."""
        for name in names:
            if listed is None or name in listed:
                found = self._shared_config_at(paths.join(folder, name))
                if found is not None:
                    return found
        return None

    def _shared_config_at(self, path: RelPath) -> tuple[Key, Fingerprint] | None:
        return None if wandb.is_own_file(path) else self._config_at(path)

    def _config_at(self, path: RelPath) -> tuple[Key, Fingerprint] | None:
        status = _lstat_at(f"{self.root}/{path}", _OUT_OF_REACH)
        if status is None or not stat.S_ISREG(status.st_mode):
            return None
        return (paths.to_key(path), fingerprint_of(status))

    def _check_stop(self) -> None:
        if self.should_stop():
            raise ScanStopped(root=self.root)

    def _note_unseen(self, path: RelPath, error: OSError) -> None:
        self.unseen[path] = reason_of(error)


def fingerprint_of_folder(root: str, path: RelPath) -> Fingerprint:
    """Sum up a checkpoint that is a folder: bytes of its files, the newest time in it, its inode.

    Raises:
        OSError: the folder cannot be looked at.

    """
    status = os.lstat(os.path.join(root, path))
    size, newest, count, waiting = 0, status.st_mtime_ns, 0, [path]
    while waiting and count < SHARDS_MAX:
        folder = waiting.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                for entry in entries:
                    count += 1
                    inner = _lstat(entry)
                    if inner is None:
                        continue
                    newest = max(newest, inner.st_mtime_ns)
                    if stat.S_ISDIR(inner.st_mode):
                        waiting.append(paths.join(folder, entry.name))
                    else:
                        size += inner.st_size
        except OSError:
            continue  # what can be summed up decides; reading it later says what is wrong
    return (size, newest, status.st_ino)


def _lstat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Stat one entry of a listing; ``None`` if it is gone since: it alone, not its folder."""
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None


def _lstat_at(full: str, absent: Collection[int] = _GONE) -> os.stat_result | None:
    """Stat a path; ``None`` for the errors that mean there is nothing.

    Raises:
        OSError: any other: what stands there is not known.

    """
    try:
        return os.lstat(full)
    except OSError as error:
        if error.errno in absent:
            return None
        raise


def _readable_link(full: str) -> str | None:
    try:
        return paths.to_text(os.readlink(full))
    except OSError:
        return None
