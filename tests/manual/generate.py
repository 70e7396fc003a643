"""Writes the generated parts of the manual: ``python -m tests.manual.generate``.

A page may hold one part between ``<!-- generated -->`` and ``<!-- end -->``; everything else of it is written by hand.
The command line's part comes from click, that of HTTP from OpenAPI, that of Python from docstrings. Without arguments
the pages are written; ``test_generated`` compares them.
"""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

import click

import ckpt_indexer
from ckpt_indexer import errors
from ckpt_indexer.cli import cli
from tests.manual.pages import GENERATED, MANUAL, page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def command_line() -> str:
    """Write every command: how it is called, what it does, its flags."""
    context = click.Context(cli, info_name="ckpt-indexer")
    names = cli.list_commands(context)
    rows = [f"| [`{name}`](#ckpt-indexer-{name}) | {_command(name).get_short_help_str(200)} |" for name in names]
    overview = "## Commands\n\n| command | does |\n|---|---|\n" + "\n".join(rows) + "\n"
    return "\n".join([overview, *(_command_section(name, context) for name in names)])


def _command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def _command_section(name: str, program: click.Context) -> str:
    command = _command(name)
    context = click.Context(command, info_name=name, parent=program)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"### `ckpt-indexer {name}`\n", f"```text\nckpt-indexer {name} {usage}\n```\n"]
    lines += [f"{' '.join(each.split())}\n" for each in inspect.cleandoc(command.help or "").split("\n\n")]
    lines += ["| flag | meaning |", "|---|---|"]
    for option in command.params:
        if isinstance(option, click.Option) and (record := option.get_help_record(context)):
            flags, text = (part.replace("|", "\\|") for part in record)
            lines.append(f"| `{flags}` | {' '.join(text.split())} |")
    return "\n".join(lines) + "\n"


def http() -> str:
    """Write the routes and records of the API that ``serve`` has."""
    from ckpt_indexer.web import create_app
    from ckpt_indexer.web.reference import reference_of

    return reference_of(create_app("outputs").fastapi.openapi())


def names() -> str:
    """Write the lists of names by which facts are found."""
    from ckpt_indexer.formats import vocabulary as v

    lists: list[tuple[str, Any]] = [
        ("last words of a metric's name", v.METRIC_WORDS),
        ("what a metric was measured on", v.MEASURED_ON),
        ("last words of settings and counters, never metrics", v.SETTING_WORDS),
        ("the run's best", v.BEST_WORDS | v.EXTREME_WORDS),
        ("words of dicts that hold metrics", v.METRIC_GROUP_WORDS),
        ("last words of dicts that do not", v.NO_GROUP_WORDS - v.SETTING_WORDS),
        ("epoch, the first that is there", v.EPOCH_PATHS),
        ("step, the first that is there", v.STEP_PATHS),
        ("weights of one model", v.MODEL_KEYS),
        ("words of other keys with weights", v.MODEL_WORDS),
        ("averages, never a second model", v.AVERAGE_WORDS),
        ("words of keys without weights", v.NO_MODEL_WORDS),
        ("hyper-parameters", v.HYPER_PARAMETER_KEYS),
        ("architecture", v.ARCHITECTURE_KEYS),
    ]
    rows = (
        f"| {name} | {', '.join(f'`{each}`' for each in (sorted(found) if isinstance(found, frozenset) else found))} |"
        for name, found in lists
    )
    return "| list | names |\n|---|---|\n" + "\n".join(rows) + "\n"


def python() -> str:
    """Write what Python callers use, from its docstrings."""
    from ckpt_indexer.actions import rebuild, show, sync, validate, verify
    from ckpt_indexer.model import Entry
    from ckpt_indexer.web import create_router

    # Lightning is not imported here: the page `training` describes the callback.
    objects: list[tuple[str, Any]] = [
        ("ckpt_indexer.read_index", ckpt_indexer.read_index),
        ("ckpt_indexer.IndexView", ckpt_indexer.IndexView),
        ("ckpt_indexer.IndexView.usable", ckpt_indexer.IndexView.usable),
        ("ckpt_indexer.IndexView.path_of", ckpt_indexer.IndexView.path_of),
        ("ckpt_indexer.model.Entry", Entry),
        ("ckpt_indexer.model.Entry.metric", Entry.metric),
        ("ckpt_indexer.IndexView.select", ckpt_indexer.IndexView.select),
        ("ckpt_indexer.actions.rebuild.Rebuild", rebuild.Rebuild),
        ("ckpt_indexer.actions.rebuild.Outcome", rebuild.Outcome),
        ("ckpt_indexer.actions.rebuild.plan", rebuild.plan),
        ("ckpt_indexer.actions.rebuild.apply", rebuild.apply),
        ("ckpt_indexer.actions.verify.verify", verify.verify),
        ("ckpt_indexer.actions.verify.Verification", verify.Verification),
        ("ckpt_indexer.actions.validate.Validate", validate.Validate),
        ("ckpt_indexer.actions.validate.plan", validate.plan),
        ("ckpt_indexer.actions.validate.apply", validate.apply),
        ("ckpt_indexer.actions.validate.Validation", validate.Validation),
        ("ckpt_indexer.actions.show.show", show.show),
        ("ckpt_indexer.actions.sync.sync", sync.sync),
        ("ckpt_indexer.actions.sync.Synced", sync.Synced),
        ("ckpt_indexer.web.create_router", create_router),
    ]
    parts = ["## Reference\n", *(_object(name, each) for name, each in objects)]
    parts.append("### Exceptions\n\nAll are in `ckpt_indexer.errors`; `fields` holds the values in braces by name.\n")
    parts.append("| exception | is also | message | exit code |\n|---|---|---|---|")
    parts += [_exception(each) for each in _exceptions()]
    return "\n".join(parts) + "\n"


def _object(name: str, each: Any) -> str:
    signature = f"class {name}" if inspect.isclass(each) else f"{name}{_signature(each)}"
    fields = _fields(each) if inspect.isclass(each) else ""
    return f"### `{name}`\n\n```text\n{signature}\n```\n\n{_prose(each.__doc__ or '')}{fields}"


def _signature(each: Any) -> str:
    text = re.sub(r"= <function [^>]*> at 0x\w+>|= <function [^>]* at 0x\w+>", "= …", str(inspect.signature(each)))
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)


def _fields(record: Any) -> str:
    """Write a record's fields, each with the comment that stands beside it."""
    found = re.findall(r"^    (\w+): (.+?)(?: = [^#\n]+?)?(?:  # (.*))?$", inspect.getsource(record), re.MULTILINE)
    rows = [f"| `{name}` | `{kind}` | {about} |".replace(" | None", " \\| None") for name, kind, about in found]
    return "\n| field | type | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def _prose(docstring: str) -> str:
    """Write a docstring as Markdown: ``code`` as `code`, *Raises* as a list."""
    text = inspect.cleandoc(docstring).replace("``", "`")
    text, _, raises = text.partition("\nRaises:\n")
    text = re.sub(r"(?<![`\w])\*(\w+)\*", r"`\1`", text.strip()) + "\n"
    items = [re.sub(r"^ +([\w, ]+):", _named, line) for line in raises.rstrip().splitlines()]
    return text + ("\nRaises:\n\n" + "\n".join(items) + "\n" if items else "")


def _named(match: re.Match[str]) -> str:
    return "- " + ", ".join(f"`{name.strip()}`" for name in match[1].split(",")) + ":"


def _exceptions() -> Iterator[type[errors.CkptIndexerError]]:
    for each in vars(errors).values():
        if inspect.isclass(each) and issubclass(each, errors.CkptIndexerError):
            yield each


def _exception(each: type[errors.CkptIndexerError]) -> str:
    bases = ", ".join(f"`{base.__name__}`" for base in each.__bases__)
    return f"| `{each.__name__}` | {bases} | {' '.join((each.__doc__ or '').split())} | {each.exit_code} |"


PARTS: dict[str, Callable[[], str]] = {"command-line": command_line, "facts": names, "http": http, "python": python}


def generate(topic: str) -> str:
    """Return the page with its generated part as the code has it now."""
    text, count = GENERATED.subn(lambda match: f"{match[1]}{PARTS[topic]()}{match[3]}", page(topic))
    assert count == 1, f"{topic}.md needs one part between <!-- generated --> and <!-- end -->"
    return text


if __name__ == "__main__":
    for each in PARTS:
        (MANUAL / f"{each}.md").write_text(generate(each), encoding="utf-8")
