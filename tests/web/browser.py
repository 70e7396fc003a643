"""A real browser on the real page, for tests and benchmarks: Debian's Chromium, driven by Playwright.

What the page says to its console, an exception in it, a dialog, or a blocked script fails the test that opened it. The
page's own dependencies (TypeScript, axe-core) come from npm into a copy of its folder, once a session.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import importlib.util
import math
import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, sync_playwright

from ckpt_indexer.index.store import Store
from ckpt_indexer.model import Entry, Health, Monitor, Problem
from tests.index.entries import entry
from tests.process import TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "ckpt_indexer" / "web" / "page"
SCREENSHOTS = Path(os.environ.get("CKPT_INDEXER_SCREENSHOTS", REPOSITORY / "build" / "screenshots"))
CHROMIUM = "/usr/bin/chromium"
FLAGS = (  # without the last five Chromium looks for Google's hosts at every start
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
SIZES = {1280: 800, 390: 844}  # a laptop's window, and a telephone
# Two of the four combinations have both widths and both schemes.
VIEWS = (
    (1280, "light"),
    (390, "dark"),
    pytest.param(1280, "dark", marks=pytest.mark.soak),
    pytest.param(390, "light", marks=pytest.mark.soak),
)
NPM_TIMEOUT_S = 300.0


def load_builder() -> Any:
    """Import the build hook, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("page_build", PAGE / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def build_page() -> None:
    """Build the page that the server under test serves, if its sources changed."""
    builder = load_builder()
    # Processes of one test session may come at once.
    with builder_lock():
        builder.build(lambda _: None)


@contextlib.contextmanager
def builder_lock() -> Iterator[None]:
    import filelock

    with filelock.FileLock(Path(tempfile.gettempdir()) / "ckpt-indexer-page-build.lock", timeout=NPM_TIMEOUT_S):
        yield


@functools.cache
def install_page() -> Path:
    """Give a copy of the page's folder with all that its package-lock names; it is there until the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="page-"))
    copy = folder / "page"
    shutil.copytree(PAGE, copy, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
    import atexit

    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    npm("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--loglevel=error", folder=copy)
    return copy


def npm(*arguments: str, folder: Path) -> str:
    """Run npm to its end and give what it printed."""
    run = subprocess.run(
        ["npm", *arguments], cwd=folder, capture_output=True, text=True, timeout=NPM_TIMEOUT_S, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """Start Chromium."""
    if not os.path.exists(CHROMIUM):
        if os.geteuid() != 0:
            pytest.skip("Debian's chromium is not installed, and only root can")
        pytest.fail("Debian's chromium is not installed: apt-get install chromium")
    build_page()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """One window on the page; what goes wrong in it is collected, and fails the test when it is left."""

    def __init__(
        self, browser: Browser, url: str, *, width: int = 1280, scheme: Any = "light", expected: Sequence[str] = ()
    ) -> None:
        """*expected* are parts of console messages that the test causes: a refused connection is one."""
        self._browser = browser
        self._url = url
        self._expected = expected
        self._options: dict[str, Any] = {
            "viewport": {"width": width, "height": SIZES[width]},
            "color_scheme": scheme,
            "locale": "en-US",  # uPlot cannot read headless Chromium's own, en-US@posix
            "timezone_id": "UTC",
            "reduced_motion": "reduce",
            "accept_downloads": True,
        }
        self.wrong: list[str] = []

    def __enter__(self) -> Self:
        self._context = self._browser.new_context(**self._options)
        self._context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(TIMEOUT_S * 1000)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self._note(f"exception: {error}"))
        self.page.on("dialog", self._refuse)
        self.page.add_init_script(_WATCH)
        self.page.goto(self._url)
        return self

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._note(message.text)

    def _refuse(self, dialog: Dialog) -> None:
        self._note(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _note(self, text: str) -> None:
        if not any(part in text for part in self._expected):
            self.wrong.append(text)

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self._context.close()
        finally:
            if kind is None:
                assert self.wrong == []

    def wait_live(self) -> Page:
        """Wait until everything is loaded and changes are followed."""
        self.page.wait_for_selector(".connection.is-live")
        return self.page

    def names(self) -> list[str]:
        """Give the names in the rows that are drawn, from above."""
        names: list[str] = self.page.evaluate(
            """() => [...document.querySelectorAll(".body .row")]
                .sort((a, b) => a.ariaRowIndex - b.ariaRowIndex).map((row) => row.querySelector(".file").textContent)"""
        )
        return names

    def row_keys(self) -> list[str]:
        """Give the keys of the rows that are drawn, from above."""
        keys: list[str] = self.page.evaluate(
            """() => [...document.querySelectorAll(".body .row")]
                .sort((a, b) => a.ariaRowIndex - b.ariaRowIndex).map((row) => row.dataset.key)"""
        )
        return keys

    def count(self) -> str:
        """Give what the bar says of how many are shown."""
        return self.page.locator("[data-count]").inner_text().partition("\n")[0]

    def violations(self) -> list[str]:
        """Let axe-core judge what is shown."""
        self.page.evaluate((install_page() / "node_modules" / "axe-core" / "axe.min.js").read_text())
        found = self.page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{violation['id']}: {node['target']} {node['failureSummary']}"
            for violation in found["violations"]
            for node in violation["nodes"]
        ]

    def screenshot(self, name: str) -> None:
        """Keep what is seen, for people to look at."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")


# Notes, with the page's own clock, what was said of progress and when the first row stood there.
_WATCH = """
window.__seen = {progress: [], firstRow: undefined, loaded: undefined, violations: []};
document.addEventListener("securitypolicyviolation", (event) => {
  window.__seen.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
  console.error(`blocked: ${event.violatedDirective} ${event.blockedURI}`);
});
new MutationObserver(() => {
  const seen = window.__seen;
  const text = document.querySelector(".progress-text")?.textContent;
  if (text && seen.progress.at(-1)?.text !== text)
    seen.progress.push({text, rows: document.querySelectorAll(".body .row").length});
  if (seen.firstRow === undefined && document.querySelector(".body .row")) seen.firstRow = performance.now();
  if (seen.loaded === undefined && document.querySelector(".connection.is-live")) seen.loaded = performance.now();
}).observe(document, {subtree: true, childList: true, characterData: true, attributes: true});
"""


TASKS = ("detect", "recognise", "classify", "extract")
MODELS = (
    ("dbnet", "mobilenetv3_small_050", 1_824_193),
    ("crnn", "resnet34", 23_846_021),
    ("parseq", "vit_small_patch16", 23_832_671),
    ("layout-transformer", "swin_tiny", 28_328_674),
)
PROBLEMS = (
    Problem("truncated", "the archive has no directory at its end: 13,107,200 bytes, still being written or cut off"),
    Problem("checksum-mismatch", "tensor data, record archive/data/17, byte 1,203,881: its CRC-32 differs"),
    Problem("permission-denied", "the daemon's user may not read it"),
    Problem("not-a-checkpoint", "a Git LFS pointer, 134 bytes"),
)
NEWEST = dt.datetime(2026, 11, 21, 9, 30, tzinfo=dt.UTC)


def make_entry(number: int, *, epochs: int = 25, spread_s: float = 240.0) -> Entry:
    """Make checkpoint *number*, the newest first: plausible, and the same in every run; about one in 40 is broken."""
    dice = random.Random(number)
    run, age = divmod(number, epochs)
    epoch = epochs - 1 - age
    task = TASKS[run % len(TASKS)]
    architecture, encoder, parameters = MODELS[(run // 2) % len(MODELS)]
    experiment = f"ocr/{task}/{architecture}_{['base', 'aug', 'long', 'distil'][run % 4]}_{run:04d}"
    name = "last.ckpt" if age == 0 else f"epoch={epoch:02d}-step={(epoch + 1) * 217}.ckpt"
    skill = 0.86 + 0.12 * random.Random(run).random()
    hmean = round(skill * (1 - 0.55 * math.exp(-epoch / 5)) - 0.02 * dice.random(), 6)
    when = NEWEST - dt.timedelta(seconds=number * spread_s)
    problem = PROBLEMS[number % len(PROBLEMS)] if dice.random() < 0.025 else None
    fields: dict[str, Any] = {
        "mtime": when.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "indexed_at": when.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "size_bytes": parameters * 12 + dice.randrange(100_000),
        "fingerprint": (parameters * 12, number, number),
    }
    if problem is not None:
        fields |= {"problem": problem, "status": problem.status, "metadata_file": None}
    else:
        fields |= {
            "format": "torch-zip",
            "epoch": epoch,
            "global_step": (epoch + 1) * 217,
            "metrics": {
                "val/hmean": hmean,
                "val/precision": min(1.0, round(hmean + 0.03 * dice.random(), 6)),
                "val/recall": round(hmean - 0.03 * dice.random(), 6),
                "val/loss": round(1.4 - hmean + 0.05 * dice.random(), 6) if dice.random() > 0.01 else "NaN",
                "lr": 0.001 * 0.9**epoch,
            },
            "monitor": Monitor("val/hmean", "max", hmean),
            "architecture": architecture,
            "encoder": encoder,
            "parameters": parameters,
            "lightning_version": "2.6.6",
            "metadata_source": "checkpoint",
            "config_path": f"{experiment}/.hydra/config.yaml",
            "wandb_run_id": f"{random.Random(run).randrange(36**6):08x}" if run % 2 else None,
            "content_id": f"{dice.getrandbits(128):032x}",
        }
        if dice.random() < 0.3:
            moment = "2026-11-20T03:12:45.000000Z"
            fields["health"] = Health(level="deep", checked_at=moment, status="ok", good_at=moment)
    return entry(f"{experiment}/checkpoints/{name}", **fields)


def make_index(root: Path, count: int) -> list[Entry]:
    """Make an index of *count* checkpoints that are not there: the server looks at the index alone."""
    root.mkdir(parents=True, exist_ok=True)
    entries = [make_entry(number) for number in range(count)]
    store = Store(str(root))
    store.load()
    store.commit(entries)
    return entries
