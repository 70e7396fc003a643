"""``ckpt-indexer help``: the manual, as a program and as a person in front of a terminal get it."""

from __future__ import annotations

import os
import pty
import subprocess

import pytest

from ckpt_indexer.cli import cli
from ckpt_indexer.manual import FOLDER, TOPICS, read_page
from tests.process import COMMAND, TIMEOUT_S, run


def on_terminal(*arguments: str, columns: int = 100, **environment: str) -> str:
    """Run a command of ours on a terminal, with a pager that notes that it was asked; return what is seen."""
    main, other = pty.openpty()
    usual = {"PAGER": "sed s/^/PAGED:/", "COLUMNS": str(columns), "TERM": "xterm-256color"}
    environment = {**os.environ, **usual, **environment}
    process = subprocess.Popen([COMMAND, *arguments], stdin=other, stdout=other, stderr=other, env=environment)
    os.close(other)
    pieces = []
    while True:
        try:
            piece = os.read(main, 1 << 16)
        except OSError:  # EIO: the other end is closed
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(main)
    assert process.wait(TIMEOUT_S) == 0
    return b"".join(pieces).decode()


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_is_plain_markdown_for_a_program(topic: str) -> None:
    done = run("help", topic)
    assert (done.stdout, done.stderr, done.returncode) == (read_page(topic), "", 0)


def test_without_a_topic_there_is_the_list() -> None:
    done = run("help")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split("`")[1] for line in done.stdout.splitlines() if line.startswith("| `")] == list(TOPICS)


@pytest.mark.parametrize(
    ("topic", "nearest"),
    [("operation", "operations"), ("sidecar", "index-and-sidecar"), ("Formats", "formats"), ("valdate", "validate")],
)
def test_an_unknown_topic_is_a_usage_error_that_names_the_nearest(topic: str, nearest: str) -> None:
    done = run("help", topic)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"there is no page {topic!r}; did you mean {nearest}" in done.stderr


def test_where_nothing_is_near_the_list_is_named() -> None:
    done = run("help", "zzzzzz")
    assert (done.returncode, "`ckpt-indexer help` lists all pages." in done.stderr) == (2, True)


def test_a_topic_never_leads_to_another_file() -> None:
    assert os.path.exists(os.path.join(FOLDER, "..", "manual", "start.md"))
    assert run("help", "../manual/start").returncode == 2


def test_a_command_as_topic_shows_its_help() -> None:
    assert run("help", "verify").stdout == run("verify", "--help").stdout
    names = cli.list_commands(None)  # type: ignore[arg-type]
    assert set(names) & set(TOPICS) == set()


def test_on_a_terminal_a_page_is_drawn_and_paged() -> None:
    seen = on_terminal("help", "promises")
    lines = [line.rstrip("\r") for line in seen.split("\n")]
    assert all(line.startswith("PAGED:") for line in lines if line)
    assert ("\x1b[" in seen, "# Promises" in seen, "|---|" in seen) == (True, False, False)
    assert "F24" in seen
    assert "(`help" not in on_terminal("help", "start").replace("help howto", "")


def test_links_name_the_command_that_shows_the_other_page() -> None:
    seen = on_terminal("help", "start", NO_COLOR="1", columns=200)
    assert "system service (help operations)" in seen.replace("\x1b[", "").replace("1m", "").replace("0m", "")
    assert ".md" not in seen


def test_the_manual_costs_no_other_command_anything() -> None:
    import sys

    code = "import ckpt_indexer.cli.list, sys; print('ckpt_indexer.manual' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    assert done.stdout == "False\n"
