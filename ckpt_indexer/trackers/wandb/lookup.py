"""What Weights & Biases' server knows of a run, asked behind the indexer's back and kept on disk.

A ``Lookup`` never makes anybody wait: ``get`` answers from its cache at once and notes what has to be asked. A thread
asks, one run at a time, through the real client in a process of its own, which is started when there is something to
ask and ended when there is not. That keeps the client's import (0.5 s), its memory (100 MB with its ``wandb-core``) and
its patience out of the indexer, and there is no other way to stop it: a thread cannot be killed.

Promises: with the server gone, slow, wrong or hostile the old answer stands, and the question is asked again, after
pauses that double up to an hour; one that fails does not keep others from being asked. A question takes ``ANSWER_S`` at
most. ``close`` returns when thread and process have ended. Nobody's credentials are read here: the client finds them.

The cache is one JSON file a run, ``ENTITY/PROJECT/ID.json``, replaced as a whole; ended runs stay as they are, others
are asked about again once they are wanted and ``AGES_S`` old. A cache that cannot be read or written counts as empty.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from typing import TYPE_CHECKING, Any, Self

import msgspec
import platformdirs

from ckpt_indexer.backoff import Backoff
from ckpt_indexer.errors import reason_of
from ckpt_indexer.formats.pickles.plain import Plainer
from ckpt_indexer.model import Problem
from ckpt_indexer.paths import RelPath, split
from ckpt_indexer.trackers.wandb.run import Run, RunPath
from ckpt_indexer.tree.local import opened_file, opened_folder, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REQUEST_S = 10  # what the client may wait for each of its three requests; $WANDB_HTTP_TIMEOUT says otherwise
ANSWER_S = 60.0  # for one run, the client's start and its three requests included
PAUSES_S = (30.0, 3600.0)  # after a failure; doubled with each, up to the second
AGES_S = {"running": 300.0, "missing": 86_400.0}  # after which an answer is asked for again; a run that ended, never
WANTED_MAX = 1_000  # runs to be asked about; one that finds no room is noted when it is wanted again
ANSWER_MAX = 1 << 20  # bytes; a plain configuration has at most half of that
CACHE_MAX = 256 << 20  # bytes of all files; the oldest go first
PRUNE_EVERY = 200  # answers
_ENDED = ("finished", "crashed", "failed", "killed", "preempted")
_NAME = re.compile(r"(?!\.)[^/\x00-\x1f\x7f\ud800-\udfff]{1,128}")


class _Answer(msgspec.Struct):
    """What came of a question; neither a run nor a failure: the server has no such run."""

    run: Run | None = None
    failure: str | None = None


class _Cached(msgspec.Struct):
    asked_at: float  # seconds since 1970
    run: Run | None  # ``None``: the server had no such run


class Lookup:
    """Asks for runs and remembers them; any thread may call it."""

    def __init__(
        self,
        cache_dir: str,
        *,
        on_result: Callable[[RunPath], None] = lambda _: None,
        answer_s: float = ANSWER_S,
        pauses_s: tuple[float, float] = PAUSES_S,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """Use *cache_dir*, which is made if need be.

        *on_result* is called, in the thread that asks, when a run is known or known to be otherwise than before; it
        must be quick and must not raise.
        """
        self.problem: str | None = None  # why the last question had no answer, for people
        self._cache_dir = cache_dir
        self._on_result = on_result
        self._answer_s = answer_s
        self._retry = Backoff(*pauses_s)
        self._environment = environment
        self._changed = threading.Condition()  # guards what follows
        self._wanted: dict[RunPath, None] = {}  # in the order in which they will be asked about
        self._client: subprocess.Popen[bytes] | None = None
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, run: RunPath) -> Run | None:
        """Return what is known of *run* now; what is not known, or old, will be asked for."""
        if not all(_NAME.fullmatch(part) for part in run if part is not None):
            return None
        cached = self._read(run)
        if cached is None or not _is_current(cached):
            self._want(run)
        return None if cached is None else cached.run

    def close(self) -> None:
        """Stop asking, in the middle of a question if need be."""
        with self._changed:
            self._is_closed = True
            if self._client is not None:
                self._client.kill()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _want(self, run: RunPath) -> None:
        with self._changed:
            if self._is_closed or run in self._wanted or len(self._wanted) >= WANTED_MAX:
                return
            self._wanted[run] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _work(self) -> None:
        asked = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed, timeout=self._retry.delay_s)
                self._changed.wait_for(lambda: self._is_closed or self._wanted)
                if self._is_closed:
                    return
            if asked % PRUNE_EVERY == 0:
                self._prune()
            answered = self._ask_all()
            asked += answered
            if self.problem is None:
                self._retry.succeeded()
            else:
                self._retry.failed(time.monotonic())

    def _ask_all(self) -> int:
        """Ask until nothing is wanted or a question fails; say how many were answered."""
        count = 0
        with contextlib.ExitStack() as stack:
            try:
                # The client makes folders for a run's files, and reads settings where it stands.
                folder = stack.enter_context(
                    # Its wandb-core may live for a moment longer, and write there.
                    tempfile.TemporaryDirectory(prefix="ckpt-indexer-wandb-", ignore_cleanup_errors=True)
                )
                client = stack.enter_context(self._started(folder))
                while run := self._next():
                    self.problem = self._ask(client, run)
                    if self.problem is not None:
                        return count
                    count += 1
            except OSError as error:  # no process, no room
                self.problem = reason_of(error)
        return count

    def _next(self) -> RunPath | None:
        with self._changed:
            return None if self._is_closed else next(iter(self._wanted), None)

    @contextlib.contextmanager
    def _started(self, folder: str) -> Any:
        command = [sys.executable, "-P", "-W", "ignore", "-m", "ckpt_indexer.trackers.wandb.lookup"]
        environment = {
            "WANDB_HTTP_TIMEOUT": str(REQUEST_S),
            **self._environment,
            **dict.fromkeys(("WANDB_DIR", "WANDB_CACHE_DIR", "TMPDIR"), folder),
            "WANDB_SILENT": "true",
            "WANDB_ERROR_REPORTING": "false",
        }
        with self._changed:
            if self._is_closed:
                raise OSError("closed")
            client = subprocess.Popen(  # noqa: S603 - a command of our own
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env=environment,
            )
            self._client = client
        try:
            yield client
        finally:
            with self._changed:
                self._client = None
            client.kill()  # its wandb-core ends when it is gone
            client.communicate()

    def _ask(self, client: subprocess.Popen[bytes], run: RunPath) -> str | None:
        """Ask about one run and remember the answer; give the reason if there is none."""
        failure: str | None = None
        try:
            answer = self._exchange(client, run)
            failure = answer.failure
        except (OSError, EOFError, msgspec.MsgspecError) as error:
            failure = str(error) or "the client ended"
        if failure is None:
            before = self._read(run)
            self._write(run, _Cached(time.time(), answer.run))
            is_new = (before.run if before else None) != answer.run
        with self._changed:
            self._wanted.pop(run, None)
            if failure is not None:
                self._wanted[run] = None  # behind the others
        if failure is None and is_new:
            self._on_result(run)
        return failure

    def _exchange(self, client: subprocess.Popen[bytes], run: RunPath) -> _Answer:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(msgspec.json.encode(run) + b"\n")
        client.stdin.flush()
        deadline = time.monotonic() + self._answer_s
        line = bytearray()
        poller = select.poll()
        poller.register(client.stdout, select.POLLIN)
        while not line.endswith(b"\n"):
            if not poller.poll(1000 * max(0.0, deadline - time.monotonic())):
                raise OSError(f"no answer within {self._answer_s:g} s")
            part = os.read(client.stdout.fileno(), 1 << 16)
            line += part
            if not part:
                raise EOFError
            if len(line) > ANSWER_MAX:
                raise OSError("the answer is too large")
        return msgspec.json.decode(bytes(line), type=_Answer)

    def _read(self, run: RunPath) -> _Cached | None:
        try:
            with (
                opened_file(self._cache_dir, _cache_path(run)) as descriptor,
                open(descriptor, "rb", closefd=False) as file,
            ):
                return msgspec.json.decode(file.read(2 * ANSWER_MAX), type=_Cached)
        except (OSError, msgspec.MsgspecError, RecursionError):
            return None

    def _write(self, run: RunPath, cached: _Cached) -> None:
        folder, name = split(_cache_path(run))
        os.makedirs(os.path.join(self._cache_dir, folder), mode=0o700, exist_ok=True)
        with opened_folder(self._cache_dir, folder) as folder_fd:
            replace_file(folder_fd, name, msgspec.json.encode(cached), durable=False)

    def _prune(self) -> None:
        files = []
        for folder, _, names in os.walk(self._cache_dir):
            for name in names:
                with contextlib.suppress(OSError):
                    path = os.path.join(folder, name)
                    status = os.lstat(path)
                    files.append((status.st_mtime_ns, status.st_size, path))
        left = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if left <= CACHE_MAX:
                break
            left -= size
            with contextlib.suppress(OSError):
                os.unlink(path)


def default_cache_dir() -> str:
    """Return the folder of the cache (XDG Base Directory Specification)."""
    return os.path.join(platformdirs.user_cache_dir("ckpt-indexer"), "wandb")


def _cache_path(run: RunPath) -> RelPath:
    """Name a run's file; the default entity's folder is one that no entity can have."""
    parts = (" " if part is None else urllib.parse.quote(part, safe=" ") for part in run)
    return RelPath("/".join(parts) + ".json")


def _is_current(cached: _Cached) -> bool:
    if cached.run is not None and cached.run.state in _ENDED:
        return True
    return 0 <= time.time() - cached.asked_at < AGES_S["missing" if cached.run is None else "running"]


def _serve() -> None:
    """Be the client's process: a line with a run's path in, a line with the answer out, until there are no more."""
    # What a library prints must not get among the answers, nor what it asks the user among the questions.
    with os.fdopen(os.dup(0), "rb") as questions, os.fdopen(os.dup(1), "wb") as answers:
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1):
            os.dup2(nothing, descriptor)
        api: Any = None
        for question in questions:
            try:
                import wandb

                api = api or wandb.Api()
                answer = _Answer(run=_run_of(api, json.loads(question)))
            except Exception as error:  # noqa: BLE001 - whatever the client, its wandb-core or the server do
                is_missing = "could not find run" in str(error).lower()
                failure = Problem.of("io-error", f"{type(error).__name__}: {error}").message
                answer = _Answer() if is_missing else _Answer(failure=failure)
            answers.write(msgspec.json.encode(answer) + b"\n")
            answers.flush()


def _run_of(api: Any, path: list[str | None]) -> Run:
    entity, project, run_id = path
    run = api.run("/".join(filter(None, (entity, project, run_id))))
    config = Plainer(lambda _: None).plain(dict(run.config))
    return Run(
        id=run.id,
        name=run.name,
        project=run.project,
        entity=run.entity,
        url=run.url,
        state=run.state,
        config=config if isinstance(config, dict) else {},
    )


if __name__ == "__main__":
    _serve()
