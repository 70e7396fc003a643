"""Target 12: the page in a real browser, over 100,000 checkpoints.

Times are the browser's own: from the navigation to the first row and to the last; from an input to the second frame
after it, when the answer is on the screen. The floor of these is what two frames take with nothing to do. Arrival is
from the end of ``torch.save`` to the row in the document, through daemon, index, server and stream.

Grids of other people were measured elsewhere with 100,000 rows of 19 columns, in ms until the second frame: AG Grid 268
for a filter and 217 for a sort, Tabulator 55 and 385. MLflow, Aim and the like do not list so many.
"""

from __future__ import annotations

import functools
import os
import statistics
import time
from typing import TYPE_CHECKING

from tests.benchmarks.measure import Figure, figure_of
from tests.benchmarks.report import Row, at_most
from tests.process import Daemon, encoded, put, wait_for
from tests.web.browser import Visit, launched, make_index
from tests.web.serving import Server

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser, Page

_TWO_FRAMES = "new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))"
_TIMED = f"""async (act) => {{
    const started = performance.now();
    {{ACT}}
    await {_TWO_FRAMES};
    return performance.now() - started;
}}"""
_TYPE = _TIMED.replace(
    "{ACT}",
    """const field = document.getElementById("search");
    field.value = act;
    field.dispatchEvent(new Event("input", {bubbles: true}));""",
)
_CLICK = _TIMED.replace("{ACT}", """document.querySelector(`.head [title="Sort by ${act}"]`).click();""")
_SCROLL = """async (frames) => {
    const grid = document.querySelector("[role=grid]");
    const times = [];
    let last = await new Promise(requestAnimationFrame);
    for (let frame = 0; frame < frames; frame++) {
        grid.scrollTop += 137;
        const now = await new Promise(requestAnimationFrame);
        times.push(now - last);
        last = now;
    }
    return times;
}"""


def run(scratch: Path, *, is_small: bool) -> list[Row]:
    count, rounds = (500, 1) if is_small else (100_000, 9)
    make_index(scratch / "many", count)
    with launched() as browser, Server(scratch / "many") as server:
        url = f"http://127.0.0.1:{server.port}/"
        first, loaded = _load(browser, url, rounds)
        with Visit(browser, url) as visit:
            rows = _use(visit.wait_live(), count, rounds, first, loaded)
        arrived = _arrive(browser, scratch / "live", 2 if is_small else 20)
    rows.append(Row(12, "a saved checkpoint on the page", arrived, promises=[at_most(1.0, "s", arrived.median)]))
    return rows


def _load(browser: Browser, url: str, rounds: int) -> tuple[Figure, Figure]:
    first, loaded = [], []
    for _ in range(rounds):
        with Visit(browser, url) as visit:
            seen = visit.wait_live().evaluate("() => window.__seen")
            first.append(seen["firstRow"] / 1000)
            loaded.append(seen["loaded"] / 1000)
    return figure_of(first), figure_of(loaded)


def _use(page: Page, count: int, rounds: int, first: Figure, loaded: Figure) -> list[Row]:
    def timed(script: str, *acts: str) -> Figure:
        page.evaluate(script, acts[0])  # what is made ready once, such as the order of names
        return figure_of([page.evaluate(script, act) / 1000 for _ in range(rounds) for act in acts])

    floor = timed(_TIMED.replace("{ACT}", ""), "")
    filtered = timed(_TYPE, "detect", "detect epoch=07", "nobody", "")
    sorts = {name: timed(_CLICK, name, name) for name in ("val/hmean", "Checkpoint", "Modified")}
    page.evaluate(_SCROLL, 20)
    times: list[float] = page.evaluate(_SCROLL, 20 if count < 10_000 else 300)
    scrolled = figure_of([milliseconds / 1000 for milliseconds in times])
    many = f"{count:,} checkpoints"
    limit = 0.1  # s, two frames of 17 ms among them: people take that for at once
    return [
        Row(12, f"first rows of {many}", first, promises=[at_most(1.0, "s", first.median)]),
        Row(12, f"all of {many} loaded", loaded),
        Row(12, f"search in {many}", filtered, floor, promises=[at_most(limit, "s", filtered.median)]),
        *(
            Row(12, f"sort {many} by {name}", figure, floor, promises=[at_most(limit, "s", figure.median)])
            for name, figure in sorts.items()
        ),
        Row(
            12,
            f"a frame while scrolling {many}",
            scrolled,
            promises=[at_most(0.034, "s, median", scrolled.median)],
            note=f"95th percentile {statistics.quantiles(times, n=20)[-1]:.0f} ms; 8,200 pixels a second, no GPU",
        ),
    ]


def _arrive(browser: Browser, root: Path, rounds: int) -> Figure:
    for number in range(20):
        put(root / f"run/checkpoints/e{number}.ckpt", encoded(number))
    seconds = []
    with Daemon(root) as daemon, Server(root) as server, Visit(browser, f"http://127.0.0.1:{server.port}/") as visit:
        daemon.sync()
        page = visit.wait_live()
        # When a row of a checkpoint first stands in the document, by the clock that this process has, too.
        page.evaluate("""() => {
            window.__rows = {};
            new MutationObserver(() => {
                const rows = document.querySelectorAll(".body .row");
                for (const row of rows) window.__rows[row.dataset.key] ??= Date.now();
            }).observe(document, {subtree: true, childList: true});
        }""")
        for number in range(rounds):
            path = root / f"run/checkpoints/new{number}.ckpt"
            data = encoded(number)
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as file:
                file.write(data)
            saved = time.time()
            key = os.path.relpath(path, root)
            shown = wait_for(functools.partial(page.evaluate, "key => window.__rows[key]", key))
            seconds.append(max(0.0, shown / 1000 - saved))
    return figure_of(seconds)
