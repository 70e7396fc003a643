"""What the manual and the README show works: Python, shell, jq, filters, JSON answers, configurations."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import click
import pytest
import torch
import yaml

from ckpt_indexer import model
from ckpt_indexer.cli import cli
from tests.manual.pages import ALL, PAGES, blocks, codes, table

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``outputs/``: one real checkpoint that knows its score, its copy, one that is empty, the index."""
    folder = tmp_path_factory.mktemp("readme")
    path = folder / "outputs" / "ocr" / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    (path.parent / "empty.ckpt").touch()
    state = {
        "monitor": "val/hmean",
        "best_model_path": "/train/ocr/checkpoints/best.ckpt",
        "best_k_models": {"/train/ocr/checkpoints/best.ckpt": torch.tensor(0.95, dtype=torch.float64)},
    }
    content = {
        "epoch": 18,
        "global_step": 3895,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {"head.weight": torch.zeros(3, 4), "head.bias": torch.zeros(3)},
        "callbacks": {"ModelCheckpoint{'monitor': 'val/hmean', 'mode': 'max'}": state},
    }
    torch.save(content, path)
    shutil.copytree(path.parent, folder / "outputs" / "copies", ignore=shutil.ignore_patterns("empty.ckpt"))
    (folder / "outputs" / "copies" / "best.ckpt").rename(folder / "outputs" / "copies" / "copy.ckpt")  # without a score
    assert run(folder, "rebuild", "outputs", "-q").returncode == 0
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(folder, "-c", "from ckpt_indexer.cli import main; main()", *arguments)


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_python_example_prints_what_the_manual_says(tree: Path) -> None:
    (example,) = blocks(PAGES["python"], "python")
    done = python(tree, "-c", example)
    assert (done.stdout, done.stderr) == (blocks(PAGES["python"], "text")[0], "")


def test_importing_the_reader_loads_nothing_heavy(tree: Path) -> None:
    done = python(tree, "-c", "import ckpt_indexer, sys; print(*sorted(sys.modules))")
    assert {"torch", "pydantic", "structlog", "watchdog"} & set(done.stdout.split()) == set()


SHELL = [line for text in ALL.values() for block in blocks(text, "sh") for line in block.splitlines()]
JQ = list(dict.fromkeys(line for line in SHELL if line.startswith("jq ")))


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
def test_json_has_at_least_the_fields_that_the_manual_names(arguments: tuple[str, ...], tree: Path) -> None:
    name, fields = SHAPES[arguments]
    answer: dict[str, Any] = json.loads(run(tree, *arguments, "--json").stdout)
    (shape,) = (row[1] for row in table("command-line", "| command | shape |") if f"`{name}`" in row[0])
    assert fields - set(answer) == set()
    assert [field for field in fields - set(model.Entry.__struct_fields__) if field not in shape] == []


def test_status_gives_exactly_the_fields_that_the_manual_names(tree: Path) -> None:
    answer: dict[str, Any] = json.loads(run(tree, "status", "outputs", "--json").stdout)
    (shape,) = (codes(row[1])[0] for row in table("command-line", "| command | shape |") if row[0] == "`status`")
    outer = re.sub(r": (\[\{.*?\}\]|\{.*?\})", "", shape).strip("{}").split(", ")
    assert list(answer) == outer


FILTERS = sorted({each for text in ALL.values() for each in re.findall(r"-f '([^']+)'", text)})


@pytest.mark.parametrize("expression", FILTERS)
def test_each_filter_of_the_manual_is_one(expression: str, tree: Path) -> None:
    done = run(tree, "list", "outputs", "-q", "-f", expression)
    assert (done.returncode, done.stderr) == (0, "")


COMMANDS = sorted(
    {found for line in SHELL for found in re.findall(r"(?<![\\w/-])ckpt-indexer (?!@)[a-z][^#|)&;]*", line)}
)


@pytest.mark.parametrize("line", COMMANDS)
def test_each_command_of_the_manual_is_one_that_there_is(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None, name
    command.make_context(name, arguments)  # raises where a flag or a value is none


PYTHON = [
    pytest.param(block, id=f"{name}-{number}")
    for name, text in ALL.items()
    for number, block in enumerate(blocks(text, "py(?:thon)?"))
]


@pytest.mark.parametrize("block", PYTHON)
def test_each_python_example_compiles_and_imports_names_that_there_are(block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ckpt_indexer"):
            module = importlib.import_module(str(node.module))
            assert [each.name for each in node.names if not hasattr(module, each.name)] == []


@pytest.mark.parametrize("block", [block for text in ALL.values() for block in blocks(text, "yaml")])
def test_each_yaml_example_is_yaml(block: str) -> None:
    assert isinstance(yaml.safe_load(block), dict)


def test_the_example_of_a_settings_file_is_accepted(tmp_path: Path) -> None:
    from ckpt_indexer.settings import Settings, load_settings

    (block,) = blocks(PAGES["settings"], "yaml")
    file = tmp_path / "settings.yaml"
    file.write_text(block)
    assert load_settings(Settings, {}, {}, file).model_dump(exclude_defaults=True) == yaml.safe_load(block) | {
        "suffixes": (".ckpt", ".pt")
    }


def test_the_first_lines_of_the_recipes_find_the_best(tree: Path) -> None:
    lines = [block for block in blocks(PAGES["howto"], "py") if "max(" in block]
    done = python(tree, "-c", lines[0])
    assert (done.stdout, done.stderr) == ("outputs/ocr/checkpoints/best.ckpt 0.95\n", "")
