"""Random mutants of the pure rooms, and whether the tests notice: ``python -m tests.mutants --count 200 --seed 1``.

Each mutant changes one thing in a copy of the project (a comparison, a boundary, a number, an *and*, a *not*, what is
returned) and runs the tests of that room, which end at the first failure. Not part of the suite: 200 take an hour of
one core. Prints one JSON line for each mutant and, last, the survivors.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
ROOMS = {  # module prefix -> the tests that are asked
    "formats/proof": ["tests/formats/proof"],
    "formats": ["tests/formats", "tests/sandbox"],
    "formats/frameworks": ["tests/formats/frameworks", "tests/formats/test_damaged.py"],
    "formats/vocabulary": ["tests/formats/frameworks", "tests/metadata/test_names.py"],
    "metadata": ["tests/metadata", "tests/first_user"],
    "index/codec": ["tests/index"],
    "index/query": ["tests/index", "tests/cli"],
    "index/columns": ["tests/index", "tests/cli"],
    "index/summary": ["tests/index", "tests/cli"],
    "index/compare": ["tests/index"],
    "passes/judge": ["tests/passes"],
    "passes/retries": ["tests/passes", "tests/scenarios"],
    "passes/known": ["tests/passes"],
    "passes/in_flight": ["tests/passes"],
    "passes/changes": ["tests/passes"],
    "passes/orphans": ["tests/passes"],
    "passes/twins": ["tests/passes", "tests/first_user"],
    "passes/reconcile": ["tests/passes"],
    "watch/schedules": ["tests/watch/test_schedules.py", "tests/scenarios"],
    "watch/pace": ["tests/watch/test_pace.py", "tests/watch/test_schedules.py", "tests/scenarios"],
    "watch/barriers": ["tests/watch/test_barriers.py", "tests/scenarios"],
    "backoff": ["tests/test_backoff.py", "tests/scenarios"],
    "paths": ["tests/test_paths.py"],
}
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
TIMEOUT_S = 600


def sites(tree: ast.AST) -> list[tuple[ast.AST, str]]:
    """Return what can be changed: nodes, each with the name of its change."""
    found: list[tuple[ast.AST, str]] = []
    annotations = {
        id(inner)
        for node in ast.walk(tree)
        for each in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if isinstance(each, ast.AST)
        for inner in ast.walk(each)
    }
    for node in ast.walk(tree):
        if id(node) in annotations:
            continue
        if isinstance(node, ast.Compare | ast.BoolOp | ast.BinOp):
            operator = node.ops[0] if isinstance(node, ast.Compare) else node.op
            if type(operator) in SWAPS:
                found.append((node, "operator"))
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            found.append((node, "constant"))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            found.append((node, "not"))
        elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
            found.append((node, "return"))
    return found


def change(node: Any, kind: str) -> None:
    """Change *node* in its tree."""
    if kind == "operator" and isinstance(node, ast.Compare):
        node.ops[0] = SWAPS[type(node.ops[0])]()  # type: ignore[call-overload]
    elif kind == "operator":
        node.op = SWAPS[type(node.op)]()
    elif kind == "constant":
        node.value = (not node.value) if isinstance(node.value, bool) else node.value + 1
    elif kind == "not":
        node.op = ast.UAdd()
        node.operand = ast.Call(ast.Name("bool", ast.Load()), [node.operand], [])
        ast.fix_missing_locations(node)
    else:
        node.value = ast.copy_location(ast.Constant(None), node.value)


def modules() -> list[tuple[Path, list[str]]]:
    """Return the modules that are changed, each with the tests that are asked; those of the longest prefix."""
    found = []
    for path in sorted((REPOSITORY / "ckpt_indexer").rglob("*.py")):
        name = path.relative_to(REPOSITORY / "ckpt_indexer").with_suffix("").as_posix()
        prefixes = [room for room in ROOMS if name == room or name.startswith(f"{room}/")]
        if prefixes and path.name != "__init__.py":
            mirror = f"tests/{name.rpartition('/')[0]}/test_{path.stem}.py"  # the tests of this very module first
            tests = [test for test in (mirror, *ROOMS[max(prefixes, key=len)]) if (REPOSITORY / test).exists()]
            found.append((path.relative_to(REPOSITORY), tests))
    return found


def run(copy: Path, path: Path, tests: list[str], chance: random.Random) -> dict[str, Any]:
    """Change one thing in *copy*, ask the tests, and put it back."""
    source = (REPOSITORY / path).read_text(encoding="utf-8")
    tree = ast.parse(source)
    node, kind = chance.choice(sites(tree))
    line = getattr(node, "lineno", 0)
    before = ast.unparse(node)
    change(node, kind)
    (copy / path).write_text(ast.unparse(tree), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "tests/test_model.py", *tests]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=TIMEOUT_S, check=False)
        is_killed = done.returncode != 0
    except subprocess.TimeoutExpired:
        is_killed = True  # it runs for ever, which a person notices
    (copy / path).write_text(source, encoding="utf-8")
    return {
        "path": str(path),
        "line": line,
        "before": before[:120],
        "after": ast.unparse(node)[:120],
        "killed": is_killed,
    }


def main() -> None:
    """Try mutants, and print which survive."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="modules whose path contains this")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    choices = [each for each in modules() if options.only in str(each[0]) and each[1]]
    weights = [len(sites(ast.parse((REPOSITORY / path).read_text(encoding="utf-8")))) for path, _ in choices]
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        ignored = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", "node_modules")
        shutil.copytree(REPOSITORY, copy, ignore=ignored)
        for path, tests in chance.choices(choices, weights, k=options.count):
            result = run(copy, path, tests, chance)
            print(json.dumps(result), flush=True)
            if not result["killed"]:
                survivors.append(result)
    print(f"{options.count - len(survivors)} of {options.count} killed")
    for each in survivors:
        print(f"survived: {each['path']}:{each['line']}: {each['before']} -> {each['after']}")


if __name__ == "__main__":
    main()
