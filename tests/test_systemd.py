"""The unit files: systemd takes them, scores them, and they say what daemon and server rely on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.units import EXPOSURE_MAX, FOLDER, INSTALLED, analyze, instance_of, needs_systemd
from tests.units import directives as directives_of

if TYPE_CHECKING:
    from pathlib import Path

UNIT = FOLDER / "ckpt-indexer@.service"
SERVICES = sorted(FOLDER.glob("*.service"))


def directives() -> dict[str, list[str]]:
    return directives_of(UNIT)


@pytest.fixture(params=SERVICES, ids=lambda unit: unit.name)
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    assert request.param.read_text().count(INSTALLED) == 1
    return instance_of(request.param, tmp_path)


@needs_systemd
def test_systemd_finds_no_fault_in_an_instance_of_the_unit(instance: Path) -> None:
    assert analyze("verify", "--man=no", instance) == (0, "")


@needs_systemd
def test_the_unit_exposes_less_than_the_limit(instance: Path) -> None:
    code, said = analyze("security", "--offline=true", f"--threshold={EXPOSURE_MAX}", instance)
    assert (code, said) == (0, said), said


@needs_systemd
def test_a_unit_without_its_hardening_is_above_the_limit(instance: Path) -> None:
    lines = instance.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("Protect", "Private", "SystemCall", "Capability"))]
    instance.write_text("\n".join(kept))
    assert analyze("security", "--offline=true", f"--threshold={EXPOSURE_MAX}", instance)[0] == 1


@pytest.mark.parametrize("unit", [*SERVICES, *FOLDER.glob("*.timer")], ids=lambda unit: unit.name)
def test_a_comment_stands_above_every_directive(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    bare = [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if line and not line.startswith(("#", "[")) and not above.startswith("# ")
    ]
    assert bare == []


def test_the_daemon_and_systemd_agree_on_the_protocol() -> None:
    unit = directives()
    names = ("Type", "NotifyAccess", "ExecStart", "ExecReload", "KillMode", "Restart", "RestartPreventExitStatus")
    assert {name: unit[name] for name in names} == {
        "Type": ["notify"],
        "NotifyAccess": ["main"],
        "ExecStart": [f"{INSTALLED} watch %f"],
        "ExecReload": ["/bin/kill -HUP $MAINPID"],
        "KillMode": ["mixed"],
        "Restart": ["on-failure"],
        "RestartPreventExitStatus": ["2"],
    }


def test_the_watchdog_is_more_patient_than_the_self_test() -> None:
    from ckpt_indexer.watch.events.observer import SELF_TEST_INTERVAL_S
    from ckpt_indexer.watch.events.self_test import TIMEOUT_S

    (seconds,) = directives()["WatchdogSec"]
    interval_s = min(SELF_TEST_INTERVAL_S, float(seconds) / 3)
    # One test that fails, and one that comes through after watching started anew.
    assert float(seconds) > interval_s + 2 * TIMEOUT_S


def test_a_stop_waits_longer_than_a_reader_may_hang() -> None:
    from ckpt_indexer.sandbox.owner import WALL_SECONDS

    (seconds,) = directives()["TimeoutStopSec"]
    assert float(seconds) > 2 * WALL_SECONDS


def test_the_memory_limit_leaves_room_for_a_reader_at_its_own_limit() -> None:
    from ckpt_indexer.sandbox.requests import MEMORY_MAX

    (limit,) = directives()["MemoryMax"]
    assert int(limit.removesuffix("M")) << 20 >= 3 * MEMORY_MAX
    assert directives()["OOMPolicy"] == ["continue"]


def test_the_tree_alone_can_be_written_also_below_home() -> None:
    unit = directives()
    names = ("ProtectSystem", "ProtectHome", "BindPaths", "ReadWritePaths")
    assert {name: unit[name] for name in names} == {
        "ProtectSystem": ["strict"],
        "ProtectHome": ["tmpfs"],
        "BindPaths": ["%f"],
        "ReadWritePaths": ["%f"],
    }


def test_everybody_can_read_the_sidecars_and_nobody_else_write_them() -> None:
    assert directives()["UMask"] == ["0022"]


def test_the_service_has_no_network_and_no_privileges() -> None:
    unit = directives()
    names = ("PrivateNetwork", "RestrictAddressFamilies", "CapabilityBoundingSet", "NoNewPrivileges")
    assert {name: unit[name] for name in names} == {
        "PrivateNetwork": ["yes"],
        "RestrictAddressFamilies": ["AF_UNIX"],
        "CapabilityBoundingSet": [""],
        "NoNewPrivileges": ["yes"],
    }
    assert unit["User"] not in (["root"], [])
    assert "DynamicUser" not in unit
