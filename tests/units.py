"""The unit files in `systemd/`, for the tests that hold them to the code."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "systemd"
INSTALLED = "/opt/ckpt-indexer/bin/ckpt-indexer"  # where the units expect the console script
EXPOSURE_MAX = 15  # tenths

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")


def directives(unit: Path) -> dict[str, list[str]]:
    """Read a unit: directive -> its values, in order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def instance_of(unit: Path, folder: Path) -> Path:
    """Write an instantiated copy, for the root /data/outputs, that starts a program which is here."""
    copy = folder / unit.name.replace("@", "@data-outputs")
    copy.write_text(unit.read_text().replace(INSTALLED, sys.executable))
    return copy


def analyze(*arguments: str | Path) -> tuple[int, str]:
    """Run `systemd-analyze`; gives its exit code and all that it said."""
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr
