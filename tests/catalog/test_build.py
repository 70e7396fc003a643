"""Catalogues over real checkpoints, the index's way, the plain way and both."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ckpt_indexer import catalog, paths
from ckpt_indexer.catalog import CatalogCache, build_catalog, build_lightweight_catalog, differences
from ckpt_indexer.catalog import build as building
from ckpt_indexer.catalog.switch import percent_of, way_of
from tests.process import TIMEOUT_S, put, run
from tests.samples import lightning_like, monitored

if TYPE_CHECKING:
    from collections.abc import Callable

CASES = Path(__file__).parents[3] / "shared" / "cases" / "first-user" / "outputs"
SWITCH = "CHECKPOINT_CATALOG_USE_V2"
TRIES = 20  # the machine may be busy: the best of so many counts

PROGRAM = """
import json, logging, sys
from pathlib import Path
from types import SimpleNamespace
from ckpt_indexer.catalog import CatalogOptions, build_lightweight_catalog

logging.basicConfig(level=logging.INFO, stream=sys.stderr)
paths = SimpleNamespace(outputs_dir=Path(sys.argv[1]), hydra_config_filenames=("config.yaml", "hparams.yaml"))
infos = build_lightweight_catalog(CatalogOptions.from_paths(paths))
best = max((i for i in infos if i.hmean is not None), key=lambda i: i.hmean, default=None)
print(json.dumps({"options": [i.to_display_option() for i in infos if i.is_valid],
                  "best": best and [str(best.checkpoint_path), best.hmean, best.epochs],
                  "slow": sorted({"torch", "wandb", "watchdog", "pydantic"} & set(sys.modules))}))
"""


def page(root: Path, switch: str | None = None) -> tuple[dict[str, Any], str]:
    """Run a page's program; give what it printed and its log."""
    env = {**os.environ, SWITCH: switch} if switch is not None else None
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(root)], capture_output=True, text=True, env=env, timeout=120, check=True
    )
    return json.loads(done.stdout), done.stderr


@pytest.fixture
def sixteen(tmp_path: Path) -> Path:
    """Sixteen checkpoints in an index."""
    root = tmp_path / "sixteen"
    for number in range(1, 17):
        path = root / f"run{number % 4}" / "checkpoints" / f"epoch-{number:02d}.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(monitored(number / 20) | {"epoch": number}, path)
    assert run("rebuild", root).returncode == 0
    return root


@pytest.mark.parametrize("switch", [None, "1", "0", "shadow", "25%"])
def test_a_page_lists_its_options_and_finds_the_best_whatever_the_switch_says(
    outputs: Path, switch: str | None
) -> None:
    shown, log = page(outputs, switch)
    assert shown["best"] == [str(outputs / "b/checkpoints/epoch=01_step=000008.ckpt"), 0.875, 1]
    # Of each epoch but the first; last.ckpt is the same save as the last one.
    assert [option.rpartition(" • ")[0] for option in shown["options"]] == [
        "dbnet · resnet18 · a (ep1 • hmean 0.500",
        *["dbnet · resnet18 · a (ep2 • hmean 0.375"] * 2,
        "dbnet · resnet34 · b (ep1 • hmean 0.875",
        *["dbnet · resnet34 · b (ep2 • hmean 0.250"] * 2,
    ]
    assert "differs" not in log
    assert "could not be compared" not in log


def test_the_first_users_outputs_give_the_same_best_both_ways(tmp_path: Path) -> None:
    if not CASES.is_dir():
        pytest.skip("the first user's cases are not here")
    root = shutil.copytree(CASES, tmp_path / "outputs")
    for folder, _, _ in os.walk(root):
        os.chmod(folder, 0o755)
    ours, _ = page(root, "1")
    plain, _ = page(root, "0")
    assert ours["best"][1:] == plain["best"][1:] == [pytest.approx(0.8), 3]
    assert len(ours["options"]) == len(plain["options"]) == 8
    assert "dbnet · resnet18 · ocr_training_b (ep3 • hmean 0.800 • " in ours["options"][1]


def test_a_page_with_an_index_imports_nothing_slow(outputs: Path) -> None:
    assert run("rebuild", outputs).returncode == 0
    assert page(outputs)[0]["slow"] == []


def test_the_interface_has_the_names_that_callers_know() -> None:
    assert all(getattr(catalog, name) is not None for name in catalog.__all__)
    with pytest.raises(AttributeError):
        _ = catalog.no_such_name


def test_with_an_index_nothing_is_walked_and_no_sidecar_is_opened(
    sixteen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the tree was looked at")

    opened: list[str] = []
    for name in ("scandir", "walk", "listdir"):
        monkeypatch.setattr(os, name, refuse)
    real = os.open

    def watched(path: Any, *arguments: Any, **options: Any) -> int:
        opened.append(os.fspath(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", watched)
    found = build_catalog(sixteen)
    assert [e.epochs for e in found.entries] == [*range(1, 17)]
    assert opened == [str(sixteen / paths.INDEX_NAME)]


def test_asked_again_a_catalogue_costs_less_than_reading_the_index(sixteen: Path) -> None:
    def seconds(forget: Callable[[], object]) -> float:
        best = math.inf
        for _ in range(TRIES):
            forget()
            started = time.perf_counter()
            assert build_catalog(sixteen).total_count == 16
            best = min(best, time.perf_counter() - started)
        return best

    from ckpt_indexer.index import reader

    def forget_all() -> None:
        catalog.clear_global_cache()
        reader._cache.clear()

    assert seconds(lambda: None) < seconds(forget_all)


def test_hits_are_counted_and_a_new_generation_is_seen(sixteen: Path) -> None:
    first, again = build_catalog(sixteen), build_catalog(sixteen)
    assert (building.global_cache.hits, building.global_cache.misses) == (1, 1)
    assert first == again
    again.entries.clear()  # a page's own list
    assert build_catalog(sixteen) == first
    build_catalog(sixteen, config_filenames=("other.yaml",))
    build_catalog(sixteen, use_cache=False)
    assert (building.global_cache.hits, building.global_cache.misses) == (3, 1)
    torch.save(monitored(0.9) | {"epoch": 40}, sixteen / "run1" / "checkpoints" / "new.ckpt")
    assert run("rebuild", sixteen).returncode == 0
    assert [e.epochs for e in build_catalog(sixteen).entries] == [*range(1, 17), 40]


def test_a_cache_lets_go_of_what_was_not_asked_for_the_longest() -> None:
    cache = CatalogCache(maxsize=2)
    for name in "ab":
        cache.set(name, catalog.CheckpointCatalog(total_count=ord(name)))
    assert cache.get("a") is not None
    cache.set("c", catalog.CheckpointCatalog())
    assert (cache.get("b"), cache.hits, cache.misses) == (None, 1, 1)


def test_records_hold_what_the_index_says(outputs: Path) -> None:
    found = build_catalog(outputs)
    assert (outputs / paths.INDEX_NAME).is_file()  # one pass, that also made it
    assert (found.total_count, found.metadata_available_count, found.metadata_coverage_percent) == (6, 6, 100.0)
    first = found.entries[0]
    at = time.strftime("%Y%m%d_%H%M", time.gmtime(first.checkpoint_path.stat().st_mtime))
    assert (first.checkpoint_path, first.config_path) == (
        outputs / "a/checkpoints/epoch=01_step=000008.ckpt", outputs / "a/.hydra/config.yaml",
    )  # fmt: skip
    assert (first.exp_name, first.epochs, first.created_timestamp, first.monitor, first.monitor_mode) == (
        "a", 1, at, "val/hmean", "max",
    )  # fmt: skip
    assert (first.hmean, first.precision, first.recall) == (0.5, 0.25, 0.75)
    assert first.display_name == first.to_display_option()


def test_one_line_tells_the_counts_and_the_time(outputs: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ckpt_indexer.catalog")
    build_catalog(outputs)
    build_catalog(outputs)
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith("catalogue of 6 checkpoints: 6 YAML, 0 W&B, 0 slow, in ")


def test_only_usable_checkpoints_that_were_trained_are_listed(tmp_path: Path) -> None:
    root = tmp_path / "o"
    for name, epoch in (("zero", 0), ("none", None), ("one", 1), ("broken", 2)):
        path = put(root / "e" / "checkpoints" / f"{name}.ckpt", b"")
        torch.save(lightning_like(epoch=epoch), path)
    path.write_bytes(path.read_bytes()[:200])
    for switch in ("1", "0"):
        os.environ[SWITCH] = switch
        try:
            (only,) = build_catalog(root).entries
        finally:
            del os.environ[SWITCH]
        assert (only.checkpoint_path.name, only.architecture, only.hmean) == ("one.ckpt", "unknown", None)


def test_a_metric_that_is_no_number_counts_as_unknown(tmp_path: Path) -> None:
    path = put(tmp_path / "o/e/checkpoints/x.ckpt", b"")
    torch.save(lightning_like(cleval_metrics={"hmean": float("nan"), "precision": 0.5}), path)
    (only,) = build_catalog(tmp_path / "o").entries
    assert (only.hmean, only.precision) == (None, 0.5)


@pytest.mark.parametrize("switch", ["1", "0", "shadow"])
def test_a_missing_folder_is_an_empty_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    monkeypatch.setenv(SWITCH, switch)
    root = tmp_path / "nowhere"
    assert build_catalog(root) == catalog.CheckpointCatalog(outputs_dir=root)
    paths = SimpleNamespace(outputs_dir=root, hydra_config_filenames=())
    assert build_lightweight_catalog(catalog.CatalogOptions.from_paths(paths)) == []
    assert not root.exists()


@pytest.mark.parametrize("content", [b"{ not an index", b'{"version": "99.0", "entries": {}}'])
def test_where_the_index_cannot_be_used_the_plain_way_answers(
    outputs: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    put(outputs / paths.INDEX_NAME, content)
    assert build_catalog(outputs).total_count == 6
    assert "the index cannot be used" in caplog.text
    assert (outputs / paths.INDEX_NAME).read_bytes() == content


def test_a_folder_that_cannot_be_written_gives_a_catalogue_all_the_same(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from ckpt_indexer.index import file

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(file, "locked_folder", refuse)  # root may write anywhere, so the mode would prove nothing
    assert build_catalog(outputs).total_count == 6
    assert "no index can be kept" in caplog.text
    assert not (outputs / paths.INDEX_NAME).exists()
    assert [*outputs.rglob("*.metadata.yaml")] == []


def test_a_broken_sidecar_is_one_warning_and_the_checkpoint_speaks(
    outputs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(outputs / "a/checkpoints/epoch=01_step=000008.ckpt.metadata.yaml", b"schema_version: [1\n")
    first = build_catalog(outputs).entries[0]
    assert (first.hmean, first.has_metadata) == (0.5, False)
    assert len([r for r in caplog.records if "epoch=01_step=000008" in r.getMessage()]) == 1


def test_the_shadow_answers_plainly_and_counts_what_differs(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SWITCH, "shadow")
    before = differences(wait_s=TIMEOUT_S)
    assert build_catalog(outputs).metadata_available_count == 0  # the plain way knows no sidecars
    assert differences(wait_s=TIMEOUT_S) == before
    index = outputs / paths.INDEX_NAME
    content = json.loads(index.read_bytes())
    content["entries"]["a/checkpoints/epoch=01_step=000008.ckpt"]["metrics"]["hmean"] = 0.125
    del content["entries"]["b/checkpoints/last.ckpt"]
    index.write_text(json.dumps(content))
    build_catalog(outputs)
    assert differences(wait_s=TIMEOUT_S) == before + 2
    told = [r.getMessage() for r in caplog.records if "catalog_differs" in r.getMessage()]
    assert told == [
        "catalog_differs key=a/checkpoints/epoch=01_step=000008.ckpt field=hmean",
        "catalog_differs key=b/checkpoints/last.ckpt field=missing",
    ]


def test_the_switch_is_read_at_each_build(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = catalog.CheckpointCatalogBuilder(outputs)
    assert builder.build_catalog().metadata_available_count == 6
    monkeypatch.setenv(SWITCH, "off")
    assert builder.build_catalog().metadata_available_count == 0


@pytest.mark.parametrize(
    ("value", "way"),
    [("1", "index"), ("TRUE", "index"), ("yes", "index"), ("on", "index"), ("0", "plain"), ("False", "plain"),
     ("no", "plain"), ("off", "plain"), ("shadow", "shadow"), ("0%", "plain"), ("100%", "index")],
)  # fmt: skip
def test_a_value_of_the_switch_means_a_way(value: str, way: str) -> None:
    assert way_of(value, "host /outputs") == way


def test_a_share_of_builders_is_the_same_ones_each_time() -> None:
    names = [f"host /outputs/{i}" for i in range(2000)]
    chosen = {name for name in names if way_of("12.5%", name) == "index"}
    assert 180 < len(chosen) < 320
    assert chosen <= {name for name in names if way_of("25%", name) == "index"}
    assert all(percent_of(name) < 12.5 for name in chosen)


@pytest.mark.parametrize("value", ["maybe", "101%", "-1%", "25 percent"])
def test_another_value_is_as_1_with_one_warning(value: str, caplog: pytest.LogCaptureFixture) -> None:
    assert [way_of(value, "host /outputs") for _ in range(3)] == ["index"] * 3
    assert len(caplog.records) == 1


def test_what_is_no_checkpoint_costs_itself_only_the_plain_way(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(outputs / "a/checkpoints/text.ckpt", b"this is no checkpoint")
    put(outputs / "a/checkpoints/empty.ckpt", b"")
    os.mkfifo(outputs / "a/checkpoints/pipe.ckpt")
    os.symlink("nowhere", outputs / "a/checkpoints/link.ckpt")
    monkeypatch.setenv(SWITCH, "0")
    assert build_catalog(outputs).total_count == 6
    assert len([r for r in caplog.records if "cannot be loaded" in r.getMessage()]) == 2


FAKE_TORCH = """
import os, signal, sys
class Tensor: pass
def set_num_threads(count): pass
def load(path, **options):
    if "killer" in path:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"epoch": 1}
"""


def test_a_checkpoint_that_kills_the_plain_process_costs_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    package = Path(catalog.__file__).parents[2]
    put(tmp_path / "fake/torch.py", FAKE_TORCH.encode())
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'fake'}{os.pathsep}{package}")
    monkeypatch.setenv(SWITCH, "0")
    for name in ("a", "killer", "z"):
        put(tmp_path / "o/e/checkpoints" / f"{name}.ckpt", b"x")
    found = [e.checkpoint_path.name for e in build_catalog(tmp_path / "o").entries]
    assert found == ["a.ckpt", "z.ckpt"]
    assert (
        "e/checkpoints/killer.ckpt cannot be loaded: it ended the process that loads it (exit code -9)" in caplog.text
    )
