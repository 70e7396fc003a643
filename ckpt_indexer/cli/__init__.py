"""The command line. Each command is a module of its own, imported when it is called: ``list`` must not pay for
``watch``. Data goes to standard output, messages to standard error, errors become one line and an exit code.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from ckpt_indexer import __version__
from ckpt_indexer.errors import EXIT_ERROR, EXIT_OK, EXIT_PIPE_CLOSED, CkptIndexerError, reason_of
from ckpt_indexer.printable import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

_COMMANDS = {
    "watch": "Watch ROOT and keep its index: the daemon.",
    "rebuild": "Bring index and sidecars in line with the disk.",
    "generate": "Write the sidecars that are missing.",
    "verify": "Compare the index with the disk.",
    "validate": "Check checkpoints for damage.",
    "list": "List the checkpoints in the index.",
    "show": "Show one checkpoint.",
    "serve": "Serve the index: a page and an HTTP API.",
    "status": "Show the daemon's and the index's state.",
    "sync": "Wait until the index holds all that was written before.",
    "help": "Show a page of the manual.",
}


class Command(click.Command):
    """A command that ends with ``EXIT_PIPE_CLOSED`` when whoever reads its output is gone; click would say 1."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with _closed_pipe_is_an_exit():  # --help prints while the command line is parsed
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _closed_pipe_is_an_exit():
            return super().invoke(ctx)


@contextlib.contextmanager
def _closed_pipe_is_an_exit() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        # Python flushes both once more when it ends, and would complain.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise click.exceptions.Exit(EXIT_PIPE_CLOSED) from None


class _LazyGroup(Command, click.Group):
    """Knows its commands' names and help; imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [*_COMMANDS]  # not list(): the command of that name is an attribute of this package once it is imported

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(f"ckpt_indexer.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([*_COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ckpt-indexer")
def cli() -> None:
    """Know every PyTorch checkpoint below a folder.

    ROOT is the outputs folder: an argument, or $CKPT_INDEXER_ROOT, or "outputs".
    """


def main(arguments: list[str] | None = None, *, command: click.Command = cli, prog_name: str = "ckpt-indexer") -> Any:
    """Run the command line, or one *command* by itself, and leave the process with its exit code."""
    try:
        sys.exit(command.main(arguments, prog_name=prog_name, standalone_mode=False) or EXIT_OK)
    except click.UsageError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except CkptIndexerError as error:
        _fail(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        _fail(f"{error.filename or ''}: {reason_of(error)}".removeprefix(": "))
        sys.exit(EXIT_ERROR)


def _fail(message: str) -> None:
    click.echo(f"ckpt-indexer: {one_line(message)}", err=True)
