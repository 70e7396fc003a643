"""``ckpt-indexer help``: the manual in the terminal."""

from __future__ import annotations

import os
import re
import sys

import click

from ckpt_indexer.manual import TOPICS, find_nearest, read_page

_WIDTH_MAX = 120  # columns: longer lines are hard to read
# A link to another page cannot be followed here; its command is named instead.
_PAGE_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([a-z-]+)\.md[^)]*\)")
_LOCAL_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\([^):]*\)")


@click.command("help")
@click.argument("topic", required=False)
@click.pass_context
def command(context: click.Context, topic: str | None) -> None:
    """Show the page TOPIC of the manual, or the list of all pages.

    TOPIC may be a command, too: its --help is shown.
    """
    if topic is None:
        _show(_list_topics())
        return
    if topic in TOPICS:
        _show(read_page(topic))
        return
    program = context.find_root()
    assert isinstance(program.command, click.Group)
    commands = program.command.list_commands(program)
    if topic in commands:
        named = program.command.get_command(program, topic)
        assert named is not None
        with click.Context(named, info_name=topic, parent=program) as of_command:
            click.echo(named.get_help(of_command))
        return
    near = find_nearest(topic, [*TOPICS, *commands])
    hint = f"did you mean {' or '.join(near)}?" if near else "`ckpt-indexer help` lists all pages."
    raise click.UsageError(f"there is no page {topic!r}; {hint}", context)


def _list_topics() -> str:
    rows = "\n".join(f"| `{topic}` | {text} |" for topic, text in TOPICS.items())
    return f"# The manual\n\n`ckpt-indexer help TOPIC` shows a page.\n\n| topic | about |\n|---|---|\n{rows}\n"


def _show(text: str) -> None:
    """Print Markdown: through a pager on a terminal, and as it is written elsewhere."""
    if not sys.stdout.isatty():
        click.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    text = _LOCAL_LINK.sub(r"\1", _PAGE_LINK.sub(r"\1 (`help \2`)", text))
    console = Console(no_color="NO_COLOR" in os.environ or None)
    console.width = min(console.width, _WIDTH_MAX)
    with console.capture() as capture:
        console.print(Markdown(text, hyperlinks=False))
    click.echo_via_pager(capture.get(), color=True)
