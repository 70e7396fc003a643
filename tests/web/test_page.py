"""The page in a real browser, on the real server and, where something arrives, the real daemon."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ckpt_indexer import read_index
from ckpt_indexer.index.store import Store
from ckpt_indexer.model import PROBLEMS, Entry
from tests.index.entries import entry
from tests.process import Daemon, encoded, put, run, wait_for
from tests.web.browser import PAGE, VIEWS, Visit, install_page, launched, make_index, npm
from tests.web.conftest import HOSTILE
from tests.web.serving import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

MANY = 100_000
LOST = ("Failed to load resource", "net::ERR_")  # what the browser itself writes of a refused connection
HEALTHY = {"catalog_status": "healthy", "daemon": {"state": "ok", "alive": True, "reasons": []}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, list[Entry]]]:
    """A server over a hundred thousand checkpoints."""
    root = tmp_path_factory.mktemp("many")
    entries = make_index(root, MANY)
    with Server(root) as server:
        yield server, entries


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server over a few hundred checkpoints, some of them broken: what people look at."""
    root = tmp_path_factory.mktemp("some")
    make_index(root, 400)
    with Server(root) as server:
        yield server


def url_of(server: Server, query: str = "") -> str:
    return f"http://127.0.0.1:{server.port}/{query}"


def metric_of(entry: Entry, name: str = "val/hmean") -> float:
    value = entry.metric(name)
    return float("-inf") if value is None else value


# -- what needs no browser ------------------------------------------------------------------------


def test_the_pages_own_logic_is_right_and_its_types_are():
    copy = install_page()
    npm("run", "check", folder=copy)
    assert "# fail 0" in npm("test", folder=copy)


def test_every_problem_has_its_cure_in_the_page():
    text = (PAGE / "src" / "cures.ts").read_text()
    assert set(re.findall(r'^  "([a-z-]+)": \{ title', text, re.MULTILINE)) == set(PROBLEMS)


def test_the_lock_file_names_no_registry():
    lock = json.loads((PAGE / "package-lock.json").read_text())
    assert [name for name, package in lock["packages"].items() if "resolved" in package] == []


# -- a hundred thousand ---------------------------------------------------------------------------


def test_a_hundred_thousand_load_progressively_and_are_filtered_sorted_and_scrolled(
    browser: Browser, many: tuple[Server, list[Entry]]
):
    server, entries = many
    with Visit(browser, url_of(server)) as visit:
        page = visit.wait_live()
        seen = page.evaluate("() => window.__seen")
        said = [re.fullmatch(r"Loaded ([\d,]+) of 100,000", one["text"]) for one in seen["progress"]]
        steps = [int(match[1].replace(",", "")) for match in said if match]
        assert steps == sorted(steps)
        assert len(steps) > 3
        assert seen["firstRow"] < seen["loaded"]
        assert next(one["rows"] for one in seen["progress"] if one["text"].startswith("Loaded")) > 0

        assert visit.count() == "100,000"
        assert len(visit.row_keys()) < 80  # what is seen, and a little more
        assert page.get_attribute("[role=grid]", "aria-rowcount") == str(MANY + 1)
        newest = sorted(entries, key=lambda one: one.mtime or "", reverse=True)
        assert visit.row_keys()[:20] == [one.path for one in newest[:20]]

        page.locator("[role=grid]").evaluate("grid => grid.scrollTop = grid.scrollHeight")
        wait_for(lambda: visit.row_keys()[-1] == newest[-1].path)

        page.get_by_role("button", name="val/hmean").click()
        best = max(entries, key=metric_of)
        wait_for(lambda: visit.row_keys()[0] == best.path)
        header = page.get_by_role("columnheader", name="val/hmean")
        assert header.get_attribute("aria-sort") == "descending"
        page.get_by_role("button", name="val/hmean", exact=False).first.click()
        worst = min((one for one in entries if one.metrics), key=metric_of)
        wait_for(lambda: visit.row_keys()[0] == worst.path)

        page.fill("#search", "Detect EPOCH=07")
        found = [one for one in entries if "detect" in one.path and "epoch=07" in one.path]
        wait_for(lambda: visit.count() == f"{len(found):,} of 100,000")
        assert page.get_attribute("[role=grid]", "aria-rowcount") == str(len(found) + 1)
        page.fill("#search", "")
        wait_for(lambda: visit.count() == "100,000")


# -- filters, columns, address --------------------------------------------------------------------


def test_filters_are_chips_stand_in_the_address_and_come_back_with_it(browser: Browser, some: Server):
    with Visit(browser, url_of(some)) as visit:
        page = visit.wait_live()
        page.locator(".filter-bar").get_by_role("button", name="Status", exact=True).click()
        page.get_by_role("checkbox", name=re.compile("corrupt")).check()
        page.keyboard.press("Escape")
        corrupt = visit.count()
        assert re.fullmatch(r"\d+ of 400", corrupt)
        assert {row.inner_text() for row in page.locator(".body .status > span:not(.reason)").all()} == {"corrupt"}
        assert page.locator(".body .reason").first.inner_text() == "Bytes differ from their checksum"
        page.get_by_role("button", name="Clear: Status").click()

        page.get_by_role("button", name="Metric", exact=True).click()
        page.get_by_role("textbox", name="Threshold").fill("0.9")
        page.keyboard.press("Enter")
        page.locator(".filter-bar").get_by_role("button", name="Architecture", exact=True).click()
        page.get_by_role("checkbox", name=re.compile("^dbnet")).check()
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Columns").click()
        page.get_by_role("checkbox", name="Format").check()
        page.keyboard.press("Escape")
        page.get_by_role("columnheader", name="Epoch").get_by_role("button").click()
        count, keys, address = visit.count(), visit.row_keys(), page.url
        assert "metric=val%2Fhmean%3E%3D0.9" in address
        assert re.fullmatch(r"\d+ of 400", count)

    with Visit(browser, address) as visit:
        page = visit.wait_live()
        assert (visit.count(), visit.row_keys()) == (count, keys)
        assert page.get_by_role("columnheader", name="Epoch").get_attribute("aria-sort") == "descending"
        page.get_by_role("columnheader", name="Format").scroll_into_view_if_needed()
        page.get_by_role("button", name="Clear all").click()
        assert visit.count() == "400"
        page.get_by_role("button", name="Charts").click()
        page.wait_for_selector(".picture canvas")
        page.go_back()
        page.wait_for_selector("[role=grid]")


def test_dates_filter_and_what_matches_nothing_says_so(browser: Browser, some: Server):
    with Visit(browser, url_of(some, "?since=2026-11-21T00:00:00Z")) as visit:
        page = visit.wait_live()
        assert re.fullmatch(r"\d+ of 400", visit.count())
        page.fill("#search", "nobody-called-it-so")
        page.get_by_role("heading", name="No checkpoint matches").wait_for()
        page.get_by_role("button", name="Clear all filters").click()
        assert visit.count() == "400"


def test_the_best_is_marked_and_follows_metric_direction_and_filters(browser: Browser, some: Server):
    entries = json.loads(some.get("/api/checkpoints?page_size=500").body)["checkpoints"]
    with Visit(browser, url_of(some)) as visit:
        page = visit.wait_live()
        scored = [one for one in entries if one["metrics"]]
        best = max(scored, key=lambda one: one["metrics"]["val/hmean"])
        assert page.locator(".best-link .file").inner_text() == best["name"]
        page.get_by_label("highest is best: change").click()
        worst = min(scored, key=lambda one: one["metrics"]["val/hmean"])
        assert page.locator(".best-link .experiment").inner_text() == worst["experiment"]
        page.locator(".best-link").click()
        page.locator(".detail").get_by_text("best", exact=True).wait_for()


# -- the keyboard ---------------------------------------------------------------------------------


def test_everything_goes_by_keyboard(browser: Browser, some: Server):
    with Visit(browser, url_of(some)) as visit:
        page = visit.wait_live()

        def active() -> Any:
            return page.evaluate("() => document.activeElement.dataset.key ?? document.activeElement.id")

        keys = visit.row_keys()
        page.keyboard.press("/")
        assert active() == "search"
        page.keyboard.type("ocr")
        page.keyboard.press("ArrowDown")
        assert active() == keys[0]
        page.keyboard.press("j")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("k")
        assert active() == keys[1]
        page.keyboard.press("x")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Space")
        assert page.locator(".body .row[aria-selected=true]").count() == 2
        page.keyboard.press("End")
        wait_for(lambda: page.evaluate("() => document.activeElement.ariaRowIndex") == "401")
        page.keyboard.press("Home")
        assert active() == keys[0]
        page.keyboard.press("ArrowUp")
        assert page.evaluate("() => document.activeElement.closest('[role=columnheader]') !== null")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        wait_for(lambda: active() == "detail-title")
        page.keyboard.press("Escape")
        assert page.locator(".detail").count() == 0
        assert active() == keys[0]
        page.keyboard.press("c")
        page.locator(".compare table").wait_for()
        page.keyboard.press("Escape")
        page.locator("[role=grid]").wait_for()
        page.keyboard.press("?")
        page.get_by_role("heading", name="Keys").wait_for()
        page.keyboard.press("Escape")
        assert page.locator("dialog[open]").count() == 0


# -- comparison -----------------------------------------------------------------------------------


def test_a_comparison_marks_differences_shows_them_alone_and_is_exported(browser: Browser, prepared: Path):
    keys = ["alpha/checkpoints/e0.ckpt", "alpha/checkpoints/e1.ckpt"]
    with Server(prepared) as server, Visit(browser, url_of(server)) as visit:
        page = visit.wait_live()
        for key in keys:
            page.locator(f'.row[data-key="{key}"] input').click()
        page.locator(".selection").get_by_role("button", name="Compare").click()
        row = page.locator("tr", has=page.get_by_role("rowheader", name=re.compile("^hmean")))
        row.wait_for()
        assert [" ".join(text.split()) for text in row.locator("td").all_inner_texts()] == [
            "0.5000",
            "best 0.9000+0.4000",
        ]
        assert "differs" in (row.get_attribute("class") or "")
        same = page.get_by_role("rowheader", name="recall", exact=True)
        assert same.count() == 1
        page.get_by_role("switch", name="Differences only").check()
        assert same.count() == 0
        assert page.get_by_role("rowheader", name=re.compile(r"^lr|optimizer\.lr|^hyper.*lr")).count() >= 1
        with page.expect_download() as caught:
            page.get_by_role("button", name="CSV").click()
        lines = Path(caught.value.path()).read_text().splitlines()
        assert lines[0] == f"group,name,{keys[0]},{keys[1]}"
        assert "metrics,hmean,0.5,0.9" in lines
        page.get_by_role("button", name="Copy Markdown").click()
        page.get_by_text("Markdown copied").first.wait_for()
        markdown = page.evaluate("() => navigator.clipboard.readText()")
        assert "| hmean | **0.5** | **0.9** |" in markdown.splitlines()
        page.reload()
        page.locator(".compare table").wait_for()
        assert page.get_by_role("switch").is_checked()


def test_a_fifth_checkpoint_is_not_taken_into_a_comparison(browser: Browser, some: Server):
    with Visit(browser, url_of(some)) as visit:
        page = visit.wait_live()
        boxes = page.locator(".body .row input")
        for number in range(5):
            boxes.nth(number).click()
        assert page.locator(".toast").inner_text().startswith("Up to 4 checkpoints can be compared")
        wait_for(lambda: [boxes.nth(number).is_checked() for number in range(5)] == [True] * 4 + [False])


# -- what happens while one looks -----------------------------------------------------------------


def test_a_saved_checkpoint_arrives_and_place_selection_and_panel_stay(browser: Browser, tmp_path: Path):
    root = tmp_path / "outputs"
    for number in range(100):
        put(root / f"run{number // 10}/checkpoints/e{number}.ckpt", encoded(number))
    with Daemon(root) as daemon, Server(root) as server, Visit(browser, url_of(server)) as visit:
        daemon.sync()
        page = visit.wait_live()
        wait_for(lambda: visit.count() == "100")
        page.locator("[role=grid]").evaluate("grid => grid.scrollTop = 1000")
        wait_for(lambda: page.locator(".body .row").first.get_attribute("aria-rowindex") != "2")
        row = page.locator(".body .row").nth(20)
        key = row.get_attribute("data-key")
        row.locator("input").click()
        row.locator(".name").click()
        page.locator(".detail .facts").first.wait_for()
        before = row.bounding_box()

        put(root / "run0/checkpoints/new.ckpt", encoded(7))
        wait_for(lambda: visit.count() == "101")
        row = page.locator(f'.row[data-key="{key}"]')
        assert row.bounding_box() == before
        assert row.get_attribute("aria-selected") == "true"
        assert page.locator(".detail h2").inner_text() == (key or "").rpartition("/")[2]
        page.keyboard.press("Escape")
        page.locator("[role=grid]").evaluate("grid => grid.scrollTop = 0")
        wait_for(lambda: visit.names()[0] == "new.ckpt")

        (root / "run0/checkpoints/new.ckpt").unlink()
        wait_for(lambda: visit.count() == "100")
        assert "new.ckpt" not in visit.names()


def test_a_restarted_server_is_found_again_with_what_changed_meanwhile(browser: Browser, tmp_path: Path):
    root = tmp_path / "outputs"
    for number in range(3):
        put(root / f"run/checkpoints/e{number}.ckpt", encoded(number))
    assert run("rebuild", root).returncode == 0
    with Server(root) as server:
        port, url = server.port, url_of(server)
        with Visit(browser, url, expected=LOST) as visit:
            page = visit.wait_live()
            page.locator('.row[data-key="run/checkpoints/e1.ckpt"] input').click()
            server.stop()
            page.locator(".banner").get_by_text("Disconnected:").wait_for()
            assert set(visit.names()) == {"e0.ckpt", "e1.ckpt", "e2.ckpt"}
            put(root / "run/checkpoints/later.ckpt", encoded(9))
            (root / "run/checkpoints/e2.ckpt").unlink()
            assert run("rebuild", root).returncode == 0
            with Server(root, "--port", str(port)):
                wait_for(lambda: set(visit.names()) == {"e0.ckpt", "e1.ckpt", "later.ckpt"})
                page.wait_for_selector(".connection.is-live")
                assert page.locator(".banner", has_text="Disconnected:").count() == 0
                chosen = page.locator('.row[data-key="run/checkpoints/e1.ckpt"]')
                assert chosen.get_attribute("aria-selected") == "true"


def test_no_index_an_empty_one_and_a_daemon_that_is_not_there_say_what_to_do(browser: Browser, tmp_path: Path):
    root = tmp_path / "outputs"
    root.mkdir()
    with Server(root) as server, Visit(browser, url_of(server), expected=LOST) as visit:
        page = visit.page
        page.get_by_text("ckpt-indexer watch").first.wait_for()
        page.get_by_role("button", name="Try now").click()
        assert run("rebuild", root).returncode == 0  # the page tries again by itself, too
        page.get_by_role("heading", name="No checkpoints yet").wait_for()
        visit.wait_live()
        page.get_by_text("No daemon is running:").wait_for()
        visit.screenshot("empty-1280-light")
        put(root / "run/checkpoints/first.ckpt", encoded(1))
        assert run("rebuild", root).returncode == 0
        wait_for(lambda: visit.names() == ["first.ckpt"])


def test_a_token_is_asked_for_and_kept_for_the_tab(browser: Browser, tree: Path):
    with (
        Server(tree, env={"CKPT_INDEXER_TOKEN": "correct-horse-battery-staple"}) as server,
        Visit(browser, url_of(server), expected=LOST) as visit,
    ):
        page = visit.page
        page.get_by_label("Token").fill("wrong")
        visit.screenshot("token-1280-light")
        page.keyboard.press("Enter")
        page.get_by_text("The server did not take that token.").wait_for()
        page.get_by_label("Token").fill("correct-horse-battery-staple")
        page.keyboard.press("Enter")
        visit.wait_live()
        page.reload()
        visit.wait_live()
        page.locator(".body .row").first.locator(".name").click()
        page.locator(".detail .facts").first.wait_for()


# -- the panel ------------------------------------------------------------------------------------


def test_the_panel_has_what_is_known_and_what_to_do(browser: Browser, tree: Path):
    assert run("validate", tree, "--deep").returncode == 3
    with (
        Server(tree) as server,
        Visit(browser, url_of(server, "?open=alpha/checkpoints/e1.ckpt"), expected=LOST) as visit,
    ):
        page = visit.wait_live()
        panel = page.locator(".detail")
        panel.get_by_text("deep: every byte").wait_for()
        assert panel.locator("dt", has_text="hmean").count() == 1
        page.get_by_role("button", name="Copy path").click()
        page.get_by_text("Path copied").first.wait_for()
        assert page.evaluate("() => navigator.clipboard.readText()") == str(tree / "alpha/checkpoints/e1.ckpt")
        page.get_by_role("button", name="Copy load snippet").click()
        page.get_by_text("Load snippet copied").first.wait_for()
        names: dict[str, Any] = {}
        exec(page.evaluate("() => navigator.clipboard.readText()"), names)
        assert names["checkpoint"]["epoch"] == 1
        panel.get_by_text(re.compile("^Hyper-parameters")).click()
        assert panel.get_by_text("optimizer.name").count() == 1

        page.locator('.row[data-key="beta/checkpoints/cut.ckpt"] .name').click()
        card = page.get_by_role("region", name="Problem")
        card.wait_for()
        problem = read_index(tree).entries["beta/checkpoints/cut.ckpt"].problem
        assert problem is not None
        assert problem.code in card.inner_text()
        assert problem.message in card.inner_text()
        assert "What to do: " in card.inner_text()

        (tree / "beta/checkpoints/cut.ckpt").unlink()
        assert run("rebuild", tree).returncode == 0
        page.get_by_role("heading", name="It is not there any more").wait_for()


# -- what people should not do --------------------------------------------------------------------


def test_hostile_names_and_values_are_text_and_nothing_of_them_runs(browser: Browser, tree: Path):
    evil = "<img src=x onerror=alert(1)>"
    shutil.copytree(tree / "hostile", tree / evil / "checkpoints")
    assert run("rebuild", tree).returncode == 0
    store = Store(str(tree))
    store.load()
    bad = entry(
        f"{evil}/checkpoints/values.ckpt", architecture=evil, encoder="javascript:alert(1)", metrics={evil: 1.0},
        format="torch-zip", wandb_run_id='"><script>alert(1)</script>', mtime="2027-01-01T00:00:00.000000Z",
    )  # fmt: skip
    reordered = entry("plain/checkpoints/\u202egnp.ckpt", metrics={"__proto__": 2.0, "constructor": 3.0})
    store.commit([bad, reordered])
    with Server(tree) as server, Visit(browser, url_of(server), expected=LOST) as visit:
        page = visit.wait_live()
        page.set_viewport_size({"width": 1280, "height": 1600})
        wait_for(lambda: len(visit.row_keys()) >= 2 * len(HOSTILE) + 8)
        assert page.get_by_text(evil).count() > 0
        assert "\\u202egnp.ckpt" in visit.names()
        for key in visit.row_keys():
            page.evaluate("key => document.querySelector(`.row[data-key=${CSS.escape(key)}] .name`).click()", key)
            page.locator(".detail").wait_for()
        for key in visit.row_keys()[:3]:
            page.evaluate("key => document.querySelector(`.row[data-key=${CSS.escape(key)}] input`).click()", key)
        page.keyboard.press("c")
        page.locator(".compare table").wait_for()
        page.keyboard.press("2")
        page.wait_for_selector(".charts")
        for name in ("Experiment", "Architecture"):
            page.locator(".filter-bar").get_by_role("button", name=name, exact=True).click()
            page.keyboard.press("Escape")
        assert page.evaluate("() => window.__seen.violations") == []
        assert page.locator("img, iframe, object, body script").count() == 0
        hostile = f"?q={evil}&open={evil}&sort={evil}:asc&column={evil}&best={evil}&view={evil}&metric={evil}>=1"
        page.goto(url_of(server, hostile))
        visit.wait_live()
        assert page.locator("#search").input_value() == evil


# -- how it looks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_every_view_is_accessible_and_kept_as_a_picture(browser: Browser, some: Server, width: int, scheme: str):
    broken = next(
        one["path"]
        for one in json.loads(some.get("/api/checkpoints?page_size=500").body)["checkpoints"]
        if one["status"] == "corrupt"
    )

    def looked_at(name: str) -> None:
        visit.screenshot(f"{name}-{width}-{scheme}")
        found.extend(f"{name}: {violation}" for violation in visit.violations())

    found: list[str] = []
    with Visit(browser, url_of(some), width=width, scheme=scheme, expected=LOST) as visit:
        page = visit.page
        page.route("**/health/checkpoints", lambda route: route.fulfill(json=HEALTHY))  # the files are not there
        page.reload()
        visit.wait_live()
        page.evaluate("() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")
        looked_at("list")
        page.get_by_role("button", name="Experiment", exact=True).click()
        looked_at("filter")
        page.keyboard.press("Escape")
        for number in (1, 2, 5):
            page.locator(".body .row input").nth(number).click()
        looked_at("selected")
        page.locator(".body .row").nth(3).locator("[role=rowheader]").click()
        page.locator(".detail .facts").first.wait_for()
        looked_at("detail")
        page.keyboard.press("Escape")
        page.get_by_role("button", name=re.compile("^Compare")).first.click()
        page.locator(".compare table").wait_for()
        looked_at("compare")
        page.get_by_role("button", name="Charts").click()
        page.wait_for_selector(".picture canvas")
        looked_at("charts")
        page.keyboard.press("?")
        page.locator("dialog[open]").wait_for()
        looked_at("help")
        page.goto(url_of(some, "?q=nothing-is-called-so"))
        page.get_by_role("heading", name="No checkpoint matches").wait_for()
        visit.wait_live()
        looked_at("nothing")
        page.goto(url_of(some, f"?status=corrupt&status=incomplete&status=unreadable&status=unsupported&open={broken}"))
        page.get_by_role("region", name="Problem").wait_for()
        looked_at("broken")
        page.goto(url_of(some))
        visit.wait_live()
        page.route("**/api/**", lambda route: route.abort())
        page.goto(url_of(some))
        page.get_by_role("heading", name="The server cannot be reached").wait_for()
        looked_at("unreachable")
    assert found == []


def test_the_theme_can_be_switched_and_is_remembered(browser: Browser, some: Server):
    with Visit(browser, url_of(some), scheme="light") as visit:
        page = visit.wait_live()

        def ground() -> Any:
            return page.evaluate("() => getComputedStyle(document.body).backgroundColor")

        light = ground()
        page.get_by_role("button", name=re.compile("^Theme: auto")).click()
        page.get_by_role("button", name=re.compile("^Theme: light")).click()
        assert ground() != light
        page.reload()
        visit.wait_live()
        assert ground() != light
        page.get_by_role("button", name=re.compile("^Theme: dark")).click()
        assert ground() == light
