"""What the service manager is told, over the socket that it reads."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from ckpt_indexer.systemd_notify import ServiceManager

if TYPE_CHECKING:
    from pathlib import Path


def test_a_folders_name_cannot_say_anything_to_the_service_manager(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        ServiceManager({"NOTIFY_SOCKET": address}).ready("degraded: bad\nMAINPID=1\x1b")
        assert receiver.recv(1000) == b"READY=1\nSTATUS=degraded: bad MAINPID=1?"
