"""The server's unit file: systemd takes it, scores it, and it lets the server read and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "systemd" / "ckpt-indexer-web@.service"
INSTALLED = "/opt/ckpt-indexer/bin/ckpt-indexer"  # where the unit expects the console script
EXPOSURE_MAX = 15  # tenths

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")


def directives() -> dict[str, list[str]]:
    """Read the unit: directive -> its values, in order."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def instance(tmp_path: Path) -> Path:
    """An instantiated copy, for the root /data/outputs, that starts a program which is here."""
    text = UNIT.read_text()
    assert text.count(INSTALLED) == 1
    copy = tmp_path / "ckpt-indexer-web@data-outputs.service"
    copy.write_text(text.replace(INSTALLED, sys.executable))
    return copy


def analyze(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


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


def test_the_server_and_systemd_agree_on_the_protocol() -> None:
    unit = directives()
    names = ("Type", "NotifyAccess", "ExecStart", "KillMode", "Restart", "RestartPreventExitStatus")
    assert {name: unit[name] for name in names} == {
        "Type": ["notify"],
        "NotifyAccess": ["main"],
        "ExecStart": [f"{INSTALLED} serve %f"],
        "KillMode": ["mixed"],
        "Restart": ["on-failure"],
        "RestartPreventExitStatus": ["2"],
    }


def test_nothing_can_be_written_and_the_root_can_be_read_also_below_home() -> None:
    unit = directives()
    names = ("ProtectSystem", "ProtectHome", "BindReadOnlyPaths", "ReadOnlyPaths")
    assert {name: unit[name] for name in names} == {
        "ProtectSystem": ["strict"],
        "ProtectHome": ["tmpfs"],
        "BindReadOnlyPaths": ["%f"],
        "ReadOnlyPaths": ["/run -/dev/shm"],
    }
    assert {"ReadWritePaths", "BindPaths", "StateDirectory", "RuntimeDirectory"} & set(unit) == set()


def test_only_this_machine_is_spoken_to_and_without_privileges() -> None:
    unit = directives()
    names = ("IPAddressDeny", "IPAddressAllow", "RestrictAddressFamilies", "CapabilityBoundingSet", "NoNewPrivileges")
    assert {name: unit[name] for name in names} == {
        "IPAddressDeny": ["any"],
        "IPAddressAllow": ["localhost"],
        "RestrictAddressFamilies": ["AF_INET AF_INET6 AF_UNIX"],
        "CapabilityBoundingSet": [""],
        "NoNewPrivileges": ["yes"],
    }
    assert unit["User"] not in (["root"], [])


def test_a_stop_waits_for_what_the_server_grants_and_files_suffice_for_its_connections() -> None:
    from ckpt_indexer.web.server import GRACE_S
    from ckpt_indexer.web.settings import ServerSettings

    unit = directives()
    assert float(unit["TimeoutStopSec"][0]) > 2 * GRACE_S
    assert int(unit["LimitNOFILE"][0]) > 2 * ServerSettings().connections_max


def test_a_comment_stands_above_every_directive() -> None:
    lines = UNIT.read_text().splitlines()
    bare = [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if line and not line.startswith(("#", "[")) and not above.startswith("# ")
    ]
    assert bare == []
