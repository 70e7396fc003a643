"""The daemon as users run it: a process, real files, nothing replaced."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from ckpt_indexer import read_index
from ckpt_indexer.paths import INDEX_NAME, TEMPORARY_PREFIX
from tests.process import Daemon, index_equals_disk, overflow_queue, run, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt_indexer.model import Entry


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint made by torch."""
    import torch

    path = tmp_path_factory.mktemp("sample") / "sample.ckpt"
    torch.save({"epoch": 3, "global_step": 12, "state_dict": {"layer.weight": torch.zeros(4, 5)}}, path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "outputs"
    root.mkdir()
    return root


@pytest.fixture
def daemon(root: Path) -> Iterator[Daemon]:
    with Daemon(root) as daemon:
        yield daemon


def put(sample: Path, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(sample, path)
    return path


def statuses(entries: dict[str, Entry]) -> dict[str, str]:
    return {key: entry.status for key, entry in sorted(entries.items())}


def test_a_checkpoint_copied_in_is_indexed_with_its_facts_and_gets_a_sidecar(
    daemon: Daemon, root: Path, sample: Path
) -> None:
    path = put(sample, root / "run/checkpoints/a.ckpt")
    entry = daemon.sync()["run/checkpoints/a.ckpt"]
    assert (entry.status, entry.experiment, entry.name) == ("ok", "run", "a.ckpt")
    assert (entry.epoch, entry.global_step, entry.parameters) == (3, 12, 20)
    assert entry.size_bytes == path.stat().st_size
    document = yaml.safe_load(path.with_name("a.ckpt.metadata.yaml").read_text())
    assert (document["checkpoint_path"], document["training"]["epoch"]) == ("run/checkpoints/a.ckpt", 3)
    assert index_equals_disk(root)


def test_the_index_has_the_form_that_consumers_of_the_first_index_read(
    daemon: Daemon, root: Path, sample: Path
) -> None:
    put(sample, root / "exp/checkpoints/a.ckpt")
    (root / "exp/checkpoints/broken.ckpt").write_bytes(b"PK\x03\x04 cut short")
    entries = daemon.sync()
    index = json.loads((root / INDEX_NAME).read_text())
    assert list(index) == ["version", "last_updated", "generation", "checkpoints", "entries"]
    assert index["version"] == "1.0"
    assert index["checkpoints"] == {
        "exp": {
            "checkpoints": ["a.ckpt"],
            "metadata_files": ["a.ckpt.metadata.yaml"],
            "last_modified": entries["exp/checkpoints/a.ckpt"].mtime,
        }
    }
    assert set(index["entries"]) == {"exp/checkpoints/a.ckpt", "exp/checkpoints/broken.ckpt"}


def test_files_and_folders_overwritten_renamed_moved_and_deleted_are_followed(
    daemon: Daemon, root: Path, sample: Path, tmp_path: Path
) -> None:
    import torch

    path = put(sample, root / "a/checkpoints/x.ckpt")
    daemon.sync()
    torch.save({"epoch": 9, "state_dict": {}}, path)
    assert daemon.sync()["a/checkpoints/x.ckpt"].epoch == 9
    path.rename(path.with_name("y.ckpt"))
    assert statuses(daemon.sync()) == {"a/checkpoints/y.ckpt": "ok"}
    assert sorted(p.name for p in path.parent.iterdir()) == ["y.ckpt", "y.ckpt.metadata.yaml"]
    (root / "a").rename(root / "b")
    entry = daemon.sync()["b/checkpoints/y.ckpt"]
    assert (entry.experiment, entry.metadata_file) == ("b", "b/checkpoints/y.ckpt.metadata.yaml")
    document = yaml.safe_load((root / "b/checkpoints/y.ckpt.metadata.yaml").read_text())
    assert (document["checkpoint_path"], document["exp_name"]) == ("b/checkpoints/y.ckpt", "b")
    outside = tmp_path / "outside"
    (root / "b").rename(outside)
    assert daemon.sync() == {}
    put(sample, outside / "checkpoints/late.ckpt")
    assert daemon.sync() == {}
    assert not (outside / "checkpoints/late.ckpt.metadata.yaml").exists()
    outside.rename(root / "c")
    assert statuses(daemon.sync()) == {"c/checkpoints/late.ckpt": "ok", "c/checkpoints/y.ckpt": "ok"}
    while (root / "c").exists():  # a sidecar may be written beside a file that rm has not come to yet
        subprocess.run(["rm", "-rf", root / "c"], check=False)
    put(sample, root / "c/checkpoints/new.ckpt")
    assert statuses(daemon.sync()) == {"c/checkpoints/new.ckpt": "ok"}
    assert index_equals_disk(root)


def test_a_link_is_an_entry_of_its_own_and_follows_its_target(daemon: Daemon, root: Path, sample: Path) -> None:
    import torch

    folder = root / "r/checkpoints"
    put(sample, folder / "e1.ckpt")
    link = folder / "last.ckpt"
    link.symlink_to("e1.ckpt")
    entry = daemon.sync()["r/checkpoints/last.ckpt"]
    assert (entry.status, entry.link_target, entry.epoch) == ("ok", "r/checkpoints/e1.ckpt", 3)
    assert not (folder / "last.ckpt.metadata.yaml").is_symlink()
    torch.save({"epoch": 4, "state_dict": {}}, folder / "e2.ckpt")
    link.unlink()
    link.symlink_to("e2.ckpt")
    assert daemon.sync()["r/checkpoints/last.ckpt"].epoch == 4
    torch.save({"epoch": 5, "state_dict": {}}, folder / "e2.ckpt")
    assert daemon.sync()["r/checkpoints/last.ckpt"].epoch == 5
    (folder / "e2.ckpt").unlink()
    entry = daemon.sync()["r/checkpoints/last.ckpt"]
    assert (entry.status, entry.problem and entry.problem.code) == ("unreadable", "link-dangling")
    assert index_equals_disk(root)


def test_links_that_leave_the_root_or_loop_are_never_opened(
    daemon: Daemon, root: Path, sample: Path, tmp_path: Path
) -> None:
    shutil.copy(sample, tmp_path / "secret.ckpt")
    (root / "out.ckpt").symlink_to(tmp_path / "secret.ckpt")
    (root / "zero.ckpt").symlink_to("/dev/zero")
    (root / "loop.ckpt").symlink_to("loop.ckpt")
    entries = daemon.sync()
    assert {key: entry.problem.code for key, entry in entries.items() if entry.problem} == {
        "out.ckpt": "link-outside",
        "zero.ckpt": "link-outside",
        "loop.ckpt": "link-loop",
    }
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".yaml"] == []


def test_what_is_no_checkpoint_becomes_an_entry_with_its_problem_and_the_next_good_one_is_indexed(
    daemon: Daemon, root: Path, sample: Path
) -> None:
    canary = root / "canary"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.system, (f"touch {canary}",))

    import torch

    torch.save({"state_dict": {}, "evil": Evil()}, root / "evil.ckpt")
    (root / "empty.ckpt").touch()
    (root / "page.ckpt").write_text("<!DOCTYPE html><html>404</html>")
    (root / "cut.ckpt").write_bytes(sample.read_bytes()[:-50])
    (root / "bomb.ckpt").write_bytes(b"\x80\x02]r\xff\xff\xff\x0f.")
    os.mkfifo(root / "pipe.ckpt")
    (root / "shards.ckpt").mkdir()
    (root / "shards.ckpt/meta.pt").write_bytes(b"")
    put(sample, root / "good.ckpt")
    entries = daemon.sync()
    found = {key: (entry.status, entry.problem.code if entry.problem else None) for key, entry in entries.items()}
    assert found == {
        "evil.ckpt": ("ok", None),
        "empty.ckpt": ("incomplete", "empty"),
        "page.ckpt": ("unsupported", "not-a-checkpoint"),
        "cut.ckpt": ("incomplete", "truncated"),
        "bomb.ckpt": ("corrupt", "pickle-damaged"),
        "pipe.ckpt": ("unreadable", "not-a-file"),
        "shards.ckpt": ("incomplete", "truncated"),
        "good.ckpt": ("ok", None),
    }
    assert entries["shards.ckpt"].format == "sharded-dcp"
    assert not canary.exists()


def test_an_incomplete_file_becomes_complete_when_its_writer_goes_on(daemon: Daemon, root: Path, sample: Path) -> None:
    data = sample.read_bytes()
    with (root / "slow.ckpt").open("wb", buffering=0) as file:
        file.write(data[: len(data) // 2])
        assert daemon.sync()["slow.ckpt"].status == "incomplete"
        file.write(data[len(data) // 2 :])
        wait_for(lambda: read_index(root).entries["slow.ckpt"].status == "ok")
    assert daemon.sync()["slow.ckpt"].epoch == 3


def test_temporary_names_are_no_checkpoints_and_a_rename_makes_them_one(
    daemon: Daemon, root: Path, sample: Path
) -> None:
    for name in (".best.ckpt.Xy12Ab", "best.ckpt.tmp", "#12345"):
        put(sample, root / name)
    assert daemon.sync() == {}
    (root / ".best.ckpt.Xy12Ab").rename(root / "best.ckpt")
    assert statuses(daemon.sync()) == {"best.ckpt": "ok"}


def test_names_that_count_as_checkpoints_are_a_setting_that_the_index_keeps(root: Path, sample: Path) -> None:
    names = ["a.ckpt", "b.pt", "c.safetensors", "run/checkpoints/d.pt", "e.pth.tar"]
    with Daemon(root, "--suffixes", ".ckpt,.pt") as daemon:
        for name in names:
            put(sample, root / name)
        found = {"a.ckpt": "ok", "b.pt": "ok", "run/checkpoints/d.pt": "ok"}
        assert statuses(daemon.sync()) == found
        assert (root / "b.pt.metadata.yaml").exists()
        (root / "b.pt").rename(root / "f.pt")
        found["f.pt"] = found.pop("b.pt")
        assert statuses(daemon.sync()) == dict(sorted(found.items()))
        assert not (root / "b.pt.metadata.yaml").exists()
    assert json.loads((root / INDEX_NAME).read_text())["suffixes"] == [".ckpt", ".pt"]
    assert run("rebuild", root).returncode == 0  # goes by the index, and takes nothing out
    assert run("verify", root).returncode == 0
    (root / "a.ckpt").unlink()
    with Daemon(root) as daemon:
        assert statuses(daemon.sync()) == {"f.pt": "ok", "run/checkpoints/d.pt": "ok"}
        assert run("rebuild", root, "--suffixes", ".pt,.pth.tar").returncode == 0
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_notified("RELOADING=1")
        daemon.wait_notified("READY=1")
        put(sample, root / "g.pth.tar")
        assert statuses(daemon.sync()) == {
            "e.pth.tar": "ok",
            "f.pt": "ok",
            "g.pth.tar": "ok",
            "run/checkpoints/d.pt": "ok",
        }


def test_the_daemons_own_writes_cause_no_work(daemon: Daemon, root: Path, sample: Path) -> None:
    for i in range(5):
        put(sample, root / f"r/checkpoints/{i}.ckpt")
    daemon.sync()
    generation = read_index(root).generation
    for _ in range(20):
        daemon.sync()
    assert read_index(root).generation == generation
    assert daemon.events("index_written")[-1]["generation"] == generation


def test_what_changed_while_the_daemon_was_stopped_is_known_when_it_is_ready(root: Path, sample: Path) -> None:
    with Daemon(root) as daemon:
        put(sample, root / "r/checkpoints/old.ckpt")
        put(sample, root / "r/checkpoints/gone.ckpt")
        daemon.sync()
        assert daemon.stop() == 0
    (root / "r/checkpoints/gone.ckpt").unlink()
    (root / "r/checkpoints/old.ckpt").rename(root / "r/checkpoints/renamed.ckpt")
    put(sample, root / "s/new.ckpt")
    with Daemon(root):
        assert statuses(dict(read_index(root).entries)) == {"r/checkpoints/renamed.ckpt": "ok", "s/new.ckpt": "ok"}
        assert index_equals_disk(root)


def test_a_killed_daemon_leaves_a_whole_index_and_no_temporary_files_after_its_next_start(
    root: Path, sample: Path
) -> None:
    for i in range(50):
        put(sample, root / f"r/checkpoints/{i}.ckpt")
    with Daemon(root, wait_ready=False) as daemon:
        wait_for(lambda: (root / INDEX_NAME).exists() or list(root.rglob(f"{TEMPORARY_PREFIX}*")))
        daemon.stop(signal.SIGKILL)
    leftover = root / f"r/checkpoints/{TEMPORARY_PREFIX}999999999-abcd.tmp"
    leftover.write_bytes(b"half a sidecar")
    with Daemon(root):
        assert len(read_index(root).entries) == 50
        assert list(root.rglob(f"{TEMPORARY_PREFIX}*")) == []


def test_mkdir_and_write_at_once_is_never_missed(daemon: Daemon, root: Path, sample: Path) -> None:
    script = 'for i in $(seq 200); do mkdir -p "$1/$i/a/b/c" && cp "$2" "$1/$i/a/b/c/x.ckpt"; done'
    subprocess.run(["sh", "-c", script, "sh", str(root), str(sample)], check=True)
    assert statuses(daemon.sync()) == {f"{i}/a/b/c/x.ckpt": "ok" for i in sorted(map(str, range(1, 201)))}


def test_a_second_daemon_on_one_root_is_refused(daemon: Daemon, root: Path) -> None:
    second = run("watch", root)
    assert (second.returncode, daemon.process.poll()) == (11, None)
    assert second.stderr.splitlines()[-1] == f"ckpt-indexer: another ckpt-indexer daemon already watches {root}"


def test_an_overflow_of_the_kernels_queue_loses_no_file_that_was_moved(root: Path, sample: Path) -> None:
    count = 300
    with Daemon(root) as daemon:
        daemon.process.send_signal(signal.SIGSTOP)
        data = sample.read_bytes()
        for i in range(count):
            if i == count // 2:
                overflow_queue(root)  # what follows causes no event
            (root / f"{i}").write_bytes(data)
            (root / f"{i}").rename(root / f"{i}.ckpt")
        daemon.process.send_signal(signal.SIGCONT)
        entries = daemon.sync()
        assert len(entries) == count
        assert index_equals_disk(root)
        status = json.loads(run("status", root, "--json").stdout)
        assert daemon.events("turn_failed") == []
        assert (status["overflows"], status["rebuilds"], status["state"], status["reasons"]) == (1, 1, "ok", [])


def test_a_tree_whose_folders_cannot_be_written_is_indexed_without_sidecars_and_says_so(
    root: Path, sample: Path
) -> None:
    put(sample, root / "r/checkpoints/a.ckpt")
    folder = root / "r"
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:  # whom permissions do not stop: a read-only mount, seen by the daemon alone
        script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
        prefix = ("unshare", "--mount", "sh", "-c", script, str(folder))
    else:
        (folder / "checkpoints").chmod(0o555)
    with Daemon(root, prefix=prefix) as daemon:
        entry = daemon.sync()["r/checkpoints/a.ckpt"]
    assert (entry.status, entry.epoch, entry.metadata_file) == ("ok", 3, None)
    assert entry.metadata_problem is not None
    assert entry.metadata_problem.code == "sidecar-unwritable"
    assert entry.metadata_problem.message in ("Permission denied", "Read-only file system")


def test_a_sidecar_that_something_else_wrote_wins_and_is_never_replaced(
    daemon: Daemon, root: Path, sample: Path
) -> None:
    path = put(sample, root / "r/checkpoints/a.ckpt")
    daemon.sync()
    sidecar = path.with_name("a.ckpt.metadata.yaml")
    written = {
        "schema_version": "1.0",
        "checkpoint_path": "elsewhere.ckpt",
        "exp_name": "theirs",
        "created_at": "2025-10-19T13:36:50.323967",
        "training": {"epoch": 18},
        "metrics": {"hmean": 0.95},
        "wandb_run_id": "abc123",
    }
    sidecar.write_text(yaml.safe_dump(written))
    entry = daemon.sync()["r/checkpoints/a.ckpt"]
    assert (entry.epoch, entry.global_step, entry.metrics, entry.wandb_run_id) == (18, 12, {"hmean": 0.95}, "abc123")
    assert entry.metadata_source == "sidecar"
    assert yaml.safe_load(sidecar.read_text()) == written
    sidecar.write_text("training: [this is no document")
    entry = daemon.sync()["r/checkpoints/a.ckpt"]
    assert (entry.status, entry.epoch, entry.metadata_file) == ("ok", 3, None)
    assert entry.metadata_problem is not None
    assert entry.metadata_problem.code == "sidecar-invalid"
    assert sidecar.read_text() == "training: [this is no document"
    path.unlink()
    daemon.sync()
    assert sidecar.exists()


def test_a_configuration_that_arrives_after_its_checkpoints_reaches_their_entries(
    daemon: Daemon, root: Path, sample: Path
) -> None:
    put(sample, root / "r/checkpoints/a.ckpt")
    assert daemon.sync()["r/checkpoints/a.ckpt"].encoder is None
    (root / "r/.hydra").mkdir()
    (root / "r/.hydra/config.yaml").write_text("exp_name: n\nmodel: {encoder: {model_name: resnet18}}\n")
    entry = daemon.sync()["r/checkpoints/a.ckpt"]
    assert (entry.encoder, entry.config_path) == ("resnet18", "r/.hydra/config.yaml")
    assert index_equals_disk(root)


def test_names_of_every_kind_are_indexed_and_come_back(daemon: Daemon, root: Path, sample: Path) -> None:
    names = [
        b"\xff\xfe.ckpt",
        b"new\nline.ckpt",
        b"-rf.ckpt",
        b"\x1b[31m.ckpt",
        b"back\\slash.ckpt",
        b".ckpt",
        b"e\xcc\x81.ckpt",
    ]
    long_name = b"x" * 250 + b".ckpt"
    for name in (*names, long_name):
        shutil.copy(os.fsencode(sample), os.fsencode(root) + b"/" + name)
    entries = daemon.sync()
    index = read_index(root)
    assert {os.fsencode(os.path.basename(index.path_of(e))) for e in entries.values()} == {*names, long_name}
    assert {entry.status for entry in entries.values()} == {"ok"}
    problem = entries[long_name.decode()].metadata_problem
    assert problem is not None
    assert problem.code == "sidecar-unwritable"
    json.loads((root / INDEX_NAME).read_text(encoding="utf-8"))
    assert "\x1b" not in daemon.log_text()


def test_deleting_the_index_brings_it_back_equal(daemon: Daemon, root: Path, sample: Path) -> None:
    put(sample, root / "r/checkpoints/a.ckpt")
    before = comparable(daemon.sync())
    (root / INDEX_NAME).unlink()
    assert comparable(daemon.sync()) == before


def comparable(entries: dict[str, Entry]) -> dict[str, dict[str, object]]:
    """Entries without what differs from one indexing to the next."""
    import msgspec

    unequal = {"generation", "indexed_at"}
    return {k: {f: v for f, v in msgspec.to_builtins(e).items() if f not in unequal} for k, e in entries.items()}


def test_rebuild_without_index_gives_the_entries_that_the_daemon_had(root: Path, sample: Path) -> None:
    with Daemon(root) as daemon:
        put(sample, root / "r/checkpoints/a.ckpt")
        (root / "r/checkpoints/last.ckpt").symlink_to("a.ckpt")
        (root / "r/config.yaml").write_text("model: {encoder: resnet34}")
        (root / "cut.ckpt").write_bytes(sample.read_bytes()[:-50])
        before = comparable(daemon.sync())
    assert run("verify", root).returncode == 0
    (root / INDEX_NAME).unlink()
    assert run("rebuild", root).returncode == 0
    assert comparable(dict(read_index(root).entries)) == before
    assert run("verify", root).returncode == 0


def test_systemd_hears_ready_status_watchdog_reloading_and_stopping(root: Path, sample: Path) -> None:
    put(sample, root / "a.ckpt")
    with Daemon(root, env={"WATCHDOG_USEC": "300000"}) as daemon:
        daemon.wait_notified("WATCHDOG=1")
        daemon.wait_notified("WATCHDOG=1")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_notified("RELOADING=1")
        daemon.wait_notified("READY=1")
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_notified("STOPPING=1")
        assert daemon.process.wait(60) == 0
        lines = [line for message in daemon.notifications for line in message.splitlines()]
    assert "STATUS=ok: 1 ok" in lines[: lines.index("READY=1") + 2]
    assert any(line.startswith("MONOTONIC_USEC=") for line in lines)


def test_no_torch_is_imported_by_the_daemon_or_its_workers(daemon: Daemon, root: Path, sample: Path) -> None:
    put(sample, root / "a.ckpt")
    daemon.sync()
    pid = daemon.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    tasks = [str(pid), *children]
    for task in Path(f"/proc/{pid}/task").iterdir():
        tasks += (task / "children").read_text().split()
    assert len(set(tasks)) >= 2
    assert [t for t in set(tasks) if "libtorch" in Path(f"/proc/{t}/maps").read_text()] == []
