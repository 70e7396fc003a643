"""The layers, the pure rooms, sizes and heads: what the page on architecture says is true of the code."""

from __future__ import annotations

import ast
import re
import statistics
from pathlib import Path
from typing import NamedTuple

import pytest

import ckpt_indexer
from tests.conftest import LONGEST

PACKAGE = Path(ckpt_indexer.__file__).parent
LAYERS = (  # from the bottom; a room imports from lower ones only, and never from a neighbour of its own layer
    ("backoff", "manual", "paths", "printable"),
    ("model",),
    ("errors",),
    ("daemon_state", "log", "settings", "systemd_notify", "tree"),
    ("formats",),
    ("sandbox",),
    ("trackers",),
    ("metadata",),
    ("index",),
    ("passes",),
    ("health",),
    ("actions",),
    ("catalog",),
    ("training", "watch"),
    ("web",),
    ("cli",),
    ("generate", "lightning"),
)
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
PURE = ("formats", "metadata")
IMPURE = frozenset(
    ["logging", "structlog", "time", "pathlib", "shutil", "glob", "tempfile", "subprocess", "socket", "random"]
)
PURE_OF_OS = frozenset(
    {"SEEK_SET", "SEEK_CUR", "SEEK_END", "SEEK_DATA", "SEEK_HOLE", "pread", "fstat"}
)  # of a file that somebody else opened
BANNED = frozenset({"utils", "util", "helpers", "helper", "common", "core", "base", "misc", "manager"})
BANNED_VERBS = ("process_", "handle_")
FUNCTION_MAX, FUNCTION_P90 = 60, 25  # lines
ATTRIBUTES_MAX = 12
REASONS: dict[str, str] = {}  # class -> why it has more attributes


class Module(NamedTuple):
    """A module of the package."""

    name: str  # without the package's own: "formats.facts"
    tree: ast.Module

    @property
    def room(self) -> str:
        return self.name.partition(".")[0]


def _modules() -> list[Module]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[:2] != ("web", "page"):
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found.append(Module(name, ast.parse(path.read_text(encoding="utf-8"))))
    return found


MODULES = _modules()
NAMES = {module.name for module in MODULES}


def imports(tree: ast.AST, *, at_run_time: bool = False) -> set[str]:
    """Return the modules of the package that *tree* imports, also those imported late or for types."""
    found: set[str] = set()
    for node in _walk(tree, skip_types=at_run_time):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "ckpt_indexer":
            module = (node.module or "").removeprefix("ckpt_indexer").lstrip(".")
            for alias in node.names:
                full = f"{module}.{alias.name}".lstrip(".")
                found.add(full if full in NAMES else module)
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("ckpt_indexer.") for alias in node.names if "ckpt_indexer." in alias.name}
    return found - {""}


def _walk(tree: ast.AST, *, skip_types: bool) -> list[ast.AST]:
    if skip_types and isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.dump(tree.test):
        return []
    return [tree, *(found for node in ast.iter_child_nodes(tree) for found in _walk(node, skip_types=skip_types))]


def foreign(tree: ast.AST) -> set[str]:
    """Return the packages of others, and of the standard library, that *tree* imports at run time."""
    found: set[str] = set()
    for node in _walk(tree, skip_types=True):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
    return found


@pytest.mark.parametrize("module", [m for m in MODULES if m.name], ids=lambda module: module.name)
def test_imports_go_down_only(module: Module) -> None:
    rooms = {name.partition(".")[0] for name in imports(module.tree)} - {module.room}
    assert [room for room in sorted(rooms) if RANK[room] >= RANK[module.room]] == []


@pytest.mark.parametrize("module", [m for m in MODULES if m.room in PURE], ids=lambda module: module.name)
def test_the_pure_rooms_know_no_clock_path_or_log(module: Module) -> None:
    assert foreign(module.tree) & IMPURE == set()
    named = {
        node.attr
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
    }
    assert named - PURE_OF_OS == set()
    calls = {
        node.func.id for node in ast.walk(module.tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert calls & {"open", "print", "input"} == set()


def test_the_owner_of_the_worker_imports_no_parser() -> None:
    trees = {module.name: module.tree for module in MODULES}
    reached: set[str] = set()
    waiting = {"sandbox.owner"}
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting |= imports(trees[name], at_run_time=True) - reached
    assert {name for name in reached if name.startswith(("formats.", "trackers"))} == {"formats.facts"}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name or "ckpt_indexer")
def test_each_module_has_a_head(module: Module) -> None:
    head = ast.get_docstring(module.tree)
    assert head is not None
    assert len(head.split()) >= 4


def test_names_are_those_of_the_field() -> None:
    modules = {part for name in NAMES for part in name.split(".")}
    assert modules & BANNED == set()
    functions = [node.name for module in MODULES for node in ast.walk(module.tree) if isinstance(node, ast.FunctionDef)]
    assert [name for name in functions if name.lstrip("_").startswith(BANNED_VERBS)] == []


def test_a_public_name_means_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for module in MODULES:
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module.name)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_docstrings_begin_with_a_verb_of_the_field() -> None:
    begins = [
        f"{module.name}: {text.splitlines()[0]}"
        for module in MODULES
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(node))
        if re.match(r"(Give|Say|Tell|Take|Note|Put|Look|Let|Have)s?\b", text)
    ]
    assert begins == []


def _lengths() -> dict[str, int]:
    return {
        f"{module.name}:{node.name}:{node.lineno}": (node.end_lineno or node.lineno) - node.lineno + 1
        for module in MODULES
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_functions_are_short() -> None:
    lengths = _lengths()
    assert {name: length for name, length in lengths.items() if length > FUNCTION_MAX} == {}
    assert statistics.quantiles(lengths.values(), n=10)[-1] <= FUNCTION_P90


def attributes(node: ast.ClassDef) -> set[str]:
    """Return the attributes that the methods of a class give its instances."""
    return {
        target.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store)
        for target in [each]
        if isinstance(target.value, ast.Name) and target.value.id == "self"
    }


def test_the_test_files_that_start_first_are_there() -> None:
    assert [name for name in LONGEST if not (PACKAGE.parent / name).is_file()] == []


def test_no_object_has_more_than_a_dozen_attributes() -> None:
    found = {
        f"{module.name}.{node.name}": len(attributes(node))
        for module in MODULES
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
    }
    assert {name: count for name, count in found.items() if count > ATTRIBUTES_MAX and name not in REASONS} == {}
    assert all(found[name] > ATTRIBUTES_MAX for name in REASONS)
