"""Files made to hurt: each ends as a definite status, costs its own entry only, and runs nothing.

Three ways in: every case through the reader's worker process; all of them at once under the real daemon; and bytes that
nobody thought of, by mutation. ``make`` has the cases.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import unicodedata
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckpt_indexer import paths, read_index
from ckpt_indexer.errors import CkptIndexerError, SidecarInvalid
from ckpt_indexer.formats.containers.identify import read_facts
from ckpt_indexer.formats.facts import YAML_MAX
from ckpt_indexer.formats.pickles import unpickle
from ckpt_indexer.index import codec
from ckpt_indexer.index.store import Store
from ckpt_indexer.metadata.compose import Config, compose
from ckpt_indexer.metadata.entry import entry_of
from ckpt_indexer.metadata.sidecar import encode_sidecar, parse_sidecar
from ckpt_indexer.model import PROBLEMS
from ckpt_indexer.passes.folders import check_folder
from ckpt_indexer.paths import INDEX_NAME, Key, RelPath
from ckpt_indexer.sandbox.owner import Reader
from ckpt_indexer.sandbox.requests import CPU_SECONDS
from tests.hostile import make, pickles
from tests.process import TIMEOUT_S, Daemon, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckpt_indexer.formats.facts import Facts
    from ckpt_indexer.model import Entry

MEMORY_KB = 512 << 10
EXAMPLES = 150  # of each fuzzer, in CI
SOAK_EXAMPLES = 40_000
_KEY = Key("run/checkpoints/case.ckpt")

FILES = {name: case for name, case in make.CASES.items() if case.is_file}


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with Reader() as reader:
        yield reader


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "good.ckpt"
    path.write_bytes(make.good_file())
    return path


@pytest.fixture(autouse=True)
def nothing_ran() -> Iterator[None]:
    assert not make.CANARY.exists()
    yield
    assert not make.CANARY.exists(), "a payload was executed"


def read(reader: Reader, path: Path) -> Facts:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return reader.read_checkpoint(descriptor)
    finally:
        os.close(descriptor)


def outcome(facts: Facts | Entry) -> tuple[str, str | None]:
    return ("ok", None) if facts.problem is None else (facts.problem.status, facts.problem.code)


def is_plain(text: str) -> bool:
    """No character that controls a terminal; line ends and tabs set out the lines of an output."""
    return not any(unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") and c not in "\n\t" for c in text)


def strict_json(data: str | bytes) -> Any:
    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(data.decode() if isinstance(data, bytes) else data, parse_constant=refuse)


class _Usage:
    """What one worker process used, whether it lives or has ended."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._pid, self._cpu = self._alive()

    def _alive(self) -> tuple[int | None, float]:
        process = self._reader._process
        if process is None or process.poll() is not None:
            return None, 0.0
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return process.pid, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def cpu_s(self) -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        reaped = ended.ru_utime + ended.ru_stime - self._ended.ru_utime - self._ended.ru_stime
        pid, cpu = self._alive()
        # A worker that was there before and is gone now counts whole among the reaped.
        return cpu - self._cpu if pid == self._pid else reaped - self._cpu + cpu

    def peak_kb(self) -> int:
        pid, _ = self._alive()
        status = Path(f"/proc/{pid}/status").read_text() if pid is not None else ""
        peak = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        # The largest of all children so far: it says something about this one only if it has grown, and if it is not
        # this very process, as which each of them begins.
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return max(peak, ended if ended > max(self._ended.ru_maxrss, own) else 0)


def test_the_canary_can_appear() -> None:
    bare = make.CASES["bare-reduce"]
    folder = make.CANARY.with_name(make.CANARY.name + "-proof")
    folder.mkdir()
    try:
        path = bare.data(folder)
        code = f"import pickle; pickle.load(open({str(path)!r}, 'rb'))"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=TIMEOUT_S)
        assert make.CANARY.exists()
    finally:
        make.CANARY.unlink(missing_ok=True)
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", FILES)
def test_each_file_ends_as_expected_within_the_limits_and_the_next_is_read_as_ever(
    name: str, reader: Reader, good: Path, tmp_path: Path
) -> None:
    expected = read(reader, good)
    assert (outcome(expected), expected.epoch, expected.parameters) == (make.OK, 3, 6)
    path = FILES[name].data(tmp_path)
    usage = _Usage(reader)
    facts = read(reader, path)
    cpu_s, peak_kb = usage.cpu_s(), usage.peak_kb()
    assert outcome(facts) in FILES[name].outcomes, facts.problem
    assert peak_kb <= MEMORY_KB
    assert cpu_s <= CPU_SECONDS + 0.4  # starting a process included
    assert read(reader, good) == expected
    check_what_follows(facts)


def check_what_follows(facts: Facts) -> None:
    """What the owner makes of the facts, in a process without limits, is bounded and can be read back."""
    if facts.problem is not None:
        assert facts.problem.code in PROBLEMS
        assert facts.problem.message.isprintable()
        assert len(facts.problem.message) <= 300
    fingerprint = (1, 1, 1)
    before = resource.getrusage(resource.RUSAGE_THREAD)
    document = compose(key=_KEY, link_target=None, fingerprint=fingerprint, facts=facts, config=None)
    entry = entry_of(document, _KEY, fingerprint, None)
    written = encode_sidecar(document)
    after = resource.getrusage(resource.RUSAGE_THREAD)
    assert after.ru_utime - before.ru_utime < CPU_SECONDS
    assert len(written) <= YAML_MAX
    encoded = codec.encode_entry(entry)
    strict_json(bytes(encoded))
    assert len(bytes(encoded)) < YAML_MAX
    again = entry_of(parse_sidecar(parse_yaml_whole(written)), _KEY, fingerprint, None)
    assert codec.same_content(again, codec.decode_entry(encoded))


def parse_yaml_whole(data: bytes) -> Any:
    """Parse without the limits on nodes, which cut what the index does not show."""
    return yaml.load(data, Loader=yaml.CSafeLoader)


def test_no_pickle_changes_the_stand_ins_for_the_next_one() -> None:
    kinds = [unpickle.Inert, unpickle.Called, *unpickle._KNOWN.values(), unpickle.inert_class("any", "Thing")]

    def looks() -> list[dict[str, Any]]:
        return [{name: vars(kind)[name] for name in vars(kind)} for kind in kinds]

    before = looks()
    for fragment in (make.CODE | make.POISON).values():
        read_facts(io.BytesIO(pickles.archive(pickles.pickled(fragment, 4))))
    assert looks() == before


def test_a_worker_leaves_no_words_of_a_file_on_standard_error(tmp_path: Path) -> None:
    names = ["state-keys-of-parentheses", "loops-huge-progress", "names-of-numpy-types", "zip-reduce", "cycle-epoch"]
    code = (
        "import os, sys\n"
        "from ckpt_indexer.sandbox.owner import Reader\n"
        "with Reader() as reader:\n"
        "    for path in sys.argv[1:]:\n"
        "        reader.read_checkpoint(os.open(path, os.O_RDONLY))\n"
    )
    paths = []
    for name in names:
        (tmp_path / name).mkdir()
        paths.append(str(FILES[name].data(tmp_path / name)))
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, check=True, timeout=TIMEOUT_S)
    assert (done.stdout, done.stderr) == (b"", b"")


# --- YAML -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", make.DOCUMENTS)
def test_each_yaml_document_is_bounded_data_or_one_printable_line(name: str, reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "case.yaml"
    path.write_bytes(make.DOCUMENTS[name])
    descriptor = os.open(path, os.O_RDONLY)
    usage = _Usage(reader)
    try:
        loaded = reader.read_yaml(descriptor)
    finally:
        os.close(descriptor)
    assert usage.cpu_s() <= CPU_SECONDS + 0.4
    assert usage.peak_kb() <= MEMORY_KB
    if loaded.error is not None:
        assert loaded.document is None
        assert loaded.error.isprintable()
        assert len(loaded.error) <= 300
    else:
        check_yaml_follows(loaded.document)


def check_yaml_follows(document: Any) -> None:
    assert len(msgspec.json.encode(document)) < 2 * YAML_MAX
    content = document if isinstance(document, dict) else {}
    config = Config("run/.hydra/config.yaml", content, (1, 1, 1))
    facts = read_facts(io.BytesIO(make.good_file()))
    made = compose(key=_KEY, link_target=None, fingerprint=(1, 1, 1), facts=facts, config=config)
    assert len(encode_sidecar(made)) <= YAML_MAX
    try:
        parsed = parse_sidecar(document)
    except SidecarInvalid:
        return
    assert parsed.exp_name is not None


# --- all at once, under the daemon ------------------------------------------------------------------------------------
class Tree:
    """Every case in a folder of its own, good checkpoints between them, and a sibling folder that must not change."""

    def __init__(self, top: Path) -> None:
        self.root = top / "outputs"
        self.outside = top / "outside"
        self.expected: dict[str, frozenset[make.Outcome]] = {}
        self.sidecar_problems: dict[str, str | None] = {}
        self.root.mkdir()
        self.outside.mkdir()
        (self.outside / "target.ckpt").write_bytes(make.good_file())
        (self.outside / "target.yaml").write_text("exp_name: outside\n")
        self._cases()
        self._links_out()
        self._names()
        self._sidecars()
        self._configs()

    def _folder(self, kind: str, number: int) -> Path:
        folder = self.root / kind / f"{number:03d}" / "checkpoints"
        folder.mkdir(parents=True)
        return folder

    def _good(self, path: Path, *, code: str | None = None) -> None:
        path.write_bytes(make.good_file())
        self._expect(path, make.OK)
        self.sidecar_problems[self._key(path)] = code

    def _key(self, path: Path) -> str:
        return paths.to_key(RelPath(os.path.relpath(path, self.root)))

    def _expect(self, path: Path, *outcomes: make.Outcome) -> None:
        self.expected[self._key(path)] = frozenset(outcomes)

    def _cases(self) -> None:
        for number, (name, case) in enumerate(make.CASES.items()):
            folder = self._folder("cases", number)
            path = case.data(folder)
            assert path.name == "case.ckpt", name
            self._expect(path, *case.outcomes)
            if number % 20 == 0:
                self._good(folder / "good.ckpt")

    def _links_out(self) -> None:
        folder = self._folder("links", 0)
        up = "../" * len(folder.relative_to(self.root.parent).parts)
        (folder / "out.ckpt").symlink_to(f"{up}outside/target.ckpt")
        self._expect(folder / "out.ckpt", make.OUTSIDE)
        (folder / "way").symlink_to(f"{up}outside")
        (folder / "through.ckpt").symlink_to("way/target.ckpt")
        self._expect(folder / "through.ckpt", make.OUTSIDE)
        (folder / "folder.ckpt").symlink_to(f"{up}outside")
        self._expect(folder / "folder.ckpt", make.OUTSIDE)
        self._good(folder / "sidecar.ckpt", code="sidecar-invalid")
        (folder / "sidecar.ckpt.metadata.yaml").symlink_to(f"{up}outside/new.yaml")
        (folder / ".ckpt-indexer-1-aa.tmp").symlink_to(f"{up}outside/target.yaml")

    def _names(self) -> None:
        folder = os.fsencode(self._folder("names", 0))
        for name in make.NAMES:
            path = os.path.join(folder, name)
            with open(path, "wb") as file:
                file.write(make.good_file())
            key = paths.to_key(RelPath(os.path.relpath(os.fsdecode(path), self.root)))
            self.expected[key] = frozenset([make.OK])
            self.sidecar_problems[key] = None if len(name) <= 241 else "sidecar-unwritable"

    def _sidecars(self) -> None:
        number = 0
        for documents in (make.DOCUMENTS, make.WRONG_SIDECARS):
            for data in documents.values():
                path = self._folder("sidecars", number) / "a.ckpt"
                self._good(path)
                del self.sidecar_problems[self._key(path)]  # many of them are valid: what is said is not the point
                path.with_name("a.ckpt.metadata.yaml").write_bytes(data)
                number += 1
        for fields in make.FORGED.values():
            path = self._folder("sidecars", number) / "a.ckpt"
            path.write_bytes(make.good_file())
            self._expect(path, make.OK, make.TRUNCATED)
            path.with_name("a.ckpt.metadata.yaml").write_bytes(make.forged_sidecar(self._key(path), path, **fields))
            number += 1
        places: list[Callable[[Path], object]] = [
            os.mkfifo,
            lambda p: p.mkdir(),
            lambda p: p.symlink_to("/dev/zero"),
            lambda p: p.symlink_to("/etc/passwd"),
            lambda p: p.symlink_to("nowhere"),
            lambda p: p.symlink_to("a.ckpt"),
        ]
        for place in places:
            path = self._folder("sidecars", number) / "a.ckpt"
            self._good(path)
            del self.sidecar_problems[self._key(path)]
            place(path.with_name("a.ckpt.metadata.yaml"))
            place(path.with_name("orphan.ckpt.metadata.yaml"))
            number += 1

    def _configs(self) -> None:
        # Those that run into the time limit do so as sidecars already, through the same worker.
        quick = [data for name, data in make.DOCUMENTS.items() if name not in make.SLOW_DOCUMENTS]
        for number, data in enumerate(quick):
            path = self._folder("configs", number) / "a.ckpt"
            self._good(path)
            hydra = path.parent.parent / ".hydra"
            hydra.mkdir()
            (hydra / "config.yaml").write_bytes(data)
        wrong = ("3", "[1]", "{a: {b: [1]}}", "null", "'${oc.env:HOME}'", "1.0e+400", "'\\e[2J'")
        keys = ("model", "trainer", "callbacks", "exp_name", "loss", "training_phase", "net", "encoder")
        for number, key in enumerate(keys, 500):
            for inner, value in enumerate(wrong):
                path = self._folder(f"configs/{number}", inner) / "a.ckpt"
                self._good(path)
                text = f"{key}: {value}\nmodel_: {{x: {value}}}\n"
                (path.parent.parent / "config.yaml").write_text(text)
        up = "../" * 4
        places: list[Callable[[Path], object]] = [
            os.mkfifo,
            lambda p: p.mkdir(),
            lambda p: p.symlink_to("/dev/zero"),
            lambda p: p.symlink_to(f"{up}outside/target.yaml"),
        ]
        for number, place in enumerate(places, 900):
            path = self._folder("configs", number) / "a.ckpt"
            self._good(path)
            place(path.parent.parent / "config.yaml")


def listing(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything below *folder* that a write would change."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_mtime_ns, status.st_ino, content)
    return found


def test_all_of_them_at_once_under_the_daemon(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    outside, root = listing(tree.outside), tree.root
    with Daemon(root, "--workers", "2", "--log-level", "debug", env={"HOME": str(tmp_path / "home")}) as daemon:
        entries = daemon.sync()
        peak_kb = next(
            int(line.split()[1])
            for line in Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
            if line.startswith("VmHWM:")
        )
        ended = {key: outcome(entry) for key, entry in entries.items()}
        assert {key for key in tree.expected if key not in ended} == set()
        wrong = {k: (ended[k], entries[k].problem) for k, allowed in tree.expected.items() if ended[k] not in allowed}
        assert wrong == {}
        problems = {
            k: e.metadata_problem.code if (e := entries[k]).metadata_problem else None for k in tree.sidecar_problems
        }
        assert problems == tree.sidecar_problems
        log = daemon.log_text()
        assert daemon.events("checkpoint_failed") == []
        assert daemon.events("turn_failed") == []
        # A new one is indexed as if nothing had been.
        (root / "late.ckpt").write_bytes(make.good_file())
        late = daemon.sync()["late.ckpt"]
        assert (outcome(late), late.epoch, late.parameters, late.encoder) == (make.OK, 3, 6, "resnet18")
        assert daemon.stop() == 0
    assert peak_kb <= MEMORY_KB
    assert listing(tree.outside) == outside
    assert not (tmp_path / "home").exists()
    index = strict_json((root / INDEX_NAME).read_bytes())
    assert set(index["entries"]) == set(entries) | {"late.ckpt"}
    assert len(json.dumps(index)) < 16 << 20
    assert is_plain(log)
    for line in log.splitlines():
        assert len(line) < 20_000
        strict_json(line)
    check_outputs(root)


def check_outputs(root: Path) -> None:
    """No command lets a file's name or content through to the terminal, or fails on it."""
    columns = "path,name,experiment,status,problem,link_target,lightning_version,encoder,monitor,metadata_problem"
    commands: list[tuple[tuple[object, ...], int]] = [
        (("list", root, "--columns", columns), 0),
        (("list", root, "-q"), 0),
        (("list", root, "--json"), 0),
        (("verify", root, "--json"), 0),
        (("validate", root / "names", root / "links", root / "sidecars/000"), 3),
        (("validate", root / "names", "--json"), 0),
        (("status", root), 0),
        (("show", "names/000/checkpoints/\x1b[2J\x1b]0;t\x07.ckpt", "--root", root), 0),
    ]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda c: run(*c[0]), commands))
    for (command, code), result in zip(commands, done, strict=True):
        assert (command[0], result.returncode, result.stderr if result.returncode != code else "") == (
            command[0],
            code,
            "",
        )
        assert is_plain(result.stdout), command
        assert is_plain(result.stderr), command
        if "--json" in command:
            strict_json(result.stdout)


# --- the index --------------------------------------------------------------------------------------------------------
_REBUILD_ALL = """
import sys
from ckpt_indexer.passes.indexer import Indexer
from ckpt_indexer.log import configure_log
configure_log("error", "json", is_terminal=False)
for root in sys.argv[1:]:
    print(root, flush=True)  # the last one printed is the one that hangs
    with Indexer(root) as indexer:
        indexer.load()
        indexer.scan_and_plan()
        indexer.finish()
"""


def put_old_index(root: Path, data: bytes) -> None:
    """Write an index that is not being written any more: for a young one that is torn, each reader waits a moment."""
    (root / INDEX_NAME).write_bytes(data)
    os.utime(root / INDEX_NAME, (0, 0))


def test_each_index_edited_by_hand_is_made_right_by_one_pass(tmp_path: Path) -> None:
    roots = {name: tmp_path / f"{number:03d}" for number, name in enumerate(make.INDEXES)}
    for name, root in roots.items():
        root.mkdir()
        (root / "good.ckpt").write_bytes(make.good_file())
        put_old_index(root, make.INDEXES[name])
    done = subprocess.run(
        [sys.executable, "-c", _REBUILD_ALL, *map(str, roots.values())],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout[-200:]
    for name, root in roots.items():
        index = strict_json((root / INDEX_NAME).read_bytes())
        assert set(index["entries"]) == {"good.ckpt"}, name
        view = read_index(root)
        assert (view.entries["good.ckpt"].status, view.entries["good.ckpt"].epoch) == ("ok", 3), name


def test_an_index_of_a_newer_major_version_is_left_alone(tmp_path: Path) -> None:
    data = json.dumps({"version": "2.0", "entries": {}}).encode()
    (tmp_path / INDEX_NAME).write_bytes(data)
    assert run("rebuild", tmp_path).returncode == 1
    assert (tmp_path / INDEX_NAME).read_bytes() == data


_IN_THE_WAY: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "folder": lambda p: p.mkdir(),
    "full-folder": lambda p: (p / "x").mkdir(parents=True),
    "link-to-dev-zero": lambda p: p.symlink_to("/dev/zero"),
    "link-to-passwd": lambda p: p.symlink_to("/etc/passwd"),
    "link-outside": lambda p: p.symlink_to(p.parent.parent / "outside/file"),
    "link-dangling": lambda p: p.symlink_to(p.parent.parent / "outside/new"),
    "link-loop": lambda p: p.symlink_to(p.name),
}
_USE_ALL = """
import os, sys
from ckpt_indexer.cli import main
from ckpt_indexer.passes import indexer  # once, and not in each child
commands, *roots = sys.argv[1:]
for root in roots:
    for command in commands.split():
        print(root, command, flush=True)  # the last one printed is the one that hangs
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            main([command, root])
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
_USERS = {
    INDEX_NAME: ("rebuild", "list", "verify"),
    paths.LOCK_NAME: ("rebuild",),
    paths.DAEMON_LOCK_NAME: ("status", "sync"),
    paths.DAEMON_STATE_NAME: ("status",),
}


@pytest.mark.parametrize("place", _USERS)
def test_what_stands_in_the_way_of_our_files_hangs_no_command_and_leads_no_write_out(
    place: str, tmp_path: Path
) -> None:
    tops = {name: tmp_path / name for name in _IN_THE_WAY}
    for name, top in tops.items():
        (top / "outside").mkdir(parents=True)
        (top / "outside/file").write_text("mine")
        (top / "outputs").mkdir()
        (top / "outputs/good.ckpt").write_bytes(make.good_file())
        _IN_THE_WAY[name](top / "outputs" / place)
    before = {name: listing(top / "outside") for name, top in tops.items()}

    roots = [str(top / "outputs") for top in tops.values()]
    done = subprocess.run(
        [sys.executable, "-c", _USE_ALL, " ".join(_USERS[place]), *roots],
        capture_output=True, text=True, timeout=3 * TIMEOUT_S, check=False, preexec_fn=_limit_memory,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    codes = dict(zip(lines[::2], map(int, lines[1::2]), strict=True))
    assert list(codes) == [f"{root} {command}" for root in roots for command in _USERS[place]]
    assert {name: listing(top / "outside") for name, top in tops.items()} == before
    assert {use: code for use, code in codes.items() if code not in {0, 1, 3, 10, 11}} == {}


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))


# --- bytes that nobody thought of -------------------------------------------------------------------------------------
Edit = tuple[float, int, bytes, float]  # where (share of the length), what is done, with what, from where


def _mutated(data: bytes, edits: list[Edit]) -> bytes:
    for where, kind, replacement, source in edits:
        at, start = int(where * len(data)), int(source * len(data))
        if kind == 0:
            data = data[:at] + replacement + data[at + len(replacement) :]
        elif kind == 1:
            data = data[:at] + replacement + data[at:]
        elif kind == 2:
            data = data[:at] + data[at + len(replacement) :]
        else:
            data = data[:at] + data[start : start + 40] + data[at:]
    return data


_OPCODES = (
    b"()0123IJKLMNPQRSTUVX]abceghijlopqrstu}"
    b"\x80\x81\x82\x85\x86\x87\x88\x8a\x8c\x8d\x90\x91\x92\x93\x94\x95\x96\x97\x98\xff\x00\x01"
)
edits = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 3),
        st.one_of(
            st.binary(min_size=1, max_size=9),
            st.sampled_from([bytes([b]) for b in _OPCODES]),
            st.text(max_size=4).map(str.encode),
        ),
        st.floats(0, 1),
    ),
    min_size=1,
    max_size=8,
)
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
soaked = settings(fuzzed, max_examples=SOAK_EXAMPLES)


@pytest.fixture(scope="module")
def torch_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A checkpoint that torch wrote, and its data.pkl."""
    import torch

    buffer = io.BytesIO()
    key = "ModelCheckpoint{'monitor': 'val/hmean', 'mode': 'max'}"
    score = torch.tensor(0.5)
    content = {
        "epoch": 3,
        "global_step": 12,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {"encoder.weight": torch.zeros(3, 4), "encoder.bias": torch.ones(3)},
        "callbacks": {key: {"best_k_models": {"a.ckpt": score}, "current_score": score, "best_model_path": "a.ckpt"}},
        "loops": {"fit_loop": {"epoch_loop.val_loop.batch_progress": {"total": {"ready": 4}, "current": {"ready": 4}}}},
        "hyper_parameters": {
            "lr": 0.1,
            "model": {"encoder": {"model_name": "resnet18"}},
            "names": ["a", "b"],
            "size": (1, 2),
        },
        "cleval_metrics": {"hmean": 0.5},
    }
    torch.save(content, buffer)
    import zipfile

    with zipfile.ZipFile(buffer) as file:
        return buffer.getvalue(), file.read("archive/data.pkl")


@pytest.fixture(scope="module")
def other_files() -> dict[str, bytes]:
    """A file of each other format, small, and written by its own library."""
    import safetensors.torch
    import torch

    from tests import samples
    from tests.formats import made_files

    content = samples.monitored(torch.tensor(0.5))
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; files of it are not gone
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return {
        "legacy": made_files.legacy(content),
        "tar": made_files.tar_file(content),
        "torchscript": buffer.getvalue(),
        "safetensors": safetensors.torch.save(samples.state_dict(), {"epoch": "3"}),
        "pickle": pickle.dumps(content),
    }


@pytest.fixture(scope="module")
def sharded_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A folder of shards, and its metadata."""
    import torch.distributed.checkpoint as dcp

    from tests import samples

    folder = tmp_path_factory.mktemp("sharded") / "case.ckpt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no process group: one process
        dcp.save({"model": samples.state_dict(), "epoch": 3}, checkpoint_id=folder)
    return folder, (folder / ".metadata").read_bytes()


def _fuzz_file(data: bytes, reader: Reader, folder: Path) -> None:
    path = folder / "fuzzed.ckpt"
    path.write_bytes(data)
    facts = read(reader, path)
    assert outcome(facts)[1] != "reader-crashed", facts.problem
    check_what_follows(facts)


class Fuzzing:
    """The properties, run bounded in CI and for long as a soak."""

    @staticmethod
    def zips(torch_file: tuple[bytes, bytes], reader: Reader, folder: Path, changes: list[Edit]) -> None:
        _fuzz_file(_mutated(torch_file[0], changes), reader, folder)

    @staticmethod
    def pickles(torch_file: tuple[bytes, bytes], reader: Reader, folder: Path, changes: list[Edit]) -> None:
        _fuzz_file(
            pickles.archive(
                _mutated(torch_file[1], changes), {"data/0": bytes(48), "data/1": bytes(12), "data/2": bytes(4)}
            ),
            reader,
            folder,
        )

    @staticmethod
    def others(other_files: dict[str, bytes], reader: Reader, folder: Path, changes: list[Edit], seed: str) -> None:
        _fuzz_file(_mutated(other_files[seed], changes), reader, folder)

    @staticmethod
    def shards(sharded_file: tuple[Path, bytes], reader: Reader, changes: list[Edit]) -> None:
        folder, metadata = sharded_file
        (folder / ".metadata").write_bytes(_mutated(metadata, changes))
        facts = check_folder(str(folder.parent), RelPath(folder.name), reader)
        assert outcome(facts)[1] != "reader-crashed", facts.problem
        check_what_follows(facts)

    @staticmethod
    def indexes(root: Path, changes: list[Edit], seed: str) -> None:
        put_old_index(root, _mutated(make.INDEXES[seed], changes))
        for name in root.glob(f"{INDEX_NAME}.corrupt-*"):
            name.unlink()
        store = Store(str(root))
        try:
            store.load()
            store.commit(
                [msgspec.convert(make.ENTRY | {"path": "mine.ckpt"}, type=_entry_type())], list(store.entries)[:1]
            )
        except CkptIndexerError:
            return
        index = strict_json((root / INDEX_NAME).read_bytes())
        assert "mine.ckpt" in index["entries"]
        assert "mine.ckpt" in read_index(root).entries

    @staticmethod
    def yaml(data: bytes, reader: Reader) -> None:
        # In the worker, as always: within minutes the fuzzer finds a merge of merges that takes all memory there is.
        with open(os.memfd_create("fuzzed"), "w+b", buffering=0) as file:
            file.write(data)
            file.seek(0)
            loaded = reader.read_yaml(file.fileno())
        if loaded.error is None:
            check_yaml_follows(loaded.document)


def _entry_type() -> Any:
    from ckpt_indexer.model import Entry

    return Entry


OTHERS = ["legacy", "tar", "torchscript", "safetensors", "pickle"]
SEEDS = ["entries-unknown-fields", "extra-controls", "entry-problem", "entry-metrics", "key-escapes"]
yaml_data = st.one_of(
    st.binary(max_size=200),
    st.builds(
        _mutated,
        st.sampled_from(
            [data for data in [*make.DOCUMENTS.values(), *make.WRONG_SIDECARS.values()] if len(data) < 5000]
        ),
        st.lists(
            st.tuples(
                st.floats(0, 1),
                st.integers(0, 3),
                st.sampled_from(
                    [
                        b"!!",
                        b"&a ",
                        b"*a",
                        b"<<: ",
                        b"- ",
                        b"{",
                        b"}",
                        b"[",
                        b"]",
                        b"\n",
                        b"? ",
                        b": ",
                        b"'",
                        b'"',
                        b"|\n",
                        b"%",
                        b"\\",
                        b"0x",
                        b"2001-01-01",
                    ]
                ),
                st.floats(0, 1),
            ),
            max_size=6,
        ),
    ),
)


@fuzzed
@given(changes=edits)
def test_a_mutated_archive_ends_as_a_definite_status(
    torch_file: tuple[bytes, bytes], reader: Reader, good: Path, changes: list[Edit]
) -> None:
    Fuzzing.zips(torch_file, reader, good.parent, changes)


@fuzzed
@given(changes=edits)
def test_a_mutated_pickle_ends_as_a_definite_status(
    torch_file: tuple[bytes, bytes], reader: Reader, good: Path, changes: list[Edit]
) -> None:
    Fuzzing.pickles(torch_file, reader, good.parent, changes)


@settings(fuzzed, max_examples=2 * EXAMPLES)
@given(changes=edits, seed=st.sampled_from(OTHERS))
def test_a_mutated_file_of_another_format_ends_as_a_definite_status(
    other_files: dict[str, bytes], reader: Reader, good: Path, changes: list[Edit], seed: str
) -> None:
    Fuzzing.others(other_files, reader, good.parent, changes, seed)


@fuzzed
@given(changes=edits)
def test_mutated_metadata_of_shards_ends_as_a_definite_status(
    sharded_file: tuple[Path, bytes], reader: Reader, changes: list[Edit]
) -> None:
    Fuzzing.shards(sharded_file, reader, changes)


@fuzzed
@given(changes=edits, seed=st.sampled_from(SEEDS))
def test_a_mutated_index_is_taken_or_set_aside_and_what_follows_is_strict_json(
    good: Path, changes: list[Edit], seed: str
) -> None:
    Fuzzing.indexes(good.parent, changes, seed)


@fuzzed
@given(data=yaml_data)
def test_mutated_yaml_is_bounded_data_or_refused(data: bytes, reader: Reader) -> None:
    Fuzzing.yaml(data, reader)


@pytest.mark.soak
@soaked
@given(changes=edits)
def test_soak_mutated_archives(
    torch_file: tuple[bytes, bytes], reader: Reader, good: Path, changes: list[Edit]
) -> None:
    Fuzzing.zips(torch_file, reader, good.parent, changes)


@pytest.mark.soak
@soaked
@given(changes=edits)
def test_soak_mutated_pickles(torch_file: tuple[bytes, bytes], reader: Reader, good: Path, changes: list[Edit]) -> None:
    Fuzzing.pickles(torch_file, reader, good.parent, changes)


@pytest.mark.soak
@soaked
@given(changes=edits, seed=st.sampled_from(OTHERS))
def test_soak_mutated_files_of_other_formats(
    other_files: dict[str, bytes], reader: Reader, good: Path, changes: list[Edit], seed: str
) -> None:
    Fuzzing.others(other_files, reader, good.parent, changes, seed)


@pytest.mark.soak
@soaked
@given(changes=edits)
def test_soak_mutated_metadata_of_shards(sharded_file: tuple[Path, bytes], reader: Reader, changes: list[Edit]) -> None:
    Fuzzing.shards(sharded_file, reader, changes)


@pytest.mark.soak
@soaked
@given(changes=edits, seed=st.sampled_from(SEEDS))
def test_soak_mutated_indexes(good: Path, changes: list[Edit], seed: str) -> None:
    Fuzzing.indexes(good.parent, changes, seed)


@pytest.mark.soak
@soaked
@given(data=yaml_data)
def test_soak_mutated_yaml(data: bytes, reader: Reader) -> None:
    Fuzzing.yaml(data, reader)
