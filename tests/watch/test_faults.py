"""What goes wrong on real machines, done to the real daemon: roots that go away, watches that run out, full disks."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ckpt_indexer import read_index
from ckpt_indexer.actions.sync import wait_for_daemon
from ckpt_indexer.paths import INDEX_NAME, TEMPORARY_PREFIX
from tests.process import TIMEOUT_S, Daemon, index_equals_disk, put, run, status_of, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    import torch

    path = tmp_path_factory.mktemp("sample") / "sample.ckpt"
    torch.save({"epoch": 3, "state_dict": {"w": torch.zeros(4, 5)}}, path)
    return path.read_bytes()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "outputs"
    root.mkdir()
    return root


def keys(root: Path) -> list[str]:
    try:
        return sorted(read_index(root).entries)
    except OSError:
        return []


def test_a_root_that_is_renamed_and_replaced_is_followed_at_its_name(root: Path, sample: bytes) -> None:
    put(root / "a.ckpt", sample)
    with Daemon(root) as daemon:
        moved = root.rename(root.with_name("moved"))
        wait_for(lambda: daemon.events("root_lost"))
        put(moved / "ghost.ckpt", sample)
        root.mkdir()
        put(root / "b.ckpt", sample)
        wait_for(lambda: keys(root) == ["b.ckpt"])
        put(root / "c.ckpt", sample)
        assert sorted(daemon.sync()) == ["b.ckpt", "c.ckpt"]
        assert sorted(read_index(moved).entries) == ["a.ckpt"]
        assert not (moved / "ghost.ckpt.metadata.yaml").exists()


def test_a_root_that_is_deleted_and_made_again_is_watched_again(root: Path, sample: bytes) -> None:
    put(root / "r/a.ckpt", sample)
    with Daemon(root) as daemon:
        while root.exists():  # the daemon may write its index once more while rm is at it
            subprocess.run(["rm", "-rf", root], check=False)
        put(root / "r/b.ckpt", sample)
        wait_for(lambda: keys(root) == ["r/b.ckpt"])
        put(root / "r/c.ckpt", sample)
        assert sorted(daemon.sync()) == ["r/b.ckpt", "r/c.ckpt"]
        assert daemon.process.poll() is None


@needs_root
def test_an_unmounted_root_loses_no_entry_and_is_back_when_it_is_mounted_again(tmp_path: Path, sample: bytes) -> None:
    root, image = tmp_path / "outputs", tmp_path / "image"
    root.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    mount = ["mount", "-o", "loop", str(image), str(root)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("loop mounts are not to be had here")
    try:
        put(root / "a.ckpt", sample)
        with Daemon(root) as daemon:
            subprocess.run(["umount", "-l", root], check=True)
            wait_for((root / INDEX_NAME).exists)  # of the bare folder below the mount
            subprocess.run(mount, check=True)
            assert keys(root) == ["a.ckpt"]
            wait_for(lambda: len(daemon.events("root_replaced")) == 2)
            put(root / "b.ckpt", sample)
            wait_for(lambda: keys(root) == ["a.ckpt", "b.ckpt"])
    finally:
        subprocess.run(["umount", "-l", root], check=False)


@needs_root
def test_what_is_mounted_inside_the_tree_is_seen(root: Path, sample: bytes) -> None:
    (root / "disk").mkdir()
    with Daemon(root, "--scan-interval", "1") as daemon:
        subprocess.run(["mount", "-t", "tmpfs", "none", root / "disk"], check=True)
        try:
            put(root / "disk/a.ckpt", sample)
            wait_for(lambda: "mounts" in [event["reason"] for event in daemon.events("watch_lost")])
            put(root / "disk/b.ckpt", sample)
            assert sorted(daemon.sync()) == ["disk/a.ckpt", "disk/b.ckpt"]
        finally:
            subprocess.run(["umount", "-l", root / "disk"], check=True)


def test_without_enough_watches_passes_do_the_work_and_status_names_the_cure(root: Path, sample: bytes) -> None:
    for i in range(30):
        (root / str(i)).mkdir()
    script = 'echo 10 > /proc/sys/user/max_inotify_watches && exec "$@"'
    prefix = ("unshare", "--user", "--map-root-user", "sh", "-c", script, "sh")
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("user namespaces are not to be had here")
    with Daemon(root, "--scan-interval", "1", prefix=prefix) as daemon:
        for i in range(30):
            put(root / f"{i}/a.ckpt", sample)
        wait_for(lambda: len(keys(root)) == 30)
        status = status_of(root)
        assert (status["state"], [reason["code"] for reason in status["reasons"]]) == ("degraded", ["watches"])
        assert status["reasons"][0]["cure"].startswith("sysctl fs.inotify.max_user_watches=")
        assert len(daemon.events("degraded")) == 1


@needs_root
def test_a_full_disk_loses_nothing_and_is_recovered_from(root: Path, sample: bytes) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", root], check=True)
    try:
        with Daemon(root) as daemon:
            put(root / "a.ckpt", sample)
            daemon.sync()
            before = (root / INDEX_NAME).read_bytes()
            put(root / "b.ckpt", sample)
            with (root / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
                while filler.write(b"x" * 512):
                    pass
            # No room for another page: neither sidecars nor the index can be written.
            os.link(root / "b.ckpt", root / "c.ckpt")
            wait_for(lambda: daemon.events("commit_failed") or keys(root) == ["a.ckpt", "b.ckpt", "c.ckpt"])
            json.loads((root / INDEX_NAME).read_bytes() or before)
            (root / "filler").unlink()
            wait_for(lambda: keys(root) == ["a.ckpt", "b.ckpt", "c.ckpt"])
            wait_for(lambda: not list(root.glob(f"{TEMPORARY_PREFIX}*")))
            wait_for(lambda: status_of(root)["state"] == "ok")
    finally:
        subprocess.run(["umount", "-l", root], check=True)


def test_two_files_exchanged_are_both_read_again(root: Path, sample: bytes) -> None:
    import ctypes

    import torch

    put(root / "a.ckpt", sample)
    torch.save({"epoch": 8, "state_dict": {}}, root / "b.ckpt")
    with Daemon(root) as daemon:
        libc = ctypes.CDLL(None, use_errno=True)
        paths = os.fsencode(root / "a.ckpt"), os.fsencode(root / "b.ckpt")
        assert libc.renameat2(-100, paths[0], -100, paths[1], 2) == 0
        assert {key: entry.epoch for key, entry in daemon.sync().items()} == {"a.ckpt": 8, "b.ckpt": 3}
        assert index_equals_disk(root)


def test_a_folder_that_cannot_be_listed_keeps_its_entries(root: Path, sample: bytes) -> None:
    put(root / "r/a.ckpt", sample)
    with Daemon(root, "--scan-interval", "1") as daemon:
        # Longer than any path may be: what root, too, cannot list.
        fd = os.open(root / "r", os.O_RDONLY)
        for _ in range(20):
            os.mkdir("d" * 250, dir_fd=fd)
            inner = os.open("d" * 250, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = inner
        os.close(fd)
        wait_for(lambda: status_of(root)["state"] == "degraded")
        assert sorted(daemon.sync()) == ["r/a.ckpt"]
        assert [reason["code"] for reason in status_of(root)["reasons"]] == ["unreadable"]


@pytest.fixture
def tree(root: Path, sample: bytes) -> Path:
    for i in range(10):
        put(root / f"r{i % 3}/checkpoints/{i}.ckpt", sample)
    return root


def churn(root: Path, sample: bytes, chance: random.Random) -> None:
    """Create, overwrite, cut short, rename or delete some checkpoint."""
    path = root / f"r{chance.randrange(3)}/checkpoints/{chance.randrange(10)}.ckpt"
    action = chance.randrange(5)
    if action == 0:
        path.unlink(missing_ok=True)
    elif action == 1 and path.exists():
        path.rename(path.with_name(f"{chance.randrange(10)}.ckpt"))
    elif action == 2:
        path.write_bytes(sample[: chance.randrange(len(sample))])
    else:
        path.write_bytes(sample)


NURSERY = """
import os, sys
from ckpt_indexer.cli import main, watch
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        main(["watch", sys.argv[1]])
    print(child, flush=True)
    sys.stdin.readline()
    os.kill(child, 9)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@contextlib.contextmanager
def nursery(root: Path) -> Iterator[Callable[[], int]]:
    """Start real daemons without paying for imports each time; each call starts one, or kills it."""
    command = [sys.executable, "-c", NURSERY, str(root)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-3, text=True) as process:
        orders, answers = process.stdin, process.stdout
        assert orders is not None
        assert answers is not None

        def turn() -> int:
            print(file=orders, flush=True)
            return int(answers.readline())

        yield turn
        orders.close()


@pytest.mark.parametrize("rounds", [60, pytest.param(2_000, marks=pytest.mark.soak)])
def test_a_daemon_killed_at_any_moment_leaves_a_whole_index_and_its_successor_is_right(
    tree: Path, sample: bytes, rounds: int
) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    judged = 0
    with nursery(tree) as turn:
        for number in range(rounds):
            own = f"{TEMPORARY_PREFIX}{turn()}-"
            if number % 3 == 0:
                wait_for(lambda: wait_for_daemon(str(tree), timeout_s=TIMEOUT_S))
                assert index_equals_disk(tree)
                left = [path.name for path in tree.rglob(f"{TEMPORARY_PREFIX}*")]
                assert [name for name in left if not name.startswith(own)] == []
                judged += 1
            for _ in range(int(chance.expovariate(1 / 150))):
                churn(tree, sample, chance)
            assert turn() == signal.SIGKILL
            if (tree / INDEX_NAME).exists():
                json.loads((tree / INDEX_NAME).read_bytes())
    assert judged > rounds / 6
    assert read_index(tree).generation > rounds / 4
    with Daemon(tree):
        assert index_equals_disk(tree)


WRITER = """
import os, shutil, sys
from ckpt_indexer import read_index
from ckpt_indexer.passes.indexer import Indexer
root, variants, name, updates = *sys.argv[1:4], int(sys.argv[4])
with Indexer(root) as indexer:
    indexer.load()
    for i in range(updates):
        epoch, key = i % 10, f"{name}/checkpoints/{i % 7}.ckpt"
        shutil.copy(f"{variants}/{epoch}", f"{root}/{name}/new")
        os.replace(f"{root}/{name}/new", f"{root}/{key}")
        indexer.scan_and_plan({key})
        indexer.finish()
        found = read_index(root).entries[key].epoch
        assert found == epoch, f"update {i} of {key}: the index says {found}"
"""


@pytest.mark.parametrize("updates", [40, pytest.param(2500, marks=pytest.mark.soak)])
def test_daemon_rebuild_and_four_writers_together_lose_no_update(root: Path, tmp_path: Path, updates: int) -> None:
    import torch

    for epoch in range(10):
        torch.save({"epoch": epoch, "state_dict": {}}, tmp_path / str(epoch))
    names = [f"w{i}" for i in range(4)]
    for name in names:
        (root / name / "checkpoints").mkdir(parents=True)
    with Daemon(root) as daemon:
        command = [sys.executable, "-c", WRITER, str(root), str(tmp_path)]
        writers = [subprocess.Popen([*command, name, str(updates)]) for name in names]
        while any(writer.poll() is None for writer in writers):
            assert run("rebuild", root, "-q", "--force").returncode == 0
        assert [writer.returncode for writer in writers] == [0] * 4
        assert len(daemon.sync()) == 4 * 7
        assert index_equals_disk(root)
        assert daemon.events("turn_failed") == []


def test_a_writer_killed_while_it_holds_the_lock_blocks_nobody(root: Path, sample: bytes) -> None:
    script = (
        "import sys, signal\n"
        "from filelock import FileLock\n"
        "FileLock(sys.argv[1]).acquire()\n"
        "print('held', flush=True)\n"
        "signal.pause()\n"
    )
    with Daemon(root) as daemon:
        lock = root / ".checkpoint_index.lock"
        with subprocess.Popen([sys.executable, "-c", script, str(lock)], stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            put(root / "a.ckpt", sample)
            holder.kill()
        assert sorted(daemon.sync()) == ["a.ckpt"]


@pytest.fixture(autouse=True)
def _no_mounts_left(tmp_path: Path) -> Iterator[None]:
    yield
    mounts = Path("/proc/self/mounts").read_text()
    assert str(tmp_path) not in mounts
