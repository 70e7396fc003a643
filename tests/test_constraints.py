"""constraints.txt is a tested set: an exact version of everything that pyproject.toml names, from no certain place."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINES = Path(__file__).with_name("constraints.txt").read_text(encoding="utf-8").splitlines()


def test_every_line_is_a_name_and_an_exact_version() -> None:
    # No path, no URL, and no local version ("+cpu"): the file is for every machine.
    assert [line for line in LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []


def test_every_dependency_has_a_line_with_a_version_that_it_allows() -> None:
    pinned = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES)}
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    wanted = [Requirement(text) for group in groups for text in group]
    others = [each for each in wanted if canonicalize_name(each.name) != PROJECT["name"]]
    missing = [str(each) for each in others if pinned.get(canonicalize_name(each.name), "") not in each.specifier]
    assert missing == []
