"""The worker process: whatever a file does to it, its owner gets a problem, and the next file is read."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ckpt_indexer.model import Problem
from ckpt_indexer.sandbox import owner as reader_module
from ckpt_indexer.sandbox.owner import Reader
from tests.formats import hostile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt_indexer.formats.facts import Facts

CALLS = sorted(hostile.calls(Path("canary")))
CHANGES = sorted(hostile.changes())


@pytest.fixture(scope="module")
def own_reader() -> Iterator[Reader]:
    with Reader() as reader:
        yield reader


def read(reader: Reader, folder: Path, data: bytes) -> Facts:
    path = folder / "x.ckpt"
    path.write_bytes(data)
    with path.open("rb") as file:
        return reader.read_checkpoint(file.fileno())


def code(reader: Reader, folder: Path, data: bytes) -> str | None:
    problem = read(reader, folder, data).problem
    return None if problem is None else problem.code


def is_fine(reader: Reader, folder: Path) -> bool:
    """Say whether a good file is read now."""
    facts = read(reader, folder, hostile.good())
    return (facts.problem, facts.epoch) == (None, 7)


def worker_of(reader: Reader) -> int:
    assert reader._process is not None
    return reader._process.pid


@pytest.mark.parametrize("title", CALLS)
def test_nothing_is_called_and_the_next_file_is_read(title: str, own_reader: Reader, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    problem = read(own_reader, tmp_path, hostile.archive(hostile.calls(canary)[title])).problem
    assert problem is None or problem.code == "pickle-damaged"
    assert not canary.exists()
    assert is_fine(own_reader, tmp_path)


def test_no_file_changes_what_the_next_ones_say(own_reader: Reader, zips: dict[str, Path], tmp_path: Path) -> None:
    def said() -> Facts:
        with zips["protocol-2"].open("rb") as file:
            return own_reader.read_checkpoint(file.fileno())

    before, worker = said(), worker_of(own_reader)
    assert before.problem is None
    for data in (*hostile.changes().values(), *hostile.calls(tmp_path / "canary").values()):
        read(own_reader, tmp_path, hostile.archive(data))
    assert repr(said()) == repr(before)  # NaN is among it
    assert worker_of(own_reader) == worker  # and no harm came to the process


@pytest.mark.parametrize("title", sorted(hostile.memory_bombs()))
def test_a_file_that_wants_all_memory_is_a_problem_and_the_next_is_read(
    title: str, own_reader: Reader, tmp_path: Path
) -> None:
    assert code(own_reader, tmp_path, hostile.archive(hostile.memory_bombs()[title])) in ("memory-limit", "time-limit")
    assert is_fine(own_reader, tmp_path)


def test_the_file_after_a_memory_bomb_is_never_blamed_for_it(own_reader: Reader, tmp_path: Path) -> None:
    bomb = hostile.archive(hostile.memory_bombs()["ten million lists"])
    for _ in range(10):
        assert code(own_reader, tmp_path, bomb) == "memory-limit"
        assert is_fine(own_reader, tmp_path)


def test_a_file_that_computes_for_ever_is_a_problem_and_the_next_is_read(own_reader: Reader, tmp_path: Path) -> None:
    call = hostile.name("m", "f") + b")R0"
    bomb = b"\x80\x02" + call * 6_000_000 + b"N."
    assert read(own_reader, tmp_path, hostile.archive(bomb)).problem == Problem(
        "time-limit", "reading it takes more than 1.5 s of CPU time"
    )
    assert is_fine(own_reader, tmp_path)


@pytest.mark.parametrize("kind", ["lists", "tuples", "dicts", "objects", "parameters", "states"])
def test_what_is_nested_without_end_gives_facts(kind: str, own_reader: Reader, tmp_path: Path) -> None:
    inner = hostile.nested(kind, 100_000)[2:-1]
    pickled = b"\x80\x02}(" + b"".join(
        [hostile.text("epoch"), b"K\x07", hostile.text("hyper_parameters"), b"}", hostile.text("x"), inner, b"s"]
    ) + b"u."  # fmt: skip
    facts = read(own_reader, tmp_path, hostile.archive(pickled))
    assert (facts.problem, facts.epoch) == (None, 7)
    assert facts.hyper_parameters is not None


@pytest.mark.parametrize(
    ("title", "pickled"),
    [
        ("200,000 names", b"\x80\x02(" + b"".join(hostile.name("m", f"C{i}") for i in range(200_000)) + b"l."),
        ("a name of 100 kB", b"\x80\x02" + hostile.name("m" * 100_000, "C") + b"."),
    ],
)
def test_names_without_end_are_a_problem(title: str, pickled: bytes, own_reader: Reader, tmp_path: Path) -> None:
    problem = read(own_reader, tmp_path, hostile.archive(pickled)).problem
    assert problem is not None, title
    assert problem.code == "pickle-damaged"
    assert len(problem.message) < 300


def test_sizes_that_no_tensor_has_are_no_harm(own_reader: Reader, tmp_path: Path) -> None:
    def meta(size: int) -> bytes:
        shape = b"(" + b"\x8a\x08" + size.to_bytes(8, "little") + b"t"
        arguments = b"(" + hostile.name("torch", "float32") + shape + b")\x89t"
        return hostile.name("torch._utils", "_rebuild_meta_tensor_no_storage") + arguments + b"R"

    states = b"".join(hostile.text(f"w{i}") + meta(1 << 61) for i in range(20))
    pickled = b"\x80\x02}" + hostile.text("state_dict") + b"}(" + states + b"us."
    facts = read(own_reader, tmp_path, hostile.archive(pickled))
    assert (facts.problem, facts.parameters) == (None, None)
    assert facts.warnings == ["the sizes or dtypes of its tensors are implausible"]


def test_text_that_is_not_unicode_is_no_harm(own_reader: Reader, tmp_path: Path) -> None:
    bad = hostile.text("\udcff")
    key = hostile.text(r"ModelCheckpoint{'monitor': '\udcff', '\udcfe': 1}")
    state = b"}(" + hostile.text("best_model_path") + bad + hostile.text("best_k_models") + b"}" + bad + b"K\x01su"
    pickled = b"\x80\x04}(" + b"".join(
        [
            bad + bad,
            hostile.text("epoch") + b"K\x07",
            hostile.text("pytorch-lightning_version") + bad,
            hostile.text("state_dict") + b"}" + bad + bad + b"s",
            hostile.text("hyper_parameters") + b"}(" + bad + bad + hostile.text("f") + bad + bad + b"\x93u",
            hostile.text("callbacks") + b"}(" + key + state + bad + b"}u",
            hostile.text("metrics\udcff") + b"}" + hostile.text("f1\udcff") + b"K\x01s",
        ]
    ) + b"u."  # fmt: skip
    facts = read(own_reader, tmp_path, hostile.archive(pickled))
    assert (facts.problem, facts.epoch, facts.hyper_parameters) == (None, 7, {"?": "?", "f": "?.?"})
    assert (facts.monitors[0].monitor, facts.monitors[0].best_k_models, facts.metrics) == (
        "?",
        {"?": 1.0},
        {"metrics?": {"f1?": 1.0}},
    )


def test_a_worker_killed_from_outside_is_replaced(tmp_path: Path) -> None:
    with Reader() as reader:
        assert is_fine(reader, tmp_path)
        first = worker_of(reader)
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        assert is_fine(reader, tmp_path)
        assert worker_of(reader) != first


def test_a_worker_killed_while_it_reads_is_a_problem_of_that_file_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Reader() as reader:
        assert is_fine(reader, tmp_path)
        os.kill(worker_of(reader), signal.SIGSTOP)  # so that the file is asked for before the end comes
        ask = reader._receive
        victim = worker_of(reader)

        def killing(*arguments: Any) -> bytes:
            os.kill(victim, signal.SIGKILL)
            return ask(*arguments)

        monkeypatch.setattr(reader, "_receive", killing)
        problem = read(reader, tmp_path, hostile.good()).problem
        assert problem == Problem("memory-limit", "the reader was killed, most likely for want of memory")
        monkeypatch.undo()
        assert is_fine(reader, tmp_path)


def test_a_worker_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Reader() as reader:
        assert is_fine(reader, tmp_path)
        os.kill(worker_of(reader), signal.SIGSTOP)  # as if its file system did not answer
        monkeypatch.setattr(reader_module, "WALL_SECONDS", 0.2)
        assert code(reader, tmp_path, hostile.good()) == "time-limit"
        monkeypatch.undo()
        assert is_fine(reader, tmp_path)


def test_closing_leaves_no_process(tmp_path: Path) -> None:
    with Reader() as reader:
        assert is_fine(reader, tmp_path)
        worker = worker_of(reader)
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_nothing_is_started_before_it_is_needed() -> None:
    with Reader() as reader:
        assert reader._process is None


def test_the_worker_imports_nothing_of_torch_and_cannot_write(tmp_path: Path) -> None:
    with Reader() as reader:
        assert is_fine(reader, tmp_path)
        worker = worker_of(reader)
        maps = Path(f"/proc/{worker}/maps").read_text()
        limits = Path(f"/proc/{worker}/limits").read_text()
    assert "torch" not in maps
    assert "pydantic" not in maps
    rows = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()}
    assert rows["Max file size"] == ["0", "0"]
    assert rows["Max core file size"] == ["0", "0"]
    assert rows["Max address space"] == [str(448 << 20)] * 2


def yaml(reader: Reader, folder: Path, data: bytes) -> tuple[object, str | None]:
    path = folder / "x.yaml"
    path.write_bytes(data)
    with path.open("rb") as file:
        facts = reader.read_yaml(file.fileno())
    return facts.document, facts.error


def test_yaml_comes_out_as_plain_data(own_reader: Reader, tmp_path: Path) -> None:
    data = b"a: {day: 2026-11-21, at: 2026-11-21T10:30:00, no: no, n: .nan, s: !!set {b, a}, b: !!binary aGk=}\n1: x\n"
    document, error = yaml(own_reader, tmp_path, data)
    assert error is None
    assert isinstance(document, dict)
    inner = document.pop("a")
    assert str(inner.pop("n")) == "nan"
    assert inner == {"day": "2026-11-21", "at": "2026-11-21T10:30:00", "False": False, "s": ["a", "b"], "b": "hi"}
    assert document == {"1": "x"}


LAUGHS = b"a0: &a0 [x, x]\n" + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 40))
MERGES = b"a0: &a0 {k: 1}\n" + b"".join(
    b"a%d: &a%d\n  <<: [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 12)
)


def test_a_billion_laughs_are_cut(own_reader: Reader, tmp_path: Path) -> None:
    document, error = yaml(own_reader, tmp_path, LAUGHS)
    assert error is None
    assert isinstance(document, dict)
    assert is_fine(own_reader, tmp_path)


def test_a_bomb_of_merges_is_a_document_or_an_error_within_the_limits(own_reader: Reader, tmp_path: Path) -> None:
    started = time.monotonic()
    document, error = yaml(own_reader, tmp_path, MERGES)
    assert time.monotonic() - started < reader_module.WALL_SECONDS
    # PyYAML before 6.0.4 copies what is merged 9 ** 11 times, and dies of it; later ones merge each key once.
    resolved = {f"a{i}": {"k": 1} for i in range(12)}
    assert (document, error) == (resolved, None) or (document, bool(error)) == (None, True)
    assert len(error or "") <= 300
    assert yaml(own_reader, tmp_path, b"a: 1") == ({"a": 1}, None)


@pytest.mark.parametrize(
    ("title", "data"),
    [
        ("deep", b"[" * 200_000),
        ("deep and closed", b"[" * 100_000 + b"]" * 100_000),
        ("tag", b"!!python/object/apply:os.system ['touch canary']"),
        ("tag in depth", b"a: [1, !!python/name:os.system ]"),
        ("too large", b"a: " + b"x" * (1 << 20)),
        ("bytes", b"\xff\xfe\xfd"),
        ("unclosed", b"a: [1"),
        ("two documents", b"a: 1\n---\nb: 2\n"),
        ("unhashable key", b"[1, 2]: {? {a: b} : c}"),
        ("bad date", b"a: 2026-13-45"),
        ("a number of a million digits", b"a: " + b"9" * 1_000_000),
    ],
)
def test_yaml_that_is_none_is_an_error_and_the_next_file_is_read(
    title: str, data: bytes, own_reader: Reader, tmp_path: Path
) -> None:
    document, error = yaml(own_reader, tmp_path, data)
    assert (document, bool(error)) == (None, True), title
    assert not (tmp_path / "canary").exists()
    assert len(error or "") <= 300
    assert yaml(own_reader, tmp_path, b"a: 1") == ({"a": 1}, None)


def test_a_process_with_thousands_of_open_files_reads_too(tmp_path: Path) -> None:
    """Training processes and servers have them; ``select`` refuses descriptors from 1,024 on."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    held = [os.dup(0) for _ in range(1200)]
    try:
        with Reader() as reader:
            assert is_fine(reader, tmp_path)
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
