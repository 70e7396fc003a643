"""The exceptions: one module, a sentence and an exit code each, and nothing heavy to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import ckpt_indexer
from ckpt_indexer import errors
from ckpt_indexer.errors import CkptIndexerError, FormatProblem, NotRegularFile, reason_of

PACKAGE = Path(ckpt_indexer.__file__).parent
LEAVES = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, CkptIndexerError)]


def test_every_public_exception_stands_in_errors() -> None:
    elsewhere = [
        f"{path.relative_to(PACKAGE)}: {node.name}"
        for path in PACKAGE.rglob("*.py")
        if path.name not in ("errors.py", "build.py")  # build.py is no part of the installed package
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        if any(isinstance(base, ast.Name) and base.id.endswith(("Error", "Exception")) for base in node.bases)
    ]
    assert elsewhere == []


def test_every_exception_has_a_message_and_an_exit_code() -> None:
    assert [each for each in LEAVES if not each.__doc__ or each.exit_code not in (1, 2, 3, 10, 11)] == []


def test_importing_errors_loads_no_other_package() -> None:
    script = (
        "import sys; before = set(sys.modules)\n"
        "import importlib.util as u\n"
        f"spec = u.spec_from_file_location('errors', {str(PACKAGE / 'errors.py')!r})\n"
        "spec.loader.exec_module(u.module_from_spec(spec))\n"
        "print([m for m in sys.modules if m.partition('.')[0] in ('msgspec', 'numpy', 'ckpt_indexer', 'pydantic')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_file_that_is_no_regular_one_is_an_os_error_with_number_and_name() -> None:
    error = NotRegularFile(40, "fifo.ckpt")
    assert (isinstance(error, OSError), error.errno, error.filename) == (True, 40, "fifo.ckpt")
    assert reason_of(error) == "it is no regular file"


def test_a_format_problem_is_a_problem_of_an_entry() -> None:
    problem = FormatProblem("truncated", "cut\x1b short {0}").problem
    assert (problem.code, problem.message, problem.status) == ("truncated", "cut? short {0}", "incomplete")
