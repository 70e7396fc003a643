"""The scrub's units: systemd takes them, scores them, and they say what the command understands."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ckpt_indexer.cli.validate import command
from ckpt_indexer.formats.worker import MEMORY_MAX

FOLDER = Path(__file__).parents[1] / "systemd"
SERVICE, TIMER, DAEMON = (FOLDER / f"ckpt-indexer{name}" for name in ("-scrub@.service", "-scrub@.timer", "@.service"))
PROGRAM = "/opt/ckpt-indexer/bin/ckpt-indexer"
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


@pytest.fixture
def instances(tmp_path: Path) -> list[Path]:
    """Instantiated copies, for the root /data/outputs, that start a program which is here."""
    copies = []
    for unit in (SERVICE, TIMER):
        copies.append(tmp_path / unit.name.replace("@", "@data-outputs"))
        copies[-1].write_text(unit.read_text().replace(PROGRAM, sys.executable))
    return copies


def analyze(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


@needs_systemd
def test_systemd_finds_no_fault_in_instances_of_the_units(instances: list[Path]) -> None:
    assert analyze("verify", "--man=no", *instances) == (0, "")


@needs_systemd
def test_the_service_exposes_less_than_the_limit(instances: list[Path]) -> None:
    code, said = analyze("security", "--offline=true", f"--threshold={EXPOSURE_MAX}", instances[0])
    assert (code, said) == (0, said), said


def test_the_command_line_is_one(tmp_path: Path) -> None:
    (line,) = directives(SERVICE)["ExecStart"]
    program, name, *arguments = line.split()
    assert (program, name, arguments[-1]) == (PROGRAM, "validate", "%f")
    context = command.make_context("validate", [*arguments[:-1], str(tmp_path)])
    assert {name: context.params[name] for name in ("deep", "load", "max_age", "rate", "quiet")} == {
        "deep": True, "load": False, "max_age": 30 * 86_400.0, "rate": 50e6, "quiet": True
    }  # fmt: skip


def test_it_is_as_confined_as_the_daemon() -> None:
    def confinement(unit: Path) -> dict[str, list[str]]:
        prefixes = ("Protect", "Private", "Restrict", "SystemCall", "Capability", "Ambient", "NoNew", "Lock", "Memory")
        more = ("BindPaths", "ReadWritePaths", "DevicePolicy", "IPAddressDeny", "RemoveIPC", "UMask", "LimitCORE")
        return {n: v for n, v in directives(unit).items() if (n.startswith(prefixes) or n in more) and "Max" not in n}

    assert confinement(SERVICE) == confinement(DAEMON)
    assert len(confinement(SERVICE)) > 20
    assert directives(SERVICE)["User"] == directives(DAEMON)["User"]


def test_findings_fail_the_unit_and_a_stop_does_not() -> None:
    unit = directives(SERVICE)
    assert (unit["Type"], unit["SuccessExitStatus"], unit["KillMode"]) == (["oneshot"], ["143"], ["mixed"])


def test_the_memory_limit_leaves_room_for_a_reader_at_its_own_limit() -> None:
    (limit,) = directives(SERVICE)["MemoryMax"]
    assert int(limit.removesuffix("M")) << 20 >= 3 * MEMORY_MAX


@pytest.mark.parametrize("unit", [SERVICE, TIMER], ids=["service", "timer"])
def test_a_comment_stands_above_every_directive(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    bare = [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if line and not line.startswith(("#", "[")) and not above.startswith("# ")
    ]
    assert bare == []
