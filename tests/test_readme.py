"""README.md is the manual: what it says of events, problems, settings, commands and fields is what the code does."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import pytest
import torch

import ckpt_indexer
from ckpt_indexer import errors, model, paths
from ckpt_indexer.cli import cli
from ckpt_indexer.log import EVENTS
from ckpt_indexer.metadata.schema import Indexer
from ckpt_indexer.settings import ENVIRONMENT_PREFIX, Settings
from ckpt_indexer.web.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
PACKAGE = Path(ckpt_indexer.__file__).parent
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}


def table(header: str) -> list[list[str]]:
    """Give the rows of the one table whose header line is *header*; escaped bars are bars."""
    lines = README.splitlines()
    (start,) = (i for i, line in enumerate(lines) if line == header)
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = re.split(r"(?<!\\)\|", line.strip("|"))
        rows.append([cell.strip().replace("\\|", "|") for cell in cells])
    return rows


def codes(text: str) -> list[str]:
    """Give what stands in backticks."""
    return re.findall(r"`([^`]+)`", text)


def blocks(language: str) -> list[str]:
    """Give the fenced blocks in a language, without the indentation that a list gives them."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", README, re.DOTALL | re.MULTILINE)
    return ["".join(line.removeprefix(indent) for line in body.splitlines(keepends=True)) for indent, body in found]


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
            if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "log" and node.func.attr in LEVELS):
                continue
            event = node.args[0]
            assert isinstance(event, ast.Constant), f"{path}:{node.lineno} names its event by an expression"
            fields = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
            yield str(event.value), LEVELS[node.func.attr], fields | ({"exception"} & {node.func.attr})


# --- tables ---


def test_the_log_table_is_the_vocabulary() -> None:
    rows = {
        codes(event)[0]: (level, fields) for event, level, fields, _ in table("| event | level | fields | meaning |")
    }
    assert rows == {event: (level, fields) for event, (level, fields, _) in EVENTS.items()}


def test_every_line_that_is_logged_is_in_the_vocabulary_with_its_level() -> None:
    assert {(event, level) for event, level, _ in log_calls()} == {(event, EVENTS[event][0]) for event in EVENTS}


def test_no_line_carries_a_field_that_the_vocabulary_does_not_name() -> None:
    unnamed = {event: fields - set(EVENTS[event][1].split(", ")) for event, _, fields in log_calls()}
    assert {event: fields for event, fields in unnamed.items() if fields} == {}


def test_every_problem_stands_in_the_table_with_its_status() -> None:
    rows = table("| code | status | meaning | cure |")
    assert {codes(code)[0]: status for code, status, _, _ in rows} == model.PROBLEMS
    assert [row for row in rows if not all(row)] == []


def test_every_setting_stands_in_the_table_with_flag_variable_key_and_default() -> None:
    rows = [[codes(cell) for cell in row[:4]] for row in table("| flag | environment | YAML key | default | meaning |")]
    expected = []
    for name, field in Settings.model_fields.items():
        flag = name.replace("_", "-")
        flags = [f"--{flag}", f"--no-{flag}"] if field.annotation is bool else [f"--{flag}"]
        default = str(field.default).lower() if field.annotation is bool else str(field.default or paths.SUFFIXES[0])
        expected.append([flags, [ENVIRONMENT_PREFIX + name.upper()], [name], [default]])
    assert rows == expected


def test_every_setting_of_the_server_stands_in_its_table() -> None:
    rows = [codes(row[0])[0] for row in table("| key | default | of `serve` |")]
    assert rows == list(ServerSettings.model_fields)


def test_every_command_stands_in_the_table_with_all_its_flags() -> None:
    rows = {codes(row[0])[0].split()[0]: row[2] for row in table("| command | does | flags |")}
    settings = " ".join(row[0] for row in table("| flag | environment | YAML key | default | meaning |"))
    context = click.Context(cli)
    given = {name: options_of(command(context, name)) for name in cli.list_commands(context)}
    mentioned = {name: set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text)) for name, text in rows.items()}
    mentioned["watch"] |= set(re.findall(r"--[a-z-]+", settings))
    assert mentioned == given


def command(context: click.Context, name: str) -> click.Command:
    found = cli.get_command(context, name)
    assert found is not None
    return found


def options_of(command: click.Command) -> set[str]:
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    return {name for option in options for name in (*option.opts, *option.secondary_opts)}


def test_the_options_of_the_program_itself_are_mentioned() -> None:
    assert [name for name in ("--version", "-h", "--help") if name not in README] == []


def test_every_exit_code_has_its_row() -> None:
    rows = [int(code) for row in table("| exit code | meaning |") for code in row[0].split(", ")]
    named = [value for name, value in vars(errors).items() if name.startswith("EXIT_")]
    assert rows == sorted([*named, 130, 143])


def test_every_field_of_an_entry_has_its_row_in_order() -> None:
    rows = table("| field | type | meaning |")
    assert [codes(row[0])[0] for row in rows] == list(model.Entry.__struct_fields__)


def test_every_format_status_and_tier_is_named_where_the_field_is() -> None:
    rows = {codes(row[0])[0]: codes(row[2]) for row in table("| field | type | meaning |")}
    assert {name: rows[name] for name in ("format", "status")} == {
        "format": list(get_args(model.Format)),
        "status": list(get_args(model.Status)),
    }


def test_every_field_under_indexer_is_named() -> None:
    (line,) = re.findall(r"^- `indexer` is.*?(?=^- )", README, re.DOTALL | re.MULTILINE)
    assert set(Indexer.model_fields) - set(codes(line)) == set()


def test_every_file_name_on_disk_is_named() -> None:
    names = {codes(row[0])[0].removeprefix("<root>/") for row in table("| name | what |")}
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
    rows = [codes(row[0])[0] for row in table("| reason | meaning | cure |")]
    said = re.compile(r'(?:keeper\.set|Reason)\(\s*"([a-z-]+)"')
    assert set(rows) == {code for path in PACKAGE.rglob("*.py") for code in said.findall(path.read_text("utf-8"))}


def test_the_key_of_the_example_is_what_the_rule_gives() -> None:
    (line,) = (line for line in README.splitlines() if "The file `b" in line)
    name, key, in_json = codes(line[line.index("The file `b") :])[:3]
    path = ast.literal_eval(name).decode("utf-8", "surrogateescape")
    assert (key, in_json) == (paths.to_key(path), json.dumps(key))


# --- set-up ---


def test_the_set_up_is_two_lines() -> None:
    (section,) = re.findall(r"^## 60 seconds\n(.*?)^Now train", README, re.DOTALL | re.MULTILINE)
    commands = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    check = "ruff check && ruff format --check && mypy && pytest -n auto --dist loadfile"
    assert [command.strip().splitlines() for command in commands] == [
        ["mkdir -p outputs && pip install . && ckpt-indexer watch outputs/"],
        [f"pip install -e '.[dev]' -c tests/constraints.txt && {check}"],
    ]


# --- examples ---


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``outputs/``: one real checkpoint that knows its score, one that is empty, and their index."""
    folder = tmp_path_factory.mktemp("readme")
    path = folder / "outputs" / "ocr" / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    (path.parent / "empty.ckpt").touch()
    state = {
        "monitor": "val/hmean",
        "best_model_path": "/train/checkpoints/best.ckpt",
        "best_k_models": {"/train/checkpoints/best.ckpt": torch.tensor(0.95, dtype=torch.float64)},
    }
    content = {
        "epoch": 18,
        "global_step": 3895,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {"head.weight": torch.zeros(3, 4), "head.bias": torch.zeros(3)},
        "callbacks": {"ModelCheckpoint{'monitor': 'val/hmean', 'mode': 'max'}": state},
    }
    torch.save(content, path)
    assert run(folder, "rebuild", "outputs", "-q").returncode == 0
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(folder, "-c", "from ckpt_indexer.cli import main; main()", *arguments)


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_python_example_prints_what_the_readme_says(tree: Path) -> None:
    (example,) = blocks("python")
    done = python(tree, "-c", example)
    assert (done.stdout, done.stderr) == (blocks("text")[0], "")


def test_importing_the_reader_loads_nothing_heavy(tree: Path) -> None:
    done = python(tree, "-c", "import ckpt_indexer, sys; print(*sorted(sys.modules))")
    assert {"torch", "pydantic", "structlog", "watchdog"} & set(done.stdout.split()) == set()


JQ = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("jq ")]


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not here")
@pytest.mark.parametrize("line", JQ)
def test_each_jq_example_finds_something(line: str, tree: Path) -> None:
    done = subprocess.run(["sh", "-c", line], cwd=tree, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() not in ("", "null", "{}")


SHAPES: dict[tuple[str, ...], tuple[str, set[str]]] = {
    ("list", "outputs"): ("list", {"generation", "total", "checkpoints"}),
    ("show", "outputs/ocr/checkpoints/best.ckpt"): ("show", {*model.Entry.__struct_fields__, "metadata"}),
    ("verify", "outputs"): ("verify", {"ok", "missing", "extra", "stale"}),
    ("validate", "outputs"): ("validate", {"ok", "results"}),
    ("rebuild", "outputs"): ("rebuild", {"total", "written", "skipped", "failed", "seconds"}),
    ("generate", "outputs"): ("rebuild", {"total", "written", "skipped", "failed", "seconds"}),
}


@pytest.mark.parametrize("arguments", SHAPES, ids=lambda arguments: arguments[0])
def test_json_has_at_least_the_fields_that_the_readme_names(arguments: tuple[str, ...], tree: Path) -> None:
    name, fields = SHAPES[arguments]
    answer: dict[str, Any] = json.loads(run(tree, *arguments, "--json").stdout)
    (shape,) = (row[1] for row in table("| command | shape |") if f"`{name}`" in row[0])
    assert fields - set(answer) == set()
    assert [field for field in fields - set(model.Entry.__struct_fields__) if field not in shape] == []


def test_status_gives_exactly_the_fields_that_the_readme_names(tree: Path) -> None:
    answer: dict[str, Any] = json.loads(run(tree, "status", "outputs", "--json").stdout)
    (shape,) = (codes(row[1])[0] for row in table("| command | shape |") if row[0] == "`status`")
    outer = re.sub(r": (\[\{.*?\}\]|\{.*?\})", "", shape).strip("{}").split(", ")
    assert list(answer) == outer


FILTERS = re.findall(r"-f '([^']+)'", README)


@pytest.mark.parametrize("expression", FILTERS)
def test_each_filter_of_the_readme_is_one(expression: str, tree: Path) -> None:
    done = run(tree, "list", "outputs", "-q", "-f", expression)
    assert (done.returncode, done.stderr) == (0, "")
