"""What the manual's tables say of events, problems, settings, commands and fields is what the code does."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click
import msgspec

import ckpt_indexer
from ckpt_indexer import errors, model, paths
from ckpt_indexer.cli import cli
from ckpt_indexer.log import EVENTS
from ckpt_indexer.metadata.schema import IndexerPart
from ckpt_indexer.settings import ENVIRONMENT_PREFIX, Settings
from ckpt_indexer.web.settings import ServerSettings
from tests.manual.pages import PAGES, blocks, codes, table

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(ckpt_indexer.__file__).parent
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}


def log_calls() -> Iterator[tuple[str, str, set[str]]]:
    """Find every ``log.<level>("event", …)`` of the daemon: event, level, names of the fields given by name.

    ``catalog`` is left out: it runs in other people's programs and writes sentences to their log, by ``logging``.
    """
    for path in PACKAGE.rglob("*.py"):
        if path.is_relative_to(PACKAGE / "catalog"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if ast.unparse(node.func.value) not in ("log", "self._log") or node.func.attr not in LEVELS:
                continue
            event = node.args[0]
            assert isinstance(event, ast.Constant), f"{path}:{node.lineno} names its event by an expression"
            fields = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
            yield str(event.value), LEVELS[node.func.attr], fields | ({"exception"} & {node.func.attr})


# --- tables ---


def test_the_log_table_is_the_vocabulary() -> None:
    rows = {
        codes(event)[0]: (level, fields)
        for event, level, fields, _ in table("log-events", "| event | level | fields | meaning |")
    }
    assert rows == {event: (level, fields) for event, (level, fields, _) in EVENTS.items()}


def test_every_line_that_is_logged_is_in_the_vocabulary_with_its_level() -> None:
    assert {(event, level) for event, level, _ in log_calls()} == {(event, EVENTS[event][0]) for event in EVENTS}


def test_no_line_carries_a_field_that_the_vocabulary_does_not_name() -> None:
    unnamed = {event: fields - set(EVENTS[event][1].split(", ")) for event, _, fields in log_calls()}
    assert {event: fields for event, fields in unnamed.items() if fields} == {}


def test_every_problem_stands_in_the_table_with_its_status() -> None:
    rows = table("health", "| code | status | meaning | cure |")
    assert {codes(code)[0]: status for code, status, _, _ in rows} == model.PROBLEMS
    assert [row for row in rows if not all(row)] == []


def test_every_setting_stands_in_the_table_with_flag_variable_key_and_default() -> None:
    rows = [
        [codes(cell) for cell in row[:4]]
        for row in table("settings", "| flag | environment | YAML key | default | meaning |")
    ]
    expected = []
    for name, field in Settings.model_fields.items():
        flag = name.replace("_", "-")
        flags = [f"--{flag}", f"--no-{flag}"] if field.annotation is bool else [f"--{flag}"]
        default = str(field.default).lower() if field.annotation is bool else str(field.default or paths.SUFFIXES[0])
        expected.append([flags, [ENVIRONMENT_PREFIX + name.upper()], [name], [default]])
    assert rows == expected


def test_every_setting_of_the_server_stands_in_its_table() -> None:
    rows = [codes(row[0])[0] for row in table("settings", "| key | default | of `serve` |")]
    assert rows == list(ServerSettings.model_fields)


def test_every_command_has_a_section_with_all_its_flags() -> None:
    context = click.Context(cli)
    given = {name: options_of(command(context, name)) for name in cli.list_commands(context)}
    sections = re.split(r"^### `ckpt-indexer ", PAGES["command-line"], flags=re.MULTILINE)[1:]
    mentioned = {text.partition("`")[0]: flags_of(text) for text in sections}
    assert mentioned == given


def flags_of(section: str) -> set[str]:
    first_cells = re.findall(r"^\| `(-[^`]*)` \|", section, re.MULTILINE)
    return {flag for cell in first_cells for flag in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", cell)}


def test_every_flag_of_the_daemon_that_is_a_setting_is_in_the_table_of_settings() -> None:
    rows = table("settings", "| flag | environment | YAML key | default | meaning |")
    mentioned = {flag for row in rows for flag in re.findall(r"--[a-z-]+", row[0])}
    assert options_of(command(click.Context(cli), "watch")) - mentioned == {"--config", "--json"}


def command(context: click.Context, name: str) -> click.Command:
    found = cli.get_command(context, name)
    assert found is not None
    return found


def options_of(command: click.Command) -> set[str]:
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    return {name for option in options for name in (*option.opts, *option.secondary_opts)}


def test_the_options_of_the_program_itself_are_mentioned() -> None:
    assert [name for name in ("--version", "-h", "--help") if name not in PAGES["command-line"]] == []


def test_every_exit_code_has_its_row() -> None:
    rows = [int(code) for row in table("command-line", "| exit code | meaning |") for code in row[0].split(", ")]
    named = [value for name, value in vars(errors).items() if name.startswith("EXIT_")]
    assert rows == sorted([*named, 130, 143])


def test_every_field_of_an_entry_has_its_row_in_order() -> None:
    rows = table("index-and-sidecar", "| field | type | meaning |")
    assert [codes(row[0])[0] for row in rows] == list(model.Entry.__struct_fields__)


def test_every_format_status_and_tier_is_named_where_the_field_is() -> None:
    rows = {codes(row[0])[0]: codes(row[2]) for row in table("index-and-sidecar", "| field | type | meaning |")}
    assert {name: rows[name] for name in ("format", "status")} == {
        "format": list(get_args(model.Format)),
        "status": list(get_args(model.Status)),
    }


def test_every_field_under_indexer_is_named() -> None:
    section = PAGES["index-and-sidecar"].partition("### The part `indexer`")[2].partition("### ")[0]
    rows = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in codes(row)} == set(IndexerPart.model_fields)


def test_every_file_name_on_disk_is_named() -> None:
    names = {codes(row[0])[0].removeprefix("<root>/") for row in table("index-and-sidecar", "| name | what |")}
    assert names == {
        paths.INDEX_NAME,
        f"{paths.INDEX_NAME}.corrupt-<time>",
        paths.LOCK_NAME,
        paths.DAEMON_LOCK_NAME,
        paths.DAEMON_STATE_NAME,
        f"{paths.COOKIE_PREFIX}*",
        f"<name>{paths.SUFFIXES[0]}{paths.SIDECAR_SUFFIX}",
        f"{paths.TEMPORARY_PREFIX}*{paths.TEMPORARY_SUFFIX}",
    }


def test_every_reason_for_being_degraded_has_its_row() -> None:
    rows = [codes(row[0])[0] for row in table("command-line", "| reason | meaning | cure |")]
    said = re.compile(r'(?:keeper\.set|Reason)\(\s*"([a-z-]+)"')
    assert set(rows) == {code for path in PACKAGE.rglob("*.py") for code in said.findall(path.read_text("utf-8"))}


def test_the_key_of_the_example_is_what_the_rule_gives() -> None:
    (line,) = (line for line in PAGES["index-and-sidecar"].splitlines() if "The file `b" in line)
    name, key, in_json = codes(line[line.index("The file `b") :])[:3]
    path = ast.literal_eval(name).decode("utf-8", "surrogateescape")
    assert (key, in_json) == (paths.to_key(path), json.dumps(key))


def test_every_tier_of_metadata_is_a_source_in_the_table() -> None:
    rows = [codes(row[1])[0] for row in table("facts", "| rank | source | gives |")]
    (field,) = (each for each in msgspec.structs.fields(model.Entry) if each.name == "metadata_source")
    (kinds,) = (each for each in get_args(field.type) if get_args(each))
    assert rows == list(get_args(kinds))


def test_every_failure_has_its_number() -> None:
    rows = table("promises", "| no. | what goes wrong | what happens |")
    assert [row[0] for row in rows] == [f"F{number}" for number in range(1, len(rows) + 1)]
    assert len(rows) == 26  # as the README says


def test_every_name_of_an_older_catalogue_is_in_the_table() -> None:
    from ckpt_indexer import catalog

    named = {name for row in table("migration", "| Names | What they do here |") for name in codes(row[0])}
    assert {name for name in named if not hasattr(catalog, name)} == set()


def test_the_glossary_is_in_order_and_has_the_words_of_the_code() -> None:
    words = [row[0].strip("*") for row in table("glossary", "| word | meaning |")]
    assert words == sorted(words, key=str.lower)
    needed = {
        "root", "checkpoint", "part", "layout", "run", "experiment", "key", "fingerprint", "content id", "weights id",
        "sidecar", "entry", "generation", "pass", "evidence → verdict → act", "score", "run best", "tracker",
        "annotation", "problem", "error", "plan", "twin", "index", "daemon",
    }  # fmt: skip
    assert needed - set(words) == set()


def test_the_drawing_of_the_layers_has_every_room_and_module_of_the_package() -> None:
    rooms = {f"{path.name}/" for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    modules = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    drawn = next(block for block in blocks(PAGES["architecture"], "text") if "cli/" in block)
    assert set(re.findall(r"\b[a-z_]+(?:/|\.py)", drawn)) == rooms | modules
    named = {codes(row[0])[0] for row in table("architecture", "| room | owns | does not know |")}
    assert named == rooms
