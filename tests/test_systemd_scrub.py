"""The scrub's units: systemd takes them together, and they say what the command understands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckpt_indexer.cli.validate import command
from ckpt_indexer.sandbox.requests import MEMORY_MAX
from tests.units import FOLDER, INSTALLED, analyze, directives, instance_of, needs_systemd

if TYPE_CHECKING:
    from pathlib import Path

SERVICE, TIMER, DAEMON = (FOLDER / f"ckpt-indexer{name}" for name in ("-scrub@.service", "-scrub@.timer", "@.service"))


@needs_systemd
def test_systemd_finds_no_fault_in_instances_of_the_units(tmp_path: Path) -> None:
    instances = [instance_of(unit, tmp_path) for unit in (SERVICE, TIMER)]
    assert analyze("verify", "--man=no", *instances) == (0, "")


def test_the_command_line_is_one(tmp_path: Path) -> None:
    (line,) = directives(SERVICE)["ExecStart"]
    program, name, *arguments = line.split()
    assert (program, name, arguments[-1]) == (INSTALLED, "validate", "%f")
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
