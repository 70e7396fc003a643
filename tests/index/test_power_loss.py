"""A power cut between any two system calls: what the disk may then hold, and what becomes of it.

The calls of real processes are recorded with strace and replayed on a model of a file system without a journal:

- what was written to a file and not synced may be there, or not, or in part, or as zeros, also if its name is there;
- what was done to names in a folder that was not synced since may be there or not, each for itself, in any order;
- one rename is atomic, and what was synced stays.

Nothing else is promised by POSIX, and file systems in use do each of these.
"""

from __future__ import annotations

import codecs
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from ckpt_indexer import read_index
from ckpt_indexer.index.file import SET_ASIDE_INFIX
from ckpt_indexer.index.store import Store
from ckpt_indexer.metadata.entry import bare_entry
from ckpt_indexer.passes.indexer import Indexer
from ckpt_indexer.paths import COOKIE_PREFIX, INDEX_NAME, LOCK_NAME, Key, RelPath, is_temporary, sidecar_path
from ckpt_indexer.watch.events.hints import is_cookie
from tests.process import COMMAND, TIMEOUT_S, Daemon, index_equals_disk, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CALLS = "openat,write,pwrite64,ftruncate,fsync,fdatasync,?rename,renameat,renameat2,?unlink,unlinkat"
RETURNED = "returned"  # what a recorded process says when a commit has returned

COMMIT = f"""
import os, sys
from ckpt_indexer import read_index
from ckpt_indexer.index.store import Store
from ckpt_indexer.metadata.entry import bare_entry
Store(sys.argv[1]).commit([bare_entry("new.ckpt", (1, 2, 3), None, None)])
os.write(1, b"{RETURNED}")
"""


class Call(NamedTuple):
    """A system call that changes what is on disk, or makes it last."""

    kind: str  # "create", "write", "sync", "rename", "unlink", "says"
    path: str
    target: str = ""
    data: bytes = b""


def recorder(log: Path) -> list[str]:
    return ["strace", "-f", "-y", "-q", "-s", "10000000", "-o", str(log), "-e", f"trace={CALLS}"]


_LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += \d+(?:<.*>)?")
_FILE = r"(?:AT_FDCWD|\d+)<(.*?)>"
_TEXT = r'"((?:[^"\\]|\\.)*)"'
_ARGUMENTS = {
    "openat": re.compile(rf"{_FILE}, {_TEXT}, (\S+)(?:, .*)?"),
    "write": re.compile(rf"\d+<(.*?)>, {_TEXT}, \d+"),
    "fsync": re.compile(r"\d+<(.*)>"),
    "rename": re.compile(rf"{_TEXT}, {_TEXT}"),
    "renameat": re.compile(rf"{_FILE}, {_TEXT}, {_FILE}, {_TEXT}(?:, 0)?"),
    "unlink": re.compile(_TEXT),
    "unlinkat": re.compile(rf"{_FILE}, {_TEXT}, 0"),
}
_SAME = {"fdatasync": "fsync", "renameat2": "renameat"}


def parse(log: Path, root: Path) -> list[Call]:
    """Read strace's record: what succeeded, below the root, in order."""
    unfinished: dict[str, str] = {}
    calls: list[Call] = []
    for line in log.read_text().splitlines():
        pid, _, rest = line.partition(" ")
        if rest.endswith("<unfinished ...>"):
            unfinished[pid] = line.removesuffix("<unfinished ...>").rstrip()
            continue
        resumed = re.match(r"\d+ +<\.\.\. \w+ resumed>(.*)", line)
        matched = _LINE.fullmatch(line if resumed is None else unfinished.pop(pid) + resumed[1])
        if matched is not None:
            calls += _calls(matched[2], matched[3])
    return [call for call in calls if call.kind == "says" or call.path.startswith(f"{root}/") or call.path == str(root)]


def _calls(name: str, text: str) -> Iterator[Call]:
    name = _SAME.get(name, name)
    matched = _ARGUMENTS[name].fullmatch(text) if name in _ARGUMENTS else None
    assert matched is not None, f"{name}({text[:200]}) is not in the model"
    words = matched.groups()
    if name == "openat":
        path = os.path.join(words[0], words[1])
        if "O_CREAT" in words[2]:
            yield Call("create", path)
        assert "O_TRUNC" not in words[2] or "/outputs/" not in path, "a file of ours is emptied"
    elif name == "write":
        data = codecs.escape_decode(words[1].encode())[0]
        assert isinstance(data, bytes)
        yield Call("says" if data == RETURNED.encode() else "write", words[0], data=data)
    elif name == "fsync":
        yield Call("sync", words[0])
    elif name.startswith("rename"):
        old, new = words if len(words) == 2 else (os.path.join(*words[:2]), os.path.join(*words[2:]))
        yield Call("rename", old, new)
    else:
        yield Call("unlink", os.path.join(*words))


class _File:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.is_synced = True

    def remains(self) -> set[bytes]:
        if self.is_synced:
            return {self.data}
        return {b"", self.data[: len(self.data) // 2], bytes(len(self.data)), self.data}


class Disk:
    """A file system without a journal: what processes see, and what a power cut may leave of it."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._names = {path: _File(data) for path, data in files.items()}  # as processes see them
        self._synced = dict(self._names)
        self._edits: list[dict[str, _File | None]] = []  # of names, since their folder was synced

    def apply(self, call: Call) -> None:
        if call.kind == "create" and call.path not in self._names:
            self._edit({call.path: _File(b"")})
        elif call.kind == "write":
            file = self._names[call.path]
            file.data, file.is_synced = file.data + call.data, False
        elif call.kind == "rename":
            self._edit({call.path: None, call.target: self._names[call.path]})
        elif call.kind == "unlink":
            self._edit({call.path: None})
        elif call.kind == "sync" and call.path in self._names:
            self._names[call.path].is_synced = True
        elif call.kind == "sync":
            for edit in self._edits:
                if self._folder(edit) == call.path:
                    self._change(self._synced, edit)
            self._edits = [edit for edit in self._edits if self._folder(edit) != call.path]

    def read(self, path: str) -> bytes:
        """Return a file's content as processes see it."""
        return self._names[path].data

    def power_cuts(self, about: Callable[[str], bool]) -> Iterator[dict[str, bytes]]:
        """Give everything that may be found after a power cut now, of the paths that one asks about."""
        edits = [edit for edit in self._edits if any(map(about, edit))]
        assert len(edits) < 12, "too many to try"
        for kept in itertools.product((False, True), repeat=len(edits)):
            names = dict(self._synced)
            for edit in itertools.compress(edits, kept):
                self._change(names, edit)
            paths = [path for path in names if about(path)]
            for contents in itertools.product(*(sorted(names[path].remains()) for path in paths)):
                yield dict(zip(paths, contents, strict=True))

    def _edit(self, edit: dict[str, _File | None]) -> None:
        self._change(self._names, edit)
        self._edits.append(edit)

    @staticmethod
    def _change(names: dict[str, _File], edit: dict[str, _File | None]) -> None:
        for path, file in edit.items():
            if file is None:
                names.pop(path, None)
            else:
                names[path] = file

    @staticmethod
    def _folder(edit: dict[str, _File | None]) -> str:
        return str(Path(next(iter(edit))).parent)


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def record(log: Path, root: Path, command: list[str]) -> list[Call]:
    subprocess.run([*recorder(log), *command], check=True, timeout=TIMEOUT_S, stdout=subprocess.DEVNULL)
    return parse(log, root)


def in_root(root: Path) -> Callable[[str], bool]:
    return lambda path: Path(path).parent == root


def states(
    before: dict[str, bytes], calls: list[Call], about: Callable[[str], bool]
) -> Iterator[tuple[bool, dict[str, bytes]]]:
    """Cut the power before, between and after all calls: (had a commit returned?, what is found)."""
    disk, has_returned = Disk(before), False
    for call in [None, *calls]:
        if call is not None:
            disk.apply(call)
            has_returned = has_returned or call.kind == "says"
        for found in disk.power_cuts(about):
            yield has_returned, found


@pytest.fixture(scope="module", autouse=True)
def _needs_strace(tmp_path_factory: pytest.TempPathFactory) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    log = tmp_path_factory.mktemp("strace") / "log"
    if subprocess.run([*recorder(log), "true"], check=False, timeout=TIMEOUT_S).returncode != 0:
        pytest.skip("processes cannot be traced here")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "outputs"
    root.mkdir()
    return root


def commit_in(root: Path, kind: str, tmp_path: Path) -> tuple[dict[str, bytes], list[Call]]:
    """Record a commit on top of: no index, an index, or something that is none."""
    if kind == "an index":
        Store(str(root)).commit([bare_entry(Key("old.ckpt"), (1, 2, 3), None, None)])
    elif kind == "no index":
        (root / INDEX_NAME).write_bytes(b"somebody's notes")
    before = files_of(root)
    calls = record(tmp_path / "log", root, [sys.executable, "-c", COMMIT, str(root)])
    assert [call.kind for call in calls].count("says") == 1
    return before, calls


def faults(root: Path, before: dict[str, bytes], calls: list[Call]) -> set[str]:
    """Say what would be wrong after some power cut."""
    index = str(root / INDEX_NAME)
    old, new = before.get(index), (root / INDEX_NAME).read_bytes()
    found = set()
    for has_returned, files in states(before, calls, in_root(root)):
        if files.get(index) not in ((new,) if has_returned else (old, new)):
            is_between = not has_returned and index not in files and any(SET_ASIDE_INFIX in path for path in files)
            if not is_between:
                found.add("lost after the return" if has_returned else "neither old nor new")
        if old == b"somebody's notes" and old not in files.values():
            found.add("what was no index is lost")
        names = {Path(path).name for path in files} - {INDEX_NAME, LOCK_NAME}
        if any(not is_temporary(name) and SET_ASIDE_INFIX not in name for name in names):
            found.add("left something unknown")
    return found


@pytest.mark.parametrize("kind", ["nothing", "an index"])
def test_a_power_cut_leaves_the_whole_old_index_or_the_whole_new_one(root: Path, tmp_path: Path, kind: str) -> None:
    before, calls = commit_in(root, kind, tmp_path)
    assert faults(root, before, calls) == set()


def test_a_power_cut_loses_nothing_that_was_set_aside(root: Path, tmp_path: Path) -> None:
    before, calls = commit_in(root, "no index", tmp_path)
    assert faults(root, before, calls) == set()


def test_each_sync_of_a_commit_is_needed(root: Path, tmp_path: Path) -> None:
    """The model sees what a missing sync would cost, so that the tests above would see it missing."""
    before, calls = commit_in(root, "an index", tmp_path)
    syncs = [i for i, call in enumerate(calls) if call.kind == "sync"]
    assert [is_temporary(Path(calls[i].path).name) or calls[i].path == str(root) for i in syncs] == [True, True]
    costs = [faults(root, before, calls[:i] + calls[i + 1 :]) for i in syncs]
    assert costs == [{"neither old nor new", "lost after the return"}, {"lost after the return"}]


def test_whatever_a_power_cut_left_the_next_writer_goes_on(root: Path, tmp_path: Path) -> None:
    before, calls = commit_in(root, "an index", tmp_path)
    found = {tuple(sorted(files.items())) for _, files in states(before, calls, in_root(root))}
    assert len(found) > 5
    for number, files in enumerate(sorted(found)):
        again = tmp_path / str(number)
        again.mkdir()
        for path, data in files:
            (again / Path(path).name).write_bytes(data)
        Store(str(again)).commit([bare_entry(Key("newer.ckpt"), (4, 5, 6), None, None)])
        entries = json.loads((again / INDEX_NAME).read_bytes())["entries"]
        assert sorted(entries) in (["newer.ckpt", "old.ckpt"], ["new.ckpt", "newer.ckpt", "old.ckpt"])


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    import torch

    path = tmp_path_factory.mktemp("sample") / "sample.ckpt"
    torch.save({"epoch": 18, "state_dict": {"w": torch.zeros(4, 5)}}, path)
    return path.read_bytes()


NAMES = ("a.ckpt", "b.ckpt", "c.ckpt")


@pytest.fixture
def tree(root: Path, sample: bytes) -> Path:
    """A root with checkpoints."""
    (root / "r").mkdir()
    for name in NAMES:
        (root / "r" / name).write_bytes(sample)
    return root


SLOW = """
import ckpt_indexer.actions.rebuild as actions
actions.COMMIT_INTERVAL_S, actions.SLICE_S = -1.0, 0.0  # as on a machine where each checkpoint takes a second
from ckpt_indexer.cli import main
main()
"""


def indexes_of(before: dict[str, bytes], calls: list[Call], index: str) -> list[bytes | None]:
    """Return what a reader saw at *index*, one after the other."""
    disk, seen = Disk(before), [before.get(index)]
    for call in calls:
        disk.apply(call)
        if call.kind == "rename" and call.target == index:
            seen.append(disk.read(index))
    return seen


@pytest.mark.parametrize("program", [[COMMAND], [sys.executable, "-c", SLOW]], ids=["as it is", "commit by commit"])
def test_a_command_writes_the_index_in_that_order_too(tree: Path, tmp_path: Path, program: list[str]) -> None:
    before = files_of(tree)
    calls = record(tmp_path / "log", tree, [*program, "generate", str(tree), "-q"])
    index, newest = str(tree / INDEX_NAME), (tree / INDEX_NAME).read_bytes()
    # A slow machine commits more than once: each commit's index is whole, and what a power cut leaves is one of them.
    committed = indexes_of(before, calls, index)
    assert (committed[0], committed[-1]) == (None, newest)
    keys = [set(json.loads(data)["entries"]) for data in committed if data is not None]
    assert all(earlier <= later for earlier, later in itertools.pairwise(keys))
    assert {files.get(index) for _, files in states(before, calls, is_index)} == set(committed)
    assert sorted(read_index(tree).entries) == [f"r/{name}" for name in NAMES]


def test_a_daemon_does_and_what_it_has_answered_for_lasts(tree: Path, tmp_path: Path, sample: bytes) -> None:
    """It removes the cookie of `sync` when all that was written before is in the index: on the disk, too."""
    before, log = files_of(tree), tmp_path / "log"
    with Daemon(tree, prefix=(*recorder(log), "-D")) as daemon:
        (tree / "r/d.ckpt").write_bytes(sample)
        assert "r/d.ckpt" in daemon.sync()
        newest = (tree / INDEX_NAME).read_bytes()
    wait_for(lambda: log.read_text().endswith("+++ exited with 0 +++\n"))  # strace ends after the daemon
    calls = parse(log, tree)
    answers = [i for i, call in enumerate(calls) if call.kind == "unlink" and is_asked(RelPath(Path(call.path).name))]
    calls = [call for call in calls[: answers[0]] if not is_cookie(RelPath(Path(call.path).name))]
    seen = {files.get(str(tree / INDEX_NAME)) for _, files in states(before, calls, is_index)}
    assert {None, newest} <= seen
    assert all(data is None or json.loads(data) for data in seen)
    disk = Disk(before)
    for call in calls:
        disk.apply(call)
    assert [*disk.power_cuts(is_index)] == [{str(tree / INDEX_NAME): newest}]


def is_index(path: str) -> bool:
    return Path(path).name == INDEX_NAME


def is_asked(name: RelPath) -> bool:
    """Say whether a cookie is somebody's question, and not the daemon's own test."""
    return is_cookie(name) and not name.startswith(f"{COOKIE_PREFIX}test-")


def index_anew(root: Path) -> Indexer:
    with Indexer(str(root)) as indexer:
        indexer.load()
        indexer.scan_and_plan()
        indexer.run_for()
        indexer.commit()
    return indexer


def test_a_sidecar_that_a_power_cut_took_or_blanked_is_made_again(tree: Path) -> None:
    index_anew(tree)
    sidecars = [tree / sidecar_path(RelPath(f"r/{name}")) for name in NAMES]
    whole = [path.read_bytes() for path in sidecars]
    sidecars[0].unlink()
    sidecars[1].write_bytes(b"")
    sidecars[2].write_bytes(bytes(len(whole[2])))
    index_anew(tree)
    assert [path.read_bytes() for path in sidecars] == whole
    assert index_equals_disk(tree)


@pytest.mark.parametrize("cut", [b"indexer:", b"8\n  global_step"])
def test_a_sidecar_that_a_power_cut_shortened_is_made_again(tree: Path, cut: bytes) -> None:
    index_anew(tree)
    sidecar = tree / sidecar_path(RelPath("r/a.ckpt"))
    whole = sidecar.read_bytes()
    sidecar.write_bytes(whole[: whole.index(cut)])
    index_anew(tree)
    assert sidecar.read_bytes() == whole
