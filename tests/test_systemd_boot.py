"""The unit under a real systemd: a small system is installed, booted as a container, and made to suffer.

The system has a root folder (mmdebstrap), namespaces (systemd-nspawn) and control groups of its own; nothing of this
machine is in it, and every mount is made in a namespace that ends with it. Its systemd is spoken to through its own
``systemctl``, entered from outside; its files are written and read from outside. Not tested: MemoryMax= and TasksMax=,
which need controllers that this machine may not give away.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import yaml

from ckpt_indexer import paths, read_index
from ckpt_indexer.daemon_state import DaemonState, read_state
from tests.process import TIMEOUT_S, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt_indexer.model import Entry

pytestmark = pytest.mark.boot

CHECKOUT = Path(__file__).parents[1]
TEMPLATE = "ckpt-indexer@.service"
ROOT = "/data/outputs"
INSTALL_TIMEOUT_S = 300.0  # downloads included
TOOLS = ("apt-get", "mmdebstrap", "nsenter", "setpriv", "systemd-nspawn", "unshare")

# What it starts dies with the thread that started it, and the mounts with that.
APART = ("setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--propagation=private")
# $1: control groups to join. /run is hidden because systemd-nspawn keeps its books there.
ENTER = 'for group in $1; do echo $$ >"$group/cgroup.procs"; done; mount -t tmpfs tmpfs /run; shift; exec "$@"'
NSPAWN = (
    *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network", "--console=pipe"),
    *("--resolv-conf=off", "--timezone=off", "--link-journal=no"),
)


def call(*command: str | Path, timeout_s: float = TIMEOUT_S) -> str:
    """Run a command, which must succeed."""
    done = subprocess.run(
        [*map(str, command)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, f"{command} -> {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def contained(groups: list[Path], *arguments: str | Path) -> list[str]:
    """Give the command line of a systemd-nspawn that leaves nothing behind."""
    return [*APART, "sh", "-ec", ENTER, "sh", " ".join(map(str, groups)), *NSPAWN, *map(str, arguments)]


def find_mirror() -> tuple[str, str] | None:
    """Give this machine's release, and the mirror that its apt takes it from."""
    release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    wanted = ("--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)", "Created-By: Packages")
    for line in call("apt-get", "indextargets", *wanted).splitlines():
        codename, component, mirror = line.split(" ", 2)
        if (codename, component) == (release, "main"):
            return release, mirror
    return None


def find_groups() -> list[Path]:
    """Give this process's own control groups, where a service manager would make others: old hierarchy, and new."""
    base = Path("/sys/fs/cgroup")
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "name=systemd"):
            places = [base / "systemd"] if controllers else [base / "unified", base]
            found += [place / path[1:] for place in places if (place / "cgroup.procs").exists()][:1]
    return found


def is_removed(group: Path) -> bool:
    with contextlib.suppress(OSError):  # busy for a moment after its last process
        for folder, _, _ in os.walk(group, topdown=False):
            os.rmdir(folder)
    return not group.exists()


@pytest.fixture(scope="module")
def groups() -> Iterator[list[Path]]:
    """Control groups for the containers alone; no container is started without them."""
    if os.geteuid() != 0:
        pytest.skip("only root may start containers")
    made = [group / f"ckpt-indexer-boot-{os.getpid()}" for group in find_groups()]
    try:
        for group in made:
            group.mkdir()
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    yield made
    for group in made:
        wait_for(partial(is_removed, group))


@pytest.fixture(scope="module")
def system(groups: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root folder of a system with this checkout installed as the unit expects it."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"not here: {', '.join(missing)}")
    if (source := find_mirror()) is None:
        pytest.skip("apt knows no mirror of this machine's release (apt-get update)")
    folder = tmp_path_factory.mktemp("boot")
    # Before half a minute is spent: no boot, but one program of this machine's, which it may read and not change.
    (folder / "trial/usr").mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (folder / "trial" / name).symlink_to(f"usr/{name}")
    try:
        call(*contained(groups, "-D", folder / "trial", "--bind-ro=/usr", "true"))
    except AssertionError as error:
        pytest.skip(f"containers cannot be started here: {error}")
    try:
        install_system(folder / "system", *source)
        install_package(folder / "system", folder / "wheels", groups)
        yield folder / "system"
    finally:
        shutil.rmtree(folder)


def install_system(root: Path, release: str, mirror: str) -> None:
    """Install systemd, Python, procps for its /bin/kill, which the unit calls, and passwd for useradd."""
    options = (
        *("--mode=root", "--variant=essential", "--include=systemd,python3,procps,passwd"),
        "--dpkgopt=force-unsafe-io",  # thousands of fsyncs, for a system that lives a minute
        '--aptopt=APT::Sandbox::User "root"',  # another user cannot read pytest's temporary folders
        '--aptopt=Acquire::Languages "none"',
    )
    apart = (*APART, "--pid", "--fork", "--kill-child")  # what it starts ends with it, also when it takes too long
    call(*apart, "mmdebstrap", *options, release, root, mirror, timeout_s=INSTALL_TIMEOUT_S)


def install_package(root: Path, wheels: Path, groups: list[Path]) -> None:
    """Install this checkout as the manual says, but for downloads: they are made here, where pip is set up for them."""
    pip = (sys.executable, "-m", "pip", "--quiet")
    call(*pip, "wheel", "--no-deps", "--wheel-dir", wheels, CHECKOUT, timeout_s=INSTALL_TIMEOUT_S)
    (wheel,) = wheels.iterdir()
    (version,) = (path.name.removeprefix("python") for path in (root / "usr/lib").glob("python3.*"))
    fit = ("--only-binary=:all:", "--python-version", version)
    call(*pip, "download", "--dest", wheels, *fit, wheel, "pip", timeout_s=INSTALL_TIMEOUT_S)
    (installer,) = wheels.glob("pip-*.whl")
    script = f"""
    python3 -m venv --without-pip /opt/ckpt-indexer
    export PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels
    /opt/ckpt-indexer/bin/python /wheels/{installer.name}/pip install --quiet ckpt-indexer
    useradd --system ckpt-indexer
    useradd --create-home alice
    """
    bound = f"--bind-ro={wheels}:/wheels"
    call(*contained(groups, "-D", root, bound, "sh", "-ec", script), timeout_s=INSTALL_TIMEOUT_S)
    shutil.copy(CHECKOUT / "systemd" / TEMPLATE, root / "etc/systemd/system")


class Machine:
    """The booted system; powered off when left."""

    def __init__(self, root: Path, groups: list[Path]) -> None:
        self.root = root
        self._groups = groups
        self._console = root.with_name("console")

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind("")  # the kernel gives an abstract name: paths may be too long
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": "@" + self._socket.getsockname()[1:].decode(),
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",  # the new control groups, also where this machine has the old ones
        }
        # bpf(2) is what systemd enforces DevicePolicy= and IPAddressDeny= with.
        boot = ("--boot", "--notify-ready=yes", "--system-call-filter=bpf", "-D", self.root)
        with self._console.open("wb") as console:
            self._process = subprocess.Popen(
                contained(self._groups, *boot),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=environment,
            )
        try:
            self._leader = self._wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.terminate()  # systemd-nspawn makes it a power-off
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(TIMEOUT_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._socket.close()

    def _wait_ready(self) -> str:
        """Wait until the system is up; gives its first process, as it is numbered here."""
        said: list[str] = []

        def is_ready() -> bool:
            assert self._process.poll() is None, self._console.read_text(errors="replace")
            with contextlib.suppress(BlockingIOError):
                said.extend(self._socket.recv(4096).decode().splitlines())
            return "READY=1" in said

        wait_for(is_ready)
        (leader,) = (line.partition("=")[2] for line in said if line.startswith("X_NSPAWN_LEADER_PID="))
        return leader

    def run(self, *command: str) -> str:
        """Run a command in the system, as its root."""
        return call("nsenter", f"--target={self._leader}", "--all", *command)


@pytest.fixture(scope="module")
def machine(system: Path, groups: list[Path]) -> Iterator[Machine]:
    with Machine(system, groups) as machine:
        yield machine


class Service:
    """The unit's instance for one root, which is made for it; stopped and forgotten when left."""

    def __init__(self, machine: Machine, root: str, **directives: str) -> None:
        self.root = root
        self.run = machine.run
        self.outside = machine.root / root[1:]
        self.unit = machine.run("systemd-escape", "--path", f"--template={TEMPLATE}", root).strip()
        self._drop_in = machine.root / "etc/systemd/system" / f"{self.unit}.d" / "test.conf"
        self.user = directives.get("User", "ckpt-indexer")
        self._directives = {"RestartSec": "100ms", **directives}

    def __enter__(self) -> Self:
        self._drop_in.parent.mkdir()
        lines = [f"{name}={value}\n" for name, value in self._directives.items()]
        self._drop_in.write_text("[Service]\n" + "".join(lines))
        self.run("systemctl", "daemon-reload")
        self.make_folder("")
        shown = self.run("journalctl", "--quiet", "--lines=0", "--show-cursor")
        self._since = f"--after-cursor={shown.strip().removeprefix('-- cursor: ')}"
        return self

    def __exit__(self, *_: object) -> None:
        print(self._journal(f"--unit={self.unit}"))  # pytest shows it with a failure
        self.run("systemctl", "disable", "--quiet", "--now", self.unit)
        self.run("systemctl", "reset-failed")
        shutil.rmtree(self._drop_in.parent)
        shutil.rmtree(self.outside)
        self.run("systemctl", "daemon-reload")

    def make_folder(self, path: str) -> None:
        self.run("install", "--directory", f"--owner={self.user}", f"--group={self.user}", f"{self.root}/{path}")

    def start(self) -> int:
        """Enable and start it; gives its process when that has said that it is ready."""
        self.run("systemctl", "enable", "--quiet", self.unit)
        self.run("systemctl", "start", self.unit)
        return self.main_pid()

    def show(self, *names: str) -> dict[str, str]:
        """Give properties of the unit."""
        lines = self.run("systemctl", "show", self.unit, f"--property={','.join(names)}").splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def main_pid(self) -> int:
        return int(self.show("MainPID")["MainPID"])

    def failures(self) -> list[str]:
        """Give systemd's word for each failure so far: a restart resets ``Result``."""
        lines = self._journal("--output=json", f"UNIT={self.unit}").splitlines()
        return [record["UNIT_RESULT"] for record in map(json.loads, lines) if "UNIT_RESULT" in record]

    def log(self, pid: int) -> list[dict[str, Any]]:
        """Give what one process of it has logged."""
        return [json.loads(line) for line in self._journal("--output=cat", f"_PID={pid}").splitlines()]

    def _journal(self, *arguments: str) -> str:
        return self.run("journalctl", "--quiet", "--no-pager", self._since, *arguments)

    def wait_restarted(self, since: int) -> int:
        """Wait until another process than *since* is ready."""

        def has_restarted() -> bool:
            now = self.show("ActiveState", "MainPID", "NRestarts")
            return (
                now["ActiveState"] == "active" and now["NRestarts"] == "1" and now["MainPID"] not in ("0", str(since))
            )

        wait_for(has_restarted)
        return self.main_pid()

    def wait_indexed(self, key: str) -> Entry:
        """Wait until a checkpoint is in the index, and whole."""

        def find() -> Entry | None:
            entry = read_index(self.outside).entries.get(key)
            return entry if entry is not None and entry.status == "ok" else None

        entry: Entry = wait_for(find)
        return entry

    def state(self) -> DaemonState:
        state = read_state(str(self.outside))
        assert state is not None
        return state


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    import torch

    path = tmp_path_factory.mktemp("checkpoint") / "a.ckpt"
    content = {"epoch": 3, "global_step": 128, "pytorch-lightning_version": "2.6.6"}
    torch.save({**content, "state_dict": {"w": torch.zeros(4, 5)}}, path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("root", "user"),
    [(ROOT, "ckpt-indexer"), ("/home/alice/50% of 'my' runs: all", "alice")],
    ids=["a data disk", "a home"],
)
def test_a_checkpoint_is_indexed_and_gets_its_sidecar(
    machine: Machine, checkpoint: bytes, root: str, user: str
) -> None:
    with Service(machine, root, User=user, Group=user) as service:
        service.start()
        names = ("Type", "ActiveState", "NRestarts", "StatusText")
        assert service.show(*names) == {
            "Type": "notify", "ActiveState": "active", "NRestarts": "0", "StatusText": "ok: no checkpoints",
        }  # fmt: skip
        service.make_folder("run")
        (service.outside / "run/a.ckpt").write_bytes(checkpoint)
        entry = service.wait_indexed("run/a.ckpt")
        assert (entry.epoch, entry.global_step, entry.parameters, entry.lightning_version) == (3, 128, 20, "2.6.6")
        assert (entry.metadata_source, entry.metadata_problem) == ("checkpoint", None)
        sidecar = service.outside / "run/a.ckpt.metadata.yaml"
        document = yaml.safe_load(sidecar.read_bytes())
        assert document["checkpoint_path"] == "run/a.ckpt"
        assert (document["training"]["epoch"], document["training"]["global_step"]) == (3, 128)
        assert service.run("stat", "--format=%U %G %a", f"{root}/run/a.ckpt.metadata.yaml").split() == [
            user,
            user,
            "644",
        ]


def test_the_instance_for_data_outputs_has_the_name_that_the_unit_file_gives(machine: Machine) -> None:
    assert Service(machine, ROOT).unit == "ckpt-indexer@data-outputs.service"


def test_the_service_can_write_its_root_and_nothing_else_that_others_see(machine: Machine) -> None:
    with Service(machine, ROOT) as service:
        inside = ("nsenter", f"--target={service.start()}", "--mount")
        service.make_folder("run")
        user = (f"--reuid={service.user}", f"--regid={service.user}", "--clear-groups")
        # /proc and /sys say something else than access(2) does: the kernel asks for privileges there.
        find = "find / '(' -path /proc -o -path /sys ')' -prune -o -type d -writable -print 2>/dev/null || true"
        writable = service.run(*inside, "setpriv", *user, "sh", "-c", find).splitlines()
        identity = ("stat", "--format=%d:%i")
        seen, real = (service.run(*where, *identity, *writable).splitlines() for where in (inside, ()))
        shared = {path for path, one, other in zip(writable, seen, real, strict=True) if one == other}
        assert shared == {ROOT, f"{ROOT}/run"}


def test_the_service_has_no_privileges_and_namespaces_of_its_own(machine: Machine) -> None:
    with Service(machine, ROOT) as service:
        pid = service.start()
        lines = service.run("cat", f"/proc/{pid}/status").splitlines()
        status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        namespaces = [
            [service.run("readlink", f"/proc/{p}/ns/{n}") for n in ("ipc", "mnt", "net", "user", "uts")]
            for p in (1, pid)
        ]
        assert set(namespaces[0]).isdisjoint(namespaces[1])


def test_a_killed_daemon_is_started_again_and_goes_on(machine: Machine, checkpoint: bytes) -> None:
    with Service(machine, ROOT) as service:
        killed = service.start()
        (service.outside / "a.ckpt").write_bytes(checkpoint)
        service.wait_indexed("a.ckpt")
        service.run("kill", "-KILL", str(killed))
        service.wait_restarted(killed)
        assert service.failures() == ["signal"]
        (service.outside / "b.ckpt").write_bytes(checkpoint)
        service.wait_indexed("b.ckpt")
        assert sorted(read_index(service.outside).entries) == ["a.ckpt", "b.ckpt"]


def test_a_stop_is_clean(machine: Machine, checkpoint: bytes) -> None:
    with Service(machine, ROOT) as service:
        (service.outside / "a.ckpt").write_bytes(checkpoint)
        pid = service.start()
        assert (service.state().state, service.state().pid) == ("ok", pid)
        service.run("systemctl", "stop", service.unit)
        names = ("ActiveState", "Result", "ExecMainCode", "ExecMainStatus", "NRestarts")
        assert service.show(*names) == {
            "ActiveState": "inactive", "Result": "success", "NRestarts": "0",
            "ExecMainCode": "1", "ExecMainStatus": "0",  # it exited, with 0
        }  # fmt: skip
        assert service.state().state == "stopped"
        assert service.log(pid)[-1]["event"] == "daemon_stopped"
        assert not list(service.outside.glob(f"{paths.COOKIE_PREFIX}*"))


def test_a_reload_reads_the_settings_again_in_the_same_process(machine: Machine) -> None:
    settings = machine.root / "etc/ckpt-indexer.yaml"
    settings.write_text("scan_interval: 60\n")
    with Service(machine, ROOT, Environment="CKPT_INDEXER_CONFIG=/etc/ckpt-indexer.yaml") as service:
        pid = service.start()
        settings.write_text("scan_interval: 30\n")
        service.run("systemctl", "reload", service.unit)
        reloaded = wait_for(lambda: [line for line in service.log(pid) if line["event"] == "settings_reloaded"])
        assert reloaded[0]["scan_interval"] == 30
        wait_for(lambda: service.show("ActiveState", "MainPID") == {"ActiveState": "active", "MainPID": str(pid)})


def test_a_wrong_setting_is_said_once_and_not_tried_again(machine: Machine) -> None:
    with Service(machine, ROOT, Environment="CKPT_INDEXER_WORKERS=many") as service:
        with pytest.raises(AssertionError, match="control process exited with error code"):
            service.start()
        names = ("ActiveState", "Result", "ExecMainStatus", "NRestarts")
        assert service.show(*names) == {
            "ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "2", "NRestarts": "0",
        }  # fmt: skip


def test_the_watchdog_replaces_a_daemon_that_hangs(machine: Machine, checkpoint: bytes) -> None:
    with Service(machine, ROOT, WatchdogSec="2s") as service:
        hanging = service.start()
        service.run("kill", "-STOP", str(hanging))
        service.wait_restarted(hanging)
        assert service.failures() == ["watchdog"]
        (service.outside / "a.ckpt").write_bytes(checkpoint)
        service.wait_indexed("a.ckpt")


def test_the_watchdog_replaces_a_daemon_that_works_but_hears_of_no_event(machine: Machine, checkpoint: bytes) -> None:
    often = "CKPT_INDEXER_SCAN_INTERVAL=1"  # so that passes find what no event tells
    with Service(machine, ROOT, WatchdogSec="10s", Environment=often) as service:
        deaf = service.start()
        # A signal would stop all threads. A threaded control group is frozen by threads: the first that was started
        # waits for events and passes them on.
        group = f"/sys/fs/cgroup{service.show('ControlGroup')['ControlGroup']}/frozen"
        script = f"""
        mkdir "$1" && echo threaded >"$1/cgroup.type"
        ls /proc/{deaf}/task | sort -n | sed -n 2p >"$1/cgroup.threads"
        echo 1 >"$1/cgroup.freeze"
        """
        service.run("sh", "-ec", script, "sh", group)
        (service.outside / "a.ckpt").write_bytes(checkpoint)
        service.wait_indexed("a.ckpt")
        assert service.main_pid() == deaf  # it works
        service.wait_restarted(deaf)
        assert service.failures() == ["watchdog"]
        (service.outside / "b.ckpt").write_bytes(checkpoint)
        service.wait_indexed("b.ckpt")
