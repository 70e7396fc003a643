"""The server's unit file: it says what the server relies on, and lets it read and nothing else."""

from __future__ import annotations

from tests.units import FOLDER, INSTALLED
from tests.units import directives as directives_of

UNIT = FOLDER / "ckpt-indexer-web@.service"


def directives() -> dict[str, list[str]]:
    return directives_of(UNIT)


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
