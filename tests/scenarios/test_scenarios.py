"""Scenarios as data: each ``*.yaml`` beside this file is one; its name is the sentence that it shows.

``kind`` names the module beside this file that plays it: ``run(scenario, folder)`` gets the document and an empty
folder, plays the timed events on a clock of its own and asserts what is expected. A bug becomes a new file; a new kind
is a new module. Every kind has ``events`` (``at_s`` and what happens) and ``expect``.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parent
SCENARIOS = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem.replace(" ", "-"))
def test_scenario(path: Path, tmp_path: Path) -> None:
    scenario: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    kind = scenario.pop("kind")
    assert (FOLDER / f"{kind}.py").is_file(), f"no module plays {kind!r}"
    importlib.import_module(f"tests.scenarios.{kind}").run(scenario, tmp_path)


def test_each_name_is_a_sentence() -> None:
    assert [path.name for path in SCENARIOS if len(path.stem.split()) < 4] == []
