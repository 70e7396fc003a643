"""``validate``: what it finds, what it keeps of that, and what it spares itself the next time."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
import torch

from ckpt_indexer import read_index
from ckpt_indexer.actions import validate
from ckpt_indexer.cli.validate import command
from ckpt_indexer.health import check as health_check
from ckpt_indexer.health.check import LEVELS, Candidate, is_proven, merged, nearest_good
from ckpt_indexer.health.results import Ledger
from ckpt_indexer.index.store import Store
from ckpt_indexer.model import Health, Problem
from ckpt_indexer.paths import INDEX_NAME, Key, RelPath
from ckpt_indexer.sandbox.owner import Reader
from ckpt_indexer.sandbox.torch_load import seconds_for
from ckpt_indexer.tree.local import fingerprint_of
from tests import samples
from tests.process import COMMAND, Daemon, run, wait_for

if TYPE_CHECKING:
    from ckpt_indexer.health.check import Proof
    from ckpt_indexer.model import Entry

EPOCHS = 4


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with a checkpoint for each epoch, indexed."""
    root = tmp_path / "outputs"
    for epoch in range(EPOCHS):
        save(root / f"run/checkpoints/e{epoch}.ckpt", epoch)
    assert run("rebuild", root).returncode == 0
    return root


def save(path: Path, epoch: int = 0, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(samples.lightning_like(epoch=epoch, **more), path)
    return path


def rot(path: Path) -> bytes:
    """Flip a bit as a disk does, in a weight; gives what was there."""
    data = path.read_bytes()
    at = data.index(torch.arange(12, dtype=torch.float32).numpy().tobytes()) + 5
    overwrite(path, data[:at] + bytes([data[at] ^ 8]) + data[at + 1 :])
    return data


def overwrite(path: Path, data: bytes) -> None:
    """Change the content and nothing else."""
    status = path.stat()
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def checked(*arguments: object) -> tuple[int, dict[str, dict[str, Any]]]:
    """Run the command: exit code, and results by file name."""
    done = run("validate", *arguments, "--json")
    assert "Traceback" not in done.stderr
    return done.returncode, {Path(r["path"]).name: r for r in json.loads(done.stdout)["results"]}


def health_in(root: Path, name: str = "e2.ckpt") -> Health | None:
    return entry_in(root, name).health


def entry_in(root: Path, name: str) -> Entry:
    (entry,) = (e for e in read_index(root).entries.values() if e.path.endswith(name))
    return entry


def test_a_flipped_bit_is_told_with_its_place_what_is_left_and_where_to_go_on(tree: Path) -> None:
    assert checked(tree, "--deep")[0] == 0
    rot(tree / "run/checkpoints/e2.ckpt")
    assert checked(tree)[0] == 0  # a header cannot tell
    code, results = checked(tree, "--deep")
    bad = results["e2.ckpt"]
    assert (code, bad["status"], bad["problem"]["code"]) == (3, "corrupt", "checksum-mismatch")
    assert [(d["region"], d["record"]) for d in bad["damages"]] == [("tensor data", "data/0")]
    assert bad["readable"] == {
        "records": 8, "records_total": 9, "tensors": 2, "tensors_total": 3, "lost": ["encoder.weight"]
    }  # fmt: skip
    assert (bad["neighbour"]["path"], bad["neighbour"]["epoch"]) == ("run/checkpoints/e1.ckpt", 1)
    assert bad["neighbour"]["good_at"] == results["e1.ckpt"]["checked_at"]
    assert bad["good_at"] < bad["checked_at"]
    assert {name: r["status"] for name, r in results.items() if name != "e2.ckpt"} == dict.fromkeys(
        ("e0.ckpt", "e1.ckpt", "e3.ckpt"), "ok"
    )
    said = run("validate", tree, "--deep").stdout
    assert "2 of 3 tensors can be read; lost: encoder.weight; last good 20" in said
    assert "nearest good one: run/checkpoints/e1.ckpt" in said


def test_a_neighbour_is_found_without_an_index_too(tree: Path) -> None:
    rot(tree / "run/checkpoints/e2.ckpt")
    (tree / INDEX_NAME).unlink()
    _, results = checked(tree, "--deep")
    assert results["e2.ckpt"]["neighbour"] == {
        "path": "run/checkpoints/e1.ckpt",
        "epoch": 1,
        "good_at": results["e1.ckpt"]["good_at"],
    }


# --- what is kept ---


def test_a_result_is_kept_in_the_entry_with_its_date(tree: Path) -> None:
    before = read_index(tree)
    _, results = checked(tree, "--deep")
    index = read_index(tree)
    kept = {e.name: e.health for e in index.entries.values()}
    assert {name: (h.level, h.status, h.checked_at, h.good_at) for name, h in kept.items() if h is not None} == {
        name: ("deep", "ok", r["checked_at"], r["good_at"]) for name, r in results.items()
    }
    for key, entry in index.entries.items():  # and nothing else was changed
        entry.health, entry.generation, entry.indexed_at = None, 0, ""
        old = before.entries[key]
        old.generation, old.indexed_at = 0, ""
        assert entry == old


def test_a_check_of_a_folder_in_a_root_is_kept_in_the_roots_index(tree: Path) -> None:
    assert checked(tree / "run", "--deep")[0] == 0
    assert checked(tree / "run/checkpoints/e0.ckpt")[0] == 0
    assert {e.health.level for e in read_index(tree).entries.values() if e.health} == {"deep"}


def test_without_an_index_nothing_is_written(tmp_path: Path) -> None:
    save(tmp_path / "run/x.ckpt")
    assert checked(tmp_path, "--deep")[0] == 0
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["run", "x.ckpt"]


def test_a_weaker_check_does_not_replace_a_stronger_one_and_repeats_what_that_found(tree: Path) -> None:
    rot(tree / "run/checkpoints/e2.ckpt")
    checked(tree, "--deep")
    kept = {name: health_in(tree, name) for name in ("e1.ckpt", "e2.ckpt")}
    code, results = checked(tree)
    assert (code, results["e2.ckpt"]["problem"]["code"], results["e2.ckpt"]["level"]) == (
        3,
        "checksum-mismatch",
        "deep",
    )
    assert {name: health_in(tree, name) for name in ("e1.ckpt", "e2.ckpt")} == kept


def test_bytes_that_became_good_again_are_good(tree: Path) -> None:
    path = tree / "run/checkpoints/e2.ckpt"
    before = rot(path)
    checked(tree, "--deep")
    overwrite(path, before)
    code, results = checked(tree, "--deep")
    assert (code, results["e2.ckpt"]["status"]) == (0, "ok")


def test_another_content_at_the_same_place_has_no_health(tree: Path) -> None:
    checked(tree, "--deep")
    save(tree / "run/checkpoints/e2.ckpt", 2, note="another size")
    checked(tree, "--deep")  # the index still describes the old one, which is not what was read
    assert health_in(tree, "e1.ckpt") is not None
    run("rebuild", tree)
    assert health_in(tree) is None


def test_an_index_that_cannot_be_written_costs_no_check(tree: Path) -> None:
    (tree / INDEX_NAME).write_text('{"version": "2.0", "entries": {}}')
    done = run("validate", tree, "--deep")
    assert (done.returncode, "results are not kept in the index: " in done.stderr) == (0, True)
    assert (tree / INDEX_NAME).read_text() == '{"version": "2.0", "entries": {}}'


def test_what_others_write_meanwhile_is_kept_beside_the_result(tree: Path) -> None:
    key = "run/checkpoints/e1.ckpt"
    ledger, store = Ledger(str(tree)), Store(str(tree))
    store.load()
    entry = read_index(tree).entries[key]
    health = Health(level="deep", checked_at="2026-01-01T00:00:00.000000Z", status="ok")
    ledger.put(Key(key), entry.fingerprint, health)
    ledger.commit()
    store.load()
    changed = entry_in(tree, "e1.ckpt")
    changed.architecture = "theirs"
    store.commit([changed])
    later = Health(level="deep", checked_at="2026-01-02T00:00:00.000000Z", status="ok")
    ledger.put(Key(key), entry.fingerprint, later)
    ledger.commit()
    found = entry_in(tree, "e1.ckpt")
    assert (found.architecture, found.health, ledger.trouble) == ("theirs", later, None)
    changed = entry_in(tree, "e1.ckpt")
    changed.fingerprint = (1, 2, 3)
    store.load()
    store.commit([changed])
    ledger.put(Key(key), entry.fingerprint, health)
    ledger.commit()
    assert entry_in(tree, "e1.ckpt").health == later


def test_what_is_proved_broken_is_listed_as_usable_no_longer(tree: Path) -> None:
    def listed() -> list[str]:
        return [
            name
            for each in json.loads((tree / INDEX_NAME).read_text())["checkpoints"].values()
            for name in each["checkpoints"]
        ]

    path = tree / "run/checkpoints/e2.ckpt"
    whole = path.read_bytes()
    rot(path)
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    assert checked(tree, "--deep")[0] == 3
    assert "e2.ckpt" not in listed()
    entry = entry_in(tree, "e2.ckpt")
    assert (entry.status, entry.problem) == ("corrupt", entry.health and entry.health.problem)
    with Daemon(tree) as daemon:  # the header is as good as it was
        os.utime(path.with_name("e2.ckpt.metadata.yaml"))
        assert daemon.sync()[entry.path].status == "corrupt"
    with path.open("r+b") as file:  # a disk that was repaired underneath
        file.write(whole)
    os.utime(path, ns=times)
    assert checked(tree, "--deep")[0] == 0
    assert entry_in(tree, "e2.ckpt").status == "ok"
    assert "e2.ckpt" in listed()


def test_the_daemon_keeps_the_health_of_what_it_reads_again_and_drops_it_with_the_bytes(tree: Path) -> None:
    with Daemon(tree) as daemon:
        daemon.sync()
        assert checked(tree, "--deep")[0] == 0
        kept = {e.path: e.health for e in daemon.sync().values()}
        assert {h.level for h in kept.values() if h is not None} == {"deep"}
        (tree / "run/config.yaml").write_text("model: {name: other}\n")  # every entry is made anew
        after = daemon.sync()
        assert {e.config_path for e in after.values()} == {"run/config.yaml"}
        assert {e.path: e.health for e in after.values()} == kept
        save(tree / "run/checkpoints/e2.ckpt", 2, note="other bytes")
        assert {e.name for e in daemon.sync().values() if e.health is None} == {"e2.ckpt"}


# --- what is spared ---


def test_results_that_are_young_enough_are_taken_over(tree: Path) -> None:
    _, before = checked(tree, "--deep")
    rot(tree / "run/checkpoints/e2.ckpt")
    save(tree / "run/checkpoints/e9.ckpt", 9)
    code, results = checked(tree, "--deep", "--max-age", "1d")
    assert (code, results["e2.ckpt"]["checked_at"]) == (0, before["e2.ckpt"]["checked_at"])
    assert results["e9.ckpt"]["checked_at"] > before["e3.ckpt"]["checked_at"]
    code, results = checked(tree, "--deep", "--max-age", "0s")
    assert (code, results["e2.ckpt"]["status"]) == (3, "corrupt")
    code, results = checked(tree, "--deep", "--max-age", "1d")  # a problem stays one, without being read again
    assert (code, results["e2.ckpt"]["problem"]["code"]) == (3, "checksum-mismatch")


def test_an_interrupted_run_is_taken_up_where_it_ended(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths: list[str] = []

    def check(root: str, path: RelPath, *rest: Any, **more: Any) -> Proof:
        if len(paths) == stop_after:
            raise KeyboardInterrupt
        paths.append(Path(path).name)
        return health_check.check(root, path, *rest, **more)

    monkeypatch.setattr(validate, "check", check)
    stop_after = 2
    with pytest.raises(click.Abort):
        invoke(tree, "--deep")
    assert paths == ["e0.ckpt", "e1.ckpt"]
    stop_after = -1
    paths.clear()
    invoke(tree, "--deep", "--max-age", "1d")
    assert paths == ["e2.ckpt", "e3.ckpt"]
    # Next time what was verified longest ago comes first, and what never was before it.
    paths.clear()
    save(tree / "run/checkpoints/z.ckpt")
    run("rebuild", tree)
    invoke(tree / "run/checkpoints/e0.ckpt", "--deep")
    paths.clear()
    invoke(tree, "--deep")
    assert paths == ["z.ckpt", "e1.ckpt", "e2.ckpt", "e3.ckpt", "e0.ckpt"]


def invoke(*arguments: object) -> Any:
    return command.main([str(a) for a in arguments], standalone_mode=False)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_and_what_was_found_is_kept(tree: Path, number: int, code: int) -> None:
    large = save(tree / "run/checkpoints/large.ckpt", weights=torch.zeros(4 << 20))
    run("rebuild", tree)
    process = subprocess.Popen([COMMAND, "validate", tree, "--deep", "--rate", "64k"], stdout=subprocess.PIPE)

    def is_reading() -> bool:
        folder = f"/proc/{process.pid}/fd"
        with contextlib.suppress(FileNotFoundError):  # one was closed meanwhile
            return any(os.path.realpath(f"{folder}/{fd}") == str(large) for fd in os.listdir(folder))
        return False

    try:
        wait_for(is_reading)
        process.send_signal(number)
        assert process.wait(60) == code
    finally:
        process.kill()
        process.communicate()
    healths = {e.name: e.health is not None for e in read_index(tree).entries.values()}
    assert healths == {"e0.ckpt": True, "e1.ckpt": True, "e2.ckpt": True, "e3.ckpt": True, "large.ckpt": False}


def test_a_link_and_its_target_are_read_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "run/checkpoints/last.ckpt").symlink_to("e3.ckpt")
    run("rebuild", tree)
    count = 0

    def check(*arguments: Any, **more: Any) -> Proof:
        nonlocal count
        count += 1
        return health_check.check(*arguments, **more)

    monkeypatch.setattr(validate, "check", check)
    invoke(tree, "--deep")
    assert count == EPOCHS
    assert health_in(tree, "last.ckpt") == health_in(tree, "e3.ckpt")


# --- formats without checksums ---


def test_bytes_without_checksums_are_compared_with_the_last_time(tmp_path: Path) -> None:
    path = tmp_path / "outputs/run/x.ckpt"
    path.parent.mkdir(parents=True)
    torch.save(samples.lightning_like(), path, _use_new_zipfile_serialization=False)
    run("rebuild", tmp_path / "outputs")
    assert checked(tmp_path / "outputs", "--deep")[0] == 0
    first = health_in(tmp_path / "outputs", "x.ckpt")
    assert first is not None
    assert first.digest is not None
    assert checked(tmp_path / "outputs", "--deep")[0] == 0
    rot(path)
    for _ in range(2):  # and it does not become right by being looked at twice
        code, results = checked(tmp_path / "outputs", "--deep")
        assert (code, results["x.ckpt"]["problem"]["code"]) == (3, "checksum-mismatch")
    path.write_bytes(path.read_bytes())  # another time: other bytes, whose history begins
    run("rebuild", tmp_path / "outputs")
    assert checked(tmp_path / "outputs", "--deep")[0] == 0


def test_a_digest_of_other_bytes_proves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save(samples.lightning_like(), path, _use_new_zipfile_serialization=False)
    before = Health(level="deep", checked_at="2026-01-01T00:00:00.000000Z", status="ok", digest="of what was there")
    with Reader() as reader:
        found = [
            health_check.check(str(tmp_path), RelPath("x.ckpt"), reader, "deep",
                          fingerprint=fingerprint, is_folder=False, previous=before).checked.status
            for fingerprint in (fingerprint_of(path.stat()), (1, 2, 3))
        ]  # fmt: skip
    assert found == ["corrupt", "ok"]


def test_nan_in_the_weights_is_a_warning_and_counted(tmp_path: Path) -> None:
    weights = {"good": torch.ones(3), "bad": torch.tensor([float("nan"), float("inf"), 1.0])}
    save(tmp_path / "outputs/run/x.ckpt", state_dict=weights)
    run("rebuild", tmp_path / "outputs")
    code, results = checked(tmp_path / "outputs", "--deep")
    result = results["x.ckpt"]
    assert (code, result["nan"], result["inf"]) == (0, 1, 1)
    assert result["nonfinite"] == [{"name": "bad", "nan": 1, "inf": 1}]
    assert result["warnings"][0] == "1 NaN and 1 infinite elements in the weights: bad (1 NaN, 1 infinite)"
    health = health_in(tmp_path / "outputs", "x.ckpt")
    assert health is not None
    assert (health.nan, health.inf) == (1, 1)


def test_tensors_that_could_not_be_counted_are_told_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "outputs/run/x.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": {"w": torch.ones(3)}}, path, _use_new_zipfile_serialization=False)
    run("rebuild", tmp_path / "outputs")
    told = "NaN and infinity were not counted in 1 tensors of the weights"
    for arguments in (["--deep"], ["--deep", "--max-age", "1h"]):  # and from what is kept
        _, results = checked(tmp_path / "outputs", *arguments)
        assert (results["x.ckpt"]["uncounted"], results["x.ckpt"]["warnings"][0]) == (1, told)
    health = health_in(tmp_path / "outputs", "x.ckpt")
    assert health is not None
    assert health.uncounted == 1


# --- torch's own loading ---


def test_loading_says_what_torch_says_and_a_refusal_is_no_damage(tmp_path: Path) -> None:
    save(tmp_path / "good.ckpt")
    save(tmp_path / "refused.ckpt", hyper_parameters={"x": samples.Setting(1)})
    torch.save(samples.lightning_like(), tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    save(tmp_path / "rotten.ckpt")
    rot(tmp_path / "rotten.ckpt")
    code, results = checked(tmp_path, "--load")
    assert (code, {name: (r["status"], r["level"]) for name, r in results.items()}) == (
        3,
        {
            "good.ckpt": ("ok", "load"),
            "old.ckpt": ("ok", "load"),
            "refused.ckpt": ("ok", "deep"),
            "rotten.ckpt": ("corrupt", "deep"),
        },
    )
    assert results["refused.ckpt"]["warnings"][0].startswith(
        "torch refuses it with weights_only=True: Unsupported glob"
    )


STUBS = {
    "memory": ("bytearray(1 << 40)", "memory-limit", "torch needs more than three times its size to load it"),
    "killed": ("import os; os.kill(os.getpid(), 9)", "memory-limit",
               "the process in which torch loads it ended with -9"),
    "crash": ("import os; os.abort()", "load-failed", "the process in which torch loads it ended with -6"),
    "damaged": ("raise RuntimeError('storage has wrong byte size')", "load-failed",
                "torch cannot load it: RuntimeError: storage has wrong byte size"),
    "for ever": ("import time; time.sleep(1000)", "time-limit", "torch took more than 1 s to load it"),
}  # fmt: skip


@pytest.mark.parametrize("title", STUBS)
def test_whatever_loading_does_it_ends_as_a_problem(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, problem, message = STUBS[title]
    path = save(tmp_path / "x.ckpt")
    (tmp_path / "stub/torch").mkdir(parents=True)
    (tmp_path / "stub/torch/__init__.py").write_text(f"def load(*_, **__):\n    {code}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stub"))
    if title == "for ever":
        monkeypatch.setattr(health_check, "LOAD_WALL_BASE_S", 1 - 2 * seconds_for(path.stat().st_size))
    with Reader() as reader, path.open("rb") as file:
        facts = reader.read_checkpoint(file.fileno())
        assert health_check.load(file.fileno(), facts) == (Problem(problem, message), None)


def test_without_torch_loading_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ckpt_indexer.cli import main

    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        main(["validate", str(tmp_path), "--load"])
    assert (ended.value.code, capsys.readouterr().err) == (
        1,
        "ckpt-indexer: --load needs torch: pip install 'ckpt-indexer[torch]'\n",
    )


# --- reports ---


def test_junit_has_a_case_for_each_checkpoint(tree: Path, tmp_path: Path) -> None:
    rot(tree / "run/checkpoints/e2.ckpt")
    (tree / 'run/\x1b[2J\ufffe<&".ckpt').symlink_to("nowhere.ckpt")
    assert run("validate", tree, "--deep", "--junit", tmp_path / "r.xml").returncode == 3
    suite = ET.parse(tmp_path / "r.xml").getroot()
    assert {k: suite.get(k) for k in ("name", "tests", "failures", "errors", "skipped")} == {
        "name": "ckpt-indexer validate", "tests": "5", "failures": "1", "errors": "1", "skipped": "0"
    }  # fmt: skip
    cases = {case.get("name"): case for case in suite}
    assert len(cases) == 5
    failure = cases[str(tree / "run/checkpoints/e2.ckpt")].find("failure")
    assert failure is not None
    assert failure.get("type") == "checksum-mismatch"
    assert "nearest good one: run/checkpoints/e1.ckpt" in str(failure.text)
    assert [error.get("type") for error in suite.iter("error")] == ["link-dangling"]
    assert all(float(str(case.get("time"))) >= 0 for case in suite)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--max-age", "30"], "a number and s, m, h, d or w, for example 30d"),
        (["--max-age", "-1d"], "a number and s, m, h, d or w, for example 30d"),
        (["--rate", "fast"], "bytes a second, at least 64k, for example 50M"),
        (["--rate", "1k"], "bytes a second, at least 64k, for example 50M"),
    ],
)
def test_a_wrong_option_is_a_usage_error(tree: Path, arguments: list[str], told: str) -> None:
    done = run("validate", tree, *arguments)
    assert (done.returncode, told in done.stderr, done.stdout) == (2, True, "")


def test_a_bar_shows_on_a_terminal_and_nowhere_else(tree: Path) -> None:
    done = run("validate", tree, "--deep")
    assert re.fullmatch(r"4 checkpoints, 0 with problems\n", done.stderr)
    program = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    seen = subprocess.run(
        [sys.executable, "-c", program, COMMAND, "validate", str(tree), "--deep"],
        capture_output=True, timeout=60, check=True, env={**os.environ, "TERM": "xterm"}, stdin=subprocess.DEVNULL,
    ).stdout  # fmt: skip
    assert b"checking" in seen


# --- rules ---


def health(level: Any = "deep", status: Any = "ok", day: int = 1) -> Health:
    return Health(level=level, checked_at=f"2026-01-{day:02}T00:00:00.000000Z", status=status)


def test_only_bad_news_of_a_weaker_check_replaces_a_stronger_one() -> None:
    assert merged(health("quick"), None) == health("quick")
    for weak, strong in (("quick", "deep"), ("quick", "load"), ("deep", "load")):
        assert merged(health(weak, day=2), health(strong)) == health(strong)
        assert merged(health(weak, "corrupt", 2), health(strong)) == health(weak, "corrupt", 2)
        assert merged(health(strong, day=2), health(weak)) == health(strong, day=2)
    for level in LEVELS:
        assert merged(health(level, day=2), health(level, "corrupt")) == health(level, day=2)


def test_a_result_holds_if_it_is_as_thorough_young_and_no_matter_of_chance() -> None:
    since = health(day=2).checked_at
    assert is_proven(health(day=2), "deep", since)
    assert is_proven(health("load", "corrupt", 3), "deep", since)
    assert not is_proven(health(day=1), "deep", since)
    assert not is_proven(health("quick", day=2), "deep", since)
    assert not is_proven(health("deep", "unreadable", 2), "deep", since)
    assert not is_proven(health("deep", "incomplete", 2), "deep", since)


def candidate(key: str, epoch: int | None, *, step: int | None = None, mtime: int = 0, **more: Any) -> Candidate:
    defaults: dict[str, Any] = {"experiment": "run", "content_id": None, "is_good": True, "good_at": None}
    inode = sum(key.encode())
    return Candidate(Key(key), fingerprint=(1, mtime, inode), epoch=epoch, global_step=step, **(defaults | more))


def test_the_nearest_good_one_is_the_latest_before_it_in_the_same_experiment() -> None:
    bad = candidate("bad", 5, step=50, is_good=False, content_id="c")
    rest = [
        candidate("a", 3),
        candidate("b", 4, step=40),
        candidate("c", 4, step=45),
        candidate("broken", 4, step=49, is_good=False),
        candidate("later", 6),
        candidate("same", 5, step=50),
        candidate("elsewhere", 4, step=49, experiment="other"),
        candidate("unknown", None, mtime=9),
    ]

    def chosen(*candidates: Candidate) -> str | None:
        found = nearest_good(bad, candidates)
        return None if found is None else found.path

    assert chosen(bad, *rest) == "c"
    assert chosen(*reversed(rest)) == "c"
    assert chosen(*rest[4:]) is None
    assert chosen(*rest, candidate("copy", 5, experiment="backup", content_id="c")) == "copy"
    assert chosen(bad._replace(key=Key("link"), is_good=True)) is None  # another name of the bad one


def test_of_unknown_epoch_the_one_written_last_before_it_is_nearest() -> None:
    bad = candidate("bad", None, mtime=5, is_good=False)
    found = nearest_good(
        bad, [candidate("a", None, mtime=3), candidate("b", None, mtime=4), candidate("c", 9, mtime=4)]
    )
    assert found is not None
    assert found.path == "b"


def test_a_file_that_is_named_is_checked_whatever_it_is_called(tmp_path: Path) -> None:
    save(tmp_path / "weights.bin")
    (tmp_path / "notes").write_text("no checkpoint")
    code, results = checked(tmp_path / "weights.bin", tmp_path / "notes", "--deep")
    assert code == 3
    assert {name: (r["status"], r["level"]) for name, r in results.items()} == {
        "weights.bin": ("ok", "deep"),
        "notes": ("unsupported", "deep"),
    }


def test_below_a_folder_the_index_says_what_counts(tmp_path: Path) -> None:
    save(tmp_path / "outputs/a.pt")
    assert run("rebuild", tmp_path / "outputs", "--suffixes", ".pt").returncode == 0
    code, results = checked(tmp_path / "outputs")
    assert (code, list(results)) == (0, ["a.pt"])
